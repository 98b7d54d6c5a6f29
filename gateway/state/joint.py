"""Limits of keys that several gateways count together, in the Redis that they share.

What a process has to ask and to tell in one turn of its loop goes there in one batch, and the next
follows when that was answered: one connection, everything in order, few round trips. When Redis
does not answer in time, requests are let through within this gateway's own part of the limits. A
new session then tells anew what is under way, so that nothing stays counted that is not there, and
the part of a process that died is forgotten when it has not been heard of for a few seconds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from redis import exceptions as faults
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from gateway.core import limits
from gateway.core.errors import Refusal
from gateway.core.limits import Part, Used, Window
from gateway.state import joint_scripts as scripts
from gateway.state.meter import mark_of
from gateway.state.store_redis import explain
from gateway.state.windows import Hold, Lease, Windows

log = logging.getLogger("portico.limits")

PATIENCE = 0.5
"""Seconds that a batch may take, and the beginning of a session."""

BEAT = 2.0
"""Seconds between signs of life."""

ALIVE_FOR = 7.0
"""Seconds after its last sign of life for which what a process has under way counts: as long as
that, a killed gateway's requests go on taking up room."""

AGAIN = 1.0
"""Seconds between tries to find a Redis that does not answer."""

AT_ONCE = 0.05
"""Seconds before a session that was only lost is begun anew."""

MOST = 256
"""Questions of one batch."""

FIRST_SESSION = 1.0
"""Seconds for which a start waits for Redis."""


class _GoneError(Exception):
    """We do not count as alive any more."""


@dataclass(slots=True, eq=False)
class _Word:
    """One thing to ask (with an ``answer``) or to tell. A ``late`` one is of a request that was
    over before the others were asked."""

    lease: Lease
    cost: int = 0
    late: bool = False
    answer: asyncio.Future[Refusal | None] | None = None


