"""Both stores keep the same promises."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gateway.core.spending import HOUR, Slot, Spent
from gateway.state.store import BUDGET, KEY, PROVIDER, Store, StoreError, store_at
from gateway.state.store_sqlite import MIGRATIONS
from tests.harness import ROOT, free_port
from tests.redis_server import redis_server

NOON = 1_800_000_000 // HOUR * HOUR


@pytest.fixture(scope="module")
def redis_port() -> Iterator[int]:
    with redis_server() as port:
        yield port


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite://{tmp_path}/portico.db"
    return f"redis://127.0.0.1:{request.getfixturevalue('redis_port')}/0"


async def opened(url: str) -> Store:
    """An open store; a server that has just been started needs a moment."""
    store = store_at(url)
    end = time.monotonic() + 5
    while True:
        try:
            await store.open()
        except StoreError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.05)
        else:
            return store


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    store = await opened(url)
    if url.startswith("redis"):
        await store._db.flushdb()  # type: ignore[attr-defined]
    yield store
    await store.close()


async def test_what_is_inserted_is_loaded_by_kind_oldest_first(store: Store) -> None:
    for name in ("z", "a", "m"):
        assert await store.insert(PROVIDER, name, {"name": name, "ü": [1, None]})
    assert await store.insert(KEY, "a", {"name": "key"})
    assert [doc["name"] for doc in await store.load(PROVIDER)] == ["z", "a", "m"]
    assert (await store.load(PROVIDER))[0]["ü"] == [1, None]
    assert [doc["name"] for doc in await store.load(KEY)] == ["key"]


async def test_a_name_is_given_once(store: Store) -> None:
    assert await store.insert(KEY, "a", {"n": 1})
    assert not await store.insert(KEY, "a", {"n": 2})
    assert await store.load(KEY) == [{"n": 1}]


async def test_of_many_who_insert_one_name_at_once_one_wins(url: str, store: Store) -> None:
    other = await opened(url)
    both = [place.insert(KEY, "a", {"n": n}) for n in range(10) for place in (store, other)]
    assert sum(await asyncio.gather(*both)) == 1
    await other.close()


async def test_an_update_keeps_the_place_and_needs_something_to_change(store: Store) -> None:
    await store.insert(KEY, "a", {"n": 1})
    await store.insert(KEY, "b", {"n": 2})
    assert await store.update(KEY, "a", {"n": 3})
    assert not await store.update(KEY, "c", {"n": 4})
    assert await store.load(KEY) == [{"n": 3}, {"n": 2}]


async def test_what_is_deleted_is_gone_and_cannot_be_deleted_again(store: Store) -> None:
    await store.insert(KEY, "a", {})
    assert await store.delete(KEY, "a")
    assert not await store.delete(KEY, "a")
    assert await store.load(KEY) == []


async def test_every_change_can_be_noticed_by_others_and_nothing_else(
    url: str, store: Store
) -> None:
    other = await opened(url)
    seen = [await other.serial()]
    for change in (
        store.insert(KEY, "a", {}),
        store.update(KEY, "a", {"n": 1}),
        store.delete(KEY, "a"),
    ):
        await change
        seen.append(await other.serial())
    assert seen == sorted(set(seen))
    await store.update(KEY, "a", {})
    await store.delete(KEY, "a")
    await store.add({Slot(NOON, "k", "", "", "m"): Spent(1)})
    assert await other.serial() == seen[-1]
    await other.close()


async def test_documents_and_usage_are_there_after_closing(url: str, store: Store) -> None:
    await store.insert(KEY, "a", {"n": 1})
    slot = Slot(NOON, "k", "u", "s", "m")
    await store.add({slot: Spent(1, 0, 5, 6, 2, 0.5, 1)})
    again = await opened(url)
    assert await again.load(KEY) == [{"n": 1}]
    assert list(await again.used(0, NOON + 1)) == [(slot, Spent(1, 0, 5, 6, 2, 0.5, 1))]
    await again.close()


async def test_usage_adds_up_over_writers(url: str, store: Store) -> None:
    other = await opened(url)
    slot = Slot(NOON, "k", "ü:,\n", "", "m")
    spent = Spent(2, 1, 10, 20, 5, 0.25, 2)
    await asyncio.gather(*(place.add({slot: spent}) for _ in range(20) for place in (store, other)))
    assert dict(await store.used(NOON, NOON + HOUR)) == {slot: Spent(80, 40, 400, 800, 200, 10, 80)}
    await other.close()


async def test_usage_is_asked_for_and_forgotten_by_whole_hours(store: Store) -> None:
    slots = [Slot(NOON + n * HOUR, "k", "", "", "m") for n in range(3)]
    await store.add({slot: Spent(1) for slot in slots})
    assert [slot for slot, _ in await store.used(NOON, NOON + HOUR)] == slots[:1]
    assert sorted(slot for slot, _ in await store.used(NOON + HOUR, NOON + 9 * HOUR)) == slots[1:]
    await store.forget(NOON + 2 * HOUR)
    assert [slot for slot, _ in await store.used(0, NOON + 9 * HOUR)] == slots[2:]


async def test_what_is_noted_takes_the_place_of_the_old_and_moves_no_serial(store: Store) -> None:
    before = await store.serial()
    await store.note(BUDGET, {"a": {"n": 1}, "b": {"n": 2}})
    await store.note(BUDGET, {"a": {"n": 3}})
    await store.note(BUDGET, {})
    assert sorted(doc["n"] for doc in await store.load(BUDGET)) == [2, 3]
    assert await store.serial() == before


async def test_the_loop_turns_while_the_store_works(store: Store) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    other = asyncio.ensure_future(turn())
    await store.add({Slot(NOON, "k", str(n), "", "m"): Spent(1) for n in range(500)})
    other.cancel()
    assert turns > 1


# --- SQLite alone


def file(path: Path) -> Store:
    return store_at(f"sqlite://{path}")


async def test_the_file_is_readable_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    store = file(path)
    await store.open()
    await store.insert(KEY, "a", {})
    assert {f.stat().st_mode & 0o777 for f in tmp_path.iterdir()} == {0o600}
    await store.close()


@pytest.mark.parametrize("steps", range(len(MIGRATIONS)))
async def test_a_file_of_an_older_version_is_brought_up_to_date(tmp_path: Path, steps: int) -> None:
    path = tmp_path / "p.db"
    with sqlite3.connect(path) as db:
        for statements in MIGRATIONS[:steps]:
            for statement in statements:
                db.execute(statement)
        if steps:
            db.execute("INSERT INTO docs (kind, name, doc) VALUES ('key', 'a', '{\"n\": 1}')")
        db.execute(f"PRAGMA user_version = {steps}")
    db.close()
    store = file(path)
    await store.open()
    assert await store.load(KEY) == [{"n": 1}] * bool(steps)
    await store.add({Slot(NOON, "k", "", "", "m"): Spent(1)})
    await store.close()


async def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="written by a newer Portico"):
        await file(path).open()


async def test_a_file_that_is_no_database_is_named_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    path.write_bytes(b"not a database, " * 100)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=r"p\.db is not a SQLite database: name another file"):
        await file(path).open()
    assert path.read_bytes() == before


async def test_a_damaged_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "p.db"
    store = file(path)
    await store.open()
    for n in range(300):
        await store.insert(KEY, str(n), {"text": "x" * 100})
    await store.close()
    data = bytearray(path.read_bytes())
    data[4096 * 2 :] = os.urandom(len(data) - 4096 * 2)
    path.write_bytes(data)
    store = file(path)
    with pytest.raises(StoreError, match="is damaged"):
        await store.open()
        await store.load(KEY)


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"the folder .*/none of store\.url is not there: make it"):
        await file(tmp_path / "none" / "p.db").open()


async def test_a_full_disk_fails_the_write_alone(tmp_path: Path) -> None:
    store = file(tmp_path / "p.db")
    await store.open()
    await store.insert(KEY, "a", {"n": 1})
    db = store._db  # type: ignore[attr-defined]
    await store._run(lambda: db.execute("PRAGMA max_page_count = 1"))  # type: ignore[attr-defined]
    with pytest.raises(StoreError, match="the disk is full: make room"):
        await store.insert(KEY, "b", {"text": "x" * 100_000})
    assert await store.load(KEY) == [{"n": 1}]
    assert await store.update(KEY, "a", {"n": 2})
    await store.close()


async def test_another_writer_for_too_long_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.state.store_sqlite.PATIENCE", 0.05)
    path = tmp_path / "p.db"
    store = file(path)
    await store.open()
    with sqlite3.connect(path, isolation_level=None) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="held by another process"):
            await store.insert(KEY, "a", {})
        db.execute("ROLLBACK")
    db.close()
    assert await store.insert(KEY, "a", {})
    await store.close()


WRITER = """
import asyncio, sys
from gateway.core.spending import Slot, Spent
from gateway.state.store import KEY, store_at

