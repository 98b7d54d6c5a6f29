"""Keeps what is known of the store true: opens it, looks for changes that others made, and has the
rest of the control side told. Requests never wait for it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gateway.core.errors import Refusal
from gateway.core.limits import month_of
from gateway.core.spending import Slot, Spent, Sums, merge
from gateway.core.types import Doc
from gateway.state.meter import Budget, Meter, greater
from gateway.state.store import BUDGET, DOOR, KEY, PROVIDER, Store, StoreError, store_at
from gateway.tasks import Tasks

log = logging.getLogger("portico.store")

T = TypeVar("T")

LOOK_EVERY = 0.5
"""Seconds between looks for what other processes and gateways changed."""

PAY_EVERY = 2.0
"""Seconds between writes of usage and budgets: as much as the control process's sudden death can
lose of the one, and the whole gateway's of the other."""

FORGET_EVERY = 3600.0
"""Seconds between looks for usage that is older than the retention."""

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
    ``stored`` is None until the store could be read; one that fails later keeps its last. Usage
    older than ``retention`` seconds is dropped. ``meter`` counts what keys have spent."""

    def __init__(
        self,
        url: str | None,
        changed: Callable[[Stored], Awaitable[None]],
        meter: Meter,
        stored: Stored | None = None,
        retention: float = 90 * 86400.0,
    ) -> None:
        self.url = url
        self.retention = retention
        self._owed: Sums = {}
        self.stored = stored
        self._changed = changed
        self._meter = meter
        self._noted: dict[str, Budget] = {}
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
        self._tasks.spawn(self._keep_paying(), "usage")

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
            self._meter.restore(await _budgets(self._store))
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
        if self._owed:
            await self._pay()
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

    # -- usage ------------------------------------------------------------------------------------

    def spent(self, sums: Mapping[Slot, Spent]) -> None:
        """Take what a data-plane process counted. Without a store it is not kept."""
        if self.url is not None:
            merge(self._owed, sums)

    async def _keep_paying(self) -> None:
        forget = 0.0
        while True:
            await asyncio.sleep(PAY_EVERY)
            await self._pay()
            if time.monotonic() >= forget:
                forget = time.monotonic() + FORGET_EVERY
                await self._forget()

    async def _pay(self) -> None:
        """Write down what was used; what cannot be written now is kept for the next time."""
        owed, self._owed = self._owed, {}
        try:
            store = await self._ready()
            await self._note_budgets(store)
            if owed:
                await store.add(owed)
        except StoreError as error:
            self._complain(str(error))
            merge(self._owed, owed)

    async def _note_budgets(self, store: Store) -> None:
        """Keep what keys have spent, so that a restart forgets none of it. Of gateways that share a
        store the greater number holds: each is told what all have spent (state/joint.py)."""
        spent = self._meter.export()
        changed = {mark: one for mark, one in spent.items() if self._noted.get(mark) != one}
        if not changed:
            return
        kept = await _budgets(store)
        docs = {
            mark: {"mark": mark, "spent": greater(kept.get(mark, one), one)}
            for mark, one in changed.items()
        }
        await store.note(BUDGET, docs)
        self._noted.update(changed)

    async def _forget(self) -> None:
        try:
            await (await self._ready()).forget(int(time.time() - self.retention))
        except StoreError as error:
            self._complain(str(error))

    async def _write(self, work: Callable[[Store], Awaitable[bool]]) -> bool:
        """Change something, and have it in force before the answer says so."""
        done = await self._ask(work)
        await self._look()
        return done

    async def close(self) -> None:
        await self._tasks.cancel_all()
        if self.url is not None:
            await self._pay()
        if self._store is not None:
            await self._store.close()


async def _budgets(store: Store) -> dict[str, Budget]:
    """What keys have spent in this month, by their marks. Raises StoreError."""
    month, _ = month_of(time.time())
    docs = await store.load(BUDGET)
    return {doc["mark"]: tuple(doc["spent"]) for doc in docs if doc["spent"][2] >= month}
