"""Engines on well-known ports that nobody configured."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.core.types import Backend
from gateway.sensors import discover
from gateway.sensors.ask import Asker
from gateway.sensors.discover import Discoverer, is_near, place_of
from tests.harness import free_port
from tests.sensors.stub import SHELF, Stub, alpha, models, page


@pytest.fixture
async def asker() -> AsyncIterator[Asker]:
    async with Asker() as asker:
        yield asker


def looking(*stubs: Stub, own: tuple[int, ...] = (), **other: Any) -> tuple[Discoverer, list[str]]:
    said: list[str] = []
    ports = [stub.port for stub in stubs]
    return Discoverer(ports, own, on_change=said.append, book=SHELF, **other), said


async def test_an_engine_is_found_named_after_its_runtime_and_announced(asker: Asker) -> None:
    async with Stub(alpha("a/b", "c")) as stub:
        discoverer, said = looking(stub)
        (found,) = await discoverer.look(asker, [])
    assert (found.backend.name, found.backend.url) == ("alpha", stub.url)
    assert (found.backend.discovered, found.backend.runtime) == (True, "auto")
    assert said == [f"found Alpha 1.0 at {stub.url} serving a/b, c"]


async def test_a_second_engine_of_a_runtime_is_named_with_its_port(asker: Asker) -> None:
    async with Stub(alpha()) as one, Stub(alpha()) as two:
        discoverer, _ = looking(one, two)
        found = await discoverer.look(asker, [])
        taken, _ = looking(one)
        renamed = await taken.look(asker, [Backend("alpha", "http://10.0.0.1:1")])
    assert [f.backend.name for f in found] == ["alpha", f"alpha-{two.port}"]
    assert [f.backend.name for f in renamed] == [f"alpha-{one.port}"]


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ({"/health": page("", 503)}, ", still loading"),
        ({"/v1/models": models("a", "b", "c", "d", "e")}, " serving a, b, c and 2 more"),
        ({"/v1/models": page({"data": []})}, " serving no model yet"),
        ({"/v1/models": page("", 401)}, ": asks for a key"),
    ],
)
async def test_the_announcement_says_how_it_is(
    asker: Asker, pages: dict[str, bytes], words: str
) -> None:
    async with Stub({**alpha(), **pages}) as stub:
        discoverer, said = looking(stub)
        await discoverer.look(asker, [])
    assert words in said[0]


async def test_our_own_port_is_never_touched(asker: Asker) -> None:
    async with Stub(alpha()) as stub:
        discoverer, _ = looking(stub, own=(stub.port,))
        assert await discoverer.look(asker, []) == []
    assert stub.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_a_port_that_a_backend_covers_is_left_alone(asker: Asker, host: str) -> None:
    async with Stub(alpha()) as stub:
        discoverer, _ = looking(stub)
        known = [Backend("mine", f"http://{host}:{stub.port}")]
        assert await discoverer.look(asker, known) == []
    assert stub.asked == []


async def test_another_gateway_is_never_taken_for_an_engine(asker: Asker) -> None:
    version = page({"name": "portico", "version": "1", "instance": "you"})
    async with Stub({**alpha(), "/version": version}) as by_name, Stub(alpha()) as by_header:
        by_header.otherwise = page("", 404, "Server: portico/1")
        discoverer, said = looking(by_name, by_header)
        assert await discoverer.look(asker, []) == []
    assert said == []


async def test_a_plain_openai_server_is_no_engine(asker: Asker) -> None:
    async with Stub({"/v1/models": models("x")}) as stub:
        discoverer, _ = looking(stub)
        assert await discoverer.look(asker, []) == []


async def test_a_stranger_is_asked_rarely_unless_its_port_was_closed(asker: Asker) -> None:
    async with Stub() as stub:
        stub.otherwise = page("<html>")
        discoverer, _ = looking(stub)
        await discoverer.look(asker, [])
        asked = len(stub.asked)
        for _ in range(3):
            await discoverer.look(asker, [])
        assert len(stub.asked) == asked
        await stub.down()
        await discoverer.look(asker, [])
        stub.pages = alpha()
        await stub.up()
        assert len(await discoverer.look(asker, [])) == 1


async def test_a_stranger_is_asked_again_after_a_while(
    asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Stub() as stub:
        discoverer, _ = looking(stub)
        await discoverer.look(asker, [])
        monkeypatch.setattr(discover, "STRANGER_FOR", 0.0)
        stub.pages = alpha()
        assert len(await discoverer.look(asker, [])) == 1


async def test_a_server_that_answers_503_to_everything_is_asked_again_soon(asker: Asker) -> None:
    async with Stub() as stub:
        stub.otherwise = page("", 503)
        discoverer, _ = looking(stub)
        assert await discoverer.look(asker, []) == []
        stub.pages = alpha()
        assert len(await discoverer.look(asker, [])) == 1


async def test_closed_ports_cost_nothing_and_find_nothing(asker: Asker) -> None:
    discoverer = Discoverer([free_port(), free_port()], (), book=SHELF)
    assert await discoverer.look(asker, []) == []


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://127.0.0.1:8000", ("localhost", 8000)),
        ("http://LOCALHOST", ("localhost", 80)),
        ("https://[::1]", ("localhost", 443)),
        ("https://api.example.com/base", ("api.example.com", 443)),
    ],
)
def test_every_name_of_this_host_is_the_same_place(url: str, place: tuple[str, int]) -> None:
    assert place_of(url) == place


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("10.1.2.3", True),
        ("localhost", True),
        ("gpu1", True),
        ("gpu1.internal", True),
        ("8.8.8.8", False),
        ("api.example.com", False),
        ("::1", True),
    ],
)
def test_a_providers_address_is_told_from_our_own_networks(host: str, near: bool) -> None:
    assert is_near(host) is near
