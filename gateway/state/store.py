"""What outlives a restart: providers, keys, budgets, usage, in SQLite or Redis by one interface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import unquote

from gateway.core.spending import Slot, Spent
from gateway.core.types import Doc

PROVIDER, KEY, DOOR, BUDGET = "provider", "key", "door", "budget"
"""The kinds of documents. A DOOR says that keys were made here once, so that the last revoked one
does not open the gateway to everybody; a BUDGET is what a key has spent of its day and month."""


class StoreError(Exception):
    """The store cannot be used now. The message says what happened and what to do; it holds no
    password."""


class Store(Protocol):
    """Documents by kind and id, oldest first, and sums of usage. Every method may raise StoreError
    and none blocks the event loop. ``serial`` grows with every change of a document, whoever makes
    it, so that others can tell when to load again."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...
    async def serial(self) -> int: ...
    async def load(self, kind: str) -> list[dict[str, Any]]: ...
    async def insert(self, kind: str, name: str, doc: Doc) -> bool:
        """False when there is one of that name already."""
        ...

    async def update(self, kind: str, name: str, doc: Doc) -> bool:
        """False when there is none of that name."""
        ...

    async def delete(self, kind: str, name: str) -> bool:
        """False when there is none of that name."""
        ...

    async def note(self, kind: str, docs: Mapping[str, Doc]) -> None:
        """Keep documents by name, in the place of what was there, without moving the serial."""
        ...

    async def add(self, sums: Mapping[Slot, Spent]) -> None:
        """Add to what was used; all of it or nothing."""
        ...

    async def used(self, since: int, until: int) -> Iterable[tuple[Slot, Spent]]:
        """The sums of the hours that begin at ``since`` or later and before ``until``."""
        ...

    async def forget(self, before: int) -> None:
        """Drop the sums of the hours that began before this Unix time."""
        ...


def store_at(url: str) -> Store:
    """The store of ``store.url``, not opened yet. Raises StoreError where a package is missing."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() == "sqlite":
        from gateway.state.store_sqlite import SqliteStore

        return SqliteStore(unquote(rest))
    try:
        from gateway.state.store_redis import RedisStore
    except ImportError:
        raise StoreError(
            "store.url names a Redis, for which the package 'redis' is needed: install portico"
            " with its extra, pip install 'portico[redis]', or use sqlite:///PATH"
        ) from None
    return RedisStore(url)
