"""Who answers at an address, and what one round of questions makes of it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

import pytest

import backends
from gateway.core.health import NOTHING, Observation, Reply
from gateway.core.runtime import Evidence, Probe, Runtime
from gateway.core.types import Backend, Health, Load
from gateway.sensors.ask import Asker
from gateway.sensors.probe import NAMELESS, Identity, Stranger, identify, observe
from tests.fakes.engine import FakeEngine
from tests.harness import free_port
from tests.sensors.stub import (
    ALPHA,
    CLOUD,
    SHELF,
    Page,
    Shelf,
    Stub,
    alpha,
    at,
    flood,
    hang,
    page,
    raw,
)


async def who_is(stub: Stub, shelf: Shelf = SHELF, **other: Any) -> Identity | Stranger:
    async with Asker() as asker:
        return await identify(asker, at(stub, **other), shelf)


async def look(
    stub: Stub, row: Runtime = ALPHA, before: Observation = NOTHING, **other: Any
) -> tuple[Observation, bool]:
    async with Asker() as asker:
        return await observe(asker, at(stub, **other), Identity(row, "", "test"), before)


# -- identify -------------------------------------------------------------------------------------


async def test_an_engine_is_recognised_by_its_marks() -> None:
    async with Stub(alpha()) as stub:
        who = await who_is(stub)
    assert isinstance(who, Identity)
    assert (who.base.name, who.reason, who.portico) == ("alpha", "/mark says alpha", None)


async def test_a_refused_connection_is_asked_once_only() -> None:
    async with Asker() as asker:
        backend = at(Stub(port=free_port()))
        began = time.monotonic()
        who = await identify(asker, backend, SHELF)
    assert isinstance(who, Stranger)
    assert (who.reply, who.health) == (Reply.REFUSED, Health.DOWN)
    assert time.monotonic() - began < 0.5


async def test_a_portico_that_does_not_say_in_time_which_one_it_is_is_nobody_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may be this gateway itself, still starting: it must not be sent its own requests."""
    monkeypatch.setattr("gateway.sensors.probe.IDENTIFY_TIMEOUT", 0.2)
    listing = page({"object": "list", "data": [{"id": "m"}]}, 200, "Server: portico/0.1.0")
    async with Stub({"/version": hang, "/v1/models": listing}) as stub, Asker() as ask:
        who = await identify(ask, at(stub))
    assert isinstance(who, Stranger)
    assert (who.health, who.detail) == (Health.DOWN, NAMELESS)


async def test_one_address_that_hangs_does_not_hide_the_marks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.sensors.probe.IDENTIFY_TIMEOUT", 0.3)
    async with Stub({**alpha(), "/version": hang}) as stub:
        who = await who_is(stub)
    assert isinstance(who, Identity)
    assert who.base.name == "alpha"


async def test_a_configured_runtime_is_believed_and_only_its_flavour_looked_up() -> None:
    mini = replace(ALPHA, title="Mini")
    row = replace(ALPHA, variants={"mini": mini}, variant=lambda evidence: "mini")
    async with Stub({"/mark": page("beta 2")}) as stub:
        who = await who_is(stub, Shelf((row,)), runtime="alpha")
    assert isinstance(who, Identity)
    assert (who.row, who.variant, who.reason) == (mini, "mini", "set in the configuration")
    assert set(stub.paths) == {"/version", "/mark"}


@pytest.mark.parametrize(
    ("otherwise", "health", "words"),
    [
        (page("<html>"), Health.SICK, "like no runtime known here"),
        (page("", 503), Health.LOADING, "still loading"),
        (page("", 401), Health.SICK, "asks for a key"),
        (page("", 403), Health.SICK, "refuses every question"),
        (page("", 302, "Location: /login"), Health.SICK, "like no runtime known here"),
        (raw(b"+OK POP3\r\n"), Health.SICK, "not HTTP"),
    ],
)
async def test_a_stranger_is_described(otherwise: Page, health: Health, words: str) -> None:
    async with Stub() as stub:
        stub.otherwise = otherwise
        who = await who_is(stub)
    assert isinstance(who, Stranger)
    assert who.health is health
    assert words in who.detail


async def test_another_gateway_is_a_provider_and_never_the_engine_whose_marks_it_wears() -> None:
    version = page({"name": "portico", "version": "1.0", "instance": "abc"})
    async with Stub({**alpha(), "/version": version}) as stub:
        who = await who_is(stub)
    assert isinstance(who, Identity)
    assert (who.base.name, who.portico) == ("cloud", "abc")


async def test_a_gateway_that_hides_its_version_is_known_by_its_server_header() -> None:
    async with Stub(alpha()) as stub:
        stub.otherwise = page("", 404, "Server: portico/1.2")
        who = await who_is(stub)
    assert isinstance(who, Identity)
    assert (who.base.cloud, who.portico) == (True, "")