class Joint:
    """One process's hand on what all gateways count. ``gateway`` is the same for all processes of
    one; ``windows`` are told what was learned, and how to divide while nothing can be."""

    def __init__(self, url: str, gateway: str, windows: Windows) -> None:
        parts = urlsplit(url)
        self._where = f"{parts.hostname}:{parts.port or 6379}"
        self._url = url
        self._gateway = gateway
        self._windows = windows
        self._hashes: list[str] = []
        self._me = ""
        self._words: list[_Word] = []
        self._wake = asyncio.Event()
        self._session = asyncio.Event()
        self._under_way: dict[str, list[int]] = {}
        self._owed: dict[str, int] = {}
        self._told = False
        self._lost = False
        self._known = 1
        self._beat = 0.0

    @property
    def here(self) -> bool:
        """Whether limits are counted together now."""
        return self._session.is_set()

    # --- for requests

    async def take(self, lease: Lease) -> None:
        """Count a request in. Raises Refusal ``rate_limit_exceeded``. Without Redis it is let
        through, within what the door has let through of this gateway's part."""
        lease.hold = Hold(time.time())
        if not self.here:
            self._let(lease)
            return
        word = _Word(lease, answer=asyncio.get_running_loop().create_future())
        self._say(word)
        assert word.answer is not None
        refusal = await word.answer
        if refusal is not None:
            raise refusal

    def settle(self, lease: Lease, tokens: int) -> None:
        """A request is over; it cost so much."""
        hold = lease.hold
        if lease.refused:
            return
        if hold is None:
            if self.here and lease.caller.requests_per_minute is not None:
                self._say(_Word(lease, late=True))
            return
        if not hold.open:
            hold.left = True
            return
        self._end(lease)
        if self.here:
            self._say(_Word(lease, tokens))
        else:
            self._owe(lease, tokens)

    def _say(self, word: _Word) -> None:
        self._words.append(word)
        self._wake.set()

    def _let(self, lease: Lease) -> None:
        """It is under way."""
        assert lease.hold is not None
        lease.hold.open = True
        mine = self._under_way.setdefault(_mark(lease), [0, 0])
        mine[0] += 1
        mine[1] += lease.held

    def _end(self, lease: Lease) -> None:
        assert lease.hold is not None
        lease.hold.open = False
        mine = self._under_way[_mark(lease)]
        mine[0] -= 1
        mine[1] -= lease.held
        if not mine[0]:
            del self._under_way[_mark(lease)]

    def _owe(self, lease: Lease, tokens: int) -> None:
        """Remember what was spent until it can be told: rather twice than not at all."""
        if tokens:
            for name in _spent(lease, time.time()):
                self._owed[name] = self._owed.get(name, 0) + tokens

    # --- with Redis

    async def run(self) -> None:
        """Be in touch, for ever."""
        while True:
            db = Redis.from_url(
                self._url,
                socket_timeout=PATIENCE,
                socket_connect_timeout=PATIENCE,
                retry=Retry(NoBackoff(), 0),
            )
            lost = self._lost
            try:
                await self._be_there(db)
            except (faults.RedisError, OSError, ValueError) as error:
                if not (lost and _broke(error)):
                    self._away(error)
                self._lost = False
            except Exception as error:
                log.exception("a fault of ours with limits that gateways share")
                self._away(error)
            finally:
                with contextlib.suppress(Exception):
                    await db.aclose()
            await asyncio.sleep(AGAIN if self._told else AT_ONCE)

    async def _be_there(self, db: Redis) -> None:
        """One session. When it is lost though Redis may be there, what is to be said waits for the
        next one, which has two tries to begin."""
        async with asyncio.timeout(PATIENCE):
            await self._begin(db)
        self._lost = True
        with contextlib.suppress(_GoneError, faults.ConnectionError, ConnectionError):
            while True:
                await self._turn(db)

    async def ready(self) -> None:
        """Return when limits are counted together, or when that may take longer."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_SESSION):
                await self._session.wait()

    async def _begin(self, db: Redis) -> None:
        """A new session, under a new name: tell all that is under way and what was spent since.
        What the old one left half said counts no more. From when that is written down on, what
        changes is said after it."""
        self._hashes = [
            str(await db.script_load(text)) for text in (scripts.TAKE, scripts.SETTLE, scripts.BEAT)
        ]
        self._words = [word for word in self._words if not self._settled_up(word)]
        before, self._me = self._me, f"{self._gateway}/{uuid.uuid4().hex[:12]}"
        owed, self._owed = self._owed, {}
        self._session.set()
        try:
            replies = await self._introduction(db, before, owed).execute()
        except BaseException:
            for name, tokens in owed.items():
                self._owed[name] = self._owed.get(name, 0) + tokens
            raise
        self._beat = time.monotonic() + BEAT
        self._seen(replies[0])
        self._here()

    def _settled_up(self, word: _Word) -> bool:
        """Whether a word needs not be said: what ended is not among what is under way anyway."""
        if word.answer is not None:
            return _dropped(word)
        self._owe(word.lease, word.cost)
        return True

    def _introduction(self, db: Redis, before: str, owed: Mapping[str, int]) -> Pipeline:
        pipe = db.pipeline(transaction=True)
        pipe.evalsha(self._hashes[2], 1, scripts.MEMBERS, self._me, _ms(ALIVE_FOR), 1)
        if before:
            pipe.zrem(scripts.MEMBERS, before)
        for mark, (running, held) in self._under_way.items():
            cells: dict[Any, Any] = {f"r:{self._me}": running, f"h:{self._me}": held}
            pipe.hset(scripts.open_of(mark), mapping=cells)
            pipe.pexpire(scripts.open_of(mark), scripts.OPEN_FOR)
        for name, tokens in owed.items():
            pipe.incrby(name, tokens)
            pipe.expire(name, scripts.kept_for(name))
        return pipe

    async def _turn(self, db: Redis) -> None:
        """One batch, when there is anything to say."""
        if not self._words:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, self._beat - time.monotonic())):
                    await self._wake.wait()
        self._wake.clear()
        words, self._words = self._words[:MOST], self._words[MOST:]
        try:
            async with asyncio.timeout(PATIENCE):
                await self._tell(db, words)
        except BaseException:
            self._words = words + self._words
            raise

    async def _tell(self, db: Redis, words: list[_Word]) -> None:
        """Say them all; what was said is taken out of ``words``. Raises _GoneError."""
        words[:] = [word for word in words if not _dropped(word)]
        beats = time.monotonic() >= self._beat
        if not words and not beats:
            return
        pipe = db.pipeline(transaction=False)
        for word in words:
            if word.answer is not None:
                pipe.evalsha(self._hashes[0], 5, *_names(word.lease, True), *self._take(word.lease))
            else:
                pipe.evalsha(self._hashes[1], 5, *_names(word.lease, False), *self._settle(word))
        if beats:
            names = [scripts.MEMBERS, *map(scripts.open_of, self._under_way)]
            pipe.evalsha(self._hashes[2], len(names), *names, self._me, _ms(ALIVE_FOR), 0)
        replies = await pipe.execute(raise_on_error=False)
        self._hear(words, replies)
        if beats:
            self._beat = time.monotonic() + BEAT
            self._seen(_sound(replies[-1]))

    def _hear(self, words: list[_Word], replies: Sequence[Any]) -> None:
        """What a batch was answered, word by word. Raises _GoneError."""
        said, gone = tuple(words), False
        for word, reply in zip(said, replies, strict=False):
            told = _sound(reply)
            if word.answer is None:
                gone = gone or not told
                words.remove(word)
            elif told[0] == scripts.GONE:
                gone = True
            else:
                self._answered(word, told)
                words.remove(word)
        if gone:
            raise _GoneError

    def _take(self, lease: Lease) -> Sequence[Any]:
        caller = lease.caller
        most = (
            caller.max_concurrency,
            caller.requests_per_minute,
            caller.tokens_per_minute,
            caller.tokens_per_day,
            caller.tokens_per_month,
        )
        tokens = lease.held if lease.costs else -1
        return self._me, tokens, *(-1 if limit is None else limit for limit in most)

    def _settle(self, word: _Word) -> Sequence[Any]:
        lease = word.lease
        kept = scripts.DAY_KEPT, scripts.MONTH_KEPT
        if word.late:
            return self._me, 0, 0, 1, 0, 0, 0, *kept
        assert lease.hold is not None
        minute = lease.costs and lease.caller.tokens_per_minute is not None
        more = word.cost - lease.tokens if minute else 0
        return self._me, -1, -lease.held, 0, more, lease.hold.stamp, word.cost, *kept

    def _answered(self, word: _Word, reply: Sequence[Any]) -> None:
        """Whether there was room, to whoever asked."""
        how, stamp, *told = reply
        lease, now = word.lease, time.monotonic()
        assert lease.hold is not None
        lease.used, lease.seen = _used(told, stamp, now), now
        self._learn(lease)
        if how == scripts.REFUSED:
            self._windows.uncount(lease, now)
            _answer(word, _refusal(lease, now))
            return
        lease.hold.stamp = stamp
        self._let(lease)
        if lease.hold.left:
            self.settle(lease, 0)
        else:
            _answer(word, None)

    def _learn(self, lease: Lease) -> None:
        """What all have spent is what this gateway goes by when it is alone."""
        assert lease.hold is not None
        used, wall = lease.used, lease.hold.asked
        if used.day or used.month:
            budget = limits.day_of(wall)[0], used.day, limits.month_of(wall)[0], used.month
            self._windows.meter.raise_to(lease.column, budget)

    def _seen(self, members: Sequence[bytes]) -> None:
        """Who else is there. Raises _GoneError."""
        if not members:
            raise _GoneError
        self._known = len({bytes(name).partition(b"/")[0] for name in members})

    # --- there and away

    def _here(self) -> None:
        self._windows.gateways = 1
        self._session.set()
        if self._told:
            log.info(
                "limits: the store at %s answers again; limits of keys are counted over all"
                " gateways",
                self._where,
            )
        self._told = False

    def _away(self, error: Exception) -> None:
        """Nothing can be asked now: who asked is let through."""
        self._session.clear()
        self._windows.gateways = self._known
        words, self._words = self._words, []
        self._decide([word for word in words if not self._settled_up(word)])
        if not self._told:
            part = f", each to 1/{self._known} of its value" if self._known > 1 else ""
            log.warning(
                "limits: %s. Until then this gateway holds limits of keys by itself%s, and budgets"
                " by what is known of them",
                explain(self._where, _plain(error), PATIENCE),
                part,
            )
        self._told = True

    def _decide(self, words: Sequence[_Word]) -> None:
        """Who asked while there was nobody any more is answered by this gateway's part alone."""
        now, wall = time.monotonic(), time.time()
        refused: Counter[int] = Counter()
        for word in words:
            lease = word.lease
            refusal = self._windows.again(lease, refused[lease.column], now, wall)
            if refusal is None:
                self._let(lease)
            else:
                refused[lease.column] += 1
                lease.refused = True
            _answer(word, refusal)
        for word in words:
            if word.lease.refused:
                self._windows.uncount(word.lease, now)

    async def close(self) -> None:
        """Tell the rest and leave, so that nobody has to wait for us to be forgotten."""
        with contextlib.suppress(faults.RedisError, OSError, ValueError, TimeoutError, _GoneError):
            async with asyncio.timeout(2 * PATIENCE), Redis.from_url(self._url) as db:
                if self.here:
                    await self._tell(db, self._words)
                await db.zrem(scripts.MEMBERS, self._me)


