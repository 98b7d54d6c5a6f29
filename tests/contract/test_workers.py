"""Several workers serve as one gateway, whoever of the processes dies (INTERFACE 1, 6 and 7)."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.contract.test_life import run
from tests.fakes import steps, talk
from tests.fakes.engine import FakeEngine
from tests.fakes.peer import Exchange, Recorded
from tests.fakes.steps import Step
from tests.harness import JSON, Gateway, chat_json, until
from tests.rawclient import Headers, RawClient, Reply

CHAT = "/v1/chat/completions"
EVENTS = talk.chat_events("m")
NO_QUEUE = {"queue": {"max": 0}}
"""Who finds no place is told so at once, which shows how many there are."""


def config_of(*engines: FakeEngine, **server: Any) -> dict[str, Any]:
    backends = [{"name": f"b{n}", "url": engine.url} for n, engine in enumerate(engines)]
    return {"server": {"drain_timeout": "10s", **server}, "backends": backends}


def of_two(config: dict[str, Any], *args: str, **options: Any) -> Gateway:
    return Gateway(config, ["--workers", "2", *args], **options)


@dataclass(frozen=True, slots=True)
class Crew:
    """The processes of a gateway. The control process is always forked first."""

    control: psutil.Process
    workers: list[psutil.Process]

    @classmethod
    def of(cls, gw: Gateway) -> Crew:
        children = psutil.Process(gw.pid).children()
        control, *workers = sorted(children, key=lambda child: (child.create_time(), child.pid))
        return cls(control, workers)

    @property
    def all(self) -> list[psutil.Process]:
        return [self.control, *self.workers]


def alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


async def gone(processes: Collection[psutil.Process], timeout: float = 3.0) -> None:
    """Waits until none of them lives."""

    async def all_gone() -> bool:
        return not any(alive(process) for process in processes)

    await until(all_gone, timeout, "the processes to end")


@asynccontextmanager
async def on_worker(gw: Gateway, crew: Crew, worker: psutil.Process) -> AsyncIterator[RawClient]:
    """A kept connection to this worker: the others are stopped while it is made."""
    async with AsyncExitStack() as stack:
        others = [other for other in crew.workers if other != worker]
        for other in others:
            other.suspend()
        try:
            await stopped(others)
            client = await stack.enter_async_context(gw.client())
            assert (await client.call("GET", "/healthz")).status == 200
        finally:
            for other in others:
                other.resume()
        yield client


async def stopped(processes: Collection[psutil.Process]) -> None:
    async def all_stopped() -> bool:
        return {process.status() for process in processes} <= {psutil.STATUS_STOPPED}

    await until(all_stopped, 1.0, "the processes to stop", pause=0.001)


@asynccontextmanager
async def on_each(gw: Gateway, crew: Crew) -> AsyncIterator[list[RawClient]]:
    """A kept connection to each worker."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(on_worker(gw, crew, w)) for w in crew.workers]


async def begin(client: RawClient, model: str = "m", headers: Headers = ()) -> Reply:
    """A streamed chat as far as its head."""
    await client.ask("POST", CHAT, [JSON, *headers], chat_json(model, stream=True))
    return await client.read_head()


async def whole(client: RawClient, reply: Reply, model: str = "m") -> None:
    """The rest of a stream is exactly what the engine sent."""
    await client.read_body(reply)
    assert (reply.body, reply.whole) == (b"".join(talk.chat_events(model)), True)


def held(gate: asyncio.Event) -> Step:
    """A stream whose first event comes at once, all else when the gate opens."""

    async def step(exchange: Exchange) -> None:
        await exchange.head(200, [("content-type", steps.SSE)])
        await exchange.raw(exchange.frame(EVENTS[0]))
        await gate.wait()
        for event in EVENTS[1:]:
            await exchange.raw(exchange.frame(event))
        await exchange.finish()

    return step


async def chat_on(client: RawClient, model: str = "m", headers: Headers = ()) -> Reply:
    return await client.call("POST", CHAT, [JSON, *headers], chat_json(model))


async def settled(client: RawClient) -> None:
    """Waits for the worker to be done with what it has answered here before: it comes to the next
    request of a connection only then."""
    assert (await client.call("GET", "/healthz")).status == 200


