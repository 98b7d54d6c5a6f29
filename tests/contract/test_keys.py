"""Keys that are made and revoked while the gateway runs."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio

from tests.contract.administration import ADMIN, ask, config
from tests.fakes.engine import FakeEngine
from tests.harness import ROOT, Gateway, environment, until
from tests.redis_server import redis_server, server_at

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[FakeEngine]:
    async with FakeEngine("vllm", ["m"]) as engine:
        yield engine


async def status(gw: Gateway, key: str) -> int:
    """What a chat with this key is answered, on a connection of its own."""
    return (await gw.chat("m", [("Authorization", f"Bearer {key}")])).status


async def statuses(gw: Gateway, key: str) -> set[int]:
    """The same from many connections, so that every worker is asked."""
    return set(await asyncio.gather(*(status(gw, key) for _ in range(12))))


async def made(gw: Gateway, name: str, **fields: Any) -> dict[str, Any]:
    reply = await ask(gw, "POST", "/admin/keys", {"name": name, **fields})
    assert reply.status == 201, reply.body
    doc: dict[str, Any] = reply.json()
    return doc


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_key_works_everywhere_from_the_answer_on_until_it_is_revoked(
    engine: FakeEngine, tmp_path: Path, workers: int
) -> None:
    async with Gateway(config(tmp_path, {"e": engine.url}, workers=workers)) as gw:
        assert await status(gw, "none") == 200, "open while there is no key"
        key = await made(gw, "team-a")
        await until(lambda: _all(gw, "none", {401}), 1.0, "the door to be shut")
        assert await statuses(gw, key["key"]) == {200}
        assert (await ask(gw, "DELETE", f"/admin/keys/{key['id']}")).status == 204
        await until(lambda: _all(gw, key["key"], {401}), 1.0, "the key to be forgotten by all")
        assert (await ask(gw, "DELETE", f"/admin/keys/{key['id']}")).status == 404


async def _all(gw: Gateway, key: str, wanted: set[int]) -> bool:
    return await statuses(gw, key) == wanted


async def test_keys_outlive_a_restart_and_are_never_told_again(
    engine: FakeEngine, tmp_path: Path
) -> None:
    settings = config(tmp_path, {"e": engine.url})
    async with Gateway(settings) as gw:
        key = await made(gw, "team-a")
    async with Gateway(settings) as gw:
        assert await status(gw, key["key"]) == 200
        assert await status(gw, "none") == 401
        shown = (await ask(gw, "GET", "/admin/keys")).body
        assert b'"team-a"' in shown
        assert key["key"].encode() not in shown
        output = gw.output()
    assert key["key"] not in output
    for file in tmp_path.iterdir():
        assert key["key"].encode() not in file.read_bytes()


async def test_a_key_is_bounded_to_its_models_changed_and_expires(
    engine: FakeEngine, tmp_path: Path
) -> None:
    async with Gateway(config(tmp_path, {"e": engine.url})) as gw:
        key = await made(gw, "team-a", models=["other"], expires=time.time() + 3600)
        assert await status(gw, key["key"]) == 403
        reply = await ask(gw, "PATCH", "/admin/keys/team-a", {"models": ["m"]})
        assert (reply.status, reply.json()["models"]) == (200, ["m"])
        assert reply.json()["expires"] == key["expires"]
        assert await status(gw, key["key"]) == 200
        await ask(gw, "PATCH", "/admin/keys/team-a", {"expires": time.time() + 0.4})

        async def gone() -> bool:
            return await status(gw, key["key"]) == 401

        await until(gone, 2.0, "the key to expire")
        assert (await ask(gw, "GET", "/admin/keys/team-a")).json()["expired"] is True
        for path in ("/v1/models", "/api/tags"):
            reply = await gw.get(path, [("Authorization", f"Bearer {key['key']}")])
            assert (reply.status, b"'team-a' expired on 20" in reply.body) == (401, True)


async def test_the_command_makes_and_revokes_keys_of_a_running_gateway(
    engine: FakeEngine, tmp_path: Path
) -> None:
    async def command(gw: Gateway, *words: str) -> str:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "keys", *words, "--config", str(gw.file)),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=environment({}),
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        return out.decode()

    async with Gateway(config(tmp_path, {"e": engine.url}, workers=2)) as gw:
        key = (await command(gw, "new", "team-a")).split()[-1]
        await until(lambda: _all(gw, "none", {401}), 3.0, "the door to be shut")
        assert await statuses(gw, key) == {200}
        await command(gw, "revoke", "team-a")
        await until(lambda: _all(gw, key, {401}), 3.0, "the key to be refused")


async def test_faults_are_400_by_field_and_names_are_given_once(
    engine: FakeEngine, tmp_path: Path
) -> None:
    settings = config(tmp_path, {"e": engine.url})
    settings["auth"]["keys"] = [{"name": "fixed", "key": "a-fixed-key-of-the-tests"}]
    async with Gateway(settings) as gw:
        await made(gw, "team-a")
        for doc, param in (
            ({"name": "team-a"}, "name"),
            ({"name": "fixed"}, "name"),
            ({"name": "b", "models": []}, "models"),
            ({"name": "b", "expires": 1}, "expires"),
            ({"name": "b", "key": "my-own"}, "key"),
        ):
            error = (await ask(gw, "POST", "/admin/keys", doc)).json()["error"]
            assert (error["type"], error["param"]) == ("invalid_request", param), error
        reply = await ask(
            gw, "GET", "/admin/keys", headers=(("x-api-key", "a-fixed-key-of-the-tests"),)
        )
        assert reply.status == 403


async def test_without_a_store_the_answer_names_the_setting(engine: FakeEngine) -> None:
    settings = {
        "backends": [{"name": "e", "url": engine.url}],
        "auth": {"admin_keys": [ADMIN]},
    }
    async with Gateway(settings) as gw:
        reply = await ask(gw, "POST", "/admin/keys", {"name": "a"})
        assert reply.status == 501
        assert "store.url" in reply.json()["error"]["message"]
        assert await status(gw, "none") == 200


async def test_a_broken_store_is_told_and_configured_keys_go_on(
    engine: FakeEngine, tmp_path: Path
) -> None:
    (tmp_path / "portico.db").write_bytes(b"no database " * 99)
    settings = config(tmp_path, {"e": engine.url})
    settings["auth"]["keys"] = [{"name": "fixed", "key": "a-fixed-key-of-the-tests"}]
    async with Gateway(settings) as gw:
        assert await status(gw, "a-fixed-key-of-the-tests") == 200
        reply = await ask(gw, "GET", "/admin/keys")
        assert reply.status == 503
        assert "is not a SQLite database" in reply.json()["error"]["message"]
        assert "Retry-After" in {name for name, _ in reply.headers}
        assert await status(gw, "perhaps-a-key-of-the-store") == 503
        told = [line for line in gw.log_lines() if "is not a SQLite database" in line["msg"]]
        assert len(told) == 1


async def test_a_store_that_fails_later_changes_nothing_for_requests(
    engine: FakeEngine, tmp_path: Path
) -> None:
    async with Gateway(config(tmp_path, {"e": engine.url})) as gw:
        key = await made(gw, "team-a")
        with sqlite3.connect(tmp_path / "portico.db", isolation_level=None) as db:
            db.execute("BEGIN EXCLUSIVE")
            reply = await ask(gw, "POST", "/admin/keys", {"name": "team-b"})
            assert reply.status == 503
            assert await status(gw, key["key"]) == 200
            db.execute("ROLLBACK")
        db.close()
        await made(gw, "team-b")


async def test_a_new_control_process_knows_the_keys_though_the_store_is_away(
    engine: FakeEngine, tmp_path: Path
) -> None:
    async with Gateway(config(tmp_path, {"e": engine.url}, workers=2)) as gw:
        key = await made(gw, "team-a")
        (tmp_path / "portico.db").write_bytes(b"no database " * 99)
        children = psutil.Process(gw.pid).children()
        control = min(children, key=lambda child: (child.create_time(), child.pid))
        control.send_signal(signal.SIGKILL)
        await asyncio.sleep(0)

        async def back() -> bool:
            reply = await ask(gw, "GET", "/admin/backends")
            return reply.status == 200

        await until(back, 8.0, "another control process")
        assert await statuses(gw, key["key"]) == {200}
        assert await statuses(gw, "none") == {401}


async def test_gateways_on_one_redis_share_keys_and_go_on_without_it(engine: FakeEngine) -> None:
    with redis_server() as port:
        settings = config(Path(), {"e": engine.url}, store={"url": f"redis://127.0.0.1:{port}/0"})
        async with Gateway(settings) as one, Gateway(settings) as other:
            key = await made(one, "team-a")
            await until(lambda: _all(other, "none", {401}), 3.0, "the other to follow")
            assert await status(other, key["key"]) == 200
            server_at(port).kill()
            assert (await ask(one, "GET", "/admin/keys")).status == 503
            assert await status(one, key["key"]) == 200
            assert await status(one, "none") == 401
