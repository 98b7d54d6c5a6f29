"""One structured line per request, with no word of the prompt and no secret."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine
from tests.harness import Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY, UPSTREAM, PROMPT = "sk-caller-5150", "sk-upstream-2112", "the quick brown secret"


@dataclass
class Desk:
    gw: Gateway
    engine: FakeEngine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def desk() -> AsyncIterator[Desk]:
    async with FakeEngine("vllm", ["m"], api_key=UPSTREAM) as engine:
        config = {
            "backends": [{"name": "gpu", "url": engine.url, "api_key": UPSTREAM}],
            "auth": {"keys": [{"name": "team-a", "key": KEY}]},
        }
        async with Gateway(config) as gw:
            yield Desk(gw, engine)


async def asked(desk: Desk, request_id: str, **fields: Any) -> dict[str, Any]:
    headers = [("Authorization", f"Bearer {KEY}"), ("X-Request-Id", request_id)]
    messages = [{"role": "user", "content": PROMPT}]
    body = {"model": "m", "messages": messages, **fields}
    await desk.gw.post("/v1/chat/completions", body, headers)
    return await desk.gw.request_line(request_id)


async def test_the_line_of_a_request_says_who_what_where_and_how_long(desk: Desk) -> None:
    line = await asked(desk, "log-1")
    said = {"key": "team-a", "model": "m", "backend": "gpu", "status": 200, "attempts": 1}
    assert {name: line[name] for name in said} == said
    assert 0 < line["duration_ms"] < 5000
    assert not line["cut_by"]


async def test_the_line_of_a_stream_has_tokens_and_time_to_first_token(desk: Desk) -> None:
    usage = {"prompt_tokens": 123, "completion_tokens": 45, "total_tokens": 168}
    desk.engine.script.append(steps.stream(talk.chat_events("m", usage=usage)))
    options = {"include_usage": True}
    line = await asked(desk, "log-2", stream=True, stream_options=options)
    assert (line["tokens_in"], line["tokens_out"]) == (123, 45)
    assert 0 < line["ttft_ms"] <= line["duration_ms"]


async def test_refused_requests_have_their_line_too(desk: Desk) -> None:
    line = await asked(desk, "log-3", model="nobody")
    assert (line["status"], line["refusal"]) == (404, "model_not_found")
    await desk.gw.chat("m", [("X-Request-Id", "log-4"), ("x-api-key", "sk-wrong-999")])
    line = await desk.gw.request_line("log-4")
    assert (line["status"], line["refusal"]) == (401, "unauthorized")


async def test_no_prompt_and_no_secret_is_ever_printed(desk: Desk) -> None:
    desk.engine.script.append(steps.reply(400, {"error": {"message": f"bad: {PROMPT}"}}))
    await asked(desk, "log-5")
    desk.engine.script.append(steps.stream(talk.chat_events("m", [PROMPT])[:2], end="reset"))
    await asked(desk, "log-6", stream=True)
    await desk.gw.post("/v1/chat/completions", f'{{"model":"m","x":"{PROMPT}'.encode(), [])
    output = desk.gw.output()
    for secret in (PROMPT, KEY, UPSTREAM, "sk-wrong-999"):
        assert secret not in output


async def test_every_line_is_json_of_one_line(desk: Desk) -> None:
    await asked(desk, "log-7", model="two\nlines")
    err = (desk.gw.folder / "err").read_text().splitlines()
    assert all(line.startswith("{") and line.endswith("}") for line in err if line.strip()), err


async def test_text_lines_are_for_people() -> None:
    async with FakeEngine() as engine:
        args = ["--backend", f"b={engine.url}", "--log-format", "text"]
        async with Gateway(None, args, up=["b"]) as gw:
            await gw.chat("m", [("X-Request-Id", "text-1")])

            async def printed() -> bool:
                return "text-1" in gw.output()

            await until(printed, 3.0, "the text line")
            (line,) = [line for line in gw.output().splitlines() if "text-1" in line]
            assert not line.startswith("{")
