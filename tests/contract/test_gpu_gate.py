"""GPUs of a pretended host under a gateway with traffic: who is let go, and who comes back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from gateway.control.energy import SLOT
from tests.fakes import nvml, steps, talk
from tests.fakes.engine import FakeEngine
from tests.harness import Gateway, until

pytestmark = pytest.mark.skipif(not nvml.GCC, reason=nvml.NO_GCC)

INTERVAL = 0.3
"""Seconds between two samples here."""

SLACK = 0.6
"""Seconds more, for a machine that has other things to do."""

NOBODY = 4_000_000
"""A process that is not there: pids end at 4194304, and nobody has so many."""


@dataclass
class Town:
    """Two engines with the model ``m``, on a GPU each."""

    gw: Gateway
    stub: nvml.Stub
    engines: tuple[FakeEngine, FakeEngine]
    served: Counter[str]
    statuses: Counter[int]
    asks: list[asyncio.Future[Any]] = field(default_factory=list)

    async def healthy(self, number: int) -> float:
        return await self.gw.metric("portico_gpu_healthy", gpu=str(number))

    async def up(self, name: str) -> bool:
        return await self.gw.metric("portico_backend_up", backend=name) == 1

    async def ask(self, times: int = 1) -> Counter[str]:
        """Who answers so many requests, one after the other."""
        found: Counter[str] = Counter()
        for _ in range(times):
            reply = await self.gw.chat("m")
            assert reply.status == 200, reply
            found[reply.header("x-portico-backend") or ""] += 1
        return found

    async def leaves(self, name: str) -> float:
        """Seconds until the backend takes no new requests."""
        began = time.monotonic()

        async def gone() -> bool:
            return not await self.up(name)

        await until(gone, 5.0, f"{name} to leave", pause=0.01)
        return time.monotonic() - began

    async def returns(self, name: str, timeout: float = 5.0) -> None:
        async def back() -> bool:
            return await self.up(name)

        await until(back, timeout, f"{name} to come back")

    @contextlib.asynccontextmanager
    async def traffic(self) -> AsyncIterator[None]:
        """Requests that come and stream all the while; each has to be answered whole."""
        for engine in self.engines:
            engine.always = steps.stream(talk.chat_events("m"), gap=0.03)
        stop = asyncio.Event()

        async def caller() -> None:
            while not stop.is_set():
                reply = await self.gw.chat("m", stream=True)
                assert b"[DONE]" in reply.body
                self.statuses[reply.status] += 1
                self.served[reply.header("x-portico-backend") or ""] += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(caller())
            yield
            stop.set()


@contextlib.asynccontextmanager
async def town(
    folder: Path, *args: str, extra: Mapping[str, Any] | None = None, **gpu: Any
) -> AsyncIterator[Town]:
    with nvml.Stub(folder, gpus=2) as stub:
        for number in (0, 1):
            stub.runs(number, NOBODY + number)
        async with FakeEngine("vllm", ["m"]) as one, FakeEngine("vllm", ["m"]) as two:
            config = {
                "gpu": {"interval": INTERVAL, "good_for": 1, **gpu},
                "backends": [
                    {
                        "name": f"b{number}",
                        "url": engine.url,
                        "runtime": "vllm",
                        "gpus": {"devices": [number]},
                    }
                    for number, engine in enumerate((one, two))
                ],
                **(extra or {}),
            }
            async with Gateway(config, args, env=stub.env()) as gw:
                found = Town(gw, stub, (one, two), Counter(), Counter())

                async def seen() -> bool:
                    return await gw.metric("portico_gpu_healthy") == 2

                await until(seen, 5.0, "both GPUs to be seen")
                yield found


def events(gw: Gateway) -> list[dict[str, Any]]:
    return [line for line in gw.log_lines() if line.get("logger") == "portico.gpu"]


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_errors_that_rise_send_requests_elsewhere_and_none_is_lost(
    tmp_path: Path, workers: str
) -> None:
    async with town(tmp_path, "--workers", workers) as there:
        async with there.traffic():
            await asyncio.sleep(0.5)
            there.stub[0].ecc[nvml.UNCORRECTED][nvml.VOLATILE] += 1
            assert await there.leaves("b0") < 2 * INTERVAL + SLACK
            before = there.served["b0"]
            await asyncio.sleep(0.3)
            # Those that were under way have ended by now.
            under_way = there.served["b0"]
            assert under_way - before <= 4
            await asyncio.sleep(0.5)
            assert there.served["b0"] == under_way
            assert await there.gw.metric("portico_gpu_healthy", backend="b0") == 0
            await there.returns("b0")
            await asyncio.sleep(0.5)
            assert there.served["b0"] > under_way
        assert set(there.statuses) == {200}
        told = "portico_gpu_gate_events_total"
        assert await there.gw.metric(told, backend="b0", reason="ecc_uncorrected") == 1
        assert await there.gw.metric("portico_gpu_ecc_errors_total", kind="uncorrected") == 1
        words = [line["msg"] for line in events(there.gw)]
        left = next(word for word in words if word.startswith("backend b0: GPU 0 on "))
        assert "uncorrectable memory errors are rising; it takes no new requests." in left
        assert "nvidia-smi --gpu-reset" in left
        assert "backend b0: its GPUs are well again" in words


async def test_a_lost_gpu_is_left_at_once_and_says_so_to_whom_it_concerns(tmp_path: Path) -> None:
    async with town(tmp_path) as there:
        there.stub.lose(1)
        assert await there.leaves("b1") < 2 * INTERVAL + SLACK
        assert await there.ask(6) == {"b0": 6}
        there.stub.lose(0)
        await there.leaves("b0")
        reply = await there.gw.chat("m")
        assert reply.status == 503 and reply.header("retry-after")
        assert b"b1 is sick (GPU 1 on " in reply.body


async def test_after_a_fatal_number_only_a_restarted_engine_is_trusted(tmp_path: Path) -> None:
    async with town(tmp_path) as there:
        there.stub.xid(0, 13)
        there.stub.xid(0, 79)
        assert await there.leaves("b0") < 2 * INTERVAL + SLACK
        assert await there.gw.metric("portico_gpu_xid_errors_total", xid="79") == 1
        await asyncio.sleep(1.5)
        assert not await there.up("b0")
        there.stub.runs(0, NOBODY + 70)
        await there.returns("b0", 10.0)


async def test_throttling_halves_the_share(tmp_path: Path) -> None:
    async with town(tmp_path) as there:
        there.stub[0].reasons, there.stub[0].clock = nvml.HW_THERMAL, 990

        async def told() -> bool:
            return await there.gw.metric("portico_gpu_gate_events_total", reason="throttled") == 1

        await until(told)
        assert await there.gw.metric("portico_gpu_throttled", gpu="0", reason="hw_thermal") == 1
        found = await there.ask(30)
        assert 8 <= found["b0"] <= 12
        there.stub[0].reasons, there.stub[0].clock = 0, 1980
        await asyncio.sleep(1 + 3 * INTERVAL + SLACK)
        found = await there.ask(30)
        assert 13 <= found["b0"] <= 17


@pytest.mark.parametrize("gate", ["warn", "off"])
async def test_an_operator_may_have_it_otherwise(tmp_path: Path, gate: str) -> None:
    async with town(tmp_path, gate=gate) as there:
        there.stub[0].remap_failed = 1

        async def seen() -> bool:
            return await there.healthy(0) == 0

        await until(seen)
        await asyncio.sleep(2 * INTERVAL)
        assert await there.up("b0")
        assert (await there.ask(10))["b0"] == 5
        count = await there.gw.metric("portico_gpu_gate_events_total", backend="b0")
        assert count == (1 if gate == "warn" else 0)
        told = [line["msg"] for line in events(there.gw) if "backend b0: GPU 0" in line["msg"]]
        assert [("it goes on taking requests" in line) for line in told] == [True] * (
            gate == "warn"
        )


async def test_a_new_control_process_trusts_nobody_whom_the_old_one_did_not(
    tmp_path: Path,
) -> None:
    async with town(tmp_path, "--workers", "2") as there:
        there.stub.xid(0, 79)
        await there.leaves("b0")
        await asyncio.sleep(0.6)  # so that it has been kept
        control, *_ = sorted(
            psutil.Process(there.gw.pid).children(), key=lambda one: (one.create_time(), one.pid)
        )
        control.kill()

        async def replaced() -> bool:
            return (
                "the control process ended unexpectedly" in there.gw.output()
                and await there.gw.metric("portico_gpu_healthy", gpu="1") == 1
            )

        await until(replaced, 8.0, "the next control process")
        for _ in range(10):
            assert not await there.up("b0")
            await asyncio.sleep(0.1)
        there.stub.runs(0, NOBODY + 70)
        await there.returns("b0", 10.0)


async def test_energy_is_charged_to_the_keys_whose_tokens_it_was(tmp_path: Path) -> None:
    keys = [{"name": name, "key": f"sk-{name}-0123456789"} for name in ("much", "little")]
    async with town(tmp_path, "--workers", "2", extra={"auth": {"keys": keys}}) as there:

        async def draw() -> None:
            while True:
                for number in (0, 1):
                    there.stub[number].energy += 35_000  # a twentieth of a second at 700 W
                await asyncio.sleep(0.05)

        drawing = asyncio.ensure_future(draw())
        # All in one slot of time: a key that alone had a token in another would be charged all of
        # that.
        await asyncio.sleep((0.1 - time.monotonic()) % SLOT)
        for name, tokens in (("much", 30), ("little", 10)):
            usage = {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens}
            step = steps.stream(talk.chat_events("m", usage=usage), gap=0.05)
            for engine in there.engines:
                engine.script.append(step)
            headers = [("Authorization", f"Bearer sk-{name}-0123456789")]
            for backend in ("b0", "b1"):
                pin = [*headers, ("X-Portico-Backend", backend)]
                asks = asyncio.ensure_future(there.gw.chat("m", pin, stream=True))
                there.asks.append(asks)
            await asyncio.sleep(0.05)
        await asyncio.gather(*there.asks)
        gw, joules = there.gw, "portico_energy_joules_total"

        async def charged() -> bool:
            return await gw.metric(joules, key="little") > 0

        await until(charged, 8.0, "energy to be charged")
        await asyncio.sleep(1.5)
        much, little = [await gw.metric(joules, model="m", key=key) for key in ("much", "little")]
        assert much / little == pytest.approx(3, rel=0.3)
        assert much + little <= await gw.metric("portico_gpu_energy_joules_total")
        assert 0 < await gw.metric("portico_gpu_seconds_total", key="much") < 10
        drawing.cancel()


@pytest.fixture(autouse=True)
def _no_such_process() -> Iterator[None]:
    with pytest.raises(ProcessLookupError):
        os.kill(NOBODY, 0)
    yield
