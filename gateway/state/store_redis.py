"""The store in Redis or Valkey, which several gateways may share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import orjson
from redis import exceptions as faults
from redis.asyncio import Redis

from gateway.core.spending import Slot, Spent
from gateway.core.types import Doc
from gateway.state.store import StoreError

PATIENCE = 2.0
"""Seconds for a connection and for an answer."""

PREFIX = "{portico}:"
"""What every name begins with. In braces, so that a cluster keeps all on one node."""

SERIAL = PREFIX + "serial"
HOURS = PREFIX + "hours"

INSERT = """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then return 0 end
local at = redis.call('INCR', KEYS[2])
redis.call('HSET', KEYS[1], ARGV[1], string.format('%016d ', at) .. ARGV[2])
return 1"""

UPDATE = """
local old = redis.call('HGET', KEYS[1], ARGV[1])
if not old then return 0 end
redis.call('HSET', KEYS[1], ARGV[1], string.sub(old, 1, 17) .. ARGV[2])
redis.call('INCR', KEYS[2])
return 1"""

DELETE = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('INCR', KEYS[2])
return 1"""

PLACE = 17
"""Characters before a document: the serial at which it was made, and a blank."""

UNPLACED = b"%016d " % 0


def _docs(kind: str) -> str:
    return f"{PREFIX}docs:{kind}"


def _hour(hour: int) -> str:
    return f"{PREFIX}usage:{hour}"


class RedisStore:
    """A hash for each kind of document, and one for each hour of usage."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._where = f"{parts.hostname}:{parts.port or 6379}"
        self._db: Redis = Redis.from_url(
            url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE
        )

    async def open(self) -> None:
        await self._told(self._db.ping)

    async def close(self) -> None:
        await self._db.aclose()

    async def serial(self) -> int:
        return int(await self._told(lambda: self._db.get(SERIAL)) or 0)

    async def load(self, kind: str) -> list[dict[str, Any]]:
        found = cast("list[bytes]", await self._told(lambda: self._db.hvals(_docs(kind))))
        return [orjson.loads(value[PLACE:]) for value in sorted(found)]

    async def insert(self, kind: str, name: str, doc: Doc) -> bool:
        return await self._change(INSERT, kind, name, orjson.dumps(doc))

    async def update(self, kind: str, name: str, doc: Doc) -> bool:
        return await self._change(UPDATE, kind, name, orjson.dumps(doc))

    async def delete(self, kind: str, name: str) -> bool:
        return await self._change(DELETE, kind, name)

    async def _change(self, script: str, kind: str, *given: Any) -> bool:
        done = await self._told(lambda: self._db.eval(script, 2, _docs(kind), SERIAL, *given))
        return bool(done)

    async def note(self, kind: str, docs: Mapping[str, Doc]) -> None:
        values: dict[Any, Any] = {name: UNPLACED + orjson.dumps(doc) for name, doc in docs.items()}
        if values:
            await self._told(lambda: self._db.hset(_docs(kind), mapping=values))

    async def add(self, sums: Mapping[Slot, Spent]) -> None:
        await self._told(lambda: self._add(sums))

    async def _add(self, sums: Mapping[Slot, Spent]) -> None:
        async with self._db.pipeline(transaction=True) as pipe:
            for slot, spent in sums.items():
                pipe.zadd(HOURS, {str(slot.hour): slot.hour})
                for column, value in zip(Spent._fields, spent, strict=True):
                    if value:
                        field = orjson.dumps([*slot[1:], column])
                        pipe.hincrbyfloat(_hour(slot.hour), field, value)
            await pipe.execute()

    async def used(self, since: int, until: int) -> Iterable[tuple[Slot, Spent]]:
        hours = await self._told(lambda: self._db.zrangebyscore(HOURS, since, until - 1))
        found: dict[Slot, dict[str, float]] = {}
        for hour in map(int, hours):
            fields = await self._told(partial(self._db.hgetall, _hour(hour)))
            for field, value in fields.items():
                *names, column = orjson.loads(field)
                found.setdefault(Slot(hour, *names), {})[column] = float(value)
        return [(slot, _spent(columns)) for slot, columns in found.items()]

    async def forget(self, before: int) -> None:
        old = await self._told(lambda: self._db.zrangebyscore(HOURS, "-inf", before - 1))
        if old:
            await self._told(lambda: self._db.delete(*(_hour(int(hour)) for hour in old)))
            await self._told(lambda: self._db.zremrangebyscore(HOURS, "-inf", before - 1))

    async def _told(self, ask: Callable[[], Awaitable[Any]]) -> Any:
        """Ask, with the client's complaints as StoreErrors."""
        try:
            return await ask()
        except (faults.RedisError, OSError, ValueError) as error:
            raise StoreError(explain(self._where, error)) from error


def _spent(columns: Mapping[str, float]) -> Spent:
    sums = Spent(**{name: int(value) for name, value in columns.items() if name != "ttft"})
    return sums._replace(ttft=columns.get("ttft", 0.0))


def explain(where: str, error: Exception, patience: float = PATIENCE) -> str:
    """What happened to the server and what to do. The client's own text is left out where it may
    hold what was sent."""
    match error:
        case faults.AuthenticationError():
            return f"the store at {where} refuses the password of store.url: correct it"
        case faults.TimeoutError():
            return (
                f"the store at {where} does not answer within {patience:g} s: see whether it runs"
            )
        case faults.ConnectionError() | OSError():
            return f"the store at {where} cannot be reached: see whether it runs and store.url"
        case faults.OutOfMemoryError():
            return f"the store at {where} is full: give it more memory (maxmemory)"
        case faults.ResponseError() if "READONLY" in str(error):
            return f"the store at {where} is a replica: name the primary in store.url"
    return f"the store at {where} failed ({type(error).__name__}: {str(error)[:100]})"
