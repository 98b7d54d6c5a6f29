"""Starts the gateway as a user does, as a process with a configuration file, and looks at it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.fakes import talk
from tests.fakes.engine import FakeEngine
from tests.rawclient import Headers, RawClient, Reply, call
from tests.template import Forked, fork

ROOT = Path(__file__).resolve().parent.parent
JSON = ("Content-Type", "application/json")
LOADED = {"LD_LIBRARY_PATH", "LD_PRELOAD", "SSL_CERT_FILE"}
"""What is read when a program starts, or when aiohttp is imported."""

STEADY = (20000, 32000)
"""Ports below those that the kernel hands out by itself, so that nobody takes one in between."""


def free_port() -> int:
    """A port nobody listens on."""
    while True:
        port = random.randrange(*STEADY)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Ours, without anything that would configure the gateway."""
    ours = {"API_KEYS", "ADMIN_KEYS"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith(("PORTICO_", "COV_CORE"))
    }
    return {**kept, **extra}


async def until(
    check: Callable[[], Awaitable[Any]], timeout: float = 5.0, what: str = "", pause: float = 0.02
) -> Any:
    """Calls ``check`` until it says something true; AssertionError when it never does."""
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout
    while True:
        found = await check()
        if found:
            return found
        assert loop.time() < end, f"not within {timeout} s: {what or check}"
        await asyncio.sleep(pause)


class Gateway:
    """``portico serve`` as a process. ``up`` are the backends that must be seen up before the test
    begins (all of the configuration when None). ``wait`` is the address that must answer 200.
    ``forked`` ones come from a process that has all imported; others are started as a program."""

    forked = True

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        *,
        up: Sequence[str] | None = None,
        wait: str = "/readyz",
        discover: bool = False,
    ) -> None:
        self.config = None if config is None else {**config}
        self.args = [*args] + ([] if discover else ["--no-discover"])
        self.env = dict(env or {})
        named = [entry["name"] for entry in (config or {}).get("backends", [])]
        self.up = named if up is None else list(up)
        self.waits_for = wait if self.up or wait != "/readyz" else "/healthz"
        self.folder = Path(tempfile.mkdtemp(prefix="portico-test-"))
        self.port = free_port()
        self.process: asyncio.subprocess.Process | Forked | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def file(self) -> Path:
        return self.folder / "portico.yaml"

    def write(self, config: Mapping[str, Any] | str) -> None:
        """Puts another configuration into the file (not read before SIGHUP)."""
        text = config if isinstance(config, str) else yaml.safe_dump(_bounded(config))
        self.file.write_text(text)

    def arguments(self) -> list[str]:
        given = [] if self.config is None else ["--config", str(self.file)]
        where = ["--host", "127.0.0.1", "--port", str(self.port)]
        return ["serve", "--log-format", "json", *given, *where, *self.args]

    def command(self) -> list[str]:
        return [sys.executable, "-m", "gateway", *self.arguments()]

    async def _start(self) -> asyncio.subprocess.Process | Forked:
        env = environment(self.env)
        with (self.folder / "out").open("wb") as out, (self.folder / "err").open("wb") as err:
            if self.forked and not LOADED.intersection(self.env):
                return await fork(self.arguments(), env, Path(out.name), Path(err.name))
            return await asyncio.create_subprocess_exec(
                *self.command(), stdout=out, stderr=err, cwd=ROOT, env=env
            )

    async def __aenter__(self) -> Gateway:
        if self.config is not None:
            self.write(self.config)
        self.process = await self._start()
        try:
            await until(self._ready, 10.0, "the gateway to be ready")
        except BaseException:
            await self._end()
            sys.stderr.write(self.output())
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        return self

    async def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, f"the gateway ended:\n{self.output()}"
        try:
            if (await self.get(self.waits_for)).status != 200:
                return False
            ups = [await self.metric("portico_backend_up", backend=name) for name in self.up]
        except (OSError, EOFError):
            return False
        return all(value == 1 for value in ups)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._end()
        output = self.output()
        shutil.rmtree(self.folder, ignore_errors=True)
        if error is not None:
            sys.stderr.write(output[-6000:])
        else:
            assert "Traceback" not in output, output

    async def _end(self) -> None:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            if self.process is None or self.process.returncode is not None:
                return
            self.signal(number)
            try:
                await self.wait(3.0)
            except TimeoutError:
                continue

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    async def wait(self, timeout: float = 10.0) -> int:
        """The exit status, when the process has ended."""
        assert self.process is not None
        async with asyncio.timeout(timeout):
            return await self.process.wait()

    def output(self) -> str:
        """All that was printed: stdout, then stderr."""
        files = (self.folder / "out", self.folder / "err")
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def log_lines(self) -> list[dict[str, Any]]:
        """The printed lines that are JSON objects."""
        lines = (line for line in self.output().splitlines() if line.startswith("{"))
        return [json.loads(line) for line in lines]

    async def request_line(self, request_id: str) -> dict[str, Any]:
        """The one log line of a request, when it has been written."""

        async def found() -> list[dict[str, Any]]:
            lines = (line for line in self.log_lines() if line["msg"] == "request")
            return [line for line in lines if line["request_id"] == request_id]

        lines: list[dict[str, Any]] = await until(found, 3.0, f"a log line of {request_id}")
        assert len(lines) == 1, lines
        return lines[0]

    def memory(self) -> int:
        """Resident bytes of the process and its children."""
        whole = psutil.Process(self.pid)
        return sum(part.memory_info().rss for part in [whole, *whole.children(recursive=True)])

    def client(self, *, window: int | None = None) -> RawClient:
        return RawClient(self.url, window=window)

    async def get(self, path: str, headers: Headers = ()) -> Reply:
        return await call(self.url, "GET", path, headers)

    async def post(
        self, path: str, body: Any, headers: Headers = (), *, timeout: float = 10.0
    ) -> Reply:
        """POST; anything but bytes is sent as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        pairs = [*headers]
        if not any(name.lower() == "content-type" for name, _ in pairs):
            pairs.append(JSON)
        return await call(self.url, "POST", path, pairs, data, timeout=timeout)

    async def chat(
        self, model: str, headers: Headers = (), *, timeout: float = 10.0, **fields: Any
    ) -> Reply:
        """A chat completion about nothing."""
        body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], **fields}
        return await self.post("/v1/chat/completions", body, headers, timeout=timeout)

    async def metrics(self) -> dict[str, list[tuple[dict[str, str], float]]]:
        """Sample name -> (labels, value) of each series."""
        reply = await self.get("/metrics")
        assert reply.status == 200, reply
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(reply.body.decode()):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of all series of ``name`` with these labels; 0 when there is none."""
        series = (await self.metrics()).get(name, [])
        return sum(value for has, value in series if labels.items() <= has.items())

    async def rises(self, name: str, before: float = 0.0, by: float = 1, **labels: str) -> None:
        """Waits until a metric is exactly ``by`` above ``before``, and checks that it stays."""

        async def there() -> bool:
            return await self.metric(name, **labels) >= before + by

        await until(there, 3.0, f"{name}{labels} to rise by {by}")
        assert await self.metric(name, **labels) == before + by


