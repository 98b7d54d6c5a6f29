"""Messages between the control process and its workers, over deaths, faults and deaf ears."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.state import link
from gateway.state.link import Asked, Hub, Message, Spoke
from gateway.tasks import Tasks


class Control:
    """A hub that notes what it hears."""

    def __init__(self, greeting: list[Message]) -> None:
        self.heard: list[tuple[str, str, Any]] = []
        self.hub = Hub(self._hear, lambda: greeting)

    def _hear(self, worker: str, kind: str, content: Any) -> None:
        if kind == "fault":
            raise RuntimeError(content)
        self.heard.append((worker, kind, content))


class Ear:
    """A spoke that notes what it hears, and how often the other side was lost."""

    def __init__(self, name: str) -> None:
        self.heard: list[Message] = []
        self.losses = 0
        self.spoke = Spoke(name, self._hear, self._lost)

    def _hear(self, kind: str, content: Any) -> None:
        if kind == "fault":
            raise RuntimeError(content)
        self.heard.append((kind, content))

    def _lost(self) -> None:
        self.losses += 1


async def until(check: Callable[[], Any], timeout: float = 2.0) -> None:
    async with asyncio.timeout(timeout):
        while not check():
            await asyncio.sleep(0.005)


Body = Callable[[str, Control, Ear, Ear], Awaitable[None]]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "RETRY", 0.02)


async def linked(path: str, body: Body, greeting: list[Message] | None = None) -> None:
    """Runs ``body`` with a control process that listens and two workers that have found it."""
    control, one, two = Control(greeting or []), Ear("one"), Ear("two")
    tasks = Tasks()
    await control.hub.listen(path)
    for ear in (one, two):
        tasks.spawn(ear.spoke.run(path), "spoke")
    try:
        await until(lambda: control.hub.workers == {"one", "two"})
        await body(path, control, one, two)
    finally:
        control.hub.close()
        await tasks.cancel_all()


async def test_messages_come_whole_and_in_order_both_ways(tmp_path: Path) -> None:
    async def body(path: str, control: Control, one: Ear, two: Ear) -> None:
        big = b"x" * 3_000_000
        for number in range(50):
            control.hub.tell("one", "to one", number)
            one.spoke.say("from one", number)
        control.hub.tell("one", "to one", big)
        control.hub.tell_all("to all", {"a": 1})
        control.hub.tell("nobody", "to one", 0)
        await until(lambda: len(one.heard) == 52 and two.heard and len(control.heard) == 50)
        assert one.heard[:50] == [("to one", number) for number in range(50)]
        assert one.heard[50:] == [("to one", big), ("to all", {"a": 1})]
        assert two.heard == [("to all", {"a": 1})]
        assert control.heard == [("one", "from one", number) for number in range(50)]

    await linked(str(tmp_path / "s"), body)


async def test_a_worker_is_greeted_before_it_hears_anything_else(tmp_path: Path) -> None:
    async def body(path: str, control: Control, one: Ear, two: Ear) -> None:
        control.hub.tell_all("news", 1)
        await until(lambda: len(one.heard) == 3)
        assert one.heard == [("config", 1), ("fleet", 2), ("news", 1)]

    await linked(str(tmp_path / "s"), body, [("config", 1), ("fleet", 2)])


async def test_workers_find_the_next_control_process(tmp_path: Path) -> None:
    """It listens on the same path, where the socket of the dead one still lies."""

    async def body(path: str, control: Control, one: Ear, two: Ear) -> None:
        control.hub.close()
        await until(lambda: not one.spoke.connected.is_set())
        one.spoke.say("into the wind", 1)
        assert (one.losses, two.losses) == (1, 1)
        successor = Control([("fleet", "next")])
        await successor.hub.listen(path)
        await asyncio.wait_for(one.spoke.connected.wait(), 1.0)
        one.spoke.say("hello again", 2)
        await until(lambda: successor.heard and one.heard and two.heard)
        assert successor.heard == [("one", "hello again", 2)]
        assert one.heard == two.heard == [("fleet", "next")]
        successor.hub.close()

    await linked(str(tmp_path / "s"), body)


async def test_a_worker_waits_for_a_control_process_that_comes_later(tmp_path: Path) -> None:
    ear, control, tasks = Ear("early"), Control([("fleet", 1)]), Tasks()
    tasks.spawn(ear.spoke.run(str(tmp_path / "s")), "spoke")
    await asyncio.sleep(0.06)
    assert not ear.spoke.connected.is_set()
    await control.hub.listen(str(tmp_path / "s"))
    await until(lambda: ear.heard == [("fleet", 1)])
    assert ear.losses == 0
    control.hub.close()
    await tasks.cancel_all()


async def test_a_worker_that_left_is_no_longer_told(tmp_path: Path) -> None:
    async def body(path: str, control: Control, one: Ear, two: Ear) -> None:
        tasks = Tasks()
        third = Ear("third")
        running = tasks.spawn(third.spoke.run(path), "spoke")
        await until(lambda: "third" in control.hub.workers)
        running.cancel()
        await until(lambda: control.hub.workers == {"one", "two"})
        control.hub.tell_all("news", 1)
        await until(lambda: one.heard and two.heard)
        assert third.heard == []

    await linked(str(tmp_path / "s"), body)


@pytest.mark.parametrize("faulty", ["control", "worker"])
async def test_a_fault_with_one_message_does_not_end_the_link_for_good(
    tmp_path: Path, faulty: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(path: str, control: Control, one: Ear, two: Ear) -> None:
        if faulty == "control":
            one.spoke.say("fault", "oh")
        else:
            control.hub.tell("one", "fault", "oh")
        await until(lambda: one.losses == 1)
        await until(lambda: control.hub.workers == {"one", "two"})
        await until(lambda: len(one.heard) == 2)
        assert one.heard == [("fleet", 1), ("fleet", 1)], "it is told all anew"
        assert two.losses == 0
        assert "RuntimeError: oh" in caplog.text

    await linked(str(tmp_path / "s"), body, [("fleet", 1)])


async def test_what_waits_for_a_deaf_process_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "CLOGGED", 1_000_000)

    async def body(path: str, control: Control, one: Ear, two: Ear) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        link.write(writer, link.frame("hello", "deaf"))
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        await until(lambda: "deaf" in control.hub.workers)
        for _ in range(30):
            control.hub.tell_all("fleet", b"x" * 100_000)
            await asyncio.sleep(0)
        await until(lambda: control.hub.workers == {"one", "two"})
        await until(lambda: len(one.heard) == 30)
        assert (one.losses, two.losses) == (0, 0)
        writer.close()

    await linked(str(tmp_path / "s"), body)


async def test_a_question_gets_its_own_answer() -> None:
    asked, sent = Asked(), list[int]()
    questions = [asyncio.ensure_future(asked.ask(sent.append, 1.0)) for _ in range(2)]
    await asyncio.sleep(0)
    assert len(set(sent)) == 2
    for number in reversed(sent):
        asked.answered(number, f"to {number}")
        asked.answered(number, "once more")
    asked.answered(99, "to nobody")
    assert await asyncio.gather(*questions) == [f"to {number}" for number in sent]


async def test_a_question_nobody_answers_ends_in_time_or_with_the_other_process() -> None:
    asked = Asked()
    with pytest.raises(TimeoutError):
        await asked.ask(lambda number: None, 0.01)
    question = asyncio.ensure_future(asked.ask(lambda number: None, 60.0))
    await asyncio.sleep(0)
    asked.lost()
    with pytest.raises(ConnectionError):
        await question
    asked.lost()
