"""A client that sends exact bytes and keeps exactly what comes, with the time of each read."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

Headers = Iterable[tuple[str, str]]


@dataclass(slots=True)
class Reply:
    """One answer. ``whole`` is True when its framing says that all of it came: the terminal chunk
    or the promised length; an answer that lasts until the end of the connection never is.
    ``chunks`` are the payloads of HTTP chunks."""

    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    whole: bool = False
    chunks: list[bytes] = field(default_factory=list)
    interim: list[int] = field(default_factory=list)

    def header(self, name: str) -> str | None:
        """The first value of a header, in any case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    def all(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def doc(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> Any:
        """The ``error`` member of a refusal."""
        return self.doc["error"]

    @property
    def kind(self) -> str:
        """The category of a refusal in the OpenAI or Anthropic envelope, "" of another answer."""
        return str(self.doc.get("error", {}).get("type", ""))


class RawClient:
    """One TCP connection. ``window`` sets a small receive buffer, so that a client which stops
    reading is felt on the other side soon."""

    def __init__(self, url: str, *, window: int | None = None) -> None:
        parts = urlsplit(url)
        self.host, self.port = str(parts.hostname), int(parts.port or 80)
        self.window = window
        self.buffer = bytearray()
        self.eof = False
        self.broken: OSError | None = None
        self.arrivals: list[tuple[float, int]] = []

    async def __aenter__(self) -> RawClient:
        sock = socket.socket()
        sock.setblocking(False)
        if self.window is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.window)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (self.host, self.port))
        self.sock = sock
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves in good order (FIN)."""
        self.sock.close()

    def reset(self) -> None:
        """Leaves with a RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def ask(
        self,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes | None = None,
        *,
        version: str = "HTTP/1.1",
    ) -> None:
        """Sends a request; a body goes with its Content-Length."""
        lines = [f"{method} {path} {version}", f"Host: {self.host}:{self.port}"]
        lines += [f"{name}: {value}" for name, value in headers]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b""))

    async def read_some(self, timeout: float = 5.0) -> bytes:
        """Whatever comes next; b"" at the end of the connection, orderly or broken."""
        if self.eof:
            return b""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                data = await loop.sock_recv(self.sock, 65536)
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
            self.broken, data = error, b""
        self.eof = not data
        self.buffer += data
        self.arrivals.append((loop.time(), len(data)))
        return data

    async def read_until(self, mark: bytes, timeout: float = 5.0) -> bytes:
        """All up to and with ``mark``. Raises EOFError when the connection ends before."""
        while (at := self.buffer.find(mark)) < 0:
            if not await self.read_some(timeout):
                raise EOFError(f"ended before {mark!r}; had {bytes(self.buffer)!r}")
        return self._take(at + len(mark))

    async def read_exactly(self, size: int, timeout: float = 5.0) -> bytes:
        while len(self.buffer) < size:
            if not await self.read_some(timeout):
                raise EOFError(f"ended {size - len(self.buffer)} bytes early")
        return self._take(size)

    async def read_to_end(self, timeout: float = 5.0) -> bytes:
        while await self.read_some(timeout):
            pass
        return self._take(len(self.buffer))

    async def quiet(self, seconds: float) -> bool:
        """True when nothing comes for so long."""
        if self.buffer:
            return False
        try:
            await self.read_some(seconds)
        except TimeoutError:
            return True
        return False

    def _take(self, size: int) -> bytes:
        taken = bytes(self.buffer[:size])
        del self.buffer[:size]
        return taken

    async def read_head(self, timeout: float = 5.0) -> Reply:
        """The head of the next answer; interim answers are noted."""
        interim: list[int] = []
        while True:
            text = (await self.read_until(b"\r\n\r\n", timeout)).decode("latin-1")
            first, *rest = text.rstrip("\r\n").split("\r\n")
            _, status, *reason = first.split(" ", 2)
            pairs = [(name, value.strip()) for name, _, value in (r.partition(":") for r in rest)]
            if not 100 <= int(status) < 200:
                return Reply(int(status), "".join(reason), pairs, interim=interim)
            interim.append(int(status))

    async def read_chunk(self, timeout: float = 5.0) -> bytes:
        """One HTTP chunk; b"" is the terminal one. Raises EOFError when the connection ends."""
        size = int((await self.read_until(b"\r\n", timeout)).partition(b";")[0], 16)
        payload = await self.read_exactly(size, timeout)
        await self.read_until(b"\r\n", timeout)
        return payload

    async def read_body(self, reply: Reply, timeout: float = 5.0, *, method: str = "POST") -> Reply:
        """The rest of ``reply``, as far as it comes."""
        try:
            await self._body(reply, timeout, method)
        except EOFError:
            reply.body += self._take(len(self.buffer))
        return reply

    async def _body(self, reply: Reply, timeout: float, method: str) -> None:
        length = reply.header("content-length")
        if method == "HEAD" or reply.status in {204, 304}:
            reply.whole = True
        elif "chunked" in (reply.header("transfer-encoding") or "").lower():
            while chunk := await self.read_chunk(timeout):
                reply.chunks.append(chunk)
                reply.body += chunk
            reply.whole = True
        elif length is not None:
            reply.body = await self.read_exactly(int(length), timeout)
            reply.whole = True
        else:
            reply.body = await self.read_to_end(timeout)

    async def call(
        self,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes | None = None,
        *,
        timeout: float = 10.0,
    ) -> Reply:
        """A request and its whole answer, on this connection."""
        await self.ask(method, path, headers, body)
        return await self.read_body(await self.read_head(timeout), timeout, method=method)


async def call(
    url: str,
    method: str,
    path: str,
    headers: Headers = (),
    body: bytes | None = None,
    *,
    timeout: float = 10.0,
) -> Reply:
    """One request on a connection of its own."""
    async with RawClient(url) as client:
        return await client.call(method, path, headers, body, timeout=timeout)
