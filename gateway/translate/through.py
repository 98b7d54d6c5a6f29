"""Two bridges as one: a surface served through the hub by an engine that lacks the hub."""

from __future__ import annotations

from dataclasses import replace

from gateway.core.types import Doc

from .bridge import Asked, Asking, Bridge, Stream


class _Chained:
    """The engine's bytes go through ``inner`` and what it says goes through ``outer``, in the
    same call: nothing is held that one of the two does not hold."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, inner: Stream, outer: Stream) -> None:
        self._inner, self._outer = inner, outer

    def feed(self, data: bytes) -> bytes:
        said = self._inner.feed(data)
        return self._outer.feed(said) if said else b""

    def close(self) -> bytes:
        said = self._inner.close()
        return (self._outer.feed(said) if said else b"") + self._outer.close()


def through(first: Bridge, second: Bridge) -> Bridge:
    """``first`` leads from the client's surface to the hub, ``second`` from the hub to the
    engine's. Losses of both are named; those of ``second`` by the hub's names."""
    if (first.to_wire, first.to_op) != (second.wire, second.op):
        raise ValueError(f"{first.to_op} of the first bridge is not {second.op} of the second")

    def inner(asking: Asking) -> tuple[Asking, tuple[str, ...]]:
        asked = first.request(asking)
        return replace(asking, doc=asked.doc), asked.lost

    def request(asking: Asking) -> Asked:
        between, lost = inner(asking)
        asked = second.request(between)
        return Asked(asked.doc, tuple(dict.fromkeys((*lost, *asked.lost))))

    def reply(doc: Doc, asking: Asking) -> Doc:
        return first.reply(second.reply(doc, inner(asking)[0]), asking)

    def stream(asking: Asking) -> Stream:
        return _Chained(second.stream(inner(asking)[0]), first.stream(asking))

    return replace(
        first,
        to_wire=second.to_wire,
        to_op=second.to_op,
        request=request,
        reply=reply,
        stream=stream,
    )
