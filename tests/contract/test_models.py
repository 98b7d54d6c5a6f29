"""Choosing the model: the merged list, ids, prefixes, pins, public names (INTERFACE 3 and 7)."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests.fakes import talk
from tests.fakes.engine import FakeEngine
from tests.harness import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Fleet:
    gw: Gateway
    vllm: FakeEngine
    sglang: FakeEngine
    ollama: FakeEngine
    picky: FakeEngine


CONFIG = {
    "models": [
        {
            "name": "chat",
            "targets": [
                {"backend": "fast", "model": "org/alpha", "weight": 3},
                {"backend": "slow", "model": "beta", "weight": 1},
            ],
        },
        {
            "name": "shaky",
            "targets": [{"backend": "gone", "model": "lost"}],
            "fallbacks": ["nothing-here", "beta"],
        },
    ]
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet() -> AsyncIterator[Fleet]:
    async with (
        FakeEngine("vllm", ["org/alpha", "shared"]) as vllm,
        FakeEngine("sglang", ["beta", "shared", "fast:odd"]) as sglang,
        FakeEngine("ollama", ["llama3.2:3b", "gamma"]) as ollama,
        FakeEngine("vllm", ["lost"]) as gone,
        FakeEngine("vllm", ["kept", "hidden"]) as picky,
    ):
        backends = [
            {"name": "fast", "url": vllm.url},
            {"name": "slow", "url": sglang.url},
            {"name": "home", "url": ollama.url},
            {"name": "gone", "url": gone.url},
            {"name": "picky", "url": picky.url, "models": ["kept"]},
        ]
        async with Gateway({"backends": backends, **CONFIG}) as gw:
            await gone.stop(hold=True)
            yield Fleet(gw, vllm, sglang, ollama, picky)


@pytest.fixture(autouse=True)
def _clean(fleet: Fleet) -> None:
    for engine in (fleet.vllm, fleet.sglang, fleet.ollama, fleet.picky):
        engine.reset()


async def test_the_list_holds_every_model_that_can_be_served_once(fleet: Fleet) -> None:
    reply = await fleet.gw.get("/v1/models")
    ids = Counter(entry["id"] for entry in reply.doc["data"])
    assert reply.doc["object"] == "list"
    wanted = {"org/alpha", "shared", "beta", "llama3.2:3b", "gamma", "kept", "chat", "shaky"}
    assert wanted <= set(ids)
    assert set(ids.values()) == {1}
    assert "hidden" not in ids


async def test_each_entry_of_the_list_keeps_the_fields_of_its_backend(fleet: Fleet) -> None:
    entries = {entry["id"]: entry for entry in (await fleet.gw.get("/v1/models")).doc["data"]}
    assert entries["org/alpha"]["max_model_len"] == 4096
    assert entries["org/alpha"]["permission"]
    assert entries["org/alpha"]["owned_by"] == "vllm"
    assert entries["beta"]["owned_by"] == "sglang"
    assert all(entry["object"] == "model" for entry in entries.values())


@pytest.mark.parametrize("name", ["beta", "org/alpha", "llama3.2:3b", "chat"])
async def test_a_model_is_found_by_its_id_plain_and_percent_encoded(
    fleet: Fleet, name: str
) -> None:
    for path in (f"/v1/models/{name}", f"/v1/models/{quote(name, safe='')}"):
        reply = await fleet.gw.get(path)
        assert (reply.status, reply.doc["id"]) == (200, name)


async def test_an_unknown_id_is_not_found_in_the_envelope(fleet: Fleet) -> None:
    reply = await fleet.gw.get("/v1/models/no/such")
    assert (reply.status, reply.kind) == (404, "model_not_found")


async def test_the_backends_own_id_chooses_its_backend(fleet: Fleet) -> None:
    reply = await fleet.gw.chat("org/alpha")
    assert reply.status == 200
    assert reply.header("X-Portico-Backend") == "fast"
    assert reply.header("X-Portico-Model") == "org/alpha"
    assert fleet.vllm.requests[0].doc["model"] == "org/alpha"


async def test_an_id_with_a_colon_is_matched_whole_first(fleet: Fleet) -> None:
    assert (await fleet.gw.chat("llama3.2:3b")).header("X-Portico-Backend") == "home"
    assert fleet.ollama.requests[0].doc["model"] == "llama3.2:3b"
    assert (await fleet.gw.chat("fast:odd")).header("X-Portico-Backend") == "slow"
    assert fleet.sglang.requests[0].doc["model"] == "fast:odd"


@pytest.mark.parametrize(("backend", "engine"), [("fast", "vllm"), ("slow", "sglang")])
async def test_a_backend_prefix_always_means_that_backend(
    fleet: Fleet, backend: str, engine: str
) -> None:
    for _ in range(4):
        reply = await fleet.gw.chat(f"{backend}:shared")
        assert (reply.status, reply.header("X-Portico-Backend")) == (200, backend)
        assert reply.header("X-Portico-Model") == "shared"
    seen = getattr(fleet, engine).requests
    assert [request.doc["model"] for request in seen] == ["shared"] * 4


async def test_a_backend_prefix_may_hold_an_id_with_a_colon(fleet: Fleet) -> None:
    reply = await fleet.gw.chat("home:llama3.2:3b")
    assert (reply.status, reply.header("X-Portico-Model")) == (200, "llama3.2:3b")


async def test_a_runtime_prefix_means_any_backend_of_that_runtime(fleet: Fleet) -> None:
    for _ in range(4):
        reply = await fleet.gw.chat("sglang:shared")
        assert reply.header("X-Portico-Backend") == "slow"
    assert [request.doc["model"] for request in fleet.sglang.requests] == ["shared"] * 4


async def test_the_pin_header_chooses_the_backend_as_the_prefix_does(fleet: Fleet) -> None:
    for backend in ("fast", "slow"):
        reply = await fleet.gw.chat("shared", [("X-Portico-Backend", backend)])
        assert (reply.status, reply.header("X-Portico-Backend")) == (200, backend)


async def test_pinning_an_unknown_backend_is_404_in_the_envelope(fleet: Fleet) -> None:
    reply = await fleet.gw.chat("shared", [("X-Portico-Backend", "nobody")])
    assert reply.status == 404
    assert reply.kind in {"not_found", "model_not_found"}
    assert "nobody" in reply.error["message"]


async def test_pinning_a_backend_without_the_model_is_404(fleet: Fleet) -> None:
    reply = await fleet.gw.chat("beta", [("X-Portico-Backend", "fast")])
    assert (reply.status, reply.kind) == (404, "model_not_found")
    assert not fleet.vllm.requests


async def test_auto_lets_the_gateway_choose(fleet: Fleet) -> None:
    reply = await fleet.gw.chat("auto")
    assert reply.status == 200
    assert reply.header("X-Portico-Model") not in {None, "auto"}


async def test_a_public_name_is_sent_as_the_targets_own_id(fleet: Fleet) -> None:
    seen: Counter[tuple[str | None, str | None]] = Counter()
    for _ in range(40):
        reply = await fleet.gw.chat("chat")
        assert reply.status == 200
        seen[reply.header("X-Portico-Backend"), reply.header("X-Portico-Model")] += 1
    assert set(seen) == {("fast", "org/alpha"), ("slow", "beta")}
    assert {request.doc["model"] for request in fleet.vllm.requests} == {"org/alpha"}
    assert {request.doc["model"] for request in fleet.sglang.requests} == {"beta"}


async def test_weights_share_the_requests_of_a_public_name(fleet: Fleet) -> None:
    for _ in range(60):
        await fleet.gw.chat("chat")
    assert 33 <= len(fleet.vllm.requests) <= 56, "three of four go to the heavier target"


async def test_a_rewritten_model_leaves_every_other_byte_alone(fleet: Fleet) -> None:
    body = (
        b'{ "zeta" : 1.50e+3,\t"nested":{"model": "chat"},\r\n "model"  :  "chat" ,'
        b'"messages":[{"role":"user","content":"\\u00e4\xc3\xa4 model"}],"unknown":[ ] }'
    )
    wanted = body.replace(b'"model"  :  "chat"', b'"model"  :  "beta"')
    while not fleet.sglang.requests:
        assert (await fleet.gw.post("/v1/chat/completions", body)).status == 200
    assert fleet.sglang.requests[0].body == wanted


async def test_a_public_name_falls_back_when_its_targets_are_down(fleet: Fleet) -> None:
    reply = await fleet.gw.chat("shaky")
    assert (reply.status, reply.header("X-Portico-Backend")) == (200, "slow")
    assert fleet.sglang.requests[0].doc["model"] == "beta"


async def test_a_model_whose_only_backend_is_down_is_503_not_404(fleet: Fleet) -> None:
    reply = await fleet.gw.chat("lost")
    assert reply.status in {502, 503}
    if reply.status == 502:
        reply = await fleet.gw.chat("gone:lost")
    assert (reply.status, reply.kind) == (503, "overloaded")
    assert int(reply.header("Retry-After") or 0) >= 1


async def test_an_unknown_model_is_404_with_near_matches(fleet: Fleet) -> None:
    reply = await fleet.gw.chat("org/alhpa")
    assert (reply.status, reply.kind) == (404, "model_not_found")
    assert "org/alpha" in reply.error["message"]


@pytest.mark.parametrize("name", ["fast:nothing", "nobody:shared", "vllm:beta", "hidden", ""])
async def test_names_that_lead_nowhere_reach_no_engine(fleet: Fleet, name: str) -> None:
    reply = await fleet.gw.chat(name)
    assert reply.status in {400, 404}
    engines = (fleet.vllm, fleet.sglang, fleet.ollama, fleet.picky)
    assert not any(engine.requests for engine in engines)


async def test_a_name_that_the_engine_would_take_is_still_checked_by_the_gateway(
    fleet: Fleet,
) -> None:
    """sheet: sglang 6, any name is answered by the loaded model."""
    reply = await fleet.gw.chat("slow:made-up")
    assert (reply.status, reply.kind) == (404, "model_not_found")
    assert not fleet.sglang.requests


async def test_the_ollama_list_holds_the_same_models(fleet: Fleet) -> None:
    reply = await fleet.gw.get("/api/tags")
    assert reply.status in {200, 501}
    if reply.status == 200:
        assert "gamma" in {entry["name"].removesuffix(":latest") for entry in reply.doc["models"]}
    else:
        assert isinstance(reply.doc["error"], str)


async def test_a_model_of_ollama_may_be_asked_by_its_own_dialect(fleet: Fleet) -> None:
    body = talk.dumps({"model": "gamma", "messages": [{"role": "user", "content": "Hi"}]})
    reply = await fleet.gw.post("/api/chat", body)
    assert reply.status == 200
    assert reply.body == b"".join(talk.ollama_chat_lines("gamma"))
    assert fleet.ollama.requests[0].body == body
