"""Answers of real engines out of tests/wire, as the sensors would have seen them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.core.runtime import Answer

WIRE = Path(__file__).parent.parent / "wire"


def recording(folder: str, case: str) -> dict[str, Any]:
    """The whole recording ``case`` of ``folder`` (the format is in tests/wire/README.md)."""
    return json.loads((WIRE / folder / f"{case}.json").read_text("utf-8"))


def answer(folder: str, case: str) -> Answer:
    """The recorded response: chunks joined, header names in lower case, ``doc`` parsed when the
    body is JSON. A recording without a status line is an answer of status 0."""
    response = recording(folder, case)["response"]
    if not response.get("status"):
        return Answer(0, error=response.get("ended", "no answer"))
    body = b"".join(_bytes(part) for part in response.get("chunks") or [response])
    return Answer(
        status=int(response["status"].split()[1]),
        headers={name.lower(): value for name, value in response["headers"]},
        body=body,
        doc=_json(body),
    )


def evidence(folder: str, cases: Mapping[str, str]) -> dict[str, Answer]:
    """Path -> recorded answer, from path -> case."""
    return {path: answer(folder, case) for path, case in cases.items()}


def request_doc(folder: str, case: str) -> Any:
    """The JSON body that was sent; None when it was not JSON or was cut in the recording."""
    return _json(recording(folder, case)["request"].get("data", "").encode())


def events(folder: str, case: str) -> list[Any]:
    """The parsed ``data:`` events of a recorded SSE stream, ``[DONE]`` as that string."""
    blocks = answer(folder, case).text.replace("\r\n", "\n").split("\n\n")
    lines = [line for block in blocks for line in block.split("\n") if line.startswith("data:")]
    words = [line.removeprefix("data:").strip() for line in lines]
    return [word if word == "[DONE]" else json.loads(word) for word in words]


def _bytes(part: Mapping[str, Any]) -> bytes:
    if "base64" in part:
        return base64.b64decode(part["base64"])
    return str(part.get("data") or "").encode()


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
