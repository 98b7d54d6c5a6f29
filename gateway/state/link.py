"""Messages between the control process and its workers: pickled frames on a Unix socket.

The socket stands in a directory that only this user may enter, and both ends are the same program,
which is what makes pickle safe here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import struct
from collections.abc import Callable
from typing import Any

log = logging.getLogger("portico.link")

_LENGTH = struct.Struct(">I")

RETRY = 0.2
"""Seconds between a worker's tries to find the control process again."""

Message = tuple[str, Any]
"""A kind and what belongs to it."""


async def read(reader: asyncio.StreamReader) -> Message | None:
    """The next message, None at the end of the connection."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        message: Message = pickle.loads(await reader.readexactly(length))  # noqa: S301 - see above
    except (asyncio.IncompleteReadError, OSError):
        return None
    return message


def write(writer: asyncio.StreamWriter, kind: str, content: Any) -> None:
    """Send a message; on a connection that is gone it is lost."""
    frame = pickle.dumps((kind, content), pickle.HIGHEST_PROTOCOL)
    if not writer.is_closing():
        writer.write(_LENGTH.pack(len(frame)) + frame)


class Hub:
    """The control process's end. ``hear(worker, kind, content)`` gets what workers say; ``greet``
    gives the messages that a worker gets first; ``left(worker)`` is told when one is gone."""

    def __init__(
        self,
        hear: Callable[[int, str, Any], None],
        greet: Callable[[], list[Message]],
        left: Callable[[int], None],
    ) -> None:
        self._hear = hear
        self._greet = greet
        self._left = left
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None

    async def listen(self, path: str) -> None:
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await read(reader)
        if hello is None:
            return
        worker: int = hello[1]
        self._writers[worker] = writer
        for kind, content in self._greet():
            write(writer, kind, content)
        while (message := await read(reader)) is not None:
            self._hear(worker, *message)
        if self._writers.get(worker) is writer:
            del self._writers[worker]
            self._left(worker)
        writer.close()

    @property
    def workers(self) -> set[int]:
        """Those that are connected."""
        return set(self._writers)

    def tell(self, worker: int, kind: str, content: Any) -> None:
        writer = self._writers.get(worker)
        if writer is not None:
            write(writer, kind, content)

    def tell_all(self, kind: str, content: Any, but: int | None = None) -> None:
        for worker in self._writers:
            if worker != but:
                self.tell(worker, kind, content)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers.values():
            writer.close()


class Spoke:
    """A worker's end. It looks for the control process until it finds it, and again when it is
    gone; meanwhile what it says is lost, and what it knows stays."""

    def __init__(self, worker: int, hear: Callable[[str, Any], None]) -> None:
        self._worker = worker
        self._hear = hear
        self._writer: asyncio.StreamWriter | None = None

    async def run(self, path: str) -> None:
        while True:
            with contextlib.suppress(OSError):
                await self._listen(*await asyncio.open_unix_connection(path))
            await asyncio.sleep(RETRY)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        write(writer, "hello", self._worker)
        self._writer = writer
        try:
            while (message := await read(reader)) is not None:
                self._hear(*message)
        finally:
            self._writer = None
            writer.close()

    @property
    def connected(self) -> bool:
        return self._writer is not None

    def say(self, kind: str, content: Any) -> None:
        if self._writer is not None:
            write(self._writer, kind, content)


class Asked:
    """Questions under way: each has a number, an answer that may come, and a time limit."""

    def __init__(self) -> None:
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._next = 0

    async def ask(self, send: Callable[[int], None], within: float) -> Any:
        """The answer to what ``send(number)`` asks. Raises TimeoutError."""
        self._next += 1
        number = self._next
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open[number] = future
        try:
            send(number)
            return await asyncio.wait_for(future, within)
        finally:
            del self._open[number]

    def answered(self, number: int, answer: Any) -> None:
        future = self._open.get(number)
        if future is not None and not future.done():
            future.set_result(answer)
