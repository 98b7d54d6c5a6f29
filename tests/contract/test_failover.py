"""Moving on before the first byte, and never after it (INTERFACE 4 and 7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from tests.fakes import steps, talk
from tests.fakes.steps import Step
from tests.harness import JSON, Farm, Pair, chat_json, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

TIMEOUTS = {"timeouts": {"connect": "500ms", "first_byte": "800ms", "idle": "800ms"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[Farm]:
    async with Farm(90, backend=TIMEOUTS) as farm:
        yield farm


async def asks_until_the_bad_one_was_met(
    farm: Farm, pair: Pair, bad: Step, **fields: object
) -> str:
    """Breaks the first engine and asks until it has been asked; every answer must be the good
    one's. The name of the metric reason is not fixed, so only the effect is looked at."""
    pair.first.engine.always = bad
    for _ in range(12):
        reply = await farm.gw.chat(pair.model, **fields)
        assert reply.status == 200, reply.body
        assert reply.header("X-Portico-Backend") == pair.second.name
        if pair.first.engine.requests:
            return reply.body.decode()
    raise AssertionError("the broken engine was never chosen")


def refused(status: int, message: str = "no") -> Step:
    error = {"message": message, "type": "x", "param": None, "code": status}
    return steps.reply(status, {"error": error})


