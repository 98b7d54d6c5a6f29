"""Clients of every kind for the soak: patient, hasty, slow ones, and what each of them saw."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from bench import ours
from bench.client import Answer, Connection

LENGTHS = (1, 5, 25, 100, 400)
"""Events of a stream."""

PACES_US = (0, 1_000, 5_000, 20_000)
"""Between two events; 0 is as fast as they go."""

REFUSED = frozenset({502, 503, 504})
"""What the gateway may say while engines die."""

OK = 200
PATIENCE = 120.0
"""Seconds after which a client gives a request up as lost."""

EVENT, ERROR_EVENT, DONE = b'"@', b'data: {"error"', b"data: [DONE]\n\n"

dice = random.Random()  # noqa: S311 - nothing here is secret


@dataclass(frozen=True, slots=True)
class Errand:
    """What one client does. ``leave_after`` is the seconds after which it leaves while it waits for
    the head, ``leave_at`` the event at which it has read enough; none: it stays to the end."""

    stream: bool
    events: int
    pace_us: int
    prefill_us: int
    leave_after: float | None = None
    leave_at: int | None = None
    abruptly: bool = False
    slowly: bool = False
    bulk: int = 0
    alone: bool = False

    def body(self) -> bytes:
        asked = f"[[mock n={self.events} d={self.pace_us} p={self.prefill_us}]] {'x' * self.bulk}"
        whole = {
            "model": ours.MODEL,
            "messages": [{"role": "user", "content": asked}],
            "stream": self.stream,
        }
        return json.dumps(whole).encode()

    def headers(self) -> dict[str, str]:
        close = {"connection": "close"} if self.alone else {}
        kind = {"content-type": "application/json"}
        return {"authorization": f"Bearer {ours.KEY}", **kind, **close}


def errand() -> Errand:
    """Any errand: half of all clients stay to the end."""
    stream = dice.random() < 0.75
    events = dice.choice(LENGTHS)
    leaving = dice.choice(("no", "no", "early", "midway"))
    early, midway = leaving == "early", leaving == "midway" and stream
    prefill = dice.choice((0, 0, 20_000, 200_000))
    return Errand(
        stream=stream,
        events=events,
        pace_us=dice.choice(PACES_US),
        prefill_us=10_000_000 if early else prefill,
        leave_after=dice.uniform(0.0, 0.4) if early else None,
        leave_at=dice.randrange(events) if midway else None,
        abruptly=dice.random() < 0.5,
        slowly=dice.random() < 0.1,
        bulk=300_000 if dice.random() < 0.03 else 0,
        alone=dice.random() < 0.1,
    )


@dataclass(slots=True)
class Tally:
    """What was seen. ``faults`` must not be; what was ``lost`` without a word, only a process of
    the gateway that was killed may leave behind."""

    seen: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        return self.seen.total() + self.faults.total() + self.lost.total()


class Crowd:
    """So many clients at once, one errand after the other, for a while."""

    def __init__(self, port: int, size: int) -> None:
        self._port, self._size = port, size
        self._until = 0.0
        self.tally = Tally()

    async def run(self, seconds: float) -> None:
        """Come and be gone; errands that were begun are finished."""
        self._until = time.monotonic() + seconds
        await asyncio.gather(*(self._client() for _ in range(self._size)))

    async def _client(self) -> None:
        with Connection("127.0.0.1", self._port) as connection:
            while time.monotonic() < self._until:
                await self._go(connection, errand())
                await asyncio.sleep(dice.uniform(0, 0.05))

    async def _go(self, connection: Connection, one: Errand) -> None:
        patience = PATIENCE if one.leave_after is None else one.leave_after
        try:
            async with asyncio.timeout(patience):
                answer = await connection.post("/v1/chat/completions", one.headers(), one.body())
                await self._read(connection, answer, one)
        except TimeoutError:
            connection.leave(one.abruptly)
            if one.leave_after is None:
                self.tally.faults["no end of it"] += 1
            else:
                self.tally.seen["left before the first event"] += 1
        except OSError as error:
            connection.leave()
            self.tally.lost[f"lost: {error or type(error).__name__}"] += 1

    async def _read(self, connection: Connection, answer: Answer, one: Errand) -> None:
        while await connection.read(answer):
            if one.leave_at is not None and answer.body.count(EVENT) >= one.leave_at:
                connection.leave(one.abruptly)
                self.tally.seen["left in mid-stream"] += 1
                return
            if one.slowly:
                await asyncio.sleep(0.02)
        if answer.status in REFUSED:
            self.tally.seen[f"refused with {answer.status}"] += 1
            await asyncio.sleep(dice.uniform(0, 1))
        elif answer.status == 0:
            self.tally.lost["lost before any answer"] += 1
        elif answer.status != OK:
            self.tally.faults[f"status {answer.status}"] += 1
        elif one.stream:
            self.judge(answer, one)
        elif answer.ended and json.loads(answer.body)["usage"]:
            self.tally.seen["whole answers"] += 1
        else:
            self.tally.lost["lost in the middle of a whole answer"] += 1

    def judge(self, answer: Answer, one: Errand) -> None:
        """A stream is whole, or it says that it is not."""
        done, told = answer.body.endswith(DONE), ERROR_EVENT in answer.body
        if done and answer.ended and not told:
            if answer.body.count(EVENT) == one.events:
                self.tally.seen["whole streams"] += 1
            else:
                self.tally.faults["streams with events missing"] += 1
        elif told and not done:
            self.tally.seen["streams cut, and the client told"] += 1
        else:
            self.tally.lost["streams cut, and the client not told"] += 1
