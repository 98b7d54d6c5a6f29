"""The compiled build: ``make wheel-compiled``. Everything else stands in pyproject.toml.

With PORTICO_COMPILE=1 a wheel gets the modules on the path of a request as C extensions too, made
by mypyc from the very same sources. That wants a C compiler, and in the environment that builds
(pip's --no-build-isolation) what ``portico[compile]`` brings. Without it nothing here happens."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

CORE = (
    "budget capacity catalog charge cost delays explain fit headers keys limits plan prepare"
    " priority prompt queue speed splice types usage"
)
STATE = "board learned ledger lines lore makers meter prefixes recall windows"
COMPILED = (
    *(f"gateway/core/{name}.py" for name in CORE.split()),
    *(f"gateway/state/{name}.py" for name in STATE.split()),
    "gateway/dialects/*.py",
    "gateway/edge/*.py",
    "gateway/policies/*.py",
    "gateway/control/metrics.py",
    "gateway/worker.py",
)
"""What a request passes through, but for what mypyc does not do justice to (ARCHITECTURE, The
compiled build)."""

PLAIN = frozenset({"gateway/edge/tunnel.py"})
"""Files that fit a pattern and hold what cannot be compiled: a class that inherits from OSError."""

OPTIONS = ("--config-file=pyproject.toml", "--follow-imports=silent")


def sources() -> list[str]:
    """The files that are compiled. Raises ValueError for a pattern without any."""
    found = {pattern: [path.as_posix() for path in Path().glob(pattern)] for pattern in COMPILED}
    if missing := [pattern for pattern, paths in found.items() if not paths]:
        raise ValueError(f"setup.py would compile {missing}, which are not there")
    return sorted({path for paths in found.values() for path in paths} - PLAIN)


def extensions() -> list[Extension]:
    """All of them together as one library, and a small one for each module's name."""
    from mypyc.build import mypycify  # needed here only

    made: list[Extension] = mypycify([*OPTIONS, *sources()], group_name="portico")
    for extension in made:
        # A warning of a compiler that mypyc has not met yet is no reason to have no gateway.
        flags = extension.extra_compile_args
        extension.extra_compile_args = [flag for flag in flags if flag != "-Werror"]
    return made


# Building tools also run this file to ask for metadata, which takes no compiler.
WANTED = os.environ.get("PORTICO_COMPILE") == "1" and "bdist_wheel" in sys.argv

setup(ext_modules=extensions() if WANTED else [])
