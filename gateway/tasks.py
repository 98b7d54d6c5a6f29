"""Background tasks that cannot vanish: references are held and every unexpected end is logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

log = logging.getLogger("portico.tasks")


class Tasks:
    """A set of running tasks. Each leaves the set when it ends; an exception that nobody caught
    is logged with the task's name and its traceback, and goes no further."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Start ``coro`` under ``name`` on the running loop; the task is returned for those who
        want to await or cancel it, but nobody has to keep it."""
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def __len__(self) -> int:
        return len(self._running)

    async def cancel_all(self) -> None:
        """Cancel everything that runs, tasks spawned meanwhile included, and wait for the end.
        A caller that is itself one of the tasks is left out."""
        while rest := self._running - {asyncio.current_task()}:
            for task in rest:
                task.cancel()
            await asyncio.wait(rest)
            # The callbacks that empty the set run on the loop's next turn.
            await asyncio.sleep(0)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if task.cancelled():
            return
        fault = task.exception()
        if fault is not None:
            log.error("the task '%s' ended by a fault of ours", task.get_name(), exc_info=fault)