async def value(client: RawClient, name: str) -> float:
    """The sum of all series of a metric, asked for on this connection."""
    reply = await client.call("GET", "/metrics")
    assert reply.status == 200, reply.body
    found = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", reply.body.decode(), re.MULTILINE)
    return sum(map(float, found))


async def reads(client: RawClient, name: str, expected: float) -> None:
    """Waits for a metric to have this value, on this connection."""

    async def there() -> bool:
        return await value(client, name) == expected

    await until(there, 3.0, f"{name} to be {expected:g}")


REQUESTS, IN_FLIGHT = "portico_requests_total", "portico_requests_in_flight"
RELOADS = "portico_config_reloads_total"


async def struck(gw: Gateway, crew: Crew, victim: psutil.Process) -> Crew:
    """Kills a process; the crew when another is in its place."""
    victim.kill()
    before = {process.pid for process in crew.all}

    async def newcomer() -> psutil.Process | None:
        children = psutil.Process(gw.pid).children()
        return next((child for child in children if child.pid not in before), None)

    new = await until(newcomer, 3.0, "the dead to be replaced")
    control, *workers = [new if process == victim else process for process in crew.all]
    return Crew(control, workers)


async def serves(gw: Gateway, crew: Crew, worker: psutil.Process) -> None:
    """A new worker answers for the models of the fleet."""
    async with on_worker(gw, crew, worker) as client:
        assert (await chat_on(client)).status == 200


# --- counts


async def test_the_metrics_are_right_whichever_worker_is_asked() -> None:
    async with FakeEngine() as engine, of_two(config_of(engine)) as gw:
        for streams in (False, True):
            engine.always = steps.stream(EVENTS) if streams else None
            await asyncio.gather(*(gw.chat("m", stream=streams) for _ in range(15)))
        async with on_each(gw, Crew.of(gw)) as clients:
            for client in clients:
                for _ in range(5):
                    assert (await chat_on(client)).status == 200
            pages = [await c.call("GET", "/metrics") for _ in range(3) for c in clients]
            counted = {_counters(page) for page in pages}
            assert len(counted) == 1, "all pages say the same"
            assert await value(clients[0], REQUESTS) == 40
            assert await value(clients[1], "portico_request_duration_seconds_count") == 40
            assert await value(clients[0], "portico_backend_up") == 1


def _counters(page: Reply) -> tuple[str, ...]:
    lines = page.body.decode().splitlines()
    return tuple(line for line in lines if line.startswith("portico_"))


async def test_the_gauge_counts_open_streams_of_all_workers() -> None:
    gate = asyncio.Event()
    async with (
        FakeEngine() as engine,
        of_two(config_of(engine)) as gw,
        on_each(gw, Crew.of(gw)) as scrapers,
        on_each(gw, Crew.of(gw)) as first,
        on_each(gw, Crew.of(gw)) as second,
    ):
        engine.always = held(gate)
        streams = [(client, await begin(client)) for client in (*first, *second)]
        for scraper in scrapers:
            assert await value(scraper, IN_FLIGHT) == 4
        second[0].reset()
        await reads(scrapers[1], IN_FLIGHT, 3)
        gate.set()
        for client, reply in streams:
            if client is not second[0]:
                await whole(client, reply)
        for scraper in scrapers:
            await reads(scraper, IN_FLIGHT, 0)
        await reads(scrapers[0], "portico_client_disconnects_total", 1)


async def test_max_concurrency_holds_over_all_workers() -> None:
    async with FakeEngine() as engine:
        config = config_of(engine)
        config["backends"][0]["max_concurrency"] = 3
        config["routing"] = NO_QUEUE
        async with of_two(config) as gw, on_each(gw, Crew.of(gw)) as clients:
            engine.always = steps.stream(EVENTS, gap=0.01)
            replies = await asyncio.gather(*(gw.chat("m", stream=True) for _ in range(60)))
            assert engine.most_at_once == 3
            assert {reply.status for reply in replies} == {200, 503}
            refused = [reply for reply in replies if reply.status == 503]
            assert all(reply.header("Retry-After") for reply in refused)
            assert {reply.kind for reply in refused} == {"overloaded"}
            gate = asyncio.Event()
            engine.always = held(gate)
            async with gw.client() as third:
                streams = [(client, await begin(client)) for client in (*clients, third)]
                assert (await gw.chat("m")).status == 503, "it is full now, whoever is asked"
                gate.set()
                for client, reply in streams:
                    await whole(client, reply)
            assert engine.most_at_once == 3


