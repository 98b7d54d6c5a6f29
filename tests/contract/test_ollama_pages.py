"""Ollama's own pages in front of any fleet, and stored responses that nobody kept (INTERFACE 3)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine
from tests.harness import JSON, Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY, ADMIN = ("Authorization", "Bearer sk-some"), ("Authorization", "Bearer sk-admin")
ALL = ("Authorization", "Bearer sk-all")


@dataclass
class Fleet:
    gw: Gateway
    tgi: FakeEngine
    ollama: FakeEngine
    vllm: FakeEngine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    async with (
        FakeEngine("tgi", ["org/text"]) as tgi,
        FakeEngine("ollama", ["llama3:latest", "small:1b"]) as ollama,
        FakeEngine("vllm", ["org/v"]) as vllm,
    ):
        config = {
            "backends": [
                {"name": "gpu1", "url": tgi.url},
                {"name": "home", "url": ollama.url},
                {"name": "gpu2", "url": vllm.url},
            ],
            "auth": {
                "keys": [
                    {"name": "some", "key": "sk-some", "models": ["org/*"]},
                    {"name": "all", "key": "sk-all"},
                ],
                "admin_keys": ["sk-admin"],
            },
        }
        async with Gateway(config) as gw:
            yield Fleet(gw, tgi, ollama, vllm)


@pytest.fixture(autouse=True)
def _clean(fleet: Fleet) -> None:
    for engine in (fleet.tgi, fleet.ollama, fleet.vllm):
        engine.reset()


@pytest.mark.parametrize("path", ["/api/tags", "/api/ps"])
async def test_the_lists_hold_what_the_key_may_use_whatever_the_runtime(
    fleet: Fleet, path: str
) -> None:
    for key, names in (
        (KEY, {"org/text", "org/v"}),
        (ALL, {"org/text", "org/v", "llama3:latest", "small:1b"}),
    ):
        reply = await fleet.gw.get(path, [key])
        assert reply.status == 200, reply.body
        assert {row["name"] for row in reply.doc["models"]} == names
        assert reply.header("x-request-id")
    assert (await fleet.gw.get(path)).status == 401


async def test_a_pin_narrows_the_lists_to_one_backend(fleet: Fleet) -> None:
    reply = await fleet.gw.get("/api/tags", [ALL, ("X-Portico-Backend", "gpu1")])
    assert [row["name"] for row in reply.doc["models"]] == ["org/text"]
    reply = await fleet.gw.get("/api/tags", [ALL, ("X-Portico-Backend", "nobody")])
    assert reply.status == 404
    assert "nobody" in reply.doc["error"]


async def test_clients_find_a_version_that_they_take_and_the_words_they_look_for(
    fleet: Fleet,
) -> None:
    version = (await fleet.gw.get("/api/version", [KEY])).doc["version"]
    assert tuple(map(int, version.split("."))) >= (0, 6, 4)
    root = await fleet.gw.get("/")
    assert root.status == 200
    assert b"Ollama is running" in root.body
    assert b"/v1/models" in root.body
    for path, key in (("/", []), ("/api/tags", [ALL]), ("/api/version", [ALL])):
        async with fleet.gw.client() as client:
            head = await client.call("HEAD", path, key)
            assert (head.status, head.body) == (200, b"")


async def test_a_model_is_shown_from_the_catalog_where_no_backend_shows_it(fleet: Fleet) -> None:
    reply = await fleet.gw.post("/api/show", {"model": "org/text"}, [KEY])
    assert reply.status == 200
    assert "completion" in reply.doc["capabilities"]
    architecture = reply.doc["model_info"]["general.architecture"]
    assert isinstance(architecture, str)
    assert not fleet.tgi.requests
    reply = await fleet.gw.post("/api/show", {"name": "llama3"}, [ALL])
    assert reply.header("x-portico-backend") == "home"
    assert [request.path for request in fleet.ollama.requests] == ["/api/show"]
    assert (await fleet.gw.post("/api/show", {"model": "no"}, [ALL])).status == 404
    assert (await fleet.gw.post("/api/show", {"model": "small:1b"}, [KEY])).status == 403


@pytest.mark.parametrize(
    ("name", "backend"),
    [("org/text:latest", "gpu1"), ("llama3:latest", "home"), ("home:llama3:latest", "home")],
)
async def test_a_name_with_latest_means_what_it_means_without(
    fleet: Fleet, name: str, backend: str
) -> None:
    body = {"model": name, "messages": [{"role": "user", "content": "Hi"}], "stream": False}
    reply = await fleet.gw.post("/api/chat", body, [ALL])
    assert (reply.status, reply.header("x-portico-backend")) == (200, backend), reply.body
    if backend == "gpu1":
        assert reply.doc["model"] == name, "clients look for the name that they sent"


# --- routes that change what is installed


async def test_only_an_admin_key_installs_models_and_only_on_an_ollama(fleet: Fleet) -> None:
    pull = {"model": "new:1b"}
    refused = await fleet.gw.post("/api/pull", pull, [ALL])
    assert refused.status == 501
    assert "admin" in refused.doc["error"]
    lines = [talk.line({"status": "pulling manifest"}), talk.line({"status": "success"})]
    fleet.ollama.script.append(steps.stream(lines, content_type=steps.NDJSON))
    reply = await fleet.gw.post("/api/pull", pull, [ADMIN])
    assert (reply.status, reply.whole, reply.body) == (200, True, b"".join(lines))
    assert reply.header("x-portico-backend") == "home"
    assert fleet.ollama.requests[0].doc == pull
    assert fleet.ollama.requests[0].header("authorization") is None
    pinned = await fleet.gw.post("/api/pull", pull, [ADMIN, ("X-Portico-Backend", "gpu1")])
    assert pinned.status == 501
    assert "no Ollama" in pinned.doc["error"]


async def test_the_engines_own_word_on_a_managed_model_passes(fleet: Fleet) -> None:
    fleet.ollama.script.append(steps.reply(404, {"error": "model 'x' not found"}))
    async with fleet.gw.client() as client:
        reply = await client.call("DELETE", "/api/delete", [ADMIN, JSON], b'{"model":"x"}')
    assert (reply.status, reply.doc) == (404, {"error": "model 'x' not found"})
    assert fleet.ollama.requests[0].method == "DELETE"
    assert fleet.ollama.requests[0].doc == {"model": "x"}


async def test_a_layer_is_passed_on_whatever_its_size_and_asked_for_by_head(fleet: Fleet) -> None:
    path = f"/api/blobs/sha256:{'ab' * 32}"
    layer = b"x" * (40 << 20)
    fleet.ollama.script.append(steps.reply(201))
    reply = await fleet.gw.post(path, layer, [ADMIN], timeout=30)
    assert reply.status == 201, reply.body
    assert len(fleet.ollama.requests[0].body) == len(layer)
    for status in (200, 404):
        fleet.ollama.always = steps.reply(status, b"found", [("X-Kept", "1")])
        async with fleet.gw.client() as client:
            for _ in range(2):
                head = await client.call("HEAD", path, [ADMIN])
                assert (head.status, head.header("x-kept")) == (status, "1")


async def test_a_management_route_takes_its_own_methods_only(fleet: Fleet) -> None:
    reply = await fleet.gw.get("/api/pull", [ADMIN])
    assert (reply.status, reply.header("allow")) == (405, "POST")


# --- responses


async def test_a_response_that_nobody_kept_is_501_and_no_engine_is_asked(fleet: Fleet) -> None:
    made = await fleet.gw.post("/v1/responses", {"model": "org/text", "input": "Hi"}, [KEY])
    assert (made.status, made.doc["store"]) == (200, False)
    kept = made.doc["id"]
    reply = await fleet.gw.get(f"/v1/responses/{kept}", [KEY])
    assert (reply.status, reply.kind, reply.error["param"]) == (501, "unsupported", "response_id")
    body = {"model": "org/v", "input": "Hi", "previous_response_id": kept}
    reply = await fleet.gw.post("/v1/responses", body, [KEY])
    assert (reply.status, reply.error["param"]) == (501, "previous_response_id")
    assert not fleet.vllm.requests
    assert len(fleet.tgi.requests) == 1


async def test_a_conversation_goes_on_where_its_response_is_kept() -> None:
    async with FakeEngine("vllm", ["m"]) as one, FakeEngine("vllm", ["m"]) as two:
        config = {"backends": [{"name": "a", "url": one.url}, {"name": "b", "url": two.url}]}
        async with Gateway({**config, "routing": {"policy": "round_robin"}}) as gw:
            made = await gw.post("/v1/responses", {"model": "m", "input": "Hi"})
            home = made.header("x-portico-backend")
            body = {"model": "m", "input": "Hi", "previous_response_id": made.doc["id"]}
            again = [await gw.post("/v1/responses", body) for _ in range(3)]
            assert {reply.header("x-portico-backend") for reply in again} == {home}
