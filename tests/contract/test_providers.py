"""Backends that are added while the gateway runs (INTERFACE 5 and 7)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from tests.contract.administration import ask, config
from tests.fakes.engine import FakeEngine
from tests.harness import Gateway, free_port, until

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine("vllm", ["fixed"]) as engine:
        yield engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def added() -> AsyncIterator[FakeEngine]:
    async with FakeEngine("vllm", ["m"]) as engine:
        yield engine


def provider(engine: FakeEngine | str, name: str = "extra", **fields: Any) -> dict[str, Any]:
    url = engine if isinstance(engine, str) else f"{engine.url}/v1"
    return {"providerId": name, "name": "An engine", "baseUrl": url, **fields}


async def add(gw: Gateway, doc: dict[str, Any]) -> dict[str, Any]:
    reply = await ask(gw, "POST", "/providers", doc)
    assert reply.status == 201, reply.body
    found: dict[str, Any] = reply.json()
    return found


async def statuses(gw: Gateway, model: str) -> set[int]:
    return {reply.status for reply in await asyncio.gather(*(gw.chat(model) for _ in range(12)))}


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_provider_is_routed_to_by_all_workers_until_it_is_deleted(
    engine: FakeEngine, added: FakeEngine, tmp_path: Path, workers: int
) -> None:
    async with Gateway(config(tmp_path, {"e": engine.url}, workers=workers)) as gw:
        assert await statuses(gw, "m") == {404}
        doc = await add(gw, provider(added))

        async def everywhere() -> bool:
            return await statuses(gw, "extra:m") == {200}

        await until(everywhere, 2.0, "all workers to know the provider")
        assert (await gw.chat("m")).header("x-portico-backend") == "extra"
        assert await gw.metric("portico_backend_up", backend="extra") == 1
        reply = await ask(gw, "DELETE", f"/providers/{doc['id']}")
        assert (reply.status, reply.body) == (204, b"")

        async def nowhere() -> bool:
            return await statuses(gw, "m") == {404}

        await until(nowhere, 2.0, "all workers to forget the provider")
        for method in ("GET", "DELETE", "PATCH"):
            assert (await ask(gw, method, f"/providers/{doc['id']}", {})).status == 404


async def test_a_provider_outlives_a_restart_with_its_key_which_is_never_told(
    engine: FakeEngine, added: FakeEngine, tmp_path: Path
) -> None:
    settings = config(tmp_path, {"e": engine.url})
    settings["store"]["secret"] = "a-long-and-random-secret-of-the-tests"
    async with Gateway(settings) as gw:
        doc = await add(gw, provider(added, apiKey="sk-hush-hush"))
        assert "sk-hush" not in str(doc)
    async with Gateway(settings) as gw:
        assert (await gw.chat("m")).status == 200
        headers = {name.lower(): value for name, value in added.requests[-1].headers}
        assert headers["authorization"] == "Bearer sk-hush-hush"
        reply = await ask(gw, "GET", f"/providers/{doc['id']}")
        assert reply.json() == doc
        moved = await ask(gw, "PATCH", f"/providers/{doc['id']}", {"baseUrl": "http://10.0.0.1"})
        assert moved.json()["error"]["param"] == "apiKey"
        output = gw.output()
    assert "sk-hush" not in output
    for file in tmp_path.iterdir():
        assert b"sk-hush" not in file.read_bytes()


async def test_the_answer_has_all_fields(
    engine: FakeEngine, added: FakeEngine, tmp_path: Path
) -> None:
    async with Gateway(config(tmp_path, {"e": engine.url})) as gw:
        surfaces = [
            {"format": "openai", "surface": "chat-completions", "supportedParams": [{"name": "n"}]}
        ]
        sent = provider(
            added, metadata="mine", supportedApiSurfaces=surfaces, models=[{"modelId": "m"}]
        )
        doc = await add(gw, sent)
        assert {name: doc[name] for name in sent if name != "models"} == {
            name: sent[name] for name in sent if name != "models"
        }
        assert doc["models"][0]["modelId"] == "m" and doc["models"][0]["id"]
        assert doc["uri"] == f"/providers/{doc['id']}"
        assert doc["createdAt"] == doc["updatedAt"] and doc["createdAt"].endswith("Z")
        assert doc["createdBy"] == doc["lastUpdatedBy"] and set(doc["createdBy"]) == {"id", "uri"}
        assert (await ask(gw, "GET", doc["createdBy"]["uri"])).status == 200
        assert (await ask(gw, "GET", doc["uri"])).json() == doc


async def test_a_change_keeps_what_is_left_out_and_replaces_lists_whole(
    engine: FakeEngine, added: FakeEngine, tmp_path: Path
) -> None:
    async with Gateway(config(tmp_path, {"e": engine.url})) as gw:
        models = [{"modelId": "m"}, {"modelId": "n"}]
        doc = await add(gw, provider(added, metadata="mine", models=models))
        reply = await ask(gw, "PATCH", doc["uri"], {"name": "New", "models": [{"modelId": "n"}]})
        found = reply.json()
        assert (reply.status, found["name"], found["metadata"]) == (200, "New", "mine")
        assert found["models"] == [doc["models"][1]]
        assert found["createdAt"] == doc["createdAt"] <= found["updatedAt"]
        assert (await gw.chat("extra:m")).status == 404
        whole = await ask(gw, "PATCH", doc["uri"], found)
        assert whole.status == 200, "what was read can be sent back"
        reply = await ask(gw, "PATCH", doc["uri"], {"metadata": None})
        assert reply.json()["metadata"] is None


async def test_only_supported_params_reach_the_provider(
    engine: FakeEngine, added: FakeEngine, tmp_path: Path
) -> None:
    async with Gateway(config(tmp_path, {"e": engine.url})) as gw:
        params = [{"name": "temperature"}]
        surfaces = [{"format": "openai", "surface": "chat-completions", "supportedParams": params}]
        await add(gw, provider(added, supportedApiSurfaces=surfaces))
        reply = await gw.chat("m", temperature=0.5, top_p=0.5, user="me")
        assert reply.status == 200
        sent = json.loads(added.requests[-1].body)
        assert set(sent) == {"model", "messages", "temperature"}
        embeddings = await gw.post("/v1/embeddings", {"model": "m", "input": "x"})
        assert embeddings.status == 501
        assert "supportedApiSurfaces" in embeddings.json()["error"]["message"]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://10.0.0.1",
        "file:///etc/passwd",
        "10.0.0.1:8000",
        "http://user:pw@10.0.0.1",
        "http://169.254.169.254/latest",
        "http://[::ffff:169.254.169.254]",
        "http://2852039166",
        "http://0xa9.0xfe.0xa9.0xfe",
        "http://metadata.google.internal",
        "http://[fe80::1]",
        "http://0.0.0.0:{port}",
        "http://127.0.0.1:{port}",
        "http://localhost:{port}/admin",
        "http://[::1]:{port}",
        "http://2130706433:{port}",
    ],
)
async def test_addresses_that_would_open_doors_are_refused(shared: Gateway, url: str) -> None:
    for method, path in (("POST", "/providers"), ("PATCH", f"/providers/{await _some(shared)}")):
        reply = await ask(shared, method, path, provider(url.format(port=shared.port), "other"))
        assert reply.status == 400
        error = reply.json()["error"]
        assert (error["type"], error["param"]) == ("invalid_request", "baseUrl")


async def _some(gw: Gateway) -> str:
    found: list[dict[str, Any]] = (await ask(gw, "GET", "/providers")).json()["aiGatewayProviders"]
    return str(found[0]["id"])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(
    engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    """A gateway with five providers, p0 to p4, none of which is there."""
    folder = tmp_path_factory.mktemp("shared")
    async with Gateway(config(folder, {"e": engine.url})) as gw:
        for number in range(5):
            await add(gw, provider("http://127.0.0.1:9", f"p{number}"))
        yield gw


@pytest.mark.parametrize("name", ["vllm", "VLLM", "openai", "auto", "Auto", "e", "p0"])
async def test_names_that_are_taken_are_refused(shared: Gateway, name: str) -> None:
    reply = await ask(shared, "POST", "/providers", provider("http://10.0.0.1", name))
    assert (reply.status, reply.json()["error"]["param"]) == (400, "providerId")


async def test_pages_lead_through_all_newest_first(shared: Gateway) -> None:
    path, found = "/providers?limit=2", []
    while path:
        page = (await ask(shared, "GET", path)).json()
        assert page["uri"] == path
        found.append([doc["providerId"] for doc in page["aiGatewayProviders"]])
        path = page["nextPageUri"]
    assert found == [["p4", "p3"], ["p2", "p1"], ["p0"]]


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("limit", "0"),
        ("limit", "101"),
        ("limit", "x"),
        ("beforeId", "x"),
    ],
)
async def test_a_page_that_cannot_be_is_400(shared: Gateway, param: str, value: str) -> None:
    reply = await ask(shared, "GET", f"/providers?{param}={value}")
    assert (reply.status, reply.json()["error"]["param"]) == (400, param)


async def test_who_may_ask(shared: Gateway) -> None:
    assert (await ask(shared, "GET", "/providers", headers=())).status == 401
    assert (await ask(shared, "PUT", "/providers", {})).status == 405
    assert (await ask(shared, "POST", "/providers", [])).status == 400


async def test_without_an_admin_key_or_a_store_the_answer_says_what_to_set(
    engine: FakeEngine, tmp_path: Path
) -> None:
    settings = config(tmp_path, {"e": engine.url})
    del settings["store"]
    async with Gateway(settings) as gw:
        reply = await ask(gw, "POST", "/providers", provider("http://10.0.0.1"))
        assert reply.status == 501
        assert "store.url" in reply.json()["error"]["message"]
    settings["auth"] = {}
    async with Gateway(settings) as gw:
        reply = await ask(gw, "GET", "/providers")
        assert reply.status == 403
        assert "admin_keys" in reply.json()["error"]["message"]


async def test_private_networks_can_be_shut(engine: FakeEngine, tmp_path: Path) -> None:
    settings = config(tmp_path, {"e": engine.url}, providers={"allow": ["10.0.0.0/8"]})
    async with Gateway(settings) as gw:
        for url, status in (("http://192.168.0.1", 400), ("http://10.1.2.3", 201)):
            reply = await ask(gw, "POST", "/providers", provider(url))
            assert reply.status == status


async def test_a_server_of_no_known_kind_is_taken_for_what_its_entry_says(
    engine: FakeEngine, tmp_path: Path
) -> None:
    hosts = []

    async def chat(request: web.Request) -> web.Response:
        hosts.append(request.headers["Host"])
        return web.json_response({"object": "chat.completion", "choices": []})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    runner = web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with Gateway(config(tmp_path, {"e": engine.url})) as gw:
            entry = provider(f"http://localhost:{port}", models=[{"modelId": "odd"}])
            await add(gw, entry)
            assert (await gw.chat("odd")).status == 200
            assert hosts == [f"localhost:{port}"], "the name, though an address was connected to"
    finally:
        await runner.cleanup()


@pytest.mark.parametrize("workers", [1, 2])
async def test_of_many_who_take_a_name_at_once_one_gets_it(
    engine: FakeEngine, tmp_path: Path, workers: int
) -> None:
    async with Gateway(config(tmp_path, {"e": engine.url}, workers=workers)) as gw:
        docs = [provider(f"http://10.0.0.{n}", "one") for n in range(1, 9)]
        replies = await asyncio.gather(*(ask(gw, "POST", "/providers", doc) for doc in docs))
        assert sorted(reply.status for reply in replies) == [201] + [400] * 7
        listed = (await ask(gw, "GET", "/providers")).json()["aiGatewayProviders"]
        assert [doc["providerId"] for doc in listed] == ["one"]


async def test_a_redirect_of_a_provider_is_not_followed(engine: FakeEngine, tmp_path: Path) -> None:
    came: list[str] = []

    port = free_port()

    async def away(request: web.Request) -> web.Response:
        there = f"http://127.0.0.1:{port}/secret"
        return web.Response(status=302, headers={"Location": there})

    async def secret(request: web.Request) -> web.Response:
        came.append(request.path)
        return web.json_response({"object": "list", "data": [{"id": "stolen"}]})

    app = web.Application()
    app.router.add_get("/secret", secret)
    app.router.add_route("*", "/{tail:.*}", away)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with Gateway(config(tmp_path, {"e": engine.url})) as gw:
            url = f"http://127.0.0.1:{port}"
            await add(gw, provider(url, models=[{"modelId": "odd"}]))
            reply = await gw.chat("odd")
            assert reply.status not in range(200, 300)
            assert b"stolen" not in (await gw.get("/v1/models")).body
    finally:
        await runner.cleanup()
    assert not came