def _broke(error: Exception) -> bool:
    """Whether a connection broke, which may happen to one and not to the next."""
    return isinstance(error, (faults.ConnectionError, ConnectionError))


def _mark(lease: Lease) -> str:
    return f"{mark_of(lease.caller.name):016x}"


def _spent(lease: Lease, wall: float) -> tuple[str, str]:
    return scripts.spent_of(_mark(lease), limits.day_of(wall)[0], limits.month_of(wall)[0])


def _names(lease: Lease, asking: bool) -> Sequence[str]:
    """The names of what a script looks at. Around midnight a question is about the day on which it
    was asked, an end about the day on which it is told."""
    mark = _mark(lease)
    wall = lease.hold.asked if asking and lease.hold is not None else time.time()
    return scripts.MEMBERS, scripts.open_of(mark), scripts.minute_of(mark), *_spent(lease, wall)


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _dropped(word: _Word) -> bool:
    """Whether a question need not be asked any more."""
    hold = word.lease.hold
    return word.answer is not None and hold is not None and hold.left


def _answer(word: _Word, refusal: Refusal | None) -> None:
    if word.answer is not None and not word.answer.done():
        word.answer.set_result(refusal)


def _sound(reply: Any) -> Any:
    """A reply that is no fault. Raises what it is otherwise; scripts that are gone, as after a
    restart of the server, only need a new session."""
    if isinstance(reply, faults.NoScriptError):
        raise _GoneError from reply
    if isinstance(reply, Exception):
        raise reply
    return reply


def _plain(error: Exception) -> Exception:
    return faults.TimeoutError() if isinstance(error, TimeoutError) else error


def _used(told: Sequence[Any], stamp: int, now: float) -> Used:
    """What a key uses over all gateways, before the request that was asked about. Moments of the
    server's clock become our own."""
    running, held, day, month, requests, tokens = told
    wall = time.time()
    (_, day_left), (_, month_left) = limits.day_of(wall), limits.month_of(wall)
    minute, spent = _window(requests, stamp, now), _window(tokens, stamp, now)
    return Used(running, minute, spent, day, month, held, day_left, month_left)


def _window(told: Sequence[tuple[int, int]], stamp: int, now: float) -> Window:
    parts: list[Part] = [(now - (stamp - when) / 1000, amount) for when, amount in told]
    return Window(sum(amount for _, amount in parts), parts[-1][0] if parts else 0.0, lambda: parts)


def _refusal(lease: Lease, now: float) -> Refusal | None:
    """Why the others had no room, by the same rules by which they found that."""
    caller, used = lease.caller, lease.used
    refusal = limits.admit(caller, used, now)
    if refusal is None and lease.costs:
        refusal = limits.reserve(caller, used, lease.held, now)
    return refusal
