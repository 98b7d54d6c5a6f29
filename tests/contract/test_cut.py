"""An engine that breaks off: one error event, no [DONE], no clean end (INTERFACE 3, 7)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.fakes import steps, talk
from tests.harness import Farm, Spot, chat_json, until
from tests.rawclient import Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[Farm]:
    async with Farm(45, backend={"timeouts": {"idle": "600ms"}}) as farm:
        yield farm


def events_of(reply: Reply) -> list[bytes]:
    return [event + b"\n\n" for event in reply.body.split(b"\n\n") if event.strip()]


def error_in(event: bytes) -> dict[str, object] | None:
    for line in event.splitlines():
        if line.startswith(b"data:") and not line.endswith(b"[DONE]"):
            try:
                doc = json.loads(line[5:])
            except ValueError:
                continue
            if isinstance(doc, dict) and "error" in doc:
                return doc
    return None


def is_cut(reply: Reply, sent: list[bytes]) -> dict[str, object]:
    """What was sent came first and unchanged; then exactly one error event; no good end."""
    assert reply.status == 200
    assert b"[DONE]" not in reply.body
    got = events_of(reply)
    errors = [doc for event in got if (doc := error_in(event)) is not None]
    assert len(errors) == 1, reply.body
    assert error_in(got[-1]) is not None, "the error is the last thing said"
    assert not reply.whole, "the connection must not end as if the stream were whole"
    assert reply.body.startswith(b"".join(sent))
    return errors[0]


ENDS = ["fin", "reset", "mid-chunk", "mid-chunk-reset", "hang"]


@pytest.mark.parametrize("end", ENDS)
async def test_an_engine_that_dies_mid_stream_yields_one_error_event(farm: Farm, end: str) -> None:
    spot = farm.solo()
    sent = talk.chat_events(spot.model)[:3]
    spot.engine.script.append(steps.stream(sent, end=end))
    doc = is_cut(await farm.gw.chat(spot.model, stream=True), sent)
    error = doc["error"]
    assert isinstance(error, dict)
    wanted = "backend_timeout" if end == "hang" else "backend_unreachable"
    assert error["type"] == wanted
    assert error["message"]


@pytest.mark.parametrize("end", ["fin", "reset", "whole"])
async def test_all_events_but_the_done_are_still_a_cut_stream(farm: Farm, end: str) -> None:
    """INTERFACE 7: a stream that ends without [DONE] was broken off."""
    spot = farm.solo()
    sent = talk.chat_events(spot.model, done=False)[:-1]
    spot.engine.script.append(steps.stream(sent, end=end))
    is_cut(await farm.gw.chat(spot.model, stream=True), sent)


@pytest.mark.parametrize("framing", ["close", "length"])
async def test_a_cut_is_seen_in_every_framing(farm: Farm, framing: str) -> None:
    spot = farm.solo()
    sent = talk.chat_events(spot.model)[:3]
    spot.engine.script.append(steps.stream(sent, framing=framing, end="fin"))
    is_cut(await farm.gw.chat(spot.model, stream=True), sent)


async def test_an_event_that_was_cut_in_the_middle_does_not_swallow_the_error(farm: Farm) -> None:
    spot = farm.solo()
    events = talk.chat_events(spot.model)
    half = [*events[:2], events[2][:40]]
    spot.engine.script.append(steps.stream(half, end="fin"))
    reply = await farm.gw.chat(spot.model, stream=True)
    assert b"[DONE]" not in reply.body
    assert not reply.whole
    errors = [event for event in events_of(reply) if b'"backend_unreachable"' in event]
    assert len(errors) == 1, reply.body
    assert errors[0].startswith(b"data:"), "the error is an event of its own"
    assert error_in(errors[0]) is not None


async def test_whole_events_may_come_in_one_write_before_the_end(farm: Farm) -> None:
    spot = farm.solo()
    sent = talk.chat_events(spot.model)[:4]
    spot.engine.script.append(steps.stream(sent, cut=steps.groups(10), end="reset"))
    is_cut(await farm.gw.chat(spot.model, stream=True), sent)


@pytest.mark.parametrize("size", [0, 1, 13])
async def test_the_done_after_an_engines_error_event_is_not_shown(farm: Farm, size: int) -> None:
    """sheet: vllm 6, an error in mid-stream is followed by [DONE]."""
    spot = farm.solo()
    sent = talk.chat_events(spot.model)[:3]
    said = [*sent, talk.VLLM_ERROR, talk.DONE]
    cut = {"cut": steps.every(size)} if size else {}
    spot.engine.script.append(steps.stream(said, **cut))
    reply = await farm.gw.chat(spot.model, stream=True)
    doc = is_cut(reply, sent)
    assert "EngineCore encountered an issue" in json.dumps(doc)


async def test_a_recorded_death_of_a_real_engine_is_a_cut(farm: Farm) -> None:
    for case in (
        "vllm-0.32.0/kill_term_API_server",
        "vllm-0.32.0-guarded/kill_kill_engine_core",
        "xllamacpp-2026.10.11549-guarded/kill_term_server",
        "sglang-0.5.23-guarded/kill_kill_scheduler",
    ):
        spot = farm.solo()
        spot.engine.script.append(steps.recorded(case, spot.model))
        reply = await farm.gw.chat(spot.model, stream=True)
        assert b"[DONE]" not in reply.body, case
        assert not reply.whole, case
        assert sum(error_in(event) is not None for event in events_of(reply)) == 1, case


async def test_a_stream_that_a_newer_request_interrupted_is_a_cut(farm: Farm) -> None:
    """sheet: llamacpp appendix A, an interrupted stream ends with a bare [DONE]."""
    engine = farm.solo()
    await engine.engine.become("llamacpp-python")
    await _seen_again(farm, engine)
    engine.engine.script.append(
        steps.recorded("llama-cpp-python-0.3.36/interrupted_stream", engine.model)
    )
    reply = await farm.gw.chat(engine.model, stream=True)
    assert b"[DONE]" not in reply.body
    assert not reply.whole


async def _seen_again(farm: Farm, spot: Spot) -> None:

    async def renamed() -> bool:
        info = (await farm.gw.metrics()).get("portico_backend_up", [])
        return any(
            labels["backend"] == spot.name and labels["runtime"] == "llamacpp" and value == 1
            for labels, value in info
        )

    await until(renamed, 16.0, "the swapped engine to be recognised")


async def test_the_anthropic_dialect_has_its_own_error_event(farm: Farm) -> None:
    spot = farm.solo()
    sent = talk.message_events(spot.model, stop=False)[:4]
    spot.engine.script.append(steps.stream(sent, end="reset"))
    body = chat_json(spot.model, stream=True, max_tokens=5)
    reply = await farm.gw.post("/v1/messages", body)
    doc = is_cut(reply, sent)
    assert doc["type"] == "error"
    assert b"message_stop" not in reply.body
    assert reply.body.rpartition(b"event: ")[2].startswith(b"error\n")


async def test_a_message_stream_without_message_stop_is_a_cut(farm: Farm) -> None:
    spot = farm.solo()
    sent = talk.message_events(spot.model, stop=False)
    spot.engine.script.append(steps.stream(sent))
    reply = await farm.gw.post("/v1/messages", chat_json(spot.model, stream=True, max_tokens=5))
    is_cut(reply, sent)


async def test_a_responses_stream_without_completed_is_a_cut(farm: Farm) -> None:
    spot = farm.solo()
    sent = talk.response_events(spot.model, completed=False)
    spot.engine.script.append(steps.stream(sent))
    reply = await farm.gw.post("/v1/responses", chat_json(spot.model, stream=True, input="Hi"))
    assert b"response.completed" not in reply.body
    assert b'"error"' in reply.body[len(b"".join(sent)) :]
    assert not reply.whole


async def test_the_ollama_dialect_has_its_own_error_line(farm: Farm) -> None:
    spot = farm.solo()
    await spot.engine.become("ollama")

    async def renamed() -> bool:
        return (
            await farm.gw.metric("portico_backend_up", backend=spot.name, runtime="ollama")
        ) == 1

    await until(renamed, 16.0, "the swapped engine to be recognised")
    for end in ("fin", "whole"):
        sent = talk.ollama_chat_lines(spot.model, done=False)
        spot.engine.script.append(steps.stream(sent, content_type=steps.NDJSON, end=end))
        reply = await farm.gw.post("/api/chat", chat_json(spot.model, stream=True))
        assert reply.body.startswith(b"".join(sent))
        last = json.loads(reply.body[len(b"".join(sent)) :])
        assert isinstance(last["error"], str)
        assert not reply.whole


async def test_ollamas_swallowed_error_is_a_cut(farm: Farm) -> None:
    """sheet: ollama 6, the error becomes an empty chunk with model '' and the stream just ends."""
    spot = farm.solo()
    sent = talk.chat_events(spot.model)[:2]
    spot.engine.script.append(steps.stream([*sent, talk.chat_chunk("", {"content": ""})]))
    is_cut(await farm.gw.chat(spot.model, stream=True), sent)


@pytest.mark.parametrize(
    "end", [lambda: steps.stream([b'{"a":'], framing="length", end="fin"),
            lambda: steps.stream([b'{"a":'], framing="length", end="reset"),
            lambda: steps.stream([b'{"a":'], end="mid-chunk", content_type="application/json")],
    ids=["fin", "reset", "mid-chunk"],
)  # fmt: skip
async def test_an_answer_that_is_cut_does_not_end_as_if_whole(
    farm: Farm, end: Callable[[], steps.Step]
) -> None:
    spot = farm.solo()
    spot.engine.always = end()
    reply = await farm.gw.chat(spot.model)
    assert not reply.whole or reply.status == 502


async def test_the_next_request_after_a_cut_is_served(farm: Farm) -> None:
    spot = farm.solo()
    spot.engine.script.append(steps.stream(talk.chat_events(spot.model)[:2], end="reset"))
    await farm.gw.chat(spot.model, stream=True)
    assert (await farm.gw.chat(spot.model)).status == 200


async def test_a_cut_is_counted_once_with_the_status_the_client_saw(farm: Farm) -> None:
    spot = farm.solo()
    spot.engine.script.append(steps.stream(talk.chat_events(spot.model)[:2], end="reset"))
    await farm.gw.chat(spot.model, stream=True)
    await farm.gw.rises("portico_requests_total", model=spot.model, backend=spot.name, status="200")
    assert await farm.gw.metric("portico_requests_in_flight", model=spot.model) == 0


async def test_the_log_line_of_a_cut_says_who_cut_it(farm: Farm) -> None:
    spot = farm.solo()
    spot.engine.script.append(steps.stream(talk.chat_events(spot.model)[:2], end="reset"))
    await farm.gw.chat(spot.model, [("X-Request-Id", "cut-line-1")], stream=True)
    line = await farm.gw.request_line("cut-line-1")
    assert line["cut_by"] == "engine"


async def test_the_message_stop_after_an_engines_error_event_is_not_shown(farm: Farm) -> None:
    """sheet: sglang 7, on /v1/messages an error event is followed by message_stop."""
    spot = farm.solo()
    sent = talk.message_events(spot.model, stop=False)[:4]
    error = {"type": "error", "error": {"type": "api_error", "message": "it broke"}}
    said = [*sent, talk.named(error), talk.named({"type": "message_stop"})]
    spot.engine.script.append(steps.stream(said))
    body = chat_json(spot.model, stream=True, max_tokens=5)
    reply = await farm.gw.post("/v1/messages", body)
    assert b"it broke" in reply.body
    assert b"message_stop" not in reply.body
    is_cut(reply, sent)
