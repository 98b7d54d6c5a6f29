"""The GPU sense at work: real sockets, a real agent in a process of its own, an exporter's page."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.core.gpus import Gpus, Holding, Matched, Panorama
from gateway.core.types import Backend
from gateway.sensors.gpu_sense import GpuSense
from gateway.sensors.local_gpus import LocalGpus
from tests.fakes import nvml
from tests.fakes.nvml import Stub
from tests.sensors import stub as web
from tests.sensors.test_dcgm import PAGE

pytestmark = pytest.mark.skipif(not nvml.GCC, reason=nvml.NO_GCC)

KEY = "an-agents-own-key"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.sensors.xid_events.WAIT", 20)
    monkeypatch.setattr("gateway.sensors.panorama.GRACE", 0.3)
    monkeypatch.setattr("gateway.sensors.agents.EXPORTER_EVERY", 0.05)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@asynccontextmanager
async def sensing(*backends: Backend, **gpus: Gpus) -> AsyncIterator[GpuSense]:
    seen: list[Panorama] = []
    sense = GpuSense(lambda: backends, gpus, 0.05, seen.append)
    sense.start()
    try:
        yield sense
    finally:
        await sense.stop()


def held(sense: GpuSense, name: str) -> Holding:
    return sense.panorama.holdings.get(name, Holding())


async def until(true: Callable[[], object], within: float = 8.0) -> None:
    async with asyncio.timeout(within):
        while not true():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def agent(stub: Stub, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """``portico gpu-agent`` as a process; killed at the end, not asked to end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "gpu-agent", "--port", str(port), "--interval", "50ms"),
        env={**os.environ, **stub.env(), "PORTICO_AGENT_KEY": KEY},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_a_backend_on_this_host_finds_its_gpus_by_itself(tmp_path: Path) -> None:
    with (
        Stub(tmp_path, gpus=2) as stub,
        stub.installed(),
        socket.create_server(("127.0.0.1", 0)) as engine,
    ):
        url = f"http://localhost:{engine.getsockname()[1]}"
        async with sensing(Backend("mine", url)) as sense:
            await until(lambda: len(sense.panorama.gpus) == 2)
            assert "CPU" in held(sense, "mine").why
            stub.runs(1, os.getpid())
            sense.engine_changed()
            await until(lambda: held(sense, "mine").gpus)
            found = held(sense, "mine")
            assert (found.gpus, found.matched) == ((stub.uuid(1),), Matched.PROCESS)
            assert os.getpid() in found.pids


async def test_an_agent_is_read_and_its_death_makes_it_stale_and_its_return_fresh(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with Stub(tmp_path, gpus=1) as stub, socket.create_server(("127.0.0.1", 0)) as engine:
        stub.runs(0, os.getpid())
        backend = Backend("far", f"http://127.0.0.1:{engine.getsockname()[1]}")
        async with sensing(backend, far=Gpus(agent=url, key=KEY)) as sense:
            async with agent(stub, port):
                await until(lambda: held(sense, "far").gpus)
                assert held(sense, "far").matched is Matched.AGENT
                stub[0].temperature = 77
                await until(lambda: sense.panorama.gpus[stub.uuid(0)].temperature == 77)
            await until(lambda: sense.panorama.stale)
            assert stub.uuid(0) in sense.panorama.gpus
            async with agent(stub, port):
                await until(lambda: not sense.panorama.stale)
                told = [one.message for one in caplog.records if "gpu-agent at" in one.message]
    assert any("nobody listens" in one or "cannot be read" in one for one in told)
    assert told[-1] == f"the gpu-agent at {url} answers again"


async def test_an_agent_that_wants_another_key_is_told_with_the_remedy(tmp_path: Path) -> None:
    port = free_port()
    backend = Backend("far", "http://127.0.0.1:1")
    wrong = Gpus(agent=f"http://127.0.0.1:{port}", key="not-the-key")
    with Stub(tmp_path) as stub:
        async with sensing(backend, far=wrong) as sense, agent(stub, port):
            await until(lambda: "wants a key" in held(sense, "far").why)
            assert "gpus.key" in held(sense, "far").why


async def test_an_exporters_page_is_a_source(tmp_path: Path) -> None:
    async with web.Stub({"/metrics": web.page(PAGE)}) as exporter:
        far = Gpus(dcgm=f"http://127.0.0.1:{exporter.port}/metrics", devices=(0,))
        async with sensing(Backend("far", "http://127.0.0.1:1"), far=far) as sense:
            await until(lambda: held(sense, "far").gpus)
            assert held(sense, "far").gpus == ("GPU-0",)
            assert sense.panorama.gpus["GPU-0"].temperature == 70.0


async def test_a_new_configuration_drops_and_adds_sources(tmp_path: Path) -> None:
    async with web.Stub({"/metrics": web.page(PAGE)}) as exporter:
        url = f"http://127.0.0.1:{exporter.port}/metrics"
        async with sensing(Backend("far", "http://127.0.0.1:1")) as sense:
            sense.configure({"far": Gpus(dcgm=url, devices=(1,))}, 0.05)
            await until(lambda: held(sense, "far").gpus == ("GPU-1",))
            sense.configure({}, 0.05)
            assert [seen.name for seen in sense.sources] == [""]
            assert "GPU-1" not in sense.panorama.gpus


async def test_a_driver_that_hangs_makes_the_agents_answers_old_and_not_slow(
    tmp_path: Path,
) -> None:
    with Stub(tmp_path) as stub, stub.installed():
        gpus = LocalGpus(lambda: None, 0.05)
        gpus.start()
        await until(lambda: gpus.sample)
        stub.hang()
        await asyncio.sleep(0.4)
        assert gpus.report().age > 0.2
        stub.heal()
        await until(lambda: gpus.report().age < 0.2)
        await gpus.stop()