async def test_a_fingerprint_that_stumbles_makes_a_stranger_and_no_noise() -> None:
    def stumble(evidence: Evidence) -> str | None:
        raise KeyError("odd")

    async with Stub(alpha()) as stub:
        who = await who_is(stub, Shelf((replace(ALPHA, fingerprint=stumble),)))
    assert isinstance(who, Stranger)
    assert (who.health, who.detail) == (Health.SICK, "its answers could not be read (KeyError)")


# -- observe --------------------------------------------------------------------------------------


async def test_a_round_brings_health_models_version_and_load_for_few_questions() -> None:
    async with Stub(alpha("qwen", "llama")) as stub:
        seen, fits = await look(stub)
    assert fits
    assert (seen.reply, seen.health, seen.runtime, seen.version) == (
        Reply.ANSWERED,
        Health.UP,
        "alpha",
        "1.0",
    )
    assert seen.models is not None
    assert [(model.id, model.context) for model in seen.models] == [("qwen", 4096), ("llama", 4096)]
    assert seen.load == Load(running=1, waiting=0, progress=5)
    assert sorted(stub.paths) == ["/health", "/load", "/mark", "/v1/models"]


async def test_a_slow_health_check_is_told_with_the_load_that_came_all_the_same() -> None:
    async with Stub({**alpha(), "/health": hang}) as stub:
        seen, _ = await look(stub)
    assert (seen.reply, seen.detail) == (Reply.SLOW, "timed out after 0.4 s")
    assert seen.load == Load(running=1, waiting=0, progress=5)
    assert seen.models is None
    assert "/v1/models" not in stub.paths


async def test_the_health_path_of_an_older_release_is_found() -> None:
    row = replace(ALPHA, probe=Probe(("/ready", "/health"), timeout=0.4))
    async with Stub(alpha()) as stub:
        seen, _ = await look(stub, row)
    assert seen.health is Health.UP
    assert stub.paths.count("/ready") == 1


async def test_what_an_engine_does_not_have_is_asked_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pages = alpha()
    del pages["/load"]
    async with Stub(pages) as stub:
        seen, _ = await look(stub)
        seen, fits = await look(stub, before=seen)
        assert fits
        assert stub.paths.count("/load") == 1
        assert stub.paths.count("/health") == 2
        monkeypatch.setattr("gateway.sensors.probe.SETTLED_FOR", 0.0)
        await look(stub, before=seen)
    assert stub.paths.count("/load") == 2


async def test_missing_models_are_asked_for_every_time() -> None:
    pages = alpha()
    del pages["/v1/models"]
    async with Stub(pages) as stub:
        seen, _ = await look(stub)
        assert seen.models is None
        await look(stub, before=seen)
    assert stub.paths.count("/v1/models") == 2


@pytest.mark.parametrize(
    ("secret", "words"), [("wrong", "key refused"), (None, "asks for a key (401) and none is set")]
)
async def test_a_401_says_which_key_is_at_fault(secret: str | None, words: str) -> None:
    async with Stub({**alpha(), "/v1/models": page({"error": "Unauthorized"}, 401)}) as stub:
        seen, _ = await look(stub, secret=secret)
    assert seen.health is Health.SICK
    assert words in seen.detail


async def test_a_provider_that_refuses_the_key_says_so() -> None:
    async with Stub({"/v1/models": page({}, 401)}) as stub:
        seen, _ = await look(stub, CLOUD, secret="wrong")
    assert (seen.health, seen.detail[:11]) == (Health.SICK, "key refused")


async def test_with_the_callers_own_keys_a_401_to_us_proves_nothing() -> None:
    async with Stub({"/v1/models": page({}, 401)}) as stub:
        seen, _ = await look(stub, CLOUD, secret="passthrough")
    assert seen.health is Health.UP


async def test_a_forbidden_list_matters_only_when_no_models_are_configured() -> None:
    async with Stub({**alpha(), "/v1/models": page({}, 403)}) as stub:
        assert (await look(stub))[0].health is Health.SICK
        assert (await look(stub, models=("qwen",)))[0].health is Health.UP


async def test_marks_that_are_gone_are_noticed() -> None:
    async with Stub(alpha(word="beta")) as stub:
        assert (await look(stub))[1] is False


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_a_mark_that_is_merely_refused_proves_no_swap(status: int) -> None:
    async with Stub({**alpha(), "/mark": page("", status)}) as stub:
        assert (await look(stub))[1] is True


ODD: list[Page] = [
    page("not json"),
    page("[1, 2"),
    page([]),
    page({"data": 5}),
    page({"data": [None, 3, {"id": 7}, {"id": ["x"]}, {"object": "model"}]}),
    page(None),
    page("", 204),
    page("", 302, "Location: /"),
    page("", 999),
    raw(b"nonsense\r\n\r\n"),
    raw(b"HTTP/1.1 101 X\r\nUpgrade: y\r\nConnection: Upgrade\r\n\r\n"),
    flood,
]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("path", ["/health", "/v1/models", "/mark", "/load"])
async def test_odd_answers_make_a_sight_and_never_an_exception(path: str, odd: Page) -> None:
    async with Stub({**alpha(), path: odd}) as stub:
        seen, _ = await look(stub)
    assert isinstance(seen.health, Health)
    assert seen.models is None or all(isinstance(model.id, str) for model in seen.models)