# --- deaths


class Load:
    """Clients that ask all the time, each request on a connection of its own, and one that reads
    the counters. ``broken`` counts requests whose connection was cut."""

    def __init__(self, gw: Gateway, clients: int) -> None:
        self.statuses: list[int] = []
        self.broken = 0
        self.counted: list[float] = []
        self.scrapes: set[int] = set()
        self._gw = gw
        self._stop = asyncio.Event()
        self._clients = clients

    async def __aenter__(self) -> Load:
        asking = [asyncio.ensure_future(self._ask()) for _ in range(self._clients)]
        self._tasks = [*asking, asyncio.ensure_future(self._scrape())]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                self.statuses.append((await self._gw.chat("m")).status)
            except (OSError, EOFError):
                self.broken += 1

    async def _scrape(self) -> None:
        while not self._stop.is_set():
            with suppress(OSError, EOFError):
                reply = await self._gw.get("/metrics")
                self.scrapes.add(reply.status)
                if reply.status == 200:
                    lines = [line for line in _counters(reply) if line.startswith(REQUESTS)]
                    self.counted.append(sum(float(line.split()[-1]) for line in lines))
            await asyncio.sleep(0.03)

    @property
    def never_went_down(self) -> bool:
        return self.counted == sorted(self.counted)


async def test_a_killed_worker_takes_only_its_own_requests_with_it() -> None:
    gate, never = asyncio.Event(), asyncio.Event()
    async with FakeEngine() as engine, of_two(config_of(engine)) as gw:
        crew = Crew.of(gw)
        victim, survivor = crew.workers
        async with (
            on_worker(gw, crew, victim) as dying,
            on_worker(gw, crew, survivor) as living,
            on_worker(gw, crew, survivor) as watcher,
        ):
            engine.script += [held(never), held(gate)]
            cut, kept = await begin(dying), await begin(living)
            async with Load(gw, 3) as load:
                await asyncio.sleep(0.3)
                crew = await struck(gw, crew, victim)
                await asyncio.wait_for(engine.requests[0].aborted.wait(), 1.0)
                await asyncio.sleep(0.5)
            await dying.read_body(cut)
            assert not cut.whole
            assert b"[DONE]" not in cut.body
            assert await value(watcher, IN_FLIGHT) == 1, "the dead worker's are no longer counted"
            gate.set()
            await whole(living, kept)
            await reads(watcher, IN_FLIGHT, 0)
            assert set(load.statuses) == {200}
            assert load.broken <= 4
            assert load.never_went_down
            assert load.scrapes == {200}
            await serves(gw, crew, crew.workers[0])
        assert "worker 0 ended unexpectedly (killed by SIGKILL)" in gw.output()


async def test_what_a_killed_worker_had_counted_stays_counted() -> None:
    async with FakeEngine() as engine, of_two(config_of(engine)) as gw:
        crew = Crew.of(gw)
        victim, survivor = crew.workers
        async with (
            on_worker(gw, crew, victim) as client,
            on_worker(gw, crew, survivor) as watcher,
        ):
            for _ in range(5):
                await chat_on(client)
            await asyncio.sleep(0.7)  # longer than between two unasked tellings
            crew = await struck(gw, crew, victim)
            assert await value(watcher, REQUESTS) == 5


async def test_what_was_shown_once_stays_counted_whoever_is_killed() -> None:
    async with FakeEngine() as engine, of_two(config_of(engine)) as gw:
        crew = Crew.of(gw)
        victim, survivor = crew.workers
        async with (
            on_worker(gw, crew, victim) as client,
            on_worker(gw, crew, survivor) as watcher,
        ):
            await chat_on(client)
            await chat_on(watcher)
            assert await value(watcher, REQUESTS) == 2
            crew.control.kill()
            victim.kill()
            await gone([crew.control, victim])
            assert await value(watcher, REQUESTS) == 2
            await chat_on(watcher)
            assert await value(watcher, REQUESTS) == 3


