"""Background tasks neither vanish nor fail in silence."""

from __future__ import annotations

import asyncio
import gc

import pytest

from gateway.tasks import Tasks


async def test_a_task_that_nobody_holds_runs_to_its_end() -> None:
    done = asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    tasks = Tasks()
    tasks.spawn(work(), "work")
    gc.collect()
    async with asyncio.timeout(1):
        await done.wait()
    await asyncio.sleep(0)
    assert len(tasks) == 0


async def test_an_exception_that_nobody_caught_is_logged_with_the_tasks_name(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("oops")

    tasks = Tasks()
    await asyncio.wait([tasks.spawn(fail(), "the failing one")])
    await asyncio.sleep(0)
    assert "'the failing one' ended by a fault of ours" in caplog.text
    assert "ZeroDivisionError: oops" in caplog.text


async def test_cancelling_all_waits_for_the_end_and_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(name)

    tasks = Tasks()
    for name in ("a", "b"):
        tasks.spawn(work(name), name)
    await asyncio.sleep(0)
    await tasks.cancel_all()
    assert sorted(ended) == ["a", "b"]
    assert len(tasks) == 0
    assert not caplog.records


async def test_what_a_dying_task_spawns_is_cancelled_as_well() -> None:
    tasks = Tasks()

    async def heir() -> None:
        await asyncio.sleep(60)

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            tasks.spawn(heir(), "heir")

    tasks.spawn(work(), "work")
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await tasks.cancel_all()
    assert len(tasks) == 0
