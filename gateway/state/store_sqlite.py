"""The store in one SQLite file: write-ahead log, a thread of its own, migrations by number."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import orjson

from gateway.core.spending import Slot, Spent
from gateway.core.types import Doc
from gateway.state.store import StoreError

T = TypeVar("T")

PATIENCE = 2.0
"""Seconds to wait for another process that is writing."""

MIGRATIONS: Sequence[Sequence[str]] = (
    (
        """CREATE TABLE docs (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            kind TEXT NOT NULL, name TEXT NOT NULL, doc BLOB NOT NULL,
            UNIQUE (kind, name))""",
        "CREATE TABLE changes (serial INTEGER NOT NULL)",
        "INSERT INTO changes VALUES (0)",
    ),
    (
        """CREATE TABLE usage (
            hour INTEGER NOT NULL, key TEXT NOT NULL, user TEXT NOT NULL,
            session TEXT NOT NULL, model TEXT NOT NULL,
            requests INTEGER NOT NULL, errors INTEGER NOT NULL, input INTEGER NOT NULL,
            output INTEGER NOT NULL, cached INTEGER NOT NULL, ttft REAL NOT NULL,
            first_bytes INTEGER NOT NULL,
            PRIMARY KEY (hour, key, user, session, model)) WITHOUT ROWID""",
    ),
)
"""The statements of each step. ``user_version`` is the number of steps that a file has taken; each
is done whole or not at all. A step that was shipped is never changed."""

ADD = f"""INSERT INTO usage VALUES ({", ".join("?" * 12)})
    ON CONFLICT (hour, key, user, session, model) DO UPDATE SET {
    ", ".join(f"{name} = {name} + excluded.{name}" for name in Spent._fields)
}"""  # noqa: S608 - made of our own names only


NOTE = """INSERT INTO docs (kind, name, doc) VALUES (?, ?, ?)
    ON CONFLICT (kind, name) DO UPDATE SET doc = excluded.doc"""


class SqliteStore:
    """A file for one host. Several processes of that host may use it at once."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._db: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, "portico-store")

    async def open(self) -> None:
        await self._run(self._open)

    async def close(self) -> None:
        if self._db is not None:
            await self._run(self._close)
        self._thread.shutdown(wait=False)

    async def serial(self) -> int:
        return int((await self._run(self._one, "SELECT serial FROM changes"))[0])

    async def load(self, kind: str) -> list[dict[str, Any]]:
        sql = "SELECT doc FROM docs WHERE kind = ? ORDER BY seq"
        return [orjson.loads(row[0]) for row in await self._run(self._all, sql, (kind,))]

    async def insert(self, kind: str, name: str, doc: Doc) -> bool:
        sql = "INSERT OR IGNORE INTO docs (kind, name, doc) VALUES (?, ?, ?)"
        return await self._run(self._change, sql, (kind, name, orjson.dumps(doc)))

    async def update(self, kind: str, name: str, doc: Doc) -> bool:
        sql = "UPDATE docs SET doc = ? WHERE kind = ? AND name = ?"
        return await self._run(self._change, sql, (orjson.dumps(doc), kind, name))

    async def delete(self, kind: str, name: str) -> bool:
        sql = "DELETE FROM docs WHERE kind = ? AND name = ?"
        return await self._run(self._change, sql, (kind, name))

    async def note(self, kind: str, docs: Mapping[str, Doc]) -> None:
        rows = [(kind, name, orjson.dumps(doc)) for name, doc in docs.items()]
        await self._run(self._many, NOTE, rows)

    async def add(self, sums: Mapping[Slot, Spent]) -> None:
        await self._run(self._many, ADD, [(*slot, *spent) for slot, spent in sums.items()])

    async def used(self, since: int, until: int) -> Iterable[tuple[Slot, Spent]]:
        sql = "SELECT * FROM usage WHERE hour >= ? AND hour < ?"
        rows = await self._run(self._all, sql, (since, until))
        return [(Slot(*row[:5]), Spent(*row[5:])) for row in rows]

    async def forget(self, before: int) -> None:
        await self._run(self._write, "DELETE FROM usage WHERE hour < ?", (before,))

    # -- in the thread ----------------------------------------------------------------------------

    async def _run(self, work: Callable[..., T], *args: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(self._told, work, *args))

    def _told(self, work: Callable[..., T], *args: Any) -> T:
        """Do it, with SQLite's and the system's complaints as StoreErrors."""
        try:
            return work(*args)
        except sqlite3.Error as error:
            raise StoreError(explain(self._path, error)) from error
        except OSError as error:
            raise StoreError(f"the store {self._path} cannot be used: {error.strerror}") from error

    def _open(self) -> None:
        if self._db is not None:
            return
        if not self._path.parent.is_dir():
            raise StoreError(
                f"the folder {self._path.parent} of store.url is not there: make it, writable for"
                " the user that the gateway runs as"
            )
        # Before SQLite would make it, so that nobody else of this host can read it.
        self._path.touch(0o600)
        db = sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None)
        try:
            self._prepare(db)
        except BaseException:
            db.close()
            raise
        self._db = db

    def _prepare(self, db: sqlite3.Connection) -> None:
        _set_to_wal(db)
        # A key that was revoked stays so even when the power fails the moment after.
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN IMMEDIATE")
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > len(MIGRATIONS):
                raise StoreError(
                    f"the store {self._path} was written by a newer Portico: start that one, or"
                    " name another file in store.url"
                )
            for statements in MIGRATIONS[version:]:
                for statement in statements:
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    @property
    def _there(self) -> sqlite3.Connection:
        if self._db is None:
            raise StoreError(f"the store {self._path} is not open")
        return self._db

    def _one(self, sql: str) -> Any:
        return self._there.execute(sql).fetchone()

    def _all(self, sql: str, given: Sequence[Any]) -> list[Any]:
        return self._there.execute(sql, given).fetchall()

    def _write(self, sql: str, given: Sequence[Any]) -> None:
        self._there.execute(sql, given)

    def _change(self, sql: str, given: Sequence[Any]) -> bool:
        with _Transaction(self._there) as db:
            done = db.execute(sql, given).rowcount > 0
            if done:
                db.execute("UPDATE changes SET serial = serial + 1")
        return done

    def _many(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        with _Transaction(self._there) as db:
            db.executemany(sql, rows)


class _Transaction:
    """All or nothing. A failed COMMIT leaves the transaction open, which is why it is undone."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> sqlite3.Connection:
        self._db.execute("BEGIN IMMEDIATE")
        return self._db

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")


def _set_to_wal(db: sqlite3.Connection) -> None:
    """Turn the write-ahead log on. SQLite does not wait for others at this one statement, so that
    two processes which open a new file at once would get in each other's way."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return


REMEDIES = (
    ("not a database", "is not a SQLite database: name another file in store.url"),
    ("malformed", "is damaged: put a copy back, or name another file in store.url"),
    ("full", "cannot grow, the disk is full: make room"),
    ("readonly", "cannot be written: give the gateway's user the right to write file and folder"),
    ("unable to open", "cannot be opened: look at the rights of file and folder"),
    ("locked", "is held by another process for too long: see who writes to it"),
    ("disk I/O", "cannot be read or written: look at the disk"),
)


def explain(path: Path, error: sqlite3.Error) -> str:
    """What happened to the file and what to do."""
    text = str(error)
    for phrase, what in REMEDIES:
        if phrase in text:
            return f"the store {path} {what} ({text})"
    return f"the store {path} cannot be used ({text})"