async def test_a_worker_that_dies_gives_its_places_back() -> None:
    async with FakeEngine() as engine:
        config = config_of(engine)
        config["backends"][0]["max_concurrency"] = 2
        config["routing"] = NO_QUEUE
        async with of_two(config) as gw:
            crew = Crew.of(gw)
            async with on_worker(gw, crew, crew.workers[0]) as one, gw.client() as other:
                engine.always = steps.hang()
                for client in (one, other):
                    await client.ask("POST", CHAT, [JSON], chat_json("m"))
                await engine.came(2)
                assert (await gw.chat("m")).status == 503
                await struck(gw, crew, crew.workers[0])
                engine.always = None
                assert (await gw.chat("m")).status == 200


async def test_all_that_die_at_once_are_replaced_and_so_are_their_replacements() -> None:
    async with FakeEngine() as engine, of_two(config_of(engine)) as gw:
        assert (await gw.chat("m")).status == 200
        assert await gw.metric(REQUESTS) == 1
        crew = Crew.of(gw)
        for process in crew.workers:
            process.kill()
        for _ in range(2):
            crew = await struck(gw, crew, crew.control)

        async def served() -> bool:
            children = psutil.Process(gw.pid).children()
            with suppress(OSError, EOFError):
                return len(children) == 3 and (await gw.chat("m", timeout=1)).status == 200
            return False

        await until(served, 5.0, "all to be there again")
        assert await gw.metric(REQUESTS) >= 2


class WithStranger(Gateway):
    """Started as the first process of a container is: with children that it never had."""

    forked = False

    def command(self) -> list[str]:
        stranger = "if not os.fork(): time.sleep(20); os._exit(0)"
        code = f"import os, sys, time\n{stranger}\nfrom gateway.cli import main\nsys.exit(main())"
        return [sys.executable, "-c", code, *self.arguments()]


async def test_children_of_others_are_buried_too() -> None:
    async with FakeEngine() as engine, WithStranger(config_of(engine), ["--workers", "2"]) as gw:
        children = psutil.Process(gw.pid).children()
        stranger = min(children, key=lambda child: (child.create_time(), child.pid))
        assert len(children) == 4
        stranger.kill()

        async def buried() -> bool:
            return not psutil.pid_exists(stranger.pid)

        await until(buried, 2.0, "the stranger to be buried")
        assert (await gw.chat("m")).status == 200
        assert len(psutil.Process(gw.pid).children()) == 3


async def test_requests_go_on_while_the_control_process_is_away() -> None:
    gate = asyncio.Event()
    async with (
        FakeEngine() as engine,
        of_two(config_of(engine)) as gw,
        on_each(gw, Crew.of(gw)) as clients,
    ):
        crew = Crew.of(gw)
        engine.script += [held(gate), held(gate)]
        streams = [(client, await begin(client)) for client in clients]
        async with Load(gw, 3) as load:
            await asyncio.sleep(0.3)
            await struck(gw, crew, crew.control)
            assert (await gw.get("/metrics")).status == 200, "it waits for the next one"
            await asyncio.sleep(0.3)
        gate.set()
        for client, reply in streams:
            await whole(client, reply)
        assert set(load.statuses) == {200}
        assert load.broken == 0
        assert load.never_went_down
        assert load.scrapes <= {200, 503}
        await reads(clients[0], REQUESTS, len(load.statuses) + 2)
        await reads(clients[1], IN_FLIGHT, 0)
        await engine.stop(hold=True)
        assert (await chat_on(clients[0])).status in {502, 503}
        await reads(clients[1], "portico_backend_up", 0)
        await engine.start()
        await reads(clients[0], "portico_backend_up", 1)
        for client in clients:
            assert (await chat_on(client)).status == 200
        assert "the control process ended unexpectedly (killed by SIGKILL)" in gw.output()


KEYS = {"old": [("x-api-key", "key-old-1")], "new": [("x-api-key", "key-new-1")]}


def with_key(config: dict[str, Any], name: str) -> dict[str, Any]:
    return {**config, "auth": {"keys": [{"name": name, "key": KEYS[name][0][1]}]}}


async def reloaded(gw: Gateway, config: Any, result: str = "success") -> None:
    """A reload with this configuration, to its end."""
    before = await gw.metric(RELOADS, result=result)
    gw.write(config)
    gw.signal(signal.SIGHUP)

    async def counted() -> bool:
        return await gw.metric(RELOADS, result=result) == before + 1

    await until(counted, 5.0, "the reload to be counted")