FAULTS: dict[str, Callable[[], Step]] = {
    "a reset": lambda: steps.drop("reset"),
    "a closed connection": lambda: steps.drop("fin"),
    "silence": steps.hang,
    "half a head": lambda: steps.literally(b"HTTP/1.1 200 OK\r\nconte", end="fin"),
    "no HTTP at all": lambda: steps.literally(b"SSH-2.0-OpenSSH\r\n\r\n", end="fin"),
    "424": lambda: refused(424),
    "429": lambda: refused(429),
    "500": lambda: refused(500),
    "502": lambda: refused(502),
    "503": lambda: refused(503),
    "504": lambda: refused(504),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("streamed", [True, False])
async def test_a_request_moves_on_before_the_first_byte_after(
    farm: Farm, fault: str, streamed: bool
) -> None:
    pair = farm.pair()
    await asks_until_the_bad_one_was_met(farm, pair, FAULTS[fault](), stream=streamed)
    seen = [request.body for request in pair.second.engine.requests]
    assert set(seen) == {pair.first.engine.requests[0].body}, "the same request goes on"


async def test_a_request_moves_on_after_a_refused_connection(farm: Farm) -> None:
    pair = farm.pair()
    await pair.first.engine.stop(hold=True)
    for _ in range(6):
        reply = await farm.gw.chat(pair.model)
        assert (reply.status, reply.header("X-Portico-Backend")) == (200, pair.second.name)


@pytest.mark.parametrize("status", [400, 404, 409, 422])
async def test_another_4xx_is_never_tried_elsewhere(farm: Farm, status: int) -> None:
    pair = farm.pair()
    for spot in (pair.first, pair.second):
        spot.engine.always = refused(status)
    reply = await farm.gw.chat(pair.model)
    assert (reply.status, reply.error["message"]) == (status, "no")
    assert len(pair.first.engine.requests) + len(pair.second.engine.requests) == 1


@pytest.mark.parametrize("status", [424, 429, 500, 503])
async def test_when_nobody_else_can_the_backends_own_answer_passes(farm: Farm, status: int) -> None:
    spot = farm.solo()
    spot.engine.always = refused(status, "my own words")
    reply = await farm.gw.chat(spot.model)
    assert (reply.status, reply.error["message"]) == (status, "my own words")


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_when_nobody_else_can_a_cut_before_an_answer_is_502(farm: Farm, how: str) -> None:
    spot = farm.solo()
    spot.engine.always = steps.drop(how)
    reply = await farm.gw.chat(spot.model, stream=True)
    assert (reply.status, reply.kind) == (502, "backend_unreachable")
    assert reply.error["message"]


@pytest.mark.parametrize("streamed", [True, False])
async def test_no_first_byte_in_time_is_504(farm: Farm, streamed: bool) -> None:
    spot = farm.solo()
    spot.engine.always = steps.hang()
    loop = asyncio.get_running_loop()
    began = loop.time()
    reply = await farm.gw.chat(spot.model, stream=streamed)
    assert (reply.status, reply.kind) == (504, "backend_timeout")
    assert 0.5 < loop.time() - began < 4
    await asyncio.wait_for(spot.engine.requests[-1].aborted.wait(), 1)


async def test_a_head_without_a_body_in_time_is_no_first_byte(farm: Farm) -> None:
    """sheet: vllm 7, the headers go out before the first token."""
    spot = farm.solo()
    spot.engine.always = steps.stream([], end="hang")
    reply = await farm.gw.chat(spot.model, stream=True)
    assert (reply.status, reply.kind) == (504, "backend_timeout")


async def test_a_head_without_a_body_moves_on(farm: Farm) -> None:
    pair = farm.pair()
    await asks_until_the_bad_one_was_met(farm, pair, steps.stream([], end="reset"), stream=True)


async def test_nothing_is_sent_twice_once_an_answer_has_begun(farm: Farm) -> None:
    pair = farm.pair()
    events = talk.chat_events(pair.model)[:2]
    for spot in (pair.first, pair.second):
        spot.engine.always = steps.stream(events, end="reset")
    await farm.gw.chat(pair.model, stream=True)
    assert len(pair.first.engine.requests) + len(pair.second.engine.requests) == 1


FIRST_ERRORS = {
    "sglang": (talk.SGLANG_FULL, {503}, "The request queue is full."),
    "tgi": (talk.TGI_FULL, {429, 503}, "Model is overloaded"),
    "vllm": (talk.VLLM_ERROR, {500, 502}, "EngineCore encountered an issue."),
}


async def swapped(farm: Farm, pair: Pair, runtime: str) -> None:
    """Both engines of the pair become another runtime, and the gateway has noticed."""
    if runtime == "vllm":
        return

    for spot in (pair.first, pair.second):
        await spot.engine.become(runtime)

    async def noticed() -> bool:
        names = (pair.first.name, pair.second.name)
        ups = [
            await farm.gw.metric("portico_backend_up", backend=name, runtime=runtime)
            for name in names
        ]
        return ups == [1, 1]

    await until(noticed, 16.0, "the swapped engines to be recognised")


@pytest.mark.parametrize("runtime", FIRST_ERRORS)
async def test_200_with_an_error_first_gets_its_true_status_or_another_backend(
    farm: Farm, runtime: str
) -> None:
    pair = farm.pair()
    await swapped(farm, pair, runtime)
    event, statuses, message = FIRST_ERRORS[runtime]
    bad = steps.stream([event, talk.DONE])
    await asks_until_the_bad_one_was_met(farm, pair, bad, stream=True)
    pair.second.engine.always = bad
    reply = await farm.gw.chat(pair.model, stream=True)
    assert reply.status in statuses
    assert b"[DONE]" not in reply.body
    assert message in reply.error["message"]
    assert reply.header("content-type") == "application/json"


@pytest.mark.parametrize("size", [1, 20])
async def test_the_first_error_is_seen_however_it_is_split(farm: Farm, size: int) -> None:
    spot = farm.solo()
    events = [talk.SGLANG_FULL, talk.DONE]
    spot.engine.always = steps.stream(events, cut=steps.every(size))
    reply = await farm.gw.chat(spot.model, stream=True)
    assert reply.status == 503
    assert b"[DONE]" not in reply.body


async def test_a_word_about_errors_in_a_first_event_is_no_error(farm: Farm) -> None:
    spot = farm.solo()
    events = talk.chat_events(spot.model, ['{"error": {"code": 503}}'])
    spot.engine.script.append(steps.stream(events))
    reply = await farm.gw.chat(spot.model, stream=True)
    assert (reply.status, reply.body) == (200, b"".join(events))


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_stale_connection_is_no_fault_of_anybody(farm: Farm, how: str) -> None:
    """DESIGN, trap 2: an engine closes its idle connection just as the next request comes."""
    spot = farm.solo()
    for _ in range(3):
        spot.engine.stale = ""
        assert (await farm.gw.chat(spot.model)).status == 200
        spot.engine.stale = how
        reply = await farm.gw.chat(spot.model, seed=7)
        assert reply.status == 200
    assert await farm.gw.metric("portico_failovers_total", model=spot.model) == 0


async def test_an_engine_that_closes_after_every_answer_is_served_well(farm: Farm) -> None:
    spot = farm.solo()
    spot.engine.close_after = True
    for number in range(10):
        reply = await farm.gw.chat(spot.model, stream=bool(number % 2))
        assert (reply.status, reply.whole) == (200, True)


async def test_a_failover_is_counted(farm: Farm) -> None:
    pair = farm.pair()
    await asks_until_the_bad_one_was_met(farm, pair, steps.drop("reset"))
    await farm.gw.rises("portico_failovers_total", model=pair.model)


async def test_an_engine_that_answers_early_while_the_body_is_still_coming_is_heard(
    farm: Farm,
) -> None:
    spot = farm.solo()
    spot.engine.always = refused(413, "too much for me")
    async with farm.gw.client() as client:
        body = chat_json(spot.model, x="y" * 500_000)
        reply = await client.call("POST", "/v1/chat/completions", [JSON], body)
    assert (reply.status, reply.error["message"]) == (413, "too much for me")


async def test_a_failing_engine_is_given_back_its_place_when_it_is_well(farm: Farm) -> None:

    spot = farm.solo()
    await spot.engine.stop(hold=True)
    for _ in range(3):
        assert (await farm.gw.chat(spot.model)).status in {502, 503}
    await spot.engine.start()

    async def again() -> bool:
        return (await farm.gw.chat(spot.model)).status == 200

    await until(again, 15.0, "the engine to be used again", pause=0.2)


async def test_a_stream_that_ends_before_its_first_event_moves_on_or_is_502(farm: Farm) -> None:
    pair = farm.pair()
    empty = steps.stream([])
    await asks_until_the_bad_one_was_met(farm, pair, empty, stream=True)
    pair.second.engine.always = empty
    reply = await farm.gw.chat(pair.model, stream=True)
    assert (reply.status, reply.kind) == (502, "backend_unreachable")


async def test_a_long_text_about_a_failure_is_no_reason_to_stay(farm: Farm) -> None:
    pair = farm.pair()
    bad = steps.reply(500, b"<html>" + b"trace " * 30_000, content_type="text/html")
    await asks_until_the_bad_one_was_met(farm, pair, bad)
