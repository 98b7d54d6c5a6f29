"""When what has ended is entered into the books: a moment later, or when somebody looks."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from aiohttp import web

from gateway.core.types import Outcome
from gateway.edge import handler as door
from gateway.edge.front import FrontServer
from gateway.edge.handler import Handler
from gateway.edge.outbox import Outbox
from gateway.edge.request import Request
from gateway.edge.upstream import Pool
from gateway.state.board import Board
from tests.edge.test_front import Wire

ASK = b'POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n\r\n{"model":"m"}'


class Nobody:
    """Sensors that nothing is expected to be told to."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


async def no_pages(request: Request, path: str, rid: str) -> web.Response:
    raise AssertionError(path)


class Door:
    """A handler without a fleet, and what it reports. Reports of ``faulty`` fail."""

    def __init__(self, faulty: int = -1) -> None:
        loop = asyncio.get_running_loop()
        self.reported: list[Outcome] = []
        self.asked = 0
        self._faulty = faulty
        outbox = Outbox(loop)
        self.pool = Pool(loop, outbox)
        self.handler = Handler(
            loop=loop,
            pool=self.pool,
            board=Board(),
            senses=Nobody(),
            report=self._report,
            own_pages=no_pages,
        )
        self.server = FrontServer(self.handler, outbox, loop)

    def _report(self, outcome: Outcome) -> None:
        self.asked += 1
        if self.asked == self._faulty:
            raise ValueError
        self.reported.append(outcome)

    def ask(self, times: int) -> None:
        for _ in range(times):
            protocol, wire = self.server(), Wire()
            protocol.connection_made(wire)
            protocol.data_received(ASK)
            assert wire.out.startswith(b"HTTP/1.1 404 ")


async def test_an_answer_leaves_before_its_request_is_entered() -> None:
    here = Door()
    here.ask(3)
    assert here.reported == [] and len(here.handler.recall) == 0
    assert here.handler.active == 0
    here.handler.enter()
    assert [outcome.status for outcome in here.reported] == [404] * 3
    here.handler.enter()
    assert len(here.reported) == len(here.handler.recall) == 3


async def test_very_many_are_entered_a_part_at_a_time_and_none_is_left() -> None:
    here = Door()
    here.ask(2 * door.ENTER_AT_ONCE + 1)
    seen = set()
    async with asyncio.timeout(5):
        while len(here.reported) < 2 * door.ENTER_AT_ONCE + 1:
            await asyncio.sleep(0)
            seen.add(len(here.reported))
    assert {0, door.ENTER_AT_ONCE, 2 * door.ENTER_AT_ONCE} < seen
    here.ask(1)
    await asyncio.sleep(10 * door.ENTER_AFTER)
    assert len(here.reported) == 2 * door.ENTER_AT_ONCE + 2


async def test_the_end_is_when_it_was_and_not_when_it_was_entered() -> None:
    here = Door()
    here.ask(1)
    before = here.handler._ended[0].duration
    await asyncio.sleep(0.05)
    assert here.reported[0].duration == before


async def test_a_fault_with_one_loses_no_other(caplog: pytest.LogCaptureFixture) -> None:
    here = Door(faulty=2)
    here.ask(3)
    here.handler.enter()
    assert len(here.reported) == 2
    assert "a fault of the gateway itself" in caplog.text