@pytest.mark.parametrize(
    "load",
    [
        {"running": "many"},
        {"running": True},
        {"running": -1},
        {"running": {"a": 1}},
        {"unheard_of": 1},
    ],
)
async def test_load_of_the_wrong_type_is_no_load(load: dict[str, Any]) -> None:
    async with Stub({**alpha(), "/load": page(load)}) as stub:
        seen, _ = await look(stub)
    assert seen.load in (None, Load())


async def test_a_version_is_one_short_printable_word_and_a_context_a_number() -> None:
    pages = alpha(version="1.0\x1b[31m" + "9" * 5000)
    pages["/v1/models"] = page({"data": [{"id": "a", "max_model_len": "long"}]})
    async with Stub(pages) as stub:
        seen, _ = await look(stub)
    assert seen.version.startswith("1.0[31m99")
    assert len(seen.version) == 64
    assert seen.models is not None
    assert seen.models[0].context is None


@pytest.mark.parametrize("part", ["health", "models", "load", "version", "variant", "fingerprint"])
async def test_a_row_that_stumbles_costs_only_its_own_part(part: str) -> None:
    def stumble(given: Any) -> Any:
        raise TypeError("odd")

    async with Stub(alpha()) as stub:
        seen, _ = await look(stub, replace(ALPHA, **{part: stumble}))
    assert seen.health is (Health.SICK if part == "health" else Health.UP)
    assert (seen.models is None) is (part == "models")
    assert (seen.load is None) is (part == "load")


async def test_slots_that_only_the_row_knows_are_filled_in() -> None:
    async with Stub(alpha()) as stub:
        seen, _ = await look(stub, replace(ALPHA, slots=1, load_paths=(), load=lambda e: Load()))
    assert seen.load == Load(slots=1)


async def test_a_round_asks_an_engine_little_at_a_time() -> None:
    active, most = 0, 0

    async def slowly(writer: asyncio.StreamWriter) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.02)
        active -= 1
        writer.write(page())
        await writer.drain()

    row = replace(ALPHA, clues=tuple(f"/clue{n}" for n in range(30)), fingerprint=lambda e: "yes")
    async with Stub(dict.fromkeys(row.clues, slowly)) as stub:
        stub.otherwise = page()
        await look(stub, row)
    assert 1 < most <= 8


# -- the rows that the gateway ships --------------------------------------------------------------


@pytest.mark.parametrize("name", [row.name for row in backends.RUNTIMES])
async def test_every_shipped_runtime_is_recognised_and_keeps_fitting(name: str) -> None:
    async with FakeEngine(name, models=("m",)) as engine, Asker() as asker:
        backend = Backend("b", f"http://127.0.0.1:{engine.port}")
        who = await identify(asker, backend)
        assert isinstance(who, Identity)
        assert who.base.name == name
        first, fits = await observe(asker, backend, who, NOTHING)
        assert fits
        asked = len(engine.probes)
        seen, fits = await observe(asker, backend, who, first)
        assert fits
        assert (seen.health, [model.id for model in seen.models or ()]) == (Health.UP, ["m"])
        assert len(engine.probes) - asked <= 9


@pytest.mark.parametrize("old", [row.name for row in backends.RUNTIMES if not row.cloud])
async def test_a_shipped_engine_swapped_for_any_other_no_longer_fits(old: str) -> None:
    async with FakeEngine(old) as engine, Asker() as asker:
        backend = Backend("b", f"http://127.0.0.1:{engine.port}")
        who = await identify(asker, backend)
        assert isinstance(who, Identity)
        before, _ = await observe(asker, backend, who, NOTHING)
    for row in backends.RUNTIMES:
        if row.name != old:
            async with FakeEngine(row.name) as other, Asker() as asker:
                there = Backend("b", f"http://127.0.0.1:{other.port}")
                assert (await observe(asker, there, who, NOTHING))[1] is False, row.name
                assert (await observe(asker, there, who, before))[1] is False, row.name


async def test_marks_among_the_remembered_answers_are_asked_for_again_before_they_count() -> None:
    row = replace(ALPHA, fingerprint=lambda e: "no /mark" if e["/mark"].status == 404 else None)
    async with Stub({**alpha(), "/mark": page("", 404)}) as stub:
        before, fits = await look(stub, row)
        assert fits
        assert (await look(stub, row, before))[1] is True
    async with Stub(alpha()) as stub:
        assert (await look(stub, row, before))[1] is False
