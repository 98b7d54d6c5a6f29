"""The gateway as a process beside a GPU driver in every state: requests never notice."""

from __future__ import annotations

import asyncio
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from tests.fakes import nvml
from tests.fakes.engine import FakeEngine
from tests.fakes.nvml import Stub
from tests.harness import ROOT, Gateway, environment, free_port, until

pytestmark = pytest.mark.skipif(not nvml.GCC, reason=nvml.NO_GCC)


def gpu_lines(gw: Gateway) -> list[str]:
    return [line["msg"] for line in gw.log_lines() if line.get("logger") == "portico.gpu"]


def config_of(engine: FakeEngine, **server: object) -> dict[str, object]:
    return {
        "server": server,
        "backends": [{"name": "b", "url": engine.url}],
        "gpu": {"interval": "100ms"},
    }


@pytest.mark.parametrize("workers", [1, 2])
async def test_the_gpus_are_said_once_however_many_processes_there_are(
    tmp_path: Path, workers: int
) -> None:
    with Stub(tmp_path, gpus=2) as stub:
        async with (
            FakeEngine() as engine,
            Gateway(config_of(engine, workers=workers), env=stub.env()) as gw,
        ):
            assert (await gw.chat("m")).status == 200

            async def said() -> bool:
                return bool(gpu_lines(gw))

            await until(said)
            assert gpu_lines(gw) == ["GPUs of this host: 2 x Stub H100, driver 999.1"]


async def test_a_driver_of_another_version_is_said_once_and_requests_go_on(tmp_path: Path) -> None:
    with Stub(tmp_path) as stub:
        stub.no_driver(nvml.VERSION_MISMATCH)
        async with FakeEngine() as engine, Gateway(config_of(engine), env=stub.env()) as gw:
            assert (await gw.chat("m")).status == 200
            (line,) = gpu_lines(gw)
            assert "different versions" in line


async def test_a_driver_that_hangs_holds_up_neither_requests_nor_the_end(tmp_path: Path) -> None:
    with Stub(tmp_path) as stub:
        stub.hang()
        async with FakeEngine() as engine, Gateway(config_of(engine), env=stub.env()) as gw:
            slowest = 0.0
            for _ in range(20):
                began = time.monotonic()
                assert (await gw.chat("m")).status == 200
                slowest = max(slowest, time.monotonic() - began)
            assert slowest < 1.0

            async def said() -> bool:
                return any("does not come back" in line for line in gpu_lines(gw))

            await until(said, 6.0)
            gw.signal(15)
            assert await gw.wait(8.0) == 0


async def test_a_driver_whose_calls_stop_answering_later_is_no_different(tmp_path: Path) -> None:
    with Stub(tmp_path) as stub:
        async with FakeEngine() as engine, Gateway(config_of(engine), env=stub.env()) as gw:
            stub.hang("nvmlDeviceGetUtilizationRates")
            assert (await gw.chat("m")).status == 200
            gw.signal(15)
            assert await gw.wait(8.0) == 0


async def test_an_agent_that_dies_and_returns_under_load_is_said_and_costs_no_request(
    tmp_path: Path,
) -> None:
    with Stub(tmp_path) as stub:
        async with FakeEngine() as engine:
            port = free_port()
            config = config_of(engine)
            url = f"http://127.0.0.1:{port}"
            config["backends"] = [{"name": "b", "url": engine.url, "gpus": {"agent": url}}]
            async with Gateway(config) as gw:
                ended = asyncio.Event()
                load = asyncio.ensure_future(asking(gw, ended))
                for word in ("answers again", "cannot be read", "answers again"):
                    if word == "answers again":
                        agent = await start_agent(stub, port)
                    else:
                        agent.kill()
                        await agent.wait()
                    await until(partial(told_last, gw, word), 8.0, word)
                ended.set()
                assert await load > 10
                agent.terminate()
                assert await agent.wait() == 0


async def asking(gw: Gateway, ended: asyncio.Event) -> int:
    """Requests one after the other; how many were answered, all of them well."""
    answered = 0
    while not ended.is_set():
        assert (await gw.chat("m")).status == 200
        answered += 1
    return answered


async def start_agent(stub: Stub, port: int) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "gateway", "gpu-agent", "--port", str(port))
    return await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env=environment(stub.env()), stderr=asyncio.subprocess.DEVNULL
    )


async def told_last(gw: Gateway, word: str) -> bool:
    lines = [line for line in gpu_lines(gw) if "gpu-agent" in line]
    return bool(lines) and word in lines[-1]