async def main():
    store = store_at(sys.argv[1])
    await store.open()
    start = len(await store.load(KEY))
    for n in range(start, 10**6):
        await store.insert(KEY, str(n), {"n": n, "text": "x" * 5000})
        await store.add({Slot(3600, "k", "", "", "m"): Spent(1, 1)})
        print(n, flush=True)

asyncio.run(main())
"""


async def test_a_writer_killed_in_the_middle_loses_nothing_that_it_was_told_is_kept(
    tmp_path: Path,
) -> None:
    url = f"sqlite://{tmp_path}/p.db"
    for turn in range(3):
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, url, stdout=subprocess.PIPE, cwd=ROOT
        )
        assert writer.stdout is not None
        for _ in range(5 + turn):
            last = int(await writer.stdout.readline())
        writer.send_signal(signal.SIGKILL)
        told = (await writer.stdout.read()).split()
        await writer.wait()
        last = int(told[-1]) if told else last
        store = store_at(url)
        await store.open()
        docs = await store.load(KEY)
        assert [doc["n"] for doc in docs] == list(range(len(docs)))
        assert len(docs) >= last + 1
        ((_, spent),) = await store.used(0, 10**10)
        assert spent.requests == spent.errors
        await store.close()


# --- Redis alone


async def test_a_server_that_is_away_is_told_without_its_password() -> None:
    pytest.importorskip("redis", reason="the package redis is not installed")
    store = store_at(f"redis://:hush-hush@127.0.0.1:{free_port()}/0")
    with pytest.raises(StoreError, match=r"127\.0\.0\.1:\d+ cannot be reached") as caught:
        await store.open()
    assert "hush" not in str(caught.value)
    await store.close()


async def test_a_full_server_is_told(redis_port: int) -> None:
    store = await opened(f"redis://127.0.0.1:{redis_port}/1")
    await store._db.config_set("maxmemory", "1")  # type: ignore[attr-defined]
    try:
        with pytest.raises(StoreError, match="is full"):
            await store.insert(KEY, "a", {"n": 1})
    finally:
        await store._db.config_set("maxmemory", "0")  # type: ignore[attr-defined]
        await store.close()