async def test_what_was_reloaded_outlives_the_control_process() -> None:
    """The file may have been changed since: what counts is what was taken over last."""
    async with (
        FakeEngine("vllm", ["old"]) as old,
        FakeEngine("vllm", ["new"]) as new,
        of_two(with_key(config_of(old), "old")) as gw,
    ):
        await reloaded(gw, with_key(config_of(old, new), "new"))
        gw.write("backends: [{name: x}]")
        crew = Crew.of(gw)
        crew = await struck(gw, crew, crew.control)
        assert await gw.metric(RELOADS, result="success") == 1
        async with on_each(gw, crew) as clients:
            for client in clients:
                assert (await chat_on(client, "new", KEYS["new"])).status == 200
                assert (await chat_on(client, "old", KEYS["old"])).status == 401


async def test_places_stay_counted_when_control_process_and_worker_are_replaced() -> None:
    """A new control process must not give a backend another column of the page."""
    gate = asyncio.Event()
    async with FakeEngine("vllm", ["x"]) as gone_one, FakeEngine() as engine:
        config = config_of(gone_one, engine)
        config["backends"][1]["max_concurrency"] = 1
        config["routing"] = NO_QUEUE
        async with of_two(config) as gw:
            rest = {**config, "backends": config["backends"][1:]}
            await reloaded(gw, rest)
            crew = Crew.of(gw)
            async with on_worker(gw, crew, crew.workers[0]) as client:
                engine.script.append(held(gate))
                reply = await begin(client)
                crew = await struck(gw, crew, crew.control)
                crew = await struck(gw, crew, crew.workers[1])
                async with on_worker(gw, crew, crew.workers[1]) as other:
                    assert (await chat_on(other)).status == 503
                    gate.set()
                    await whole(client, reply)
                    await settled(client)
                    assert (await chat_on(other)).status == 200
                assert engine.most_at_once == 1


# --- the end


async def ended(gw: Gateway, crew: Crew, scratch: Path, timeout: float = 5.0) -> None:
    """The gateway is gone with all its processes and files."""
    assert await gw.wait(timeout) == 0
    assert not any(alive(process) for process in crew.all)
    assert not list(scratch.glob("portico-*"))


async def test_sigterm_drains_all_workers(tmp_path: Path) -> None:
    early, gate = asyncio.Event(), asyncio.Event()
    async with FakeEngine() as engine:
        gw = of_two(config_of(engine), env={"TMPDIR": str(tmp_path)})
        async with gw, on_each(gw, Crew.of(gw)) as clients, on_each(gw, Crew.of(gw)) as kept:
            crew = Crew.of(gw)
            assert list(tmp_path.glob("portico-*")), "the check below looks at the right place"
            engine.script += [held(early), held(gate)]
            streams = [(client, await begin(client)) for client in clients]
            gw.signal(signal.SIGTERM)

            async def draining() -> bool:
                pages = [await client.call("GET", "/readyz") for client in kept]
                return {page.status for page in pages} == {503}

            await until(draining, 2.0, "all workers to say that they drain")
            for client in kept:
                assert await value(client, IN_FLIGHT) == 2
                reply = await chat_on(client)
                assert (reply.status, reply.kind) == (503, "draining")
            early.set()
            await whole(*streams[0])
            await gone(crew.workers[:1])
            page = await gw.get("/metrics")
            assert _answered(page) == 1, "what the first counted last is known to the other"
            gate.set()
            await whole(*streams[1])
            await ended(gw, crew, tmp_path)
            assert len(engine.requests) == 2


def _answered(page: Reply) -> float:
    lines = [line for line in _counters(page) if line.startswith(REQUESTS) and 's="200"' in line]
    return sum(float(line.split()[-1]) for line in lines)


async def test_signals_to_all_processes_count_once(tmp_path: Path) -> None:
    """A terminal sends SIGINT to the whole group, systemd SIGTERM to the whole control group."""
    gate = asyncio.Event()
    async with FakeEngine() as engine:
        gw = of_two(config_of(engine), env={"TMPDIR": str(tmp_path)})
        async with gw, on_each(gw, Crew.of(gw)) as clients:
            crew = Crew.of(gw)
            engine.always = held(gate)
            streams = [(client, await begin(client)) for client in clients]
            for process in crew.all:
                for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                    process.send_signal(number)
            await asyncio.sleep(0.2)
            assert (await gw.get("/readyz")).status == 200, "only the supervisor heeds them"
            assert await gw.metric(RELOADS) == 0
            gw.signal(signal.SIGINT)
            await asyncio.sleep(0.2)
            gate.set()
            for client, reply in streams:
                await whole(client, reply)
            await ended(gw, crew, tmp_path)
        assert "unexpectedly" not in gw.output()


