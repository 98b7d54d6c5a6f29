"""Usage is counted over all workers and kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.contract.administration import ask, config
from tests.fakes.engine import FakeEngine
from tests.harness import Gateway, until

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "a-fixed-key-of-the-tests"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine("vllm", ["m"]) as engine:
        yield engine


async def used(gw: Gateway, query: str = "") -> list[dict[str, Any]]:
    reply = await ask(gw, "GET", f"/admin/usage{query}")
    assert reply.status == 200, reply.body
    rows: list[dict[str, Any]] = reply.json()["usage"]
    return rows


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_was_used_is_summed_kept_and_has_no_prompt(
    engine: FakeEngine, tmp_path: Path, workers: int
) -> None:
    settings = config(tmp_path, {"e": engine.url}, workers=workers)
    settings["auth"]["keys"] = [{"name": "team-a", "key": KEY}]
    headers = [
        ("Authorization", f"Bearer {KEY}"),
        ("X-Portico-User-Id", "ann"),
        ("X-Portico-Session-Id", "s1"),
    ]
    async with Gateway(settings) as gw:
        replies = await asyncio.gather(*(gw.chat("m", headers) for _ in range(10)))
        tokens = sum(reply.json()["usage"]["completion_tokens"] for reply in replies)
        assert (await gw.chat("none", headers[:1])).status == 404

        async def counted() -> bool:
            return sum(row["requests"] for row in await used(gw)) == 11

        await until(counted, 4.0, "all requests to be counted")
    async with Gateway(settings) as gw:
        rows = await used(gw, "?group_by=key,user,session,model")
        good = next(row for row in rows if row["user"] == "ann")
        assert (good["key"], good["session"], good["model"]) == ("team-a", "s1", "m")
        assert (good["requests"], good["errors"]) == (10, 0)
        assert (good["output_tokens"], good["ttft_count"]) == (tokens, 10)
        bad = next(row for row in rows if row["user"] == "")
        assert (bad["requests"], bad["errors"], bad["model"]) == (1, 1, "unknown")
        table = await ask(gw, "GET", "/admin/usage?format=csv")
        assert (table.header("content-type") or "").startswith("text/csv")
        assert table.body.decode().splitlines()[0].startswith("key,model,requests,")
    for file in tmp_path.iterdir():
        assert b"Hi" not in file.read_bytes()


async def test_without_a_store_usage_names_the_setting(engine: FakeEngine, tmp_path: Path) -> None:
    settings = config(tmp_path, {"e": engine.url})
    del settings["store"]
    async with Gateway(settings) as gw:
        reply = await ask(gw, "GET", "/admin/usage")
        assert (reply.status, "store.url" in reply.body.decode()) == (501, True)
