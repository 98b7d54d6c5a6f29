"""Start and stop the demo engine as a child of this process."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from typing import IO

from gateway.demo import READY, START_TIMEOUT, available

GRACE = 3.0
"""Seconds between SIGTERM and SIGKILL."""


class DemoError(Exception):
    """The demo engine cannot run; the text says why and what to do."""


class DemoEngine:
    """One engine process. ``start`` may be called again after ``stop``."""

    def __init__(self) -> None:
        self._process: Process | None = None

    async def start(self, timeout: float = START_TIMEOUT) -> str:  # noqa: ASYNC109 - a bound, not a wish
        """Start the engine and wait until it takes requests; its URL, without trailing slash.
        Raises DemoError within ``timeout`` seconds."""
        reason = available()
        if reason is not None:
            raise DemoError(reason)
        with tempfile.TemporaryFile() as complaints:
            self._process = await _spawn(complaints)
            try:
                return await asyncio.wait_for(_ready(self._process), timeout)
            except TimeoutError:
                why = f"it was not ready after {timeout:g} s"
            except EOFError:
                why = f"it ended with status {await self._process.wait()}"
            except BaseException:
                await self.stop()
                raise
            await self.stop()
            raise DemoError(_failure(why, complaints))

    async def ended(self) -> str:
        """Wait until the engine that was started is gone; how it went, in two words."""
        assert self._process is not None
        status = await self._process.wait()
        return f"signal {-status}" if status < 0 else f"status {status}"

    async def stop(self) -> None:
        """End the engine; returns once it is gone. Harmless when it never ran or already ended."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), GRACE)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _spawn(complaints: IO[bytes]) -> Process:
    """The engine process. Its stdin stays open as long as we live; it has a session of its own,
    so that Ctrl-C at the terminal drains the gateway before the engine goes."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.demo.engine",
        "--port",
        "0",
        stdin=PIPE,
        stdout=PIPE,
        stderr=complaints,
        start_new_session=True,
    )


async def _ready(process: Process) -> str:
    """The URL out of the ready line. Raises EOFError when stdout ends without one."""
    assert process.stdout is not None
    while line := await process.stdout.readline():
        text = line.decode("utf-8", "replace").strip()
        if text.startswith(READY):
            return text.removeprefix(READY)
    raise EOFError


def _failure(why: str, complaints: IO[bytes]) -> str:
    """One sentence, with the engine's own last words where it had any."""
    complaints.seek(0)
    lines = complaints.read().decode("utf-8", "replace").strip().splitlines()
    said = f" Its last words: {lines[-1].strip()}" if lines else ""
    return (
        f"The demo engine did not start: {why}.{said}"
        " Name an engine of your own with --backend URL to do without it."
    )
