"""The engine and the load generator, compiled from C into the benchmark's folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
WORK = ROOT / ".bench"
"""Where peers, programs, logs and results are; git does not see it."""


class CannotBuild(Exception):
    """The text says what to do."""


@dataclass(frozen=True, slots=True)
class Programs:
    engine: Path
    load: Path


def programs(work: Path) -> Programs:
    """The compiled programs; those older than their source are made again."""
    return Programs(_compiled("mock_engine", work / "bin"), _compiled("loadgen", work / "bin"))


def _compiled(name: str, into: Path) -> Path:
    source, made = HERE / f"{name}.c", into / name
    if made.exists() and made.stat().st_mtime > source.stat().st_mtime:
        return made
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        raise CannotBuild("there is no C compiler: install gcc or clang, or name one with CC=…")
    into.mkdir(parents=True, exist_ok=True)
    command = [compiler, "-O2", "-Wall", "-Wextra", "-o", str(made), str(source), "-lm"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise CannotBuild(f"{source.name} does not compile:\n{done.stderr}")
    return made
