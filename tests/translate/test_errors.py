"""An engine's error stays readable on a surface that was translated."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.core.types import Wire
from gateway.translate.errors import name_of, reword

from .recorded import WIRE


def status_of(path: Path) -> int:
    return int(json.loads(path.read_text())["response"]["status"].split()[1])


RECORDED = sorted(
    path
    for folder in ("vllm-0.32.0", "sglang-0.5.23", "llama-cpp-python-0.3.36")
    for path in (WIRE / folder).glob("error_*.json")
    if status_of(path) >= 400
)


def told(wire: Wire, status: int, doc: Any) -> dict[str, Any]:
    body = doc if isinstance(doc, bytes) else json.dumps(doc).encode()
    found: dict[str, Any] = json.loads(reword(wire, status, body, "r1"))
    return found


OURS = {"error": {"message": "Too long.", "type": "BadRequestError", "code": 400}}


def test_an_anthropic_client_finds_its_envelope() -> None:
    assert told(Wire.ANTHROPIC, 400, OURS) == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "Too long.", "code": 400},
        "request_id": "r1",
    }


def test_an_ollama_client_finds_a_text() -> None:
    assert told(Wire.OLLAMA, 400, OURS) == {"error": "Too long."}


def test_an_openai_client_finds_anthropics_words() -> None:
    its = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    assert told(Wire.OPENAI, 529, its)["error"] == {
        "type": "overloaded_error",
        "message": "Overloaded",
        "param": None,
        "code": None,
    }


@pytest.mark.parametrize(
    ("doc", "message"),
    [
        ({"error": "text"}, "text"),
        ({"object": "error", "message": "flat"}, "flat"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"detail": [{"loc": ["body"]}]}, '[{"loc":["body"]}]'),
        ({"detail": [{"msg": "Field required"}, {"msg": "too big"}]}, "Field required; too big"),
        (b"Internal Server Error", "Internal Server Error"),
        (b"", "The engine gave no reason."),
        (b"x" * 9999, "x" * 2000),
    ],
)
def test_every_shape_has_a_message(doc: Any, message: str) -> None:
    assert told(Wire.ANTHROPIC, 500, doc)["error"]["message"] == message


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_recorded_errors_keep_their_words(path: Path) -> None:
    response = json.loads(path.read_text())["response"]
    body = response.get("data") or "".join(c.get("data", "") for c in response.get("chunks", ()))
    message = told(Wire.ANTHROPIC, status_of(path), body.encode())["error"]["message"]
    words = re.findall(r"\w+", message)
    assert words
    assert all(word in body for word in words)


@pytest.mark.parametrize(
    ("status", "name"),
    [(400, "invalid_request_error"), (418, "invalid_request_error"), (500, "api_error")],
)
def test_a_status_without_a_name_has_that_of_its_class(status: int, name: str) -> None:
    assert name_of(status) == name
