"""Which build this is: plain Python, or compiled (ARCHITECTURE, The compiled build)."""

from __future__ import annotations

from importlib.util import find_spec

from gateway import __version__

WITNESS = "gateway.core.plan"
"""A module that every compiled build has compiled."""


def compiled() -> bool:
    """Whether the path of a request runs as machine code. Imports nothing of it."""
    spec = find_spec(WITNESS)
    return spec is not None and not str(spec.origin).endswith(".py")


def version() -> str:
    """The version, with the word that tells a compiled build."""
    return f"{__version__} (compiled)" if compiled() else __version__
