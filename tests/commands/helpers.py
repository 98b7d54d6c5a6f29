"""A command run in this process, with what it wrote."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import pytest


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


def runner(module: ModuleType, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("--port", "1")`` parses the words as the command's arguments and runs it."""

    def run(*words: str) -> Ran:
        parser = argparse.ArgumentParser()
        module.add_arguments(parser)
        status = module.run(parser.parse_args(words))
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return run


def squeezed(text: str) -> str:
    """``text`` with every run of blanks as one."""
    return re.sub(r"\s+", " ", text)
