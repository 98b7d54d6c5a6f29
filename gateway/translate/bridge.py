"""What a translation between two surfaces is made of: a request one way, an answer the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.core.types import Doc, Op, Wire


def no_clock() -> float:
    """For translations of which nobody wants to know durations."""
    return 0.0


@dataclass(frozen=True, slots=True)
class Asking:
    """What a translation of the answer needs of the request. ``doc`` is the client's document,
    ``model`` the name that the client used, ``id`` the request's id, ``created`` the moment it
    came (Unix seconds).

    Some dialects tell durations: ``clock`` gives monotonic seconds, ``arrived`` is when the
    request came and ``sent`` when this attempt began, both by that clock. ``extras`` are the
    fields beyond OpenAI's that the engine takes (``Runtime.extras``)."""

    id: str
    model: str
    doc: Doc = field(repr=False)
    created: int = 0
    stream: bool = False
    clock: Callable[[], float] = no_clock
    arrived: float = 0.0
    sent: float = 0.0
    extras: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """The document to send. ``lost`` names the client's fields that could only be expressed with
    a loss; what cannot be expressed at all is refused instead, never dropped."""

    doc: dict[str, Any]
    lost: tuple[str, ...] = ()


class Stream(Protocol):
    """One streamed answer on its way. Bounded memory; every event leaves with the bytes that
    completed it. Both methods may raise Refusal when the engine's answer cannot be told to this
    client; what was whole before that has been returned by then."""

    def feed(self, data: bytes) -> bytes:
        """What the engine sent, cut anywhere -> what the client gets now. Error events are not
        its business: the relay finds them first and tells them in the client's dialect."""

    def close(self) -> bytes:
        """The engine's stream ended as it should: what is still owed to the client."""


@dataclass(frozen=True, slots=True)
class Bridge:
    """Serves ``wire``/``op`` through an engine's ``to_wire``/``to_op``.

    ``request(asking)`` raises Refusal (``invalid_request`` for a fault of the caller's document,
    ``unsupported`` for what the other side cannot express; both with ``param``).
    ``reply(doc, asking)`` turns a whole answer of status 200, and raises Refusal where the
    engine's answer makes no sense; ``stream(asking)`` begins a streamed one. All three, ``feed``
    and ``close`` raise nothing else. ``chat`` is True where the engine's surface has to take a
    chat's messages: the request goes to its cell's ``chat_path``, and an engine without one
    cannot be asked."""

    wire: Wire
    op: Op
    to_wire: Wire
    to_op: Op
    request: Callable[[Asking], Asked]
    reply: Callable[[Doc, Asking], Doc]
    stream: Callable[[Asking], Stream]
    chat: bool = False
