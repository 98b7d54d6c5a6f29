"""Reading the configuration in a process of its own.

The checker's machinery takes some 9 MB, a seventh of what a whole idle gateway needs, and is of use
for a moment only: so it lives in a child that ends when it has told the result."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.core.packed import pack

from .faults import ConfigError
from .values import Config, Overrides

Asked = tuple[Path | None, Mapping[str, str], Overrides]


def load_apart(path: Path | None, env: Mapping[str, str], cli: Overrides) -> Config:
    """As ``load``, which does the work. A process without other threads forks, which is quick; one
    that has some starts a fresh Python. Raises ConfigError, and RuntimeError when the child broke
    off."""
    asked = path, dict(env), cli
    alone = hasattr(os, "fork") and threading.active_count() == 1
    told = _forked(asked) if alone else _fresh(asked)
    if not told:
        raise RuntimeError("the process that reads the configuration ended without a result")
    result: Config | tuple[str, ...] = pickle.loads(told)  # noqa: S301 - our own child
    if isinstance(result, tuple):
        raise ConfigError(result)
    return result


def _forked(asked: Asked) -> bytes:
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(ours)
            with os.fdopen(theirs, "wb") as out:
                out.write(answer(asked))
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(theirs)
    with os.fdopen(ours, "rb") as told:
        content = told.read()
    os.waitpid(child, 0)
    return content


def _fresh(asked: Asked) -> bytes:
    done = subprocess.run(
        [sys.executable, "-m", "gateway.config"],
        input=pack(asked),
        stdout=subprocess.PIPE,
        check=False,
    )
    return done.stdout


def answer(asked: Asked) -> bytes:
    """The configuration, or the lines of its faults, as a parent reads it."""
    from .load import load  # the one import that this module is there to keep away

    try:
        result: Any = load(*asked)
    except ConfigError as error:
        result = error.faults
    return pack(result)
