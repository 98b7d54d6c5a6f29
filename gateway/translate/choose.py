"""Which of several bridges serves a request."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.core.errors import Refusal

from .bridge import Asked, Asking, Bridge


def choose(bridges: Iterable[Bridge], asking: Asking) -> tuple[Bridge, Asked] | None:
    """The first bridge that can express the request, and what it asks; None without any bridge.
    ``bridges`` are those of BRIDGES whose other side the backend has, in their order. Raises
    Refusal: a fault of the caller's document at once, else the last ``unsupported``, since that
    is the one which knows most of what this backend has."""
    refusal: Refusal | None = None
    for bridge in bridges:
        try:
            return bridge, bridge.request(asking)
        except Refusal as found:
            if found.kind != "unsupported":
                raise
            refusal = found
    if refusal is not None:
        raise refusal
    return None
