"""What the gateway itself says: every row of INTERFACE 4, in the dialect of the client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.harness import JSON, Farm, chat_json
from tests.rawclient import Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[Farm]:
    async with Farm(1) as farm:
        yield farm


@pytest.fixture(autouse=True)
def _clean(farm: Farm) -> None:
    farm.engines[0].reset()


def is_openai(reply: Reply, status: int, kind: str) -> None:
    assert reply.status == status, reply.body
    assert (reply.header("content-type") or "").startswith("application/json")
    assert reply.kind == kind
    assert isinstance(reply.error["message"], str)
    assert reply.error["message"]
    assert set(reply.doc) == {"error"}
    assert set(reply.error) <= {"type", "message", "code", "param", "request_id"}
    assert reply.header("X-Request-Id")


BAD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no JSON": b"{model: m0}",
    "half of it": b'{"model":"m0"',
    "NaN": b'{"model":"m0","messages":[],"temperature":NaN}',
    "Infinity": b'{"model":"m0","messages":[],"temperature":Infinity}',
    "minus Infinity": b'{"model":"m0","messages":[],"temperature":-Infinity}',
    "a list": b'[{"model":"m0"}]',
    "a string": b'"m0"',
    "null": b"null",
    "two documents": b'{"model":"m0"}{"model":"m0"}',
    "no model": b'{"messages":[]}',
    "model is a number": b'{"model":7,"messages":[]}',
    "model is null": b'{"model":null,"messages":[]}',
    "model is a list": b'{"model":["m0"],"messages":[]}',
    "model is empty": b'{"model":"","messages":[]}',
    "not UTF-8": b'{"model":"m0","messages":[],"x":"\xff\xfe"}',
    "UTF-16": '{"model":"m0","messages":[]}'.encode("utf-16"),
    "deep nesting": b'{"model":"m0","messages":[],"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "a control character": b'{"model":"m0","messages":[],"x":"\x01"}',
    "a trailing comma": b'{"model":"m0","messages":[],}',
}


@pytest.mark.parametrize("name", BAD_BODIES)
async def test_a_bad_body_is_400_and_reaches_no_engine(farm: Farm, name: str) -> None:
    reply = await farm.gw.post("/v1/chat/completions", BAD_BODIES[name])
    is_openai(reply, 400, "invalid_request")
    assert not farm.engines[0].requests


async def test_the_model_parameter_is_named_when_it_is_at_fault(farm: Farm) -> None:
    reply = await farm.gw.post("/v1/chat/completions", b'{"messages":[]}')
    assert "model" in reply.error["message"]


async def test_a_model_given_twice_is_never_judged_by_one_and_sent_as_the_other(
    farm: Farm,
) -> None:
    """Whoever reads the first and whoever reads the last must see the same model, else a key's
    list of models could be passed by."""
    body = b'{"model":"m0","messages":[],"model":"forbidden"}'
    reply = await farm.gw.post("/v1/chat/completions", body)
    assert reply.status in {400, 404}
    body = b'{"model":"forbidden","messages":[],"model":"m0"}'
    reply = await farm.gw.post("/v1/chat/completions", body)
    if reply.status == 200:
        sent = json.loads(
            farm.engines[0].requests[0].body, object_pairs_hook=lambda pairs: [*pairs]
        )
        assert {value for key, value in sent if key == "model"} == {"m0"}
    else:
        assert reply.status == 400


async def test_a_very_long_model_name_is_not_repeated_whole(farm: Farm) -> None:
    reply = await farm.gw.chat("x" * 100_000)
    assert reply.status in {400, 404}
    assert len(reply.body) < 5_000


@pytest.mark.parametrize("name", ["m0\r\nX-Evil: 1", "\x00", "m0\u2028", "../../etc", "<script>"])
async def test_a_hostile_model_name_is_only_unknown(farm: Farm, name: str) -> None:
    reply = await farm.gw.chat(name)
    assert reply.status in {400, 404}
    assert reply.header("X-Evil") is None
    assert reply.doc


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nothing"), ("POST", "/v1/nothing"), ("POST", "/v1"), ("GET", "/v1/chat/other")],
)
async def test_an_unknown_route_is_404(farm: Farm, method: str, path: str) -> None:
    reply = await (farm.gw.get(path) if method == "GET" else farm.gw.post(path, {}))
    is_openai(reply, 404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/chat/completions", "POST"),
        ("PUT", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET"),
        ("POST", "/healthz", "GET"),
        ("PATCH", "/metrics", "GET"),
    ],
)
async def test_a_wrong_method_is_405_with_allow(
    farm: Farm, method: str, path: str, allowed: str
) -> None:
    async with farm.gw.client() as client:
        reply = await client.call(method, path, [JSON], b"{}")
    is_openai(reply, 405, "method_not_allowed")
    assert allowed in {name.strip() for name in (reply.header("Allow") or "").split(",")}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/healthz"])
async def test_options_says_what_is_allowed(farm: Farm, path: str) -> None:
    async with farm.gw.client() as client:
        reply = await client.call("OPTIONS", path)
    assert reply.status in {200, 204, 405}
    assert reply.header("Allow")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/version", "/metrics", "/v1/models"])
async def test_head_is_get_without_a_body_or_405(farm: Farm, path: str) -> None:
    async with farm.gw.client() as client:
        reply = await client.call("HEAD", path)
        assert reply.status in {200, 405}
        again = await client.call("GET", path)
    assert again.status == 200, "the connection is still in step"


async def test_head_of_an_unknown_route_has_no_body(farm: Farm) -> None:
    async with farm.gw.client() as client:
        reply = await client.call("HEAD", "/nothing")
        assert reply.status == 404
        assert (await client.call("GET", "/healthz")).status == 200


async def test_errors_of_anthropic_routes_have_its_envelope(farm: Farm) -> None:
    for body, status, kind in (
        (b"{", 400, "invalid_request"),
        (b'{"model":"nobody","max_tokens":1,"messages":[]}', 404, "model_not_found"),
    ):
        reply = await farm.gw.post("/v1/messages", body)
        assert (reply.status, reply.doc["type"], reply.kind) == (status, "error", kind)
        assert reply.error["message"]


async def test_errors_of_ollama_routes_are_a_text(farm: Farm) -> None:
    for path in ("/api/chat", "/api/generate", "/api/embed", "/api/show"):
        reply = await farm.gw.post(path, b"{")
        assert reply.status == 400
        assert isinstance(reply.doc["error"], str)
        reply = await farm.gw.post(path, {"model": "nobody"})
        assert reply.status == 404
        assert "nobody" in reply.doc["error"]


BAD_HEADERS: dict[str, list[tuple[str, str]]] = {
    "a pin with odd characters": [("X-Portico-Backend", "b\x010")],
    "two different lengths": [("Content-Length", "3"), ("Content-Length", "4")],
    "a length that is no number": [("Content-Length", "many")],
    "a negative length": [("Content-Length", "-1")],
    "both framings": [("Content-Length", "3"), ("Transfer-Encoding", "chunked")],
    "an unknown transfer coding": [("Transfer-Encoding", "rot13")],
    "a name with a space": [("Bad Name", "x")],
}


@pytest.mark.parametrize("name", BAD_HEADERS)
async def test_a_bad_header_is_400_and_reaches_no_engine(farm: Farm, name: str) -> None:
    async with farm.gw.client() as client:
        lines = [f"{key}: {value}" for key, value in [("Host", "x"), JSON, *BAD_HEADERS[name]]]
        body = chat_json("m0")
        if not any(key in {"Content-Length", "Transfer-Encoding"} for key, _ in BAD_HEADERS[name]):
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(["POST /v1/chat/completions HTTP/1.1", *lines, "", ""])
        await client.send(head.encode("latin-1") + body)
        reply = await client.read_body(await client.read_head())
    assert reply.status in {400, 404, 411, 501}
    assert not farm.engines[0].requests
    assert (await farm.gw.get("/healthz")).status == 200


HOSTILE: dict[str, bytes] = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "no version": b"GET /\r\n\r\n",
    "a huge head": b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
    "very many headers": b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
    "a huge target": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a broken chunk size": (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    ),
    "an obsolete fold": b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n",
    "an absolute target": b"GET http://evil/healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    "CONNECT": b"CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: x\r\n\r\n",
}


LEGAL = {"no version", "an obsolete fold", "an absolute target"}
"""Odd, but some reading of HTTP allows them: they may be answered in earnest."""


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_bytes_do_no_harm(farm: Farm, name: str) -> None:
    async with farm.gw.client() as client:
        try:
            await client.send(HOSTILE[name])
            reply = await client.read_body(await client.read_head(3.0), 3.0)
        except (EOFError, OSError):
            reply = None
    if reply is not None and name not in LEGAL:
        assert 400 <= reply.status < 600
    assert not farm.engines[0].requests
    assert (await farm.gw.get("/healthz")).status == 200


async def test_the_operations_routes_answer(farm: Farm) -> None:
    answers: dict[str, Any] = {}
    for path in ("/healthz", "/health", "/readyz", "/version", "/openapi.json"):
        reply = await farm.gw.get(path)
        assert reply.status == 200, path
        answers[path] = reply.body
    assert answers["/health"] == answers["/healthz"]
    version = json.loads(answers["/version"])
    assert version["version"]
    described = json.loads(answers["/openapi.json"])
    assert described["openapi"].startswith("3.")
    assert "/v1/chat/completions" in described["paths"]
