"""A fake engine: serves what the product's own row promises, and every fault a test asks for."""

from __future__ import annotations

import asyncio
import re
import socket
from collections import deque
from collections.abc import Callable, Collection, Sequence
from types import TracebackType

import backends
from gateway.core.runtime import Runtime, Support
from gateway.core.types import Op, Wire
from tests.fakes import steps
from tests.fakes.peer import Exchange, Peer, Recorded
from tests.fakes.persona import PERSONAS, Gets, Persona, default
from tests.fakes.steps import Step

OWN_PATHS = {Op.RESPONSES_BY_ID: "/v1/responses/{id}"}
"""Where a surface is whose cell leaves the path to the route."""


class FakeEngine:
    """An engine on 127.0.0.1, in the loop of the test.

    ``requests`` holds what came apart from the GETs of sensors, which are in ``probes``.
    ``script`` queues steps for the next such requests; ``always`` (a step, or a function from the
    request to a step or None) answers when the queue is empty; else it answers as the runtime does.
    ``lacks`` are surfaces that the loaded model has not. ``at_once`` counts requests in hand.
    ``reading`` cleared: bodies stay in the socket. ``close_after``: FIN after every answer, without
    saying so. ``stale`` ('fin' or 'reset'): a reused connection is closed when its next request
    has arrived. ``sick``: what sensors get instead;
    ``also``: what they get at single addresses."""

    def __init__(
        self,
        runtime: str = "vllm",
        models: Sequence[str] = ("m",),
        *,
        lacks: Collection[Op] = (),
        api_key: str | None = None,
        port: int = 0,
    ) -> None:
        self.models = list(models)
        self.lacks = set(lacks)
        self.api_key = api_key
        self.port = port
        self.always: Step | Callable[[Recorded], Step | None] | None = None
        self.loading = False
        self.sick: Step | None = None
        self.also: dict[str, Step] = {}
        self.stale = ""
        self.close_after = False
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._held: socket.socket | None = None
        self._peers: set[Peer] = set()
        self.reading = asyncio.Event()
        self._dress(runtime)
        self.reset()

    def _dress(self, runtime: str) -> None:
        self.runtime = runtime
        name, _, variant = runtime.partition("-")
        self.row: Runtime = backends.BY_NAME[name].row(variant)
        self.persona: Persona = PERSONAS[runtime]
        self._listed: list[str] | None = None
        self._surfaces = [
            (_pattern(path), wire, op)
            for (wire, op), cell in self.row.cells.items()
            if cell.support is not Support.NO
            for path in {cell.path or OWN_PATHS[op], cell.chat_path} - {""}
        ]

    def _gets(self) -> Gets:
        """The addresses by which it is known; made anew when ``models`` has changed."""
        if self._listed != self.models:
            self._listed = list(self.models)
            self._table = self.persona.gets(self._listed)
        return self._table

    def reset(self) -> None:
        """Forgets requests and scripts; the connections stay."""
        self.requests: list[Recorded] = []
        self.probes: list[Recorded] = []
        self.script: deque[Step] = deque()
        self.always = None
        self.at_once = self.most_at_once = 0
        self.stale, self.close_after, self.loading, self.sick = "", False, False, None
        self.reading.set()
        self._came = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> FakeEngine:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listens; on the same port as before, if there was one."""
        self._let_go()
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._peer, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self, *, hold: bool = False) -> None:
        """Closes the listener and resets every connection, as a killed process does. With ``hold``
        the port stays bound without listening: connections are refused and nobody takes it."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for peer in list(self._peers):
            peer.reset()
        await asyncio.sleep(0)
        self._let_go()
        if hold:
            self._held = socket.socket()
            self._held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._held.bind(("127.0.0.1", self.port))

    def _let_go(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    async def become(self, runtime: str, models: Sequence[str] | None = None) -> None:
        """Another engine on the same port, as after a swap."""
        await self.stop()
        self._dress(runtime)
        self.models = list(models) if models is not None else self.models
        await self.start()

    async def came(self, count: int = 1, timeout: float = 5.0) -> Recorded:
        """Waits until ``count`` requests have come; the last of them."""
        async with asyncio.timeout(timeout):
            while len(self.requests) < count:
                self._came.clear()
                await self._came.wait()
        return self.requests[count - 1]

    def _peer(self) -> Peer:
        self.connections += 1
        peer = Peer(self.connections, self._serve, self.reading, self._peers.discard)
        self._peers.add(peer)
        return peer

    async def _serve(self, peer: Peer, request: Recorded) -> None:
        if self._is_probe(request):
            self.probes.append(request)
            named = self._gets().get(request.path, self.persona.not_found)
            step = self.also.get(request.path, named)
            return await (self.sick or self._guard(request) or step)(Exchange(request, peer))
        self.requests.append(request)
        self._came.set()
        self._ends_if_stale(peer)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await peer.read_body(request)
            await self._choose(request)(Exchange(request, peer))
        finally:
            self.at_once -= 1
        if self.close_after:
            Exchange(request, peer).fin()
        return None

    def _is_probe(self, request: Recorded) -> bool:
        """A GET that is no use of a surface comes from a sensor, known address or not."""
        surface = self.surface(request)
        used = surface is not None and surface[1] is Op.RESPONSES_BY_ID
        used = used or request.path.startswith("/api/blobs/")
        return request.method in {"GET", "HEAD"} and not used

    def _ends_if_stale(self, peer: Peer) -> None:
        if not self.stale or not peer.served or peer.current is None:
            return
        exchange = Exchange(peer.current, peer)
        exchange.reset() if self.stale == "reset" else exchange.fin()

    def _choose(self, request: Recorded) -> Step:
        if self.script:
            return self.script.popleft()
        if self.always is not None:
            chosen = self._always(request)
            if chosen is not None:
                return chosen
        return self._guard(request) or self._natural(request)

    def _always(self, request: Recorded) -> Step | None:
        step = self.always
        if step is None or asyncio.iscoroutinefunction(step):
            return step
        return step(request)  # type: ignore[arg-type, return-value]

    def _guard(self, request: Recorded) -> Step | None:
        if self.loading:
            return self.persona.loading
        if self.api_key is None or request.path in self.persona.open_paths:
            return None
        name, form = self.row.auth
        sent = request.header(name)
        return None if sent == form.format(key=self.api_key) else self.persona.unauthorized

    def _natural(self, request: Recorded) -> Step:
        surface = self.surface(request)
        if surface is None:
            return self.persona.not_found
        wire, op = surface
        if op in self.lacks:
            return self._lack(op)
        model = request.doc.get("model") if isinstance(request.doc, dict) else None
        unknown = self.persona.unknown_model
        if unknown and isinstance(model, str) and model not in self.models:
            return unknown(model)
        return self.persona.strict(request) or default(self.persona, wire, op, request)

    def surface(self, request: Recorded) -> tuple[Wire, Op] | None:
        """The surface that the product's row puts on this path, None when it has none there."""
        for pattern, wire, op in self._surfaces:
            if pattern.fullmatch(request.path):
                return wire, op
        return None

    def _lack(self, op: Op) -> Step:
        """What the runtime says when its model has no such surface, as recorded for embeddings."""
        for folder in self.persona.folders:
            if op is Op.EMBEDDINGS:
                return steps.recorded(f"{folder}/error_embeddings_on_chat")
        return self.persona.not_found


def _pattern(path: str) -> re.Pattern[str]:
    """A cell's path as a pattern; ``{id}`` and the like stand for anything but a query."""
    parts = re.split(r"\{[^}]*\}", path)
    return re.compile("[^?]+".join(map(re.escape, parts)))