async def test_a_second_signal_ends_all_processes_at_once(tmp_path: Path) -> None:
    async with FakeEngine() as engine:
        gw = of_two(config_of(engine, drain_timeout="60s"), env={"TMPDIR": str(tmp_path)})
        async with gw, on_each(gw, Crew.of(gw)) as clients:
            crew = Crew.of(gw)
            engine.always = steps.stream(EVENTS[:1], end="hang")
            for client in clients:
                await begin(client)
            gw.signal(signal.SIGTERM)
            await asyncio.sleep(0.3)
            assert all(alive(process) for process in crew.all)
            gw.signal(signal.SIGTERM)
            await ended(gw, crew, tmp_path, 1.0)


async def test_drain_timeout_ends_what_does_not_finish_on_any_worker(tmp_path: Path) -> None:
    async with FakeEngine() as engine:
        gw = of_two(config_of(engine, drain_timeout="500ms"), env={"TMPDIR": str(tmp_path)})
        async with gw, on_each(gw, Crew.of(gw)) as clients:
            crew = Crew.of(gw)
            engine.always = steps.stream(EVENTS[:1], end="hang")
            streams = [(client, await begin(client)) for client in clients]
            gw.signal(signal.SIGTERM)
            await ended(gw, crew, tmp_path, 3.0)
            for client, reply in streams:
                await client.read_body(reply)
                assert not reply.whole
                assert b"[DONE]" not in reply.body


