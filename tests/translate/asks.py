"""What the tests of the translations share: askings, recorded streams, ways to cut them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import orjson

from gateway.core.types import Doc
from gateway.translate.bridge import Asked, Asking, Bridge
from tests.backends.recorded import answer

CREATED = 1_795_200_000


def asking(doc: Doc, **more: Any) -> Asking:
    known = {"id": "rid", "model": "m:latest", "created": CREATED, "stream": False}
    return Asking(doc=doc, **{**known, **more})


def asked(bridge: Bridge, doc: Doc, **more: Any) -> Asked:
    return bridge.request(asking(doc, **more))


def ticking(*moments: float) -> Callable[[], float]:
    """A clock that shows these moments, one a look."""
    hands: Iterator[float] = iter(moments)
    return lambda: next(hands)


def recorded(folder: str, case: str) -> bytes:
    return answer(folder, case).body


def run(stream: Any, *pieces: bytes) -> bytes:
    return b"".join([*(stream.feed(piece) for piece in pieces), stream.close()])


def lines(data: bytes) -> list[dict[str, Any]]:
    assert data.endswith(b"\n")
    return [orjson.loads(line) for line in data.split(b"\n")[:-1]]


def cuts(data: bytes, positions: list[int]) -> list[bytes]:
    edges = [0, *sorted({p % (len(data) + 1) for p in positions}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a != b]


def chunk(delta: Doc | None = None, **more: Any) -> bytes:
    """One event of a chat stream."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": more.pop("finish_reason", None)}
    choice |= {"logprobs": more.pop("logprobs")} if "logprobs" in more else {}
    return b"data: " + orjson.dumps({"choices": [choice], **more}) + b"\n\n"


DONE = b"data: [DONE]\n\n"
