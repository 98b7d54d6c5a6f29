"""The compiled build: what says so, and what it is made of."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import gateway.core.plan
from gateway import __version__, build

ROOT = Path(__file__).parent.parent


def test_the_word_is_told_from_the_file_that_is_imported() -> None:
    is_library = str(gateway.core.plan.__file__).endswith(tuple(EXTENSION_SUFFIXES))
    assert build.compiled() is is_library


def test_only_a_compiled_build_adds_a_word_to_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "WITNESS", "gateway.cli")
    assert build.version() == __version__
    monkeypatch.setattr(build, "WITNESS", "orjson.orjson")
    assert build.version() == f"{__version__} (compiled)"


def test_the_build_compiles_files_that_are_there_and_the_one_that_is_asked() -> None:
    code = "import setuptools; setuptools.setup = lambda **_: None; exec(open('setup.py').read());"
    code += "print(*sources())"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    found = done.stdout.split()
    assert all((ROOT / path).is_file() for path in found)
    assert build.WITNESS.replace(".", "/") + ".py" in found
