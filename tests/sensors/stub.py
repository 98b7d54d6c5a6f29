"""A server of a few pages on 127.0.0.1 that says exactly the bytes a test wants said."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from gateway.core.runtime import Answer, Evidence, Probe, Runtime
from gateway.core.types import Backend, Load

Act = Callable[[asyncio.StreamWriter], Awaitable[None]]
Page = bytes | Act


def page(body: Any = "", status: int = 200, *headers: str) -> bytes:
    """A whole answer; a dict, list or None becomes JSON."""
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    kind = "text/plain" if isinstance(body, str) else "application/json"
    head = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(data)}"]
    return "\r\n".join([*head, *headers, "", ""]).encode() + data


async def hang(writer: asyncio.StreamWriter) -> None:
    """Take the request and say nothing."""
    await asyncio.sleep(3600)


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def flood(writer: asyncio.StreamWriter) -> None:
    """A body without an end."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[")
    while True:
        writer.write(b"1," * 65536)
        await writer.drain()


async def drip(writer: asyncio.StreamWriter) -> None:
    """A byte now and then, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.02)


def raw(data: bytes) -> Act:
    """Bytes as they are, then the end of the connection."""

    async def act(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await writer.drain()
        writer.close()

    return act


class Stub:
    """Serves ``pages`` (path -> bytes, or what to do with the connection), 404 for the rest
    unless ``otherwise`` says what else. ``asked`` holds (path, lower-case headers) of every GET."""

    def __init__(
        self,
        pages: dict[str, Page] | None = None,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.pages = pages or {}
        self.otherwise: Page = page({"detail": "Not Found"}, 404)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.port = port
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.Task[Any] | None] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    async def __aenter__(self) -> Self:
        await self.up()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.down()

    async def up(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def down(self) -> None:
        """Close the port and every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer, task in list(self._open.items()):
            writer.transport.abort()
            if task is not None:
                task.cancel()
        while self._open:
            await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = asyncio.current_task()
        try:
            while not writer.is_closing():
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                path = head[0].split(" ")[1]
                pairs = (line.partition(": ") for line in head[1:] if line)
                self.asked.append((path, {name.lower(): value for name, _, value in pairs}))
                answer = self.pages.get(path, self.otherwise)
                if callable(answer):
                    await answer(writer)
                else:
                    writer.write(answer)
                    await writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._open.pop(writer)
            writer.close()


# -- two runtimes of our own --------------------------------------------------------------------


def _marked(word: str) -> Callable[[Evidence], str | None]:
    def fingerprint(evidence: Evidence) -> str | None:
        answer = evidence.get("/mark", Answer(0))
        return f"/mark says {word}" if answer.text.startswith(word) else None

    return fingerprint


def _load(evidence: Evidence) -> Load:
    answer = evidence.get("/load", Answer(0))
    return Load(**answer.doc) if isinstance(answer.doc, dict) else Load()


def _version(evidence: Evidence) -> str:
    answer = evidence.get("/mark", Answer(0))
    return answer.text.partition(" ")[2]


ALPHA = Runtime(
    name="alpha",
    title="Alpha",
    cells={},
    fingerprint=_marked("alpha"),
    clues=("/mark",),
    probe=Probe(("/health",), timeout=0.4),
    version=_version,
    load_paths=("/load",),
    load=_load,
    ports=(1,),
)
BETA = replace(ALPHA, name="beta", title="Beta", fingerprint=_marked("beta"))


def _any_list(evidence: Evidence) -> str | None:
    answer = evidence.get("/v1/models", Answer(0))
    return "lists models" if isinstance(answer.doc, dict) and "data" in answer.doc else None


CLOUD = Runtime(
    name="cloud",
    title="Provider",
    cells={},
    fingerprint=_any_list,
    clues=("/v1/models",),
    rank=90,
    probe=Probe(("/v1/models",), timeout=0.4),
    cloud=True,
)


@dataclass(frozen=True)
class Shelf:
    """A table of runtimes with the shape of the package ``backends``."""

    RUNTIMES: tuple[Runtime, ...] = (ALPHA, BETA, CLOUD)

    @property
    def BY_NAME(self) -> dict[str, Runtime]:
        return {row.name: row for row in self.RUNTIMES}

    @property
    def CLUES(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(path for row in self.RUNTIMES for path in row.clues))

    def detect(self, evidence: Evidence) -> tuple[Runtime, str] | None:
        for row in self.RUNTIMES:
            if (reason := row.fingerprint(evidence)) is not None:
                return row, reason
        return None


SHELF = Shelf()


def models(*ids: str) -> bytes:
    return page({"object": "list", "data": [{"id": name, "max_model_len": 4096} for name in ids]})


def alpha(*ids: str, version: str = "1.0", word: str = "alpha") -> dict[str, Page]:
    """The pages of a healthy engine."""
    return {
        "/mark": page(f"{word} {version}"),
        "/health": page(),
        "/v1/models": models(*(ids or ("qwen",))),
        "/load": page({"running": 1, "waiting": 0, "progress": 5}),
    }


def at(stub: Stub, name: str = "one", **other: Any) -> Backend:
    return Backend(name, stub.url, **other)
