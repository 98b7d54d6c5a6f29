"""Metrics, counted right over every path (INTERFACE 6), and usage in streams (INTERFACE 2)."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine
from tests.fakes.steps import Gate
from tests.harness import JSON, Farm, Gateway, chat_json, until
from tests.rawclient import call

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def farm() -> AsyncIterator[Farm]:
    async with Farm(16) as farm:
        yield farm


FAMILIES = {
    "portico_requests_total": "counter",
    "portico_requests_in_flight": "gauge",
    "portico_request_duration_seconds": "histogram",
    "portico_time_to_first_token_seconds": "histogram",
    "portico_inter_token_latency_seconds": "histogram",
    "portico_tokens_total": "counter",
    "portico_overhead_seconds": "histogram",
    "portico_retries_total": "counter",
    "portico_failovers_total": "counter",
    "portico_client_disconnects_total": "counter",
    "portico_backend_up": "gauge",
    "portico_backend_info": "gauge",
    "portico_config_reloads_total": "counter",
}


async def test_every_family_is_there_with_its_type(farm: Farm) -> None:
    text = (await farm.gw.get("/metrics")).body.decode()
    for name, kind in FAMILIES.items():
        assert f"# TYPE {name} {kind}\n" in text, name


async def test_openmetrics_comes_when_asked_for(farm: Farm) -> None:
    plain = await farm.gw.get("/metrics")
    assert (plain.header("content-type") or "").startswith("text/plain")
    accept = [("Accept", "application/openmetrics-text; version=1.0.0")]
    reply = await farm.gw.get("/metrics", accept)
    assert (reply.header("content-type") or "").startswith("application/openmetrics-text")
    assert reply.body.endswith(b"# EOF\n")


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_request_is_counted_in_every_family_it_belongs_to(
    farm: Farm, streamed: bool
) -> None:
    spot = farm.solo()
    step = steps.stream(talk.chat_events(spot.model), gap=0.01) if streamed else None
    spot.engine.always = step
    await farm.gw.chat(spot.model, stream=streamed)
    both = {"model": spot.model, "backend": spot.name}
    surface = {**both, "surface": "chat-completions"}
    await farm.gw.rises("portico_requests_total", **surface, status="200")
    gw = farm.gw
    assert await gw.metric("portico_request_duration_seconds_count", **surface) == 1
    assert await gw.metric("portico_requests_in_flight", **both) == 0
    if streamed:
        assert await gw.metric("portico_time_to_first_token_seconds_count", **both) == 1
        assert await gw.metric("portico_inter_token_latency_seconds_count", **both) >= 4


async def test_a_request_in_hand_is_in_flight(farm: Farm) -> None:
    spot = farm.solo()
    gate = Gate()
    gate.release(1)
    spot.engine.always = steps.stream(talk.chat_events(spot.model), gate=gate)
    async with farm.gw.client() as client:
        body = chat_json(spot.model, stream=True)
        await client.ask("POST", "/v1/chat/completions", [JSON], body)
        reply = await client.read_head()
        labels = {"model": spot.model, "backend": spot.name}
        await farm.gw.rises("portico_requests_in_flight", **labels)
        gate.open()
        assert (await client.read_body(reply)).whole


@pytest.mark.parametrize(
    ("path", "surface"),
    [
        ("/v1/completions", "completions"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/messages", "messages"),
        ("/v1/messages/count_tokens", "count-tokens"),
        ("/v1/responses", "responses"),
        ("/tokenize", "tokenize"),
    ],
)
async def test_surfaces_are_labelled_by_their_names(farm: Farm, path: str, surface: str) -> None:
    model = "m15"
    before = await farm.gw.metric("portico_requests_total", surface=surface, model=model)
    body = {"model": model, "input": "Hi", "prompt": "Hi", "max_tokens": 5, "messages": []}
    assert (await farm.gw.post(path, body)).status == 200
    await farm.gw.rises("portico_requests_total", before, surface=surface, model=model)


async def test_an_engines_refusal_is_counted_with_its_status(farm: Farm) -> None:
    spot = farm.solo()
    spot.engine.always = steps.reply(422, {"error": {"message": "no"}})
    await farm.gw.chat(spot.model)
    await farm.gw.rises("portico_requests_total", model=spot.model, status="422")


async def test_a_refusal_of_the_gateway_is_counted(farm: Farm) -> None:
    before = await farm.gw.metric("portico_requests_total", status="404")
    await farm.gw.chat("nobody-has-this")
    await farm.gw.rises("portico_requests_total", before, status="404")
    before = await farm.gw.metric("portico_requests_total", status="400")
    await farm.gw.post("/v1/chat/completions", b"{")
    await farm.gw.rises("portico_requests_total", before, status="400")


async def test_an_unreachable_backend_is_counted(farm: Farm) -> None:
    spot = farm.solo()
    spot.engine.always = steps.drop("reset")
    await farm.gw.chat(spot.model)
    await farm.gw.rises("portico_requests_total", model=spot.model, status="502")
    assert await farm.gw.metric("portico_requests_in_flight", model=spot.model) == 0


async def test_series_stay_bounded_under_hostile_model_names(farm: Farm) -> None:
    await farm.gw.chat("warm-up")
    before = len((await farm.gw.get("/metrics")).body.splitlines())
    rng = random.Random(5)
    for number in range(500):
        name = f'evil-{number}-{rng.random()}\n"}}' if number % 2 else f"b0:evil{number}"
        headers = [("X-Portico-Backend", f"b{number}")] if number % 5 == 0 else []
        await farm.gw.chat(name, headers)
    text = (await farm.gw.get("/metrics")).body
    assert b"evil" not in text
    assert len(text.splitlines()) - before < 150


async def test_hostile_methods_and_paths_make_no_series(farm: Farm) -> None:
    await farm.gw.get("/warm/up")
    before = len((await farm.gw.get("/metrics")).body.splitlines())
    for number in range(50):
        await call(farm.gw.url, f"ODD{number}", f"/path{number}")
        await farm.gw.get(f"/v1/models/path{number}")
    text = (await farm.gw.get("/metrics")).body
    assert b"path4" not in text
    assert len(text.splitlines()) - before < 50


async def test_model_is_the_public_name_and_not_the_engines() -> None:
    async with FakeEngine("vllm", ["inner/id"]) as engine:
        target = {"backend": "b", "model": "inner/id"}
        config = {
            "backends": [{"name": "b", "url": engine.url}],
            "models": [{"name": "public", "targets": [target]}],
        }
        async with Gateway(config) as gw:
            await gw.chat("public")
            await gw.rises("portico_requests_total", model="public", backend="b", status="200")
            assert await gw.metric("portico_requests_total", model="inner/id") == 0


async def test_the_backends_are_shown_with_runtime_and_version(farm: Farm) -> None:
    info = (await farm.gw.metrics())["portico_backend_info"]
    mine = [(labels, value) for labels, value in info if labels["backend"] == "b0"]
    assert mine == [({"backend": "b0", "runtime": "vllm", "version": "0.32.0"}, 1.0)]
    assert await farm.gw.metric("portico_backend_up", backend="b0", runtime="vllm") == 1


async def test_a_backend_that_has_gone_is_shown_down_within_15_seconds(farm: Farm) -> None:
    spot = farm.solo()
    await spot.engine.stop(hold=True)

    async def down() -> bool:
        return await farm.gw.metric("portico_backend_up", backend=spot.name) == 0

    await until(down, 15.0, "the backend to be shown down", pause=0.1)


USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 30},
}


@pytest.mark.parametrize("streamed", [True, False])
async def test_tokens_come_from_the_usage_of_the_engine(farm: Farm, streamed: bool) -> None:
    """INTERFACE 7: input tokens include cached ones."""
    spot = farm.solo()
    body = {**talk.chat_body(spot.model), "usage": USAGE}
    events = talk.chat_events(spot.model, usage=USAGE)
    spot.engine.always = steps.stream(events) if streamed else steps.reply(200, body)
    options = {"stream": True, "stream_options": {"include_usage": True}} if streamed else {}
    reply = await farm.gw.chat(spot.model, **options)
    assert reply.body == (b"".join(events) if streamed else talk.dumps(body))
    labels = {"model": spot.model, "backend": spot.name}
    await farm.gw.rises("portico_tokens_total", by=100, **labels, direction="input")
    assert await farm.gw.metric("portico_tokens_total", **labels, direction="output") == 20
    assert await farm.gw.metric("portico_tokens_total", **labels, direction="cached") == 30


async def test_without_usage_the_content_events_are_counted_and_the_log_says_so(
    farm: Farm,
) -> None:
    spot = farm.solo()
    spot.engine.always = steps.stream(talk.chat_events(spot.model, ["a", "b", "c"]))
    await farm.gw.chat(spot.model, [("X-Request-Id", "count-1")], stream=True)
    labels = {"model": spot.model, "direction": "output"}
    await farm.gw.rises("portico_tokens_total", by=3, **labels)
    assert await farm.gw.request_line("count-1")


async def test_tokens_of_the_anthropic_dialect_are_counted(farm: Farm) -> None:
    spot = farm.solo()
    spot.engine.always = steps.stream(talk.message_events(spot.model))
    body = chat_json(spot.model, stream=True, max_tokens=9)
    assert (await farm.gw.post("/v1/messages", body)).whole
    labels = {"model": spot.model, "backend": spot.name}
    await farm.gw.rises("portico_tokens_total", by=7, **labels, direction="input")
    assert await farm.gw.metric("portico_tokens_total", **labels, direction="output") == 5


KEYS = [
    {"name": "limited", "key": "key-limited", "tokens_per_minute": 1_000_000},
    {"name": "free", "key": "key-free-1"},
]
LIMITED, FREE = [("x-api-key", "key-limited")], [("x-api-key", "key-free-1")]


def with_usage_if_asked(model: str) -> object:
    """An engine that sends the usage event only to those who asked for it."""

    def choose(request: object) -> steps.Step:
        doc = request.doc  # type: ignore[attr-defined]
        asked = bool((doc.get("stream_options") or {}).get("include_usage"))
        return steps.stream(talk.chat_events(model, usage=USAGE if asked else None))

    return choose


@pytest.mark.parametrize(
    ("setting", "headers", "asks"),
    [
        ("limits", LIMITED, True),
        ("limits", FREE, False),
        ("always", FREE, True),
        ("never", LIMITED, False),
    ],
)
async def test_usage_is_asked_for_as_configured_and_taken_out_again(
    setting: str, headers: list[tuple[str, str]], asks: bool
) -> None:
    async with FakeEngine("vllm", ["m"]) as engine:
        config = {
            "server": {"stream_usage": setting},
            "backends": [{"name": "b", "url": engine.url}],
            "auth": {"keys": KEYS},
        }
        async with Gateway(config) as gw:
            engine.always = with_usage_if_asked("m")  # type: ignore[assignment]
            plain = b"".join(talk.chat_events("m"))
            reply = await gw.chat("m", headers, stream=True)
            assert reply.body == plain, "the caller did not ask for usage and does not see it"
            asked = (engine.requests[0].doc.get("stream_options") or {}).get("include_usage")
            assert bool(asked) is asks
            if asks:
                await gw.rises("portico_tokens_total", by=100, model="m", direction="input")
            for cut in (steps.every(1), steps.every(9), steps.groups(99)):
                usage = USAGE if asks else None
                engine.script.append(steps.stream(talk.chat_events("m", usage=usage), cut=cut))
                assert (await gw.chat("m", headers, stream=True)).body == plain
            own = {"stream_options": {"include_usage": True}}
            reply = await gw.chat("m", headers, stream=True, **own)
            assert reply.body == b"".join(talk.chat_events("m", usage=USAGE))
            assert engine.requests[-1].body == chat_as_sent("m", **own)


def chat_as_sent(model: str, **fields: object) -> bytes:
    message = [{"role": "user", "content": "Hi"}]
    return json.dumps({"model": model, "messages": message, "stream": True, **fields}).encode()


async def test_asking_for_usage_leaves_the_other_bytes_of_the_request_alone() -> None:
    async with FakeEngine("vllm", ["m"]) as engine:
        config = {
            "server": {"stream_usage": "always"},
            "backends": [{"name": "b", "url": engine.url}],
        }
        body = b'{ "stream":true ,"odd" : 1.50e2, "messages":[], "model" :"m"}'
        async with Gateway(config) as gw:
            engine.always = with_usage_if_asked("m")  # type: ignore[assignment]
            assert (await gw.post("/v1/chat/completions", body)).status == 200
            sent = engine.requests[0].body
            assert b'"odd" : 1.50e2, "messages":[], "model" :"m"' in sent
            assert engine.requests[0].doc["stream_options"] == {"include_usage": True}