def _bounded(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose drain does not hold a test up."""
    return {**config, "server": {"drain_timeout": "1s", **config.get("server", {})}}


def chat_json(model: str, **fields: Any) -> bytes:
    """The body of a chat request."""
    return talk.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], **fields})


@dataclass(slots=True)
class Spot:
    """One engine of a farm and the model that only it has."""

    engine: FakeEngine
    name: str
    model: str


@dataclass(slots=True)
class Pair:
    """Two engines that have one model in common."""

    first: Spot
    second: Spot
    model: str


class Farm:
    """One gateway over many engines, so that each test can break one of its own.

    Engine number i has the model ``m<i>``; engines 2k and 2k+1 have ``p<k>`` in common. ``solo``
    and ``pair`` hand out engines that no test has had before."""

    def __init__(
        self,
        size: int,
        runtime: str = "vllm",
        *,
        server: Mapping[str, Any] | None = None,
        backend: Mapping[str, Any] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        models = [[f"m{number}", f"p{number // 2}"] for number in range(size)]
        self.engines = [FakeEngine(runtime, names) for names in models]
        self._server, self._backend, self._extra = server or {}, backend or {}, extra or {}
        self._next = 0
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Farm:
        for engine in self.engines:
            await self._stack.enter_async_context(engine)
        config = {
            "server": dict(self._server),
            "backends": [
                {"name": f"b{number}", "url": engine.url, "runtime": "auto", **self._backend}
                for number, engine in enumerate(self.engines)
            ],
            **self._extra,
        }
        self.gw = await self._stack.enter_async_context(Gateway(config))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    def _spot(self, number: int) -> Spot:
        assert number < len(self.engines), "the farm is too small: raise its size"
        return Spot(self.engines[number], f"b{number}", f"m{number}")

    def solo(self) -> Spot:
        """An engine that nobody has had."""
        self._next += 1
        return self._spot(self._next - 1)

    def pair(self) -> Pair:
        """Two engines that nobody has had, with a common model."""
        self._next += self._next % 2
        first, second = self.solo(), self.solo()
        return Pair(first, second, f"p{(self._next - 1) // 2}")
