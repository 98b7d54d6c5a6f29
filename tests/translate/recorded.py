"""Recorded streams, and what a client makes of translated ones."""

import json
from pathlib import Path
from typing import Any

import orjson

from gateway.translate.bridge import Asking, Bridge

WIRE = Path(__file__).parent.parent / "wire"


def exchange(folder: str, case: str) -> dict[str, Any]:
    doc: dict[str, Any] = json.loads((WIRE / folder / f"{case}.json").read_text())
    return doc


def stream_of(folder: str, case: str) -> bytes:
    """The payload of a recorded stream."""
    chunks = exchange(folder, case)["response"]["chunks"]
    return "".join(chunk.get("data", "") for chunk in chunks).encode()


def shortened(data: bytes) -> bytes:
    """The first and the last events of a stream, for tests that try every position."""
    events = data.split(b"\n\n")
    return b"\n\n".join([*events[:6], *events[max(6, len(events) - 5) :]])


def whole_of(folder: str, case: str) -> dict[str, Any]:
    """The document of a recorded answer."""
    response = exchange(folder, case)["response"]
    text = response.get("data") or "".join(c.get("data", "") for c in response["chunks"])
    doc: dict[str, Any] = json.loads(text)
    return doc


def asking(doc: dict[str, Any] | None = None, *, stream: bool = False) -> Asking:
    return Asking(id="r1", model="m", doc=doc or {}, created=1_700_000_000, stream=stream)


def run(bridge: Bridge, pieces: list[bytes], doc: dict[str, Any] | None = None) -> bytes:
    """What a client gets of a stream that came in these pieces."""
    stream = bridge.stream(asking(doc, stream=True))
    return b"".join(stream.feed(piece) for piece in pieces) + stream.close()


def docs(data: bytes) -> list[dict[str, Any]]:
    """The documents of a stream of events; [DONE] and comments left out."""
    lines = (line.removeprefix(b"data: ") for line in data.split(b"\n") if line.startswith(b"data"))
    return [orjson.loads(line) for line in lines if line != b"[DONE]"]


def sse(*found: dict[str, Any], done: bool = True) -> bytes:
    """Documents as an engine would stream them."""
    events = [b"data: %b\n\n" % orjson.dumps(doc) for doc in found]
    return b"".join([*events, b"data: [DONE]\n\n" if done else b""])


def delta(finish: str | None = None, **said: Any) -> dict[str, Any]:
    """One chunk of a chat completion."""
    choice = {"index": 0, "delta": said, "finish_reason": finish}
    return {"object": "chat.completion.chunk", "choices": [choice]}


def call(index: int, arguments: str = "", **head: Any) -> dict[str, Any]:
    """One chunk with a piece of a tool call; ``id`` and ``name`` with the first."""
    function = {"arguments": arguments}
    if "name" in head:
        function["name"] = head.pop("name")
    return delta(tool_calls=[{"index": index, "function": function, **head}])
