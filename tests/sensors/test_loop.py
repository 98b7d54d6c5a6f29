"""The sensors at work: what becomes of backends that come, go, change and misbehave."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from gateway.core.runtime import Probe
from gateway.core.types import Backend, Fleet, Health, Op, Pulse
from gateway.sensors import loop
from gateway.sensors.discover import Discoverer
from gateway.sensors.loop import Sensors
from tests.harness import free_port
from tests.sensors.stub import (
    ALPHA,
    SHELF,
    Page,
    Shelf,
    Stub,
    alpha,
    at,
    drip,
    hang,
    hang_up,
    models,
    page,
    raw,
)

QUICK = 0.1


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "NUDGE_GAP", 0.02)


class Traffic:
    """What live traffic says; a test writes it."""

    def __init__(self) -> None:
        self.pulses: dict[str, Pulse] = {}

    def __call__(self, name: str) -> Pulse:
        return self.pulses.get(name, Pulse())


@asynccontextmanager
async def sensing(
    *backends: Backend,
    interval: float = QUICK,
    shelf: Shelf = SHELF,
    wait: float = 3.0,
    **other: Any,
) -> AsyncIterator[tuple[Sensors, list[Fleet]]]:
    fleets: list[Fleet] = []
    options: dict[str, Any] = {"pulse": Traffic(), "discoverer": None, "instance": "me", **other}
    sensors = Sensors(backends, publish=fleets.append, interval=interval, book=shelf, **options)
    await sensors.start(wait)
    try:
        yield sensors, fleets
    finally:
        await sensors.stop()


async def until(check: Callable[[], object], within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not check():
            await asyncio.sleep(0.01)


def health(sensors: Sensors, name: str = "one") -> Health:
    return sensors.fleet.sights[name].health


# -- starting -------------------------------------------------------------------------------------


async def test_start_returns_when_everything_was_seen_once() -> None:
    async with Stub(alpha("qwen")) as stub, sensing(at(stub)) as (sensors, _):
        sight = sensors.fleet.sights["one"]
        assert (sight.health, sight.runtime, sight.version) == (Health.UP, "alpha", "1.0")
        assert [model.id for model in sight.models] == ["qwen"]


async def test_a_dead_backend_is_no_reason_not_to_start() -> None:
    dead = Backend("dead", f"http://127.0.0.1:{free_port()}", models=("qwen",))
    async with Stub(alpha()) as stub, sensing(at(stub), dead) as (sensors, _):
        assert health(sensors) is Health.UP
        sight = sensors.fleet.sights["dead"]
        assert (sight.health, sight.detail) == (
            Health.DOWN,
            "connection refused: nothing listens there",
        )
        assert [model.id for model in sight.models] == ["qwen"]


async def test_start_does_not_wait_for_ever() -> None:
    async with Stub() as stub:
        stub.otherwise = hang
        began = time.monotonic()
        async with sensing(at(stub), wait=0.2) as (sensors, _):
            assert time.monotonic() - began < 1.0
            assert health(sensors) is Health.UNKNOWN


# -- going, coming, changing ----------------------------------------------------------------------


async def test_an_engine_that_goes_and_comes_back_is_noticed_and_keeps_its_models() -> None:
    async with Stub(alpha("qwen")) as stub, sensing(at(stub)) as (sensors, _):
        await stub.down()
        await until(lambda: health(sensors) is Health.DOWN)
        assert [model.id for model in sensors.fleet.sights["one"].models] == ["qwen"]
        await stub.up()
        await until(lambda: health(sensors) is Health.UP)


async def test_another_engine_at_the_same_address_is_noticed_without_a_gap() -> None:
    async with Stub(alpha("qwen")) as stub, sensing(at(stub)) as (sensors, _):
        stub.pages = alpha("llama", word="beta", version="2.0")
        await until(lambda: sensors.fleet.sights["one"].runtime == "beta")
        sight = sensors.fleet.sights["one"]
        assert (sight.version, [model.id for model in sight.models]) == ("2.0", ["llama"])
        assert sight.health is Health.UP


async def test_a_web_server_in_an_engines_place_gets_no_requests() -> None:
    async with Stub(alpha("qwen")) as stub, sensing(at(stub)) as (sensors, _):
        stub.pages = {}
        stub.otherwise = page("<html>hello</html>")
        await until(lambda: health(sensors) is Health.SICK)
        assert "no longer answers like Alpha" in sensors.fleet.sights["one"].detail
        stub.pages = alpha("qwen")
        await until(lambda: health(sensors) is Health.UP)


async def test_models_that_change_are_noticed() -> None:
    async with Stub(alpha("qwen")) as stub, sensing(at(stub)) as (sensors, _):
        stub.pages["/v1/models"] = models("qwen", "new")
        await until(lambda: len(sensors.fleet.sights["one"].models) == 2)


async def test_loading_becomes_up() -> None:
    async with Stub({**alpha(), "/health": page("", 503)}) as stub, sensing(at(stub)) as (s, _):
        assert health(s) is Health.LOADING
        stub.pages = alpha()
        await until(lambda: health(s) is Health.UP)


async def test_a_frozen_engine_is_down_after_two_silent_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.sensors.probe.LOAD_TIMEOUT", 0.2)
    idle = {**alpha(), "/load": page({"running": 0})}
    async with Stub(idle) as stub, sensing(at(stub)) as (sensors, _):
        stub.pages = dict.fromkeys(idle, hang)
        await until(lambda: health(sensors) is Health.DOWN)
        assert "timed out" in sensors.fleet.sights["one"].detail


async def test_a_slow_engine_whose_requests_get_bytes_stays_in_service() -> None:
    traffic = Traffic()
    async with Stub(alpha()) as stub, sensing(at(stub), pulse=traffic) as (sensors, fleets):
        traffic.pulses["one"] = Pulse(1, time.monotonic(), time.monotonic())
        stub.pages["/health"] = hang
        await until(lambda: health(sensors) is Health.BUSY)
        asked = len(stub.asked)
        await until(lambda: len(stub.asked) > asked + 8)
        assert Health.DOWN not in {fleet.sights["one"].health for fleet in fleets}


async def test_a_hung_engine_with_a_healthy_face_is_wedged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.core.health.WEDGED_AFTER", 0.3)
    traffic = Traffic()
    async with Stub(alpha()) as stub, sensing(at(stub), pulse=traffic) as (sensors, _):
        traffic.pulses["one"] = Pulse(2, time.monotonic(), 0.0)
        await until(lambda: health(sensors) is Health.WEDGED)
        traffic.pulses["one"] = Pulse(2, time.monotonic(), time.monotonic())
        await until(lambda: health(sensors) is Health.UP)


async def test_the_costly_check_clears_a_suspect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.core.health.WEDGED_AFTER", 0.4)
    monkeypatch.setattr("gateway.core.health.SUSPECT_AFTER", 0.1)
    monkeypatch.setattr(loop, "DEEP_EVERY", 0.1)
    row = replace(ALPHA, deep=Probe(("/generate",), timeout=1.0))
    traffic = Traffic()
    async with Stub({**alpha(), "/generate": page("ok")}) as stub:
        began = time.monotonic()
        traffic.pulses["one"] = Pulse(1, began, 0.0)
        async with sensing(at(stub), pulse=traffic, shelf=Shelf((row,))) as (_, fleets):
            await until(lambda: time.monotonic() > began + 1.0)
            assert "/generate" in stub.paths
            assert Health.WEDGED not in {fleet.sights["one"].health for fleet in fleets}


# -- what the data plane tells --------------------------------------------------------------------


async def test_trouble_is_believed_at_once_and_checked_at_once() -> None:
    async with Stub(alpha()) as stub, sensing(at(stub), interval=60.0) as (sensors, fleets):
        asked = len(stub.asked)
        sensors.trouble("one", "connection refused")
        sight = fleets[-1].sights["one"]
        assert (sight.health, sight.detail) == (Health.DOWN, "connection refused")
        await until(lambda: health(sensors) is Health.UP, 1.0)
        assert len(stub.asked) > asked


async def test_each_change_of_health_is_one_line_on_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "portico.sensors")
    async with Stub(alpha()) as stub, sensing(at(stub), interval=60.0) as (sensors, _):
        sensors.trouble("one", "connection refused")
        sensors.trouble("one", "connection refused")
        await until(lambda: health(sensors) is Health.UP, 1.0)
        sight = sensors.fleet.sights["one"]
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f"one at {stub.url} is up: {sight.detail}"),
        ("WARNING", "backend one: up -> down: connection refused"),
        ("INFO", f"backend one: down -> up: {sight.detail}"),
    ]


async def test_trouble_with_an_engine_that_is_gone_is_asked_about_ever_more_slowly() -> None:
    async with Stub(alpha()) as stub, sensing(at(stub), interval=60.0) as (sensors, _):
        await stub.down()
        sensors.trouble("one", "connection refused")
        await stub.up()
        # Not found by the look that followed at once, then by the one a second later.
        await until(lambda: health(sensors) is Health.UP, 3.0)


async def test_a_lack_is_learned_and_forgotten_when_the_engine_changes() -> None:
    async with Stub(alpha()) as stub, sensing(at(stub)) as (sensors, fleets):
        sensors.learned("one", "qwen", Op.EMBEDDINGS)
        assert fleets[-1].sights["one"].lacks == {("qwen", Op.EMBEDDINGS)}
        stub.pages["/mark"] = page("alpha 1.1")
        await until(lambda: not sensors.fleet.sights["one"].lacks)


async def test_stale_makes_a_look_now() -> None:
    async with Stub(alpha()) as stub, sensing(at(stub), interval=60.0) as (sensors, _):
        stub.pages["/v1/models"] = models("other")
        sensors.stale("one")
        await until(lambda: sensors.fleet.sights["one"].models[0].id == "other", 1.0)


async def test_impatience_does_not_flood_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "NUDGE_GAP", 0.2)
    async with Stub(alpha()) as stub, sensing(at(stub), interval=60.0) as (sensors, _):
        for _ in range(50):
            sensors.stale("one")
            await asyncio.sleep(0.01)
        assert stub.paths.count("/health") <= 4


async def test_news_of_a_backend_that_is_not_ours_is_ignored() -> None:
    async with Stub(alpha()) as stub, sensing(at(stub)) as (sensors, _):
        sensors.trouble("nobody", "x")
        sensors.learned("nobody", "m", Op.CHAT)
        sensors.stale("nobody")
        assert list(sensors.fleet.sights) == ["one"]


# -- publishing -----------------------------------------------------------------------------------


async def test_a_fleet_is_published_only_when_something_changed() -> None:
    async with Stub(alpha()) as stub, sensing(at(stub)) as (_, fleets):
        published, asked = len(fleets), stub.paths.count("/health")
        await until(lambda: stub.paths.count("/health") > asked + 3)
        assert len(fleets) == published
        stub.pages["/load"] = page({"running": 2})
        await until(lambda: len(fleets) > published)
        assert fleets[-1].sights["one"].load.running == 2
        assert [fleet.serial for fleet in fleets] == list(range(1, len(fleets) + 1))


# -- ourselves ------------------------------------------------------------------------------------

OURS = page({"name": "portico", "version": "1", "instance": "me"})
OTHER = page({"name": "portico", "version": "1", "instance": "you"})


@pytest.mark.parametrize("runtime", ["auto", "cloud", "alpha"])
async def test_the_gateway_is_never_its_own_backend(runtime: str) -> None:
    async with (
        Stub({**alpha(), "/version": OURS}) as stub,
        sensing(at(stub, runtime=runtime)) as (sensors, _),
    ):
        sight = sensors.fleet.sights["one"]
        assert (sight.health, sight.detail) == (Health.DOWN, loop.ITSELF)
        asked = len(stub.asked)
        await asyncio.sleep(QUICK * 4)
        assert len(stub.asked) == asked


async def test_another_gateway_may_be_a_backend() -> None:
    async with Stub({**alpha(), "/version": OTHER}) as stub, sensing(at(stub)) as (sensors, _):
        sight = sensors.fleet.sights["one"]
        assert (sight.health, sight.runtime) == (Health.UP, "cloud")


# -- providers ------------------------------------------------------------------------------------


async def test_a_provider_that_is_down_is_asked_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "is_near", lambda host: False)
    async with Stub({"/v1/models": hang_up}) as stub:
        stub.otherwise = hang_up
        async with sensing(at(stub, runtime="cloud")) as (sensors, _):
            await until(lambda: health(sensors) is Health.DOWN)
            stub.pages["/v1/models"] = page({"data": []})
            stub.otherwise = page()
            await until(lambda: health(sensors) is Health.UP)
            stub.pages["/v1/models"] = hang_up
            await until(lambda: health(sensors) is Health.DOWN)
            asked = len(stub.asked)
            await asyncio.sleep(QUICK * 5)
            assert len(stub.asked) - asked <= 1


# -- reload ---------------------------------------------------------------------------------------


async def test_a_reload_keeps_what_stays_takes_what_comes_and_drops_what_goes() -> None:
    a, b, c = Stub(alpha("a")), Stub(alpha("b")), Stub(alpha("c"))
    async with a, b, c, sensing(at(a, "a"), at(b, "b")) as (sensors, fleets):
        sensors.learned("a", "a", Op.SPEECH)
        kept, published = sensors.fleet.sights["a"], len(fleets)
        await sensors.replace([at(a, "a", weight=5.0), at(c, "c")])
        assert set(sensors.fleet.backends) == {"a", "c"}
        assert sensors.fleet.backends["a"].weight == 5.0
        assert sensors.fleet.sights["a"] == kept
        newcomer = [f.sights["c"] for f in fleets[published:] if "c" in f.sights]
        assert {sight.health for sight in newcomer} == {Health.UP}
        await asyncio.sleep(0)
        asked = len(b.asked)
        await asyncio.sleep(QUICK * 3)
        assert len(b.asked) == asked


async def test_a_backend_that_moved_is_looked_at_anew() -> None:
    async with Stub(alpha("a")) as a, Stub(alpha("b")) as b, sensing(at(a)) as (sensors, _):
        await sensors.replace([at(b)])
        assert sensors.fleet.backends["one"].url == b.url
        assert [model.id for model in sensors.fleet.sights["one"].models] == ["b"]


async def test_a_reload_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "NEWCOMER_WAIT", 0.2)
    async with Stub(alpha()) as stub, Stub() as slow, sensing(at(stub)) as (sensors, _):
        slow.otherwise = hang
        async with asyncio.timeout(1.5):
            await sensors.replace([at(stub), at(slow, "slow")])
        assert health(sensors, "slow") is Health.UNKNOWN


# -- discovery inside the loop --------------------------------------------------------------------


async def test_a_discovered_engine_joins_goes_down_and_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "GONE_AFTER", 0.5)
    said: list[str] = []
    stub = Stub(alpha("qwen"), port=free_port())
    discoverer = Discoverer([stub.port], (), on_change=said.append, book=SHELF)
    async with sensing(discoverer=discoverer) as (sensors, _):
        assert not sensors.fleet.backends
        async with stub:
            await until(lambda: "alpha" in sensors.fleet.sights and health(sensors, "alpha"))
            await until(lambda: health(sensors, "alpha") is Health.UP)
            assert sensors.fleet.backends["alpha"].discovered
        await until(lambda: health(sensors, "alpha") is Health.DOWN)
        await until(lambda: "alpha" not in sensors.fleet.backends)
        assert said == [
            f"found Alpha 1.0 at {stub.url} serving qwen",
            f"Alpha at {stub.url} is gone",
        ]


async def test_a_discovered_port_that_changes_hands_changes_its_name() -> None:
    async with Stub(alpha()) as stub:
        discoverer = Discoverer([stub.port], (), book=SHELF)
        async with sensing(discoverer=discoverer) as (sensors, _):
            assert list(sensors.fleet.backends) == ["alpha"]
            stub.pages = alpha(word="beta")
            await until(lambda: list(sensors.fleet.backends) == ["beta"])
            stub.pages = {}
            await until(lambda: not sensors.fleet.backends)


async def test_a_discovered_engine_that_gets_configured_appears_once() -> None:
    async with Stub(alpha()) as stub:
        discoverer = Discoverer([stub.port], (), book=SHELF)
        async with sensing(discoverer=discoverer) as (sensors, _):
            await sensors.replace([Backend("mine", f"http://localhost:{stub.port}")])
            assert list(sensors.fleet.backends) == ["mine"]
            await asyncio.sleep(QUICK * 3)
            assert list(sensors.fleet.backends) == ["mine"]


# -- hostility ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "otherwise",
    [
        page("<html>"),
        page([[[]]]),
        page({"data": {"id": []}}),
        page("", 302, "Location: /"),
        raw(b"garbage\r\n\r\n"),
        raw(b"HTTP/1.1 101 X\r\nUpgrade: y\r\nConnection: Upgrade\r\n\r\n"),
        drip,
        hang_up,
    ],
)
@pytest.mark.parametrize("runtime", ["auto", "alpha", "cloud"])
async def test_nothing_a_server_does_reaches_the_log_as_an_exception(
    otherwise: Page,
    runtime: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("gateway.sensors.probe.IDENTIFY_TIMEOUT", 0.1)
    async with Stub() as stub:
        stub.otherwise = otherwise
        async with sensing(at(stub, runtime=runtime)) as (sensors, _):
            await until(lambda: health(sensors) is not Health.UNKNOWN)
            assert sensors.fleet.sights["one"].detail
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_a_fault_of_ours_is_logged_and_the_loop_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = loop.observe

    async def broken(*args: Any) -> Any:
        raise ZeroDivisionError

    async with Stub(alpha()) as stub, sensing(at(stub)) as (sensors, _):
        monkeypatch.setattr(loop, "observe", broken)
        await until(lambda: health(sensors) is Health.SICK)
        assert "a fault of ours" in caplog.text
        monkeypatch.setattr(loop, "observe", real)
        await until(lambda: health(sensors) is Health.UP)


async def test_stop_leaves_nothing_running() -> None:
    before = asyncio.all_tasks()
    async with Stub(alpha()) as stub:
        async with sensing(at(stub)):
            assert any(t.get_name().startswith("sensors") for t in asyncio.all_tasks() - before)
        assert not any(t.get_name().startswith("sensors") for t in asyncio.all_tasks())