async def test_a_worker_dead_in_a_drain_is_not_replaced(tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with FakeEngine() as engine:
        gw = of_two(config_of(engine), env={"TMPDIR": str(tmp_path)})
        async with gw, on_each(gw, Crew.of(gw)) as clients:
            crew = Crew.of(gw)
            engine.always = held(gate)
            _, (client, reply) = [(client, await begin(client)) for client in clients]
            gw.signal(signal.SIGTERM)
            await asyncio.sleep(0.2)
            crew.workers[0].kill()
            await gone(crew.workers[:1])
            await asyncio.sleep(0.2)
            assert len(psutil.Process(gw.pid).children()) == 2
            gate.set()
            await whole(client, reply)
            await ended(gw, crew, tmp_path)


async def test_who_is_about_to_be_replaced_when_the_end_comes_is_not(tmp_path: Path) -> None:
    async with FakeEngine() as engine:
        gw = of_two(config_of(engine), env={"TMPDIR": str(tmp_path)})
        async with gw:
            crew = await struck(gw, Crew.of(gw), Crew.of(gw).workers[0])
            crew.workers[0].kill()  # so young that the next is put off
            await gone(crew.workers[:1])
            gw.signal(signal.SIGTERM)
            await ended(gw, crew, tmp_path, 2.0)


async def test_without_the_supervisor_nothing_stays_for_ever() -> None:
    """Its workers end what they have begun, but leave the port to a successor at once."""
    gate = asyncio.Event()
    async with FakeEngine() as engine:
        config = config_of(engine)
        first = of_two(config)
        async with first, on_each(first, Crew.of(first)) as clients:
            crew = Crew.of(first)
            engine.script += [held(gate), held(gate)]
            streams = [(client, await begin(client)) for client in clients]
            first.signal(signal.SIGKILL)
            await first.wait(1.0)
            await gone([crew.control], 2.0)
            second = of_two(config)
            second.port = first.port
            async with second:
                assert (await second.chat("m")).status == 200
                gate.set()
                for client, reply in streams:
                    await whole(client, reply)
                await gone(crew.all, 2.0)
                assert (await second.chat("m")).status == 200


# --- reloads


async def test_a_reload_reaches_all_workers_and_drops_no_stream() -> None:
    gate = asyncio.Event()
    async with (
        FakeEngine() as engine,
        FakeEngine("vllm", ["new"]) as new,
        of_two(with_key(config_of(engine), "old")) as gw,
    ):
        crew = Crew.of(gw)
        async with on_each(gw, crew) as clients, on_each(gw, crew) as streaming:
            engine.always = held(gate)
            streams = [(client, await begin(client, "m", KEYS["old"])) for client in streaming]
            await reloaded(gw, with_key(config_of(engine, new), "new"))
            for client in clients:
                assert (await chat_on(client, "new", KEYS["new"])).status == 200
                assert (await chat_on(client, "new", KEYS["old"])).status == 401
            gate.set()
            for client, reply in streams:
                await whole(client, reply)
            assert Crew.of(gw) == crew, "no process was replaced"


async def test_a_faulty_file_keeps_the_old_configuration_on_all_workers() -> None:
    async with FakeEngine() as engine, of_two(with_key(config_of(engine), "old")) as gw:
        await reloaded(gw, "backends: [{name: x}]", "failure")
        async with on_each(gw, Crew.of(gw)) as clients:
            for client in clients:
                assert (await chat_on(client, "m", KEYS["old"])).status == 200
                assert (await chat_on(client)).status == 401
        assert gw.output().count("backends[0].url") == 1, "told once, by the control process"


# --- what workers tell each other


async def test_a_stored_response_is_found_whichever_worker_is_asked() -> None:
    """Also by a worker, and under a control process, that were not there when it was made."""
    async with FakeEngine() as one, FakeEngine() as two, of_two(config_of(one, two)) as gw:
        engines = {"b0": one, "b1": two}
        for engine in engines.values():
            engine.always = _as_stored
        crew = Crew.of(gw)
        makers: dict[str, str] = {}
        async with on_each(gw, crew) as clients:
            for turn in range(12):
                body = talk.dumps({"model": "m", "input": f"resp_{turn}"})
                reply = await clients[turn % 2].call("POST", "/v1/responses", [JSON], body)
                makers[f"resp_{turn}"] = reply.header("X-Portico-Backend") or ""
                await settled(clients[turn % 2])
                await _is_found(clients[1 - turn % 2], f"resp_{turn}", makers)
            assert set(makers.values()) == {"b0", "b1"}
        crew = await struck(gw, crew, crew.control)
        crew = await struck(gw, crew, crew.workers[0])
        async with on_each(gw, crew) as clients:
            for client in clients:
                for response_id in makers:
                    await _is_found(client, response_id, makers)


def _as_stored(request: Recorded) -> Step:
    """A Responses engine: the input is the id, so that each answer has one of its own."""
    if request.method == "GET":
        return steps.reply(200, {"found": request.path.rpartition("/")[2]})
    return steps.reply(200, {**talk.response_body("m"), "id": request.doc["input"]})


async def _is_found(client: RawClient, response_id: str, makers: dict[str, str]) -> None:
    reply = await client.call("GET", f"/v1/responses/{response_id}")
    assert (reply.status, reply.doc) == (200, {"found": response_id})
    assert reply.header("X-Portico-Backend") == makers[response_id]


async def test_what_one_worker_learns_of_an_engine_all_know() -> None:
    async with (
        FakeEngine() as engine,
        of_two(config_of(engine)) as gw,
        on_each(gw, Crew.of(gw)) as clients,
    ):
        await engine.stop(hold=True)
        assert (await chat_on(clients[0])).status in {502, 503}

        async def known() -> bool:
            return (await chat_on(clients[1])).kind == "overloaded"

        await until(known, 1.0, "the other worker to know that the engine is away")


# --- the start


async def test_auto_is_a_worker_for_each_core() -> None:
    cores = len(os.sched_getaffinity(0))
    async with FakeEngine() as engine, Gateway(config_of(engine), ["--workers", "auto"]) as gw:
        assert (await gw.chat("m")).status == 200
        children = psutil.Process(gw.pid).children()
        assert len(children) == (cores + 1 if cores > 1 else 0)
        announced = [line["msg"] for line in gw.log_lines() if "listens on" in line["msg"]]
        assert len(announced) == 1


async def test_a_taken_port_is_named_whatever_the_number_of_workers() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = str(sock.getsockname()[1])
        status, out, err = await run("serve", "--no-discover", "--workers", "2", "--port", port)
    assert status == 1
    assert port in err
    assert "--port" in err
    assert "Traceback" not in out + err
