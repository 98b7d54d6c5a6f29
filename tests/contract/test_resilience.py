"""Engines that fail: who is asked, who is spared, and that no request is lost without need."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio

from tests.fakes import steps, talk
from tests.fakes.peer import Recorded
from tests.fakes.steps import Step
from tests.harness import Farm, Gateway, Spot, chat_json, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

ADMIN = "an-admin-key-of-the-tests"
TIMEOUTS = {"timeouts": {"connect": "500ms", "first_byte": "500ms", "idle": "800ms"}}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[Farm]:
    async with Farm(24, backend=TIMEOUTS, extra={"auth": {"admin_keys": [ADMIN]}}) as farm:
        yield farm


def failure(status: int = 500, message: str = "no") -> Step:
    return steps.reply(status, {"error": {"message": message, "type": "x", "code": status}})


async def circuit(gw: Gateway, name: str) -> float:
    return await gw.metric("portico_circuit_state", backend=name)


async def becomes(gw: Gateway, name: str, state: float, timeout: float = 5.0) -> None:
    async def there() -> bool:
        return await circuit(gw, name) == state

    await until(there, timeout, f"the circuit of {name} to be {state}")


BAD: dict[str, Step] = {
    "500": failure(),
    "a reset": steps.drop("reset"),
    "silence": steps.hang(),
}


@pytest.mark.parametrize("fault", BAD)
async def test_a_failing_engine_is_spared_then_tried_and_taken_back(farm: Farm, fault: str) -> None:
    pair = farm.pair()
    pair.first.engine.always = BAD[fault]
    replies = await asyncio.gather(*(farm.gw.chat(pair.model) for _ in range(16)))
    assert {reply.status for reply in replies} == {200}
    await becomes(farm.gw, pair.first.name, 2)
    before = len(pair.first.engine.requests)
    replies = await asyncio.gather(*(farm.gw.chat(pair.model) for _ in range(5)))
    assert {reply.status for reply in replies} == {200}
    assert len(pair.first.engine.requests) <= before + 1, "a trial at most"
    pair.first.engine.always = None

    async def closed() -> bool:
        assert (await farm.gw.chat(pair.model)).status == 200
        return await circuit(farm.gw, pair.first.name) == 0

    await until(closed, 10.0, "the circuit to close", pause=0.1)


async def test_an_engine_that_fails_every_other_request_loses_none(farm: Farm) -> None:
    pair = farm.pair()
    turns = iter(range(10_000))

    def half(request: Recorded) -> Step | None:
        return failure() if next(turns) % 2 else None

    pair.first.engine.always = half
    for _ in range(5):
        replies = await asyncio.gather(*(farm.gw.chat(pair.model) for _ in range(12)))
        assert {reply.status for reply in replies} == {200}


async def test_nobodys_bad_requests_open_a_circuit(farm: Farm) -> None:
    pair = farm.pair()

    def pick(request: Recorded) -> Step | None:
        if b'"bad"' in request.body:
            return failure(400, "bad request")
        return failure(500, "who knows why") if b'"poison"' in request.body else None

    pair.first.engine.always = pair.second.engine.always = pick
    for kind, status in (("bad", 400), ("poison", 500)):
        for _ in range(12):
            assert (await farm.gw.chat(pair.model, user=kind)).status == status
    assert (await farm.gw.chat(pair.model)).status == 200
    assert await circuit(farm.gw, pair.first.name) == 0
    assert await circuit(farm.gw, pair.second.name) == 0


async def failing(farm: Farm) -> Spot:
    """A model whose only backend has failed until its circuit opened."""
    spot = farm.solo()
    spot.engine.always = steps.drop("reset")
    for _ in range(3):
        assert (await farm.gw.chat(spot.model)).status == 502
    await becomes(farm.gw, spot.name, 2, 1.0)
    return spot


async def test_a_cool_down_that_ends_soon_is_waited_out_in_line(farm: Farm) -> None:
    spot = await failing(farm)
    spot.engine.always = None
    replies = await asyncio.gather(*(farm.gw.chat(spot.model) for _ in range(5)))
    assert [reply.status for reply in replies] == [200] * 5


async def test_a_cool_down_that_ends_too_late_is_refused_with_the_time_to_come_back() -> None:
    routing = {"queue": {"timeout": "300ms"}}
    async with Farm(1, backend=TIMEOUTS, extra={"routing": routing}) as farm:
        spot = await failing(farm)
        reply = await farm.gw.chat(spot.model)
        assert (reply.status, reply.kind) == (503, "overloaded")
        assert "cool-down" in reply.error["message"]
        assert reply.header("Retry-After") == "1"
        spot.engine.always = None

        async def served() -> bool:
            return (await farm.gw.chat(spot.model)).status == 200

        await until(served, 5.0, "the backend to be tried again", pause=0.1)


async def test_a_request_that_makes_the_engine_keep_something_is_not_sent_twice(
    farm: Farm,
) -> None:
    pair = farm.pair()
    for spot in (pair.first, pair.second):
        spot.engine.always = steps.drop("reset")
    body = {"model": pair.model, "input": "Hi", "store": True}
    reply = await farm.gw.post("/v1/responses", body)
    assert reply.status == 502
    assert len(pair.first.engine.requests) + len(pair.second.engine.requests) == 1


async def test_retries_stay_within_their_budget_in_an_outage() -> None:
    routing = {"retries": {"budget": 0.1, "per_second": 0.2}, "queue": {"max": 0}}
    extra = {"routing": routing}
    async with Farm(2, extra=extra) as farm:
        pair = farm.pair()
        for spot in (pair.first, pair.second):
            spot.engine.always = failure(500)
        for _ in range(40):
            assert (await farm.gw.chat(pair.model)).status in (500, 503)
        asked = len(pair.first.engine.requests) + len(pair.second.engine.requests)
        assert asked <= 40 + 0.1 * 40 + 2 + 2


async def test_llamacpps_500_for_a_clients_fault_opens_nothing() -> None:
    async with Farm(1, "llamacpp") as farm:
        spot = farm.solo()
        text = "Failed to parse tools: no name"
        spot.engine.always = failure(500, text)
        for _ in range(12):
            await farm.gw.post("/v1/chat/completions", chat_json(spot.model))
        assert await circuit(farm.gw, spot.name) == 0


async def test_what_was_in_flight_when_an_engine_died_is_answered_by_another() -> None:
    extra = {"routing": {"retries": {"budget": 0, "per_second": 0}}}
    async with Farm(2, extra=extra) as farm:
        pair = farm.pair()
        crash = asyncio.Event()
        pair.first.engine.always = steps.after(crash, steps.drop("reset"))
        asked = [asyncio.ensure_future(farm.gw.chat(pair.model)) for _ in range(12)]

        async def waiting() -> bool:
            return len(pair.first.engine.requests) >= 3

        await until(waiting, 5.0, "requests at the engine")
        crash.set()
        replies = await asyncio.gather(*asked)
        assert [reply.status for reply in replies] == [200] * 12


def key(value: str = ADMIN) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {value}")]


async def test_admin_routes_need_an_admin_key(farm: Farm) -> None:
    assert (await farm.gw.get("/admin/backends")).status == 401
    assert (await farm.gw.get("/admin/backends", key("another"))).status == 401
    assert (await farm.gw.get("/admin/backends", key())).status == 200
    assert (await farm.gw.get("/admin/nothing", key())).status == 404
    reply = await farm.gw.post("/admin/backends", {}, key())
    assert (reply.status, reply.header("Allow")) == (405, "GET")
    assert (await farm.gw.post("/admin/backends/nobody/drain", {}, key())).status == 404


async def test_without_an_admin_key_the_routes_say_how_to_enable_them() -> None:
    async with Gateway({"backends": []}) as gw:
        for path in ("/admin/backends", "/admin/anything"):
            reply = await gw.get(path, key())
            assert (reply.status, reply.kind) == (403, "forbidden")
            assert "auth.admin_keys" in reply.error["message"]


async def test_a_callers_key_is_no_admin_key() -> None:
    auth = {"admin_keys": [ADMIN], "keys": [{"name": "a", "key": "a-callers-key"}]}
    async with Gateway({"backends": [], "auth": auth}) as gw:
        assert (await gw.get("/admin/backends", key("a-callers-key"))).status == 403
        assert (await gw.get("/admin/backends", [("x-api-key", ADMIN)])).status == 200


async def test_a_drained_backend_gets_nothing_new_and_finishes_what_it_has(farm: Farm) -> None:
    pair = farm.pair()
    gate = steps.Gate()
    events = talk.chat_events(pair.model)
    pair.first.engine.always = steps.stream(events, gate=gate)
    path = f"/admin/backends/{pair.first.name}"
    stream = asyncio.ensure_future(
        farm.gw.chat(f"{pair.first.name}:{pair.model}", stream=True, timeout=20)
    )

    async def begun() -> bool:
        return bool(pair.first.engine.requests)

    await until(begun)
    shown = (await farm.gw.post(f"{path}/drain", {}, key())).doc
    assert (shown["health"], shown["in_flight"]) == ("draining", 1)
    for _ in range(6):
        reply = await farm.gw.chat(pair.model)
        assert reply.header("X-Portico-Backend") == pair.second.name
    gate.open()
    assert (await stream).body == b"".join(events)
    alone = await farm.gw.chat(pair.first.model)
    assert (alone.status, alone.kind) == (503, "overloaded")
    await asyncio.sleep(1.5)  # a round of probes does not bring it back
    farm.gw.signal(signal.SIGHUP)
    await farm.gw.rises("portico_config_reloads_total", result="success")
    assert (await farm.gw.chat(pair.first.model)).status == 503
    pair.first.engine.always = None
    assert (await farm.gw.post(f"{path}/undrain", {}, key())).doc["health"] in ("up", "busy")
    assert (await farm.gw.chat(pair.first.model)).status == 200


async def test_a_gateway_whose_backends_are_all_drained_is_not_ready() -> None:
    async with Farm(1, extra={"auth": {"admin_keys": [ADMIN]}}) as farm:
        assert (await farm.gw.get("/readyz")).status == 200
        await farm.gw.post("/admin/backends/b0/drain", {}, key())
        assert (await farm.gw.get("/readyz")).status == 503
        await farm.gw.post("/admin/backends/b0/undrain", {}, key())
        assert (await farm.gw.get("/readyz")).status == 200


async def test_the_way_of_a_request_is_explained(farm: Farm) -> None:
    pair = farm.pair()
    pair.first.engine.always = failure()
    reply = None
    for _ in range(12):
        reply = await farm.gw.chat(pair.model)
        if pair.first.engine.requests:
            break
    assert reply is not None
    found = (await farm.gw.get(f"/admin/explain/{reply.header('X-Request-Id')}", key())).doc
    assert {one["backend"] for one in found["candidates"]} == {pair.first.name, pair.second.name}
    assert [(one["backend"], one["end"], one["status"]) for one in found["attempts"]] == [
        (pair.first.name, "given_up", 500),
        (pair.second.name, "done", 200),
    ]
    assert found["outcome"]["backend"] == pair.second.name
    assert (await farm.gw.get("/admin/explain/unheard-of", key())).status == 404


async def test_a_refusal_is_explained_by_what_was_skipped(farm: Farm) -> None:
    pair = farm.pair()
    await farm.gw.post(f"/admin/backends/{pair.first.name}/drain", {}, key())
    await farm.gw.chat(pair.first.model, [("X-Request-Id", "a-refused-one")])
    found = (await farm.gw.get("/admin/explain/a-refused-one", key())).doc
    assert found["outcome"]["refusal"] == "overloaded"
    assert found["skipped"][0]["why"].startswith("draining")


async def test_two_workers_share_circuits_drains_and_explanations() -> None:
    extra = {"auth": {"admin_keys": [ADMIN]}}
    async with Farm(2, server={"workers": 2}, extra=extra) as farm:
        pair = farm.pair()
        pair.first.engine.always = failure()
        ids = []
        for _ in range(4):
            replies = await asyncio.gather(*(farm.gw.chat(pair.model) for _ in range(8)))
            assert {reply.status for reply in replies} == {200}
            ids += [reply.header("X-Request-Id") for reply in replies]
        await becomes(farm.gw, pair.first.name, 2)
        for rid in ids:
            found = await farm.gw.get(f"/admin/explain/{rid}", key())
            assert (found.status, found.doc["request_id"]) == (200, rid)
        pair.first.engine.always = None

        async def closed() -> bool:
            await asyncio.gather(*(farm.gw.chat(pair.model) for _ in range(4)))
            return await circuit(farm.gw, pair.first.name) == 0

        await until(closed, 8.0, "the circuit to close", pause=0.1)
        assert (await farm.gw.post("/admin/backends/b1/drain", {}, key())).status == 200
        control = psutil.Process(farm.gw.pid).children()[0]
        control.kill()

        async def drained() -> bool:
            reply = await farm.gw.get("/admin/backends/b1", key())
            return reply.status == 200 and reply.doc["health"] == "draining"

        await until(drained, 8.0, "the next control process to know of the drain", pause=0.1)
        await asyncio.sleep(0.3)
        for _ in range(6):
            assert (await farm.gw.chat(pair.model)).header("X-Portico-Backend") == "b0"


async def test_an_engine_that_restarts_costs_no_request(farm: Farm) -> None:
    pair = farm.pair()
    stop = asyncio.Event()

    async def keep_asking() -> list[int]:
        found = []
        while not stop.is_set():
            found.append((await farm.gw.chat(pair.model)).status)
            await asyncio.sleep(0.01)
        return found

    askers = [asyncio.ensure_future(keep_asking()) for _ in range(4)]
    await asyncio.sleep(0.2)
    await pair.first.engine.stop(hold=True)
    await asyncio.sleep(0.5)
    await pair.first.engine.start()
    await asyncio.sleep(1.5)
    stop.set()
    answers = [status for found in await asyncio.gather(*askers) for status in found]
    assert len(answers) > 50
    assert set(answers) == {200}
