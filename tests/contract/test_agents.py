"""Requests as coding agents make them, in their smallest form, in front of fakes (docs/clients.md).

What Claude Code 2.1.197 and Codex 0.169.0 sent was written down at the gateway's door."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from gateway.core.types import Op, Wire
from tests.fakes import said
from tests.fakes.engine import FakeEngine
from tests.harness import Gateway
from tests.rawclient import Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT, MESSAGES = (Wire.OPENAI, Op.CHAT), (Wire.ANTHROPIC, Op.MESSAGES)
RUNTIMES = ["vllm", "llamacpp", "tgi"]
MARK = {"cache_control": {"type": "ephemeral"}}

CLAUDE: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "hello", **MARK}]},
        {"role": "system", "content": "Available agents: none"},
    ],
    "system": [
        {"type": "text", "text": "x-anthropic-billing-header: cc_version=2.1.197.fa0;"},
        {"type": "text", "text": "You help.", **MARK},
    ],
    "tools": [{"name": "Read", "description": "Reads.", "input_schema": {"type": "object"}}],
    "metadata": {"user_id": "u" * 150},
    "max_tokens": 32000,
    "thinking": {"type": "adaptive"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
    "output_config": {"effort": "high"},
    "stream": True,
}
BETAS = "claude-code-20250219,mid-conversation-system-2026-04-07,effort-2025-11-24"
HEADERS = [
    ("Content-Type", "application/json"),
    ("anthropic-version", "2023-06-01"),
    ("anthropic-beta", BETAS),
    ("anthropic-dangerous-direct-browser-access", "true"),
    ("X-Stainless-Retry-Count", "0"),
    ("x-app", "cli"),
]

CODEX: dict[str, Any] = {
    "input": [
        {"type": "message", "role": "developer", "content": "You are a coding agent."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]},
    ],
    "tools": [
        {"type": "function", "name": "exec_command", "strict": False, "parameters": {}},
        {
            "type": "namespace",
            "name": "multi_agent_v1",
            "description": "Tools for sub-agents.",
            "tools": [{"type": "function", "name": "close_agent", "parameters": {}}],
        },
        {"type": "web_search", "external_web_access": False},
    ],
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "reasoning": {"summary": "auto"},
    "store": False,
    "include": ["reasoning.encrypted_content"],
    "prompt_cache_key": "k",
    "client_metadata": {"session_id": "s"},
    "stream": True,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines() -> AsyncIterator[dict[str, FakeEngine]]:
    found = {name: FakeEngine(name, [name]) for name in RUNTIMES}
    for engine in found.values():
        await engine.start()
    yield found
    for engine in found.values():
        await engine.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gw(engines: dict[str, FakeEngine]) -> AsyncIterator[Gateway]:
    backends = [{"name": f"b-{name}", "url": one.url} for name, one in engines.items()]
    async with Gateway({"backends": backends}) as gateway:
        yield gateway


async def claude(gw: Gateway, engine: FakeEngine, name: str) -> tuple[Reply, Any]:
    """The answer to Claude Code's request, and what the engine was asked."""
    engine.reset()
    surface = CHAT if name == "tgi" else MESSAGES
    engine.script.append(said.say(surface, "stream", name, streamed=True))
    reply = await gw.post("/v1/messages?beta=true", {"model": name, **CLAUDE}, HEADERS)
    assert (reply.status, reply.whole) == (200, True), reply.body
    assert reply.body.rstrip().endswith(b'data: {"type":"message_stop"}'), reply.body
    return reply, engine.requests[-1].doc


async def test_claude_code_is_relayed_untouched_where_the_engine_copes(
    gw: Gateway, engines: dict[str, FakeEngine]
) -> None:
    reply, asked = await claude(gw, engines["vllm"], "vllm")
    assert asked == {"model": "vllm", **CLAUDE}
    assert reply.header("X-Portico-Lost") is None


async def test_claude_codes_instructions_reach_a_strict_template_in_the_users_turn(
    gw: Gateway, engines: dict[str, FakeEngine]
) -> None:
    _, asked = await claude(gw, engines["llamacpp"], "llamacpp")
    (message,) = asked["messages"]
    assert [part["type"] for part in message["content"]] == ["text", "text"]
    assert {**asked, "messages": CLAUDE["messages"]} == {"model": "llamacpp", **CLAUDE}


async def test_claude_code_is_translated_and_told_what_was_lost(
    gw: Gateway, engines: dict[str, FakeEngine]
) -> None:
    reply, asked = await claude(gw, engines["tgi"], "tgi")
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]
    assert asked["messages"][0]["content"] == "You help."
    assert "anthropic-beta" not in engines["tgi"].requests[-1].names()
    assert set((reply.header("X-Portico-Lost") or "").split(", ")) == {
        *("messages.role", "messages.content.cache_control", "context_management"),
        *("system.cache_control", "system.x-anthropic-billing-header", "metadata.user_id"),
    }


async def test_claude_code_looks_whether_anybody_is_there(gw: Gateway) -> None:
    async with gw.client() as client:
        await client.ask("HEAD", "/", [])
        assert (await client.read_head()).status == 200


async def test_codex_is_translated_and_told_what_was_lost(
    gw: Gateway, engines: dict[str, FakeEngine]
) -> None:
    engine = engines["tgi"]
    engine.reset()
    engine.script.append(said.say(CHAT, "stream", "tgi", streamed=True))
    reply = await gw.post("/v1/responses", {"model": "tgi", **CODEX})
    assert (reply.status, reply.whole) == (200, True), reply.body
    assert b"response.completed" in reply.body
    tools = [tool["function"]["name"] for tool in engine.requests[-1].doc["tools"]]
    assert tools == ["exec_command", "multi_agent_v1__close_agent"]
    assert set((reply.header("X-Portico-Lost") or "").split(", ")) == {
        *("tools.web_search", "tools.description", "reasoning.summary", "include"),
        *("prompt_cache_key", "client_metadata"),
    }
