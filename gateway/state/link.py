"""Messages between the control process and its workers: pickled frames on a Unix socket.

The socket stands in a directory that only this user may enter, and both ends are the same program,
which is what makes pickle safe here."""

from __future__ import annotations

import asyncio
import logging
import pickle
import struct
from collections.abc import Callable
from typing import Any

from gateway.core.packed import pack

log = logging.getLogger("portico.link")

_LENGTH = struct.Struct(">I")

RETRY = 0.2
"""Seconds between a worker's tries to find the control process again."""

CLOGGED = 32 * 1024 * 1024
"""Bytes that may wait for a process that reads nothing. Beyond them the connection is broken off;
should that process come to itself, it makes a new one and is told all it needs."""

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


def frame(kind: str, content: Any) -> bytes:
    message = pack((kind, content))
    return _LENGTH.pack(len(message)) + message


def write(writer: asyncio.StreamWriter, framed: bytes) -> None:
    """Send a message; on a connection that is gone it is lost."""
    if writer.is_closing():
        return
    writer.write(framed)
    if writer.transport.get_write_buffer_size() > CLOGGED:
        writer.transport.abort()


class Hub:
    """The control process's end. ``hear(worker, kind, content)`` gets what workers say; ``greet``
    gives the messages that a worker gets first."""

    def __init__(
        self, hear: Callable[[str, str, Any], None], greet: Callable[[], list[Message]]
    ) -> None:
        self._hear = hear
        self._greet = greet
        self._writers: dict[str, asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None

    async def listen(self, path: str) -> None:
        self._server = await asyncio.start_unix_server(self._serve, path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await read(reader)
        if hello is None:
            writer.close()
            return
        worker: str = hello[1]
        self._writers[worker] = writer
        try:
            for message in self._greet():
                write(writer, frame(*message))
            while (heard := await read(reader)) is not None:
                self._hear(worker, *heard)
        except Exception:
            log.exception("a fault of ours with what a worker said")
        finally:
            if self._writers.get(worker) is writer:
                del self._writers[worker]
            writer.close()

    @property
    def workers(self) -> set[str]:
        """Those that are connected."""
        return set(self._writers)

    def tell(self, worker: str, kind: str, content: Any) -> None:
        writer = self._writers.get(worker)
        if writer is not None:
            write(writer, frame(kind, content))

    def tell_all(self, kind: str, content: Any) -> None:
        framed = frame(kind, content)
        for writer in self._writers.values():
            write(writer, framed)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers.values():
            writer.close()


class Spoke:
    """A worker's end. It looks for the control process until it finds it, and again when it is
    gone (of which ``lost`` is told); meanwhile what it says is lost, and what it knows stays."""

    def __init__(
        self, worker: str, hear: Callable[[str, Any], None], lost: Callable[[], None]
    ) -> None:
        self._worker = worker
        self._hear = hear
        self._lost = lost
        self._writer: asyncio.StreamWriter | None = None
        self.connected = asyncio.Event()

    async def run(self, path: str) -> None:
        while True:
            try:
                await self._listen(*await asyncio.open_unix_connection(path))
            except OSError:
                pass
            except Exception:
                log.exception("a fault of ours with what the control process said")
            await asyncio.sleep(RETRY)

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        write(writer, frame("hello", self._worker))
        self._writer = writer
        self.connected.set()
        try:
            while (message := await read(reader)) is not None:
                self._hear(*message)
        finally:
            self._writer = None
            self.connected.clear()
            writer.close()
            self._lost()

    def say(self, kind: str, content: Any) -> None:
        if self._writer is not None:
            write(self._writer, frame(kind, content))


class Asked:
    """Questions under way: each has a number, an answer that may come, and a time limit."""

    def __init__(self) -> None:
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._next = 0

    async def ask(self, send: Callable[[int], None], within: float) -> Any:
        """The answer to what ``send(number)`` asks. Raises TimeoutError, ConnectionError."""
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

    def lost(self) -> None:
        """Nobody will answer any more."""
        for future in self._open.values():
            if not future.done():
                future.set_exception(ConnectionError("the other process is gone"))
