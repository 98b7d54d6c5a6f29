"""Keeps what is known of the store true: opens it, looks for changes that others made, and has the
rest of the control side told. Requests never wait for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gateway.core.errors import Refusal
from gateway.core.ledger import Slot, Spent
from gateway.core.types import Doc
from gateway.state.store import DOOR, KEY, PROVIDER, Store, StoreError, store_at
from gateway.tasks import Tasks

log = logging.getLogger("portico.store")

T = TypeVar("T")

LOOK_EVERY = 0.5
"""Seconds between looks for what other processes and gateways changed."""

FIRST_LOOK = 3.0
"""Seconds that opening the store may hold up the start."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the store held when it was last read. ``closed``: keys were made in it once."""

    keys: tuple[Doc, ...] = ()
    providers: tuple[Doc, ...] = ()
    closed: bool = False


def no_store() -> Refusal:
    return Refusal(
        "unsupported",
        "This needs a store, and none is configured. Set store.url in the configuration, such as"
        " sqlite:///var/lib/portico/portico.db or redis://HOST:6379/0, and restart the gateway.",
    )


class Keeper:
    """``changed(stored)`` is awaited after everything that was written here or elsewhere.
    ``stored`` is None until the store could be read; one that fails later keeps its last."""

    def __init__(
        self,
        url: str | None,
        changed: Callable[[Stored], Awaitable[None]],
        stored: Stored | None = None,
    ) -> None:
        self.url = url
        self.stored = stored
        self._changed = changed
        self._store: Store | None = None
        self._open = False
        self._serial: int | None = None
        self._told = ""
        self._reading = asyncio.Lock()
        self._tasks = Tasks()

    async def start(self) -> None:
        """Open and read the store; when that fails, say so and go on trying."""
        if self.url is None:
            return
        try:
            async with asyncio.timeout(FIRST_LOOK):
                await self._look()
        except TimeoutError:
            self._complain("the store does not answer yet")
        self._tasks.spawn(self._keep_looking(), "store")

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self._look()

    async def _look(self) -> None:
        try:
            await self._read_if_changed()
        except StoreError as error:
            self._complain(str(error))
        except Exception:
            log.exception("a fault of ours while reading the store")
        else:
            self._told = ""

    def _complain(self, text: str) -> None:
        """Once for each trouble, since it is looked at twice a second."""
        if text != self._told:
            log.error("%s. Routes that need it answer 503; requests are served as before", text)
        self._told = text

    async def _read_if_changed(self) -> None:
        async with self._reading:
            store = await self._ready()
            serial = await store.serial()
            if serial == self._serial:
                return
            stored = Stored(
                tuple(await store.load(KEY)),
                tuple(await store.load(PROVIDER)),
                bool(await store.load(DOOR)),
            )
            self._serial, self.stored = serial, stored
            await self._changed(stored)

    async def _ready(self) -> Store:
        """The store, open. Raises StoreError."""
        assert self.url is not None
        if self._store is None:
            self._store = store_at(self.url)
        if not self._open:
            await self._store.open()
            self._open = True
        return self._store

    # -- Records ----------------------------------------------------------------------------------

    async def all(self, kind: str) -> Sequence[Doc]:
        return await self._ask(lambda store: store.load(kind))

    async def insert(self, kind: str, name: str, doc: Doc) -> bool:
        return await self._write(lambda store: store.insert(kind, name, doc))

    async def update(self, kind: str, name: str, doc: Doc) -> bool:
        return await self._write(lambda store: store.update(kind, name, doc))

    async def delete(self, kind: str, name: str) -> bool:
        return await self._write(lambda store: store.delete(kind, name))

    async def used(self, since: int, until: int) -> Iterable[tuple[Slot, Spent]]:
        return await self._ask(lambda store: store.used(since, until))

    async def _ask(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """Do something with the store. Raises Refusal."""
        if self.url is None:
            raise no_store()
        try:
            return await work(await self._ready())
        except StoreError as error:
            self._complain(str(error))
            raise Refusal(
                "overloaded", f"Nothing was read or changed: {error}. Then try again."
            ) from None

    async def _write(self, work: Callable[[Store], Awaitable[bool]]) -> bool:
        """Change something, and have it in force before the answer says so."""
        done = await self._ask(work)
        await self._look()
        return done

    async def close(self) -> None:
        await self._tasks.cancel_all()
        if self._store is not None:
            await self._store.close()
