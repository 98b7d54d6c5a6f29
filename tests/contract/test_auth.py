"""Keys of callers, keys of backends, and headers that stay on their side (INTERFACE 3 and 4)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio

from gateway.core.keys import digest
from tests.fakes import steps
from tests.fakes.engine import FakeEngine
from tests.harness import Gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEAM, CHATTERS, HASHED, ADMIN = "sk-team-0123", "sk-chat-4567", "sk-hash-89ab", "sk-admin-cdef"
SECRET = "sk-upstream-7777"


@dataclass
class Guarded:
    gw: Gateway
    own: FakeEngine
    open: FakeEngine
    passing: FakeEngine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guarded() -> AsyncIterator[Guarded]:
    async with (
        FakeEngine("vllm", ["m", "org/secret"], api_key=SECRET) as own,
        FakeEngine("sglang", ["s"]) as free,
        FakeEngine("vllm", ["p"]) as passing,
    ):
        keys = [
            {"name": "team", "key": "${TEAM_KEY}", "models": ["*"]},
            {"name": "chatters", "key": CHATTERS, "models": ["m", "s*"]},
            {"name": "hashed", "key": digest(HASHED)},
        ]
        config = {
            "backends": [
                {"name": "own", "url": own.url, "api_key": "${SECRET}"},
                {"name": "open", "url": free.url},
                {"name": "passing", "url": passing.url, "api_key": "passthrough"},
            ],
            "auth": {"keys": keys, "admin_keys": [ADMIN]},
        }
        env = {"TEAM_KEY": TEAM, "SECRET": SECRET}
        async with Gateway(config, env=env) as gw:
            yield Guarded(gw, own, free, passing)


@pytest.fixture(autouse=True)
def _clean(guarded: Guarded) -> None:
    for engine in (guarded.own, guarded.open, guarded.passing):
        engine.reset()


def bearer(key: str) -> list[tuple[str, str]]:
    return [("Authorization", f"Bearer {key}")]


@pytest.mark.parametrize(
    "headers",
    [
        bearer(TEAM),
        [("authorization", f"bearer {TEAM}")],
        [("x-api-key", TEAM)],
        [("X-API-Key", HASHED)],
        bearer(HASHED),
        bearer(ADMIN),
    ],
)
async def test_a_key_opens_in_either_header(
    guarded: Guarded, headers: list[tuple[str, str]]
) -> None:
    assert (await guarded.gw.chat("m", headers)).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        [],
        bearer("wrong"),
        bearer(""),
        bearer(TEAM + "x"),
        bearer(TEAM[:-1]),
        bearer(digest(HASHED)),
        [("Authorization", f"Basic {TEAM}")],
        [("x-api-key", "ключ".encode().decode("latin-1"))],
    ],
)
async def test_no_key_or_a_wrong_one_is_401_and_reaches_no_engine(
    guarded: Guarded, headers: list[tuple[str, str]]
) -> None:
    reply = await guarded.gw.chat("m", headers)
    assert (reply.status, reply.kind) == (401, "unauthorized")
    assert not guarded.own.requests


async def test_clients_are_told_that_asking_again_with_the_same_key_is_no_use(
    guarded: Guarded,
) -> None:
    """Claude Code asks for minutes otherwise."""
    reply = await guarded.gw.post("/v1/messages", {}, [("x-api-key", "wrong")])
    assert (reply.status, reply.header("X-Should-Retry")) == (401, "false")


async def test_401_comes_before_anything_is_said_about_models_or_bodies(guarded: Guarded) -> None:
    assert (await guarded.gw.post("/v1/chat/completions", b"{")).status == 401
    assert (await guarded.gw.chat("no-such-model")).status == 401
    assert (await guarded.gw.get("/v1/models")).status == 401


async def test_a_model_that_the_key_may_not_use_is_403(guarded: Guarded) -> None:
    reply = await guarded.gw.chat("org/secret", bearer(CHATTERS))
    assert (reply.status, reply.kind) == (403, "forbidden")
    assert not guarded.own.requests
    assert (await guarded.gw.chat("m", bearer(CHATTERS))).status == 200
    assert (await guarded.gw.chat("s", bearer(CHATTERS))).status == 200


@pytest.mark.parametrize("name", ["own:org/secret", "vllm:org/secret", "org%2Fsecret"])
async def test_a_prefix_is_no_way_round_a_keys_models(guarded: Guarded, name: str) -> None:
    assert (await guarded.gw.chat(name, bearer(CHATTERS))).status in {403, 404}
    assert not guarded.own.requests


async def test_a_model_given_twice_is_no_way_round_a_keys_models(guarded: Guarded) -> None:
    body = b'{"model":"org/secret","messages":[],"model":"m"}'
    reply = await guarded.gw.post("/v1/chat/completions", body, bearer(CHATTERS))
    assert reply.status == 400 or b"org/secret" not in guarded.own.requests[0].body


async def test_the_list_shows_a_key_what_it_may_use(guarded: Guarded) -> None:
    reply = await guarded.gw.get("/v1/models", bearer(CHATTERS))
    assert {entry["id"] for entry in reply.doc["data"]} == {"m", "s"}
    assert (await guarded.gw.get("/v1/models/org/secret", bearer(CHATTERS))).status in {403, 404}


async def test_errors_about_keys_come_in_each_dialect(guarded: Guarded) -> None:
    body = {"model": "m", "messages": [], "max_tokens": 1}
    anthropic = await guarded.gw.post("/v1/messages", body)
    assert (anthropic.status, anthropic.doc["type"]) == (401, "error")
    assert anthropic.kind == "unauthorized"
    ollama = await guarded.gw.post("/api/chat", body)
    assert ollama.status == 401
    assert isinstance(ollama.doc["error"], str)


@pytest.mark.parametrize("path", ["/healthz", "/health", "/readyz", "/version", "/metrics"])
async def test_operations_need_no_key(guarded: Guarded, path: str) -> None:
    assert (await guarded.gw.get(path)).status == 200


async def test_the_backends_own_key_is_sent_and_the_callers_is_not(guarded: Guarded) -> None:
    headers = [*bearer(TEAM), ("Cookie", "session=1"), ("Proxy-Authorization", "Basic eA==")]
    assert (await guarded.gw.chat("m", headers)).status == 200
    request = guarded.own.requests[0]
    assert request.header("authorization") == f"Bearer {SECRET}"
    assert TEAM not in str(request.headers)
    assert not request.names() & {"cookie", "proxy-authorization", "x-api-key"}


@pytest.mark.parametrize("headers", [bearer(TEAM), [("x-api-key", TEAM)]])
async def test_no_credential_reaches_a_backend_without_a_key(
    guarded: Guarded, headers: list[tuple[str, str]]
) -> None:
    assert (await guarded.gw.chat("s", headers)).status == 200
    request = guarded.open.requests[0]
    assert TEAM not in str(request.headers)
    assert not request.names() & {"authorization", "x-api-key"}


async def test_passthrough_forwards_the_callers_own_credential(guarded: Guarded) -> None:
    assert (await guarded.gw.chat("p", bearer(TEAM))).status == 200
    assert guarded.passing.requests[0].header("authorization") == f"Bearer {TEAM}"


async def test_only_the_credential_of_passthrough_is_forwarded(guarded: Guarded) -> None:
    headers = [*bearer(TEAM), ("X-Portico-Session-Id", "s1"), ("Cookie", "a=b")]
    assert (await guarded.gw.chat("p", headers)).status == 200
    names = guarded.passing.requests[0].names()
    assert not any(name.startswith("x-portico-") for name in names)


HOP_BY_HOP = [
    ("Connection", "keep-alive, X-Hop"),
    ("X-Hop", "1"),
    ("Keep-Alive", "timeout=1"),
    ("TE", "trailers"),
    ("Upgrade", "h2c"),
    ("Proxy-Connection", "keep-alive"),
]


async def test_no_hop_by_hop_header_of_the_caller_reaches_a_backend(guarded: Guarded) -> None:
    assert (await guarded.gw.chat("s", [*bearer(TEAM), *HOP_BY_HOP])).status == 200
    names = guarded.open.requests[0].names()
    assert not names & {"x-hop", "keep-alive", "te", "upgrade", "proxy-connection"}


@pytest.mark.parametrize(
    "name",
    ["X-Portico-Backend", "X-Portico-Session-Id", "X-Portico-User-Id", "x-portico-anything"],
)
async def test_no_portico_header_of_the_caller_reaches_a_backend(
    guarded: Guarded, name: str
) -> None:
    headers = [*bearer(TEAM), (name, "open")]
    assert (await guarded.gw.chat("s", headers)).status == 200
    assert not any(key.startswith("x-portico-") for key in guarded.open.requests[0].names())


DROPS = {
    "open": ["x-override-rid", "x-override-priority", "X-Data-Parallel-Rank", "x-custom-labels"],
    "own": ["X-data-parallel-rank", "X-Vllm-Priority"],
}


@pytest.mark.parametrize("backend", DROPS)
async def test_headers_that_steer_an_engine_from_outside_are_dropped(
    guarded: Guarded, backend: str
) -> None:
    """sheets: sglang 8 and 10; vllm 10."""
    model = {"open": "s", "own": "m"}[backend]
    headers = [*bearer(TEAM), *((name, "1") for name in DROPS[backend])]
    assert (await guarded.gw.chat(model, headers)).status == 200
    names = getattr(guarded, backend).requests[0].names()
    assert not names & {name.lower() for name in DROPS[backend]}


async def test_other_headers_of_the_caller_reach_the_backend(guarded: Guarded) -> None:
    headers = [*bearer(TEAM), ("traceparent", "00-ab-cd-01"), ("X-Own", "ü".encode().decode("l1"))]
    assert (await guarded.gw.chat("s", headers)).status == 200
    request = guarded.open.requests[0]
    assert request.header("traceparent") == "00-ab-cd-01"
    assert request.header("x-own") == "ü".encode().decode("l1")


async def test_the_host_of_a_request_upstream_is_the_backends(guarded: Guarded) -> None:
    assert (await guarded.gw.chat("s", bearer(TEAM))).status == 200
    assert guarded.open.requests[0].header("host") == f"127.0.0.1:{guarded.open.port}"


async def test_the_callers_request_id_is_kept_and_sent_on(guarded: Guarded) -> None:
    headers = [*bearer(TEAM), ("X-Request-Id", "abc-123_x.9")]
    reply = await guarded.gw.chat("m", headers)
    assert reply.all("x-request-id") == ["abc-123_x.9"]
    assert guarded.own.requests[0].header("x-request-id") == "abc-123_x.9"


async def test_without_a_request_id_a_new_one_is_made_for_each_request(guarded: Guarded) -> None:
    ids = {(await guarded.gw.chat("m", bearer(TEAM))).header("X-Request-Id") for _ in range(3)}
    assert len(ids) == 3
    assert {request.header("x-request-id") for request in guarded.own.requests} == ids


@pytest.mark.parametrize("bad", ["x" * 500, "a b", 'a"b', "<a>", "ä".encode().decode("l1")])
async def test_a_request_id_that_is_not_sane_is_replaced(guarded: Guarded, bad: str) -> None:
    reply = await guarded.gw.chat("m", [*bearer(TEAM), ("X-Request-Id", bad)])
    assert reply.status == 200
    assert reply.header("X-Request-Id") not in {None, bad}


async def test_refusals_carry_the_request_id_too(guarded: Guarded) -> None:
    reply = await guarded.gw.chat("nobody", [*bearer(TEAM), ("X-Request-Id", "ref-1")])
    assert reply.header("X-Request-Id") == "ref-1"
    assert reply.error.get("request_id", "ref-1") == "ref-1"


async def test_an_engines_own_words_on_the_gateways_headers_do_not_reach_the_client(
    guarded: Guarded,
) -> None:
    forged = [("X-Portico-Backend", "forged"), ("X-Request-Id", "forged")]
    guarded.own.script.append(steps.reply(200, {"ok": 1}, forged))
    reply = await guarded.gw.chat("m", [*bearer(TEAM), ("X-Request-Id", "true-1")])
    assert reply.all("X-Portico-Backend") == ["own"]
    assert reply.all("X-Request-Id") == ["true-1"]


async def test_an_engine_that_refuses_our_key_is_not_the_callers_401(guarded: Guarded) -> None:
    """A 401 passed on would tell the caller that its own, good key is wrong."""
    guarded.own.api_key = "changed"
    try:
        reply = await guarded.gw.chat("m", bearer(TEAM))
    finally:
        guarded.own.api_key = SECRET
    assert reply.status in {401, 502, 503}
    assert SECRET.encode() not in reply.body


async def test_keys_from_the_environment_close_the_gateway() -> None:
    async with FakeEngine() as engine:
        config = {"backends": [{"name": "b", "url": engine.url}]}
        async with Gateway(config, env={"API_KEYS": "key-number-one, key-number-two"}) as gw:
            assert (await gw.chat("m")).status == 401
            for key in ("key-number-one", "key-number-two"):
                assert (await gw.chat("m", bearer(key))).status == 200
