"""The embedded engine: a tiny model of our own, served by llama.cpp when nothing else is there."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

ALIAS = "tiny-chat"
"""The name under which the demo engine serves its model."""

MODEL = Path(__file__).with_name("tiny-chat.gguf")
"""The model shipped with the package (1.9 MB), made by ``tools/make_tiny_models.py``."""

PACKAGE = "xllamacpp"
"""What brings llama.cpp's server as a wheel; the extra ``demo`` installs it."""

READY = "ready "
"""The engine process says this and its URL on one line of stdout once it takes requests."""

START_TIMEOUT = 20.0
"""Seconds. Loading takes 0.1 s; the rest is for a machine that is busy with something else."""


def available() -> str | None:
    """None when the demo engine can start here; otherwise one sentence with reason and remedy."""
    if find_spec(PACKAGE) is None:
        return (
            f"The demo engine needs the package '{PACKAGE}', which is not installed here."
            " Install it with: pip install 'portico[demo]'"
        )
    if not MODEL.is_file():
        return (
            f"The demo model {MODEL.name} is missing from this installation."
            " Install again with: pip install --force-reinstall 'portico[demo]'"
        )
    return None
