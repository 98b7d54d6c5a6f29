"""Bytes in both directions are the bytes that came (INTERFACE 3)."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fakes import steps, talk, wire
from tests.harness import JSON, Farm, Spot, chat_json

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[Farm]:
    async with Farm(2, server={"max_body": "1MiB"}) as farm:
        yield farm


@pytest.fixture
def spot(farm: Farm) -> Spot:
    farm.engines[0].reset()
    return Spot(farm.engines[0], "b0", "m0")


ODD_BODIES = {
    "odd white space": b' \n{"model"\t:\r\n "m0" , "messages" : [ ] }\n ',
    "unknown fields": b'{"messages":[],"x":{"y":[1,2,{"z":null}]},"model":"m0","odd-one":{}}',
    "numbers as written": b'{"model":"m0","messages":[],"a":1.0,"b":1e5,"c":-0.0,"d":%d}' % 10**22,
    "escapes as written": '{"model":"m0","messages":[],"a":"\\u00e4ä\\/\\ud83d\\ude00😀"}'.encode(),
    "an escaped model name": b'{"model":"\\u006d0","messages":[]}',
    "keys in any order": b'{"stream":false,"z":1,"a":2,"messages":[],"model":"m0"}',
}


@pytest.mark.parametrize("body", ODD_BODIES.values(), ids=ODD_BODIES)
async def test_a_request_body_reaches_the_engine_byte_for_byte(
    farm: Farm, spot: Spot, body: bytes
) -> None:
    assert (await farm.gw.post("/v1/chat/completions", body)).status == 200
    assert spot.engine.requests[0].body == body
    assert spot.engine.requests[0].header("content-type") == "application/json"


async def test_an_answer_reaches_the_client_byte_for_byte(farm: Farm, spot: Spot) -> None:
    body = b' {"id" : 1.50, "x":"\\u00e4\xc3\xa4", "choices" : [ ],\r\n"usage":null }\n\n'
    spot.engine.script.append(steps.reply(200, body, [("X-Engine", "yes")]))
    reply = await farm.gw.chat("m0")
    assert (reply.status, reply.body) == (200, body)
    assert reply.header("content-type") == "application/json"


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
async def test_an_answer_is_whole_in_every_framing_of_the_engine(
    farm: Farm, spot: Spot, framing: str
) -> None:
    body = talk.dumps(talk.chat_body("m0"))
    spot.engine.script.append(steps.reply(200, body, framing=framing))
    reply = await farm.gw.chat("m0")
    assert (reply.status, reply.body, reply.whole) == (200, body, True)


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422])
async def test_an_engines_refusal_passes_with_its_status_and_body(
    farm: Farm, spot: Spot, status: int
) -> None:
    body = b'{"error":{"message":"the engine says no","type":"BadRequestError","code":%d}}' % status
    spot.engine.script.append(steps.reply(status, body))
    reply = await farm.gw.chat("m0")
    assert (reply.status, reply.body) == (status, body)
    assert len(spot.engine.requests) == 1


async def test_an_answer_without_a_body_passes(farm: Farm, spot: Spot) -> None:
    spot.engine.script.append(steps.reply(204))
    reply = await farm.gw.chat("m0")
    assert (reply.status, reply.body, reply.whole) == (204, b"", True)


async def test_headers_that_occur_twice_stay_two(farm: Farm, spot: Spot) -> None:
    twice = [("X-Twice", "one"), ("x-twice", "two")]
    spot.engine.script.append(steps.reply(200, {"ok": 1}, twice))
    assert (await farm.gw.chat("m0")).all("x-twice") == ["one", "two"]


async def test_a_huge_head_of_the_engine_is_either_passed_or_an_upstream_fault(
    farm: Farm, spot: Spot
) -> None:
    spot.engine.always = steps.reply(200, {"ok": 1}, [("X-Big", "x" * 300_000)])
    reply = await farm.gw.chat("m0")
    assert reply.status in {200, 502}
    spot.engine.reset()
    assert (await farm.gw.chat("m0", [("X-Portico-Backend", "b0")])).status in {200, 503}


async def test_answers_of_an_informational_kind_before_the_answer_are_skipped(
    farm: Farm, spot: Spot
) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    spot.engine.script.append(steps.stream(talk.chat_events("m0"), interim=interim))
    reply = await farm.gw.chat("m0", stream=True)
    assert (reply.status, reply.body) == (200, b"".join(talk.chat_events("m0")))


async def test_chunk_extensions_and_trailers_do_not_disturb_the_body(
    farm: Farm, spot: Spot
) -> None:
    events = talk.chat_events("m0")
    step = steps.stream(events, extension=";a=b", trailers=[("X-Sum", "1")])
    spot.engine.script.append(step)
    reply = await farm.gw.chat("m0", stream=True)
    assert (reply.body, reply.whole) == (b"".join(events), True)
    assert (await farm.gw.chat("m0")).status == 200


async def test_gzip_of_the_engine_passes_only_to_clients_that_asked_for_it(
    farm: Farm, spot: Spot
) -> None:
    packed = gzip.compress(b'{"ok":true}')
    step = steps.reply(200, packed, [("Content-Encoding", "gzip")])
    spot.engine.script.append(step)
    reply = await farm.gw.chat("m0", [("Accept-Encoding", "gzip")])
    assert (reply.body, reply.header("content-encoding")) == (packed, "gzip")


async def test_a_gzipped_request_body_is_understood_or_refused_in_the_envelope(
    farm: Farm, spot: Spot
) -> None:
    packed = gzip.compress(chat_json("m0"))
    reply = await farm.gw.post("/v1/chat/completions", packed, [("Content-Encoding", "gzip")])
    if reply.status == 200:
        received = spot.engine.requests[0]
        coded = received.header("content-encoding") == "gzip"
        assert received.body == (packed if coded else chat_json("m0"))
    else:
        assert (reply.status, reply.kind) in {(400, "invalid_request"), (415, "invalid_request")}


async def test_a_gzip_bomb_is_held_by_max_body(farm: Farm, spot: Spot) -> None:
    padding = b'{"model":"m0","messages":[],"x":"' + b"a" * 50_000_000 + b'"}'
    packed = gzip.compress(padding)
    before = farm.gw.memory()
    reply = await farm.gw.post("/v1/chat/completions", packed, [("Content-Encoding", "gzip")])
    assert reply.status in {400, 413, 415}
    assert farm.gw.memory() - before < 40_000_000


async def test_a_body_of_max_body_passes_and_one_byte_more_is_413(farm: Farm, spot: Spot) -> None:
    frame = b'{"model":"m0","messages":[],"x":"%s"}'
    room = 1024 * 1024 - len(frame % b"")
    fits = frame % (b"a" * room)
    assert (await farm.gw.post("/v1/chat/completions", fits)).status == 200
    assert spot.engine.requests[0].body == fits
    reply = await farm.gw.post("/v1/chat/completions", frame % (b"a" * (room + 1)))
    assert (reply.status, reply.kind) == (413, "request_too_large")
    assert len(spot.engine.requests) == 1


async def test_a_chunked_body_over_max_body_is_413_too(farm: Farm, spot: Spot) -> None:
    async with farm.gw.client() as client:
        await client.ask("POST", "/v1/chat/completions", [JSON, ("Transfer-Encoding", "chunked")])
        block = b"10000\r\n" + b"a" * 65536 + b"\r\n"
        try:
            for _ in range(20):
                await client.send(block)
            await client.send(b"0\r\n\r\n")
        except OSError:
            pass
        reply = await client.read_body(await client.read_head())
    assert (reply.status, reply.kind) == (413, "request_too_large")
    assert not spot.engine.requests


async def test_a_chunked_request_body_arrives_whole(farm: Farm, spot: Spot) -> None:
    body = chat_json("m0")
    async with farm.gw.client() as client:
        await client.ask("POST", "/v1/chat/completions", [JSON, ("Transfer-Encoding", "chunked")])
        for at in range(0, len(body), 7):
            part = body[at : at + 7]
            await client.send(b"%x;ext=1\r\n%s\r\n" % (len(part), part))
        await client.send(b"0\r\nX-Trailer: 1\r\n\r\n")
        assert (await client.read_head()).status == 200
    assert spot.engine.requests[0].body == body


async def test_expect_100_continue_gets_its_interim_answer(farm: Farm, spot: Spot) -> None:
    body = chat_json("m0")
    async with farm.gw.client() as client:
        headers = [JSON, ("Content-Length", str(len(body))), ("Expect", "100-continue")]
        await client.ask("POST", "/v1/chat/completions", headers)
        assert (await client.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
        await client.send(body)
        assert (await client.read_head()).status == 200
    assert spot.engine.requests[0].body == body
    assert "expect" not in spot.engine.requests[0].names()


def multipart(model: str, content: bytes) -> tuple[bytes, str]:
    """A form of a file and a model, with a boundary and odd headers that must survive."""
    boundary = "----Grenze'(7)"
    body = (
        b"--" + boundary.encode() + b"\r\n"
        b'Content-Disposition: form-data; name="file"; filename="\xc3\xa4.wav"\r\n'
        b"Content-Type: audio/wav\r\nX-Odd: 1\r\n\r\n" + content + b"\r\n"
        b"--"
        + boundary.encode()
        + b'\r\ncontent-disposition: form-data; name="model"\r\n\r\n'
        + model.encode()
        + b"\r\n--"
        + boundary.encode()
        + b"--\r\n"
    )
    return body, f'multipart/form-data; boundary="{boundary}"'


async def test_a_multipart_body_reaches_the_engine_byte_for_byte(farm: Farm, spot: Spot) -> None:
    content = random.Random(1).randbytes(300_000)
    body, kind = multipart("m0", content)
    reply = await farm.gw.post("/v1/audio/transcriptions", body, [("Content-Type", kind)])
    assert reply.status == 200
    request = spot.engine.requests[0]
    assert hashlib.sha256(request.body).digest() == hashlib.sha256(body).digest()
    assert request.header("content-type") == kind


async def test_a_multipart_body_without_a_model_is_400(farm: Farm, spot: Spot) -> None:
    body, kind = multipart("m0", b"abc")
    body = body.replace(b'name="model"', b'name="other"')
    reply = await farm.gw.post("/v1/audio/transcriptions", body, [("Content-Type", kind)])
    assert (reply.status, reply.kind) == (400, "invalid_request")
    assert not spot.engine.requests


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses", "/tokenize", "/detokenize"])
async def test_every_native_surface_of_the_openai_dialect_is_relayed(
    farm: Farm, spot: Spot, path: str
) -> None:
    body = talk.dumps({"model": "m0", "prompt": "Hi", "input": "Hi", "tokens": [1]})
    reply = await farm.gw.post(path, body)
    assert reply.status == 200
    assert spot.engine.requests[0].body == body
    assert spot.engine.requests[0].path == path


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_the_anthropic_dialect_is_relayed_to_an_engine_that_speaks_it(
    farm: Farm, spot: Spot, path: str
) -> None:
    body = talk.dumps({"model": "m0", "max_tokens": 5, "messages": []})
    headers = [("anthropic-version", "2023-06-01"), ("anthropic-beta", "a,b")]
    reply = await farm.gw.post(path, body, headers)
    assert reply.status == 200
    request = spot.engine.requests[0]
    assert (request.path, request.body) == (path, body)
    assert request.header("anthropic-version") == "2023-06-01"
    case = "messages" if path == "/v1/messages" else "messages_count_tokens"
    recording = wire.load(f"vllm-0.32.0/{case}")
    assert recording is not None
    assert reply.body == recording.naming("m0").body


async def test_a_binary_answer_passes_byte_for_byte(farm: Farm, spot: Spot) -> None:
    content = random.Random(2).randbytes(200_000)
    spot.engine.script.append(steps.reply(200, content, content_type="application/octet-stream"))
    body = talk.dumps({"model": "m0", "input": "Hi", "encoding_format": "bytes"})
    reply = await farm.gw.post("/v1/embeddings", body)
    assert reply.status == 200
    assert reply.body == content


async def test_a_megabyte_answer_passes_while_other_requests_go_on(farm: Farm, spot: Spot) -> None:
    content = talk.dumps({"x": "é" * 2_000_000})
    spot.engine.script.append(steps.reply(200, content))
    large, *small = await asyncio.gather(
        farm.gw.chat("m0", timeout=20), *(farm.gw.chat("m1") for _ in range(5))
    )
    assert large.body == content
    assert {reply.status for reply in small} == {200}


async def test_the_query_of_a_request_reaches_the_engine(farm: Farm, spot: Spot) -> None:
    reply = await farm.gw.post("/v1/chat/completions?api-version=1&x=%20a", chat_json("m0"))
    assert reply.status == 200
    assert spot.engine.requests[0].target == "/v1/chat/completions?api-version=1&x=%20a"


async def test_recorded_answers_of_an_engine_pass_as_recorded(farm: Farm, spot: Spot) -> None:
    for case in ("chat_tools_auto", "chat_logprobs", "error_too_long", "chat_json_schema"):
        spot.engine.script.append(steps.recorded(f"vllm-0.32.0/{case}", "m0"))
        recording = wire.load(f"vllm-0.32.0/{case}")
        assert recording is not None
        reply = await farm.gw.chat("m0")
        assert (reply.status, reply.body) == (recording.status, recording.naming("m0").body)
        assert json.loads(reply.body)


@pytest.mark.parametrize(
    ("method", "tail"), [("GET", ""), ("POST", "/cancel"), ("DELETE", ""), ("GET", "?a=%20b")]
)
async def test_a_stored_response_is_asked_for_where_it_was_made(
    farm: Farm, spot: Spot, method: str, tail: str
) -> None:
    """The store of an engine is in its own memory, so only the maker can find it."""
    made = {**talk.response_body("m0"), "id": "resp_made_by_b0"}
    spot.engine.script.append(steps.reply(200, made))
    assert (await farm.gw.post("/v1/responses", {"model": "m0", "input": "Hi"})).doc == made
    spot.engine.script.append(steps.reply(200, {"found": 1}))
    farm.engines[1].reset()
    async with farm.gw.client() as client:
        reply = await client.call(method, f"/v1/responses/resp_made_by_b0{tail}")
    assert (reply.status, reply.doc) == (200, {"found": 1})
    assert spot.engine.requests[-1].target == f"/v1/responses/resp_made_by_b0{tail}"
    assert spot.engine.requests[-1].method == method
    assert not farm.engines[1].requests


async def test_a_form_over_max_body_is_413_and_no_whole_one_for_the_engine(
    farm: Farm, spot: Spot
) -> None:
    body, kind = multipart("m0", b"a" * 1_500_000)
    reply = await farm.gw.post("/v1/audio/transcriptions", body, [("Content-Type", kind)])
    assert (reply.status, reply.kind) == (413, "request_too_large")
    assert not any(request.body for request in spot.engine.requests)


async def test_the_model_of_a_form_is_rewritten_and_nothing_else(farm: Farm, spot: Spot) -> None:
    content = random.Random(3).randbytes(50_000)
    body, kind = multipart("b0:m0", content)
    reply = await farm.gw.post("/v1/audio/transcriptions", body, [("Content-Type", kind)])
    assert reply.status == 200
    assert spot.engine.requests[0].body == multipart("m0", content)[0]
