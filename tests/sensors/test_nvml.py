"""The NVML sensor: the real pynvml against a stub of the library."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pynvml
import pytest

from gateway.core.gpus import Gpu, Process, State, Throttle
from gateway.sensors.local_gpus import HANGS, LocalGpus
from gateway.sensors.nvml import NO_DEVICE, Sample, Sampler
from tests.fakes import nvml
from tests.fakes.nvml import Stub

pytestmark = pytest.mark.skipif(not nvml.GCC, reason=nvml.NO_GCC)

GIB = 1 << 30


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread of the events lets go soon."""
    monkeypatch.setattr("gateway.sensors.xid_events.WAIT", 20)


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    with Stub(tmp_path, gpus=2) as stub, stub.installed():
        yield stub


class Looks:
    """Samples on demand, each a second after the last, without the sampler's own thread."""

    def __init__(self, retry: float = 60.0) -> None:
        self.sampler = Sampler("host", lambda sample: None, retry=retry)
        self._seconds = count(1.0)

    def __call__(self, after: int = 1) -> Sample:
        for _ in range(after - 1):
            next(self._seconds)
        return self.sampler.look(next(self._seconds))

    def gpu(self, number: int = 0, after: int = 1) -> Gpu:
        return self(after).gpus[number]


@pytest.fixture
def look() -> Iterator[Looks]:
    looks = Looks()
    yield looks
    looks.sampler._close()


def until(true: Callable[[], bool], within: float = 5.0) -> None:
    deadline = time.monotonic() + within
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


def test_every_reading_of_a_device_is_told_in_our_units(stub: Stub, look: Looks) -> None:
    gpu = stub[0]
    gpu.busy, gpu.temperature, gpu.clock = 80, 66, 1500
    gpu.ecc[nvml.CORRECTED][nvml.VOLATILE] = 3
    gpu.ecc[nvml.UNCORRECTED][nvml.VOLATILE] = 1
    gpu.ecc[nvml.CORRECTED][nvml.AGGREGATE] = 7
    gpu.ecc[nvml.UNCORRECTED][nvml.AGGREGATE] = 2
    gpu.remapped_unc, gpu.remap_pending = 4, 1
    gpu.retired[:] = (2, 1)
    gpu.nvlink[:] = (1, 2, 3, 4, 5)
    assert look.gpu(0) == Gpu(
        host="host",
        index="0",
        uuid=stub.uuid(0),
        name="Stub H100",
        pci="00000000:01:00.0",
        at=1.0,
        memory_used=20 * GIB,
        memory_total=80 * GIB,
        memory_reserved=GIB,
        busy=0.8,
        temperature=66.0,
        slowdown_at=90.0,
        power=350.0,
        power_limit=700.0,
        energy=1000.0,
        clock=1500.0,
        clock_max=1980.0,
        ecc_corrected=3,
        ecc_uncorrected=1,
        ecc_corrected_total=7,
        ecc_uncorrected_total=2,
        remap_pending=True,
        remap_failed=False,
        remapped_rows=4,
        retired_pages=3,
        retired_pending=False,
        nvlink_errors=15,
    )


def test_what_changes_shows_in_the_next_sample(stub: Stub, look: Looks) -> None:
    assert look.gpu().ecc_uncorrected == 0
    stub[0].ecc[nvml.UNCORRECTED][nvml.VOLATILE] = 5
    stub[0].remap_failed = 1
    stub[0].recovery = 1
    gpu = look.gpu()
    assert (gpu.ecc_uncorrected, gpu.remap_failed, gpu.recovery) == (5, True, "gpu_reset")


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        (nvml.IDLE, set()),
        (nvml.HW_SLOWDOWN | nvml.HW_THERMAL, {Throttle.HW_SLOWDOWN, Throttle.HW_THERMAL}),
        (nvml.HW_POWER_BRAKE, {Throttle.HW_POWER_BRAKE}),
        (nvml.SW_THERMAL | nvml.SW_POWER_CAP, {Throttle.SW_THERMAL, Throttle.SW_POWER_CAP}),
    ],
)
def test_the_reasons_of_held_clocks_are_named(
    stub: Stub, look: Looks, reasons: int, expected: set[Throttle]
) -> None:
    stub[0].reasons = reasons
    assert look.gpu().throttle == expected


MISSING = 13


@pytest.mark.parametrize(
    "function",
    [
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetTemperatureV",
    ],
)
def test_an_older_driver_is_asked_by_its_older_names(
    stub: Stub, look: Looks, function: str
) -> None:
    stub[0].reasons = nvml.HW_THERMAL
    stub.fail(function, MISSING)
    gpu = look.gpu()
    assert gpu.notes == {}
    assert (gpu.memory_total, gpu.temperature) == (80 * GIB, 45.0)
    assert gpu.throttle == {Throttle.HW_THERMAL}


def test_a_board_that_tells_margins_has_a_slowdown_temperature_all_the_same(
    stub: Stub, look: Looks
) -> None:
    gpu = stub[0]
    gpu.has_margin, gpu.temperature, gpu.margin, gpu.slowdown_margin = 1, 45, 40, -2
    assert look.gpu().slowdown_at == 87.0


def test_what_is_not_supported_is_a_note_and_is_asked_rarely(stub: Stub, look: Looks) -> None:
    stub.fail("nvmlDeviceGetTotalEccErrors", nvml.NOT_SUPPORTED, gpu=0)
    gpu = look.gpu()
    assert gpu.state is State.OK
    assert gpu.ecc_uncorrected is None
    assert gpu.notes == {"ECC": "not supported", "ECC totals": "not supported"}
    stub.heal()
    assert look.gpu().ecc_uncorrected is None
    again = look.gpu(after=60)
    assert (again.ecc_uncorrected, again.notes) == (0, {})


def test_a_reading_without_permission_says_so_and_the_others_go_on(stub: Stub, look: Looks) -> None:
    stub.fail("nvmlDeviceGetPowerUsage", nvml.NO_PERMISSION)
    gpu = look.gpu()
    assert (gpu.state, gpu.power, gpu.busy) == (State.OK, None, 0.5)
    assert gpu.notes == {"power": "no permission"}


def test_a_lost_gpu_keeps_its_name_and_no_reading_and_its_neighbour_goes_on(
    stub: Stub, look: Looks, caplog: pytest.LogCaptureFixture
) -> None:
    look()
    stub.lose(0)
    gone, well = look().gpus
    assert (gone.state, gone.uuid, gone.name) == (State.LOST, stub.uuid(0), "Stub H100")
    assert (gone.busy, gone.memory_used, gone.power) == (None, None, None)
    assert well.state is State.OK
    assert not [record for record in caplog.records if record.exc_info]


def test_a_lost_gpu_is_looked_for_anew_and_found_again(stub: Stub) -> None:
    look = Looks(retry=5.0)
    look()
    stub.lose(1)
    assert look.gpu(1).state is State.LOST
    assert look.gpu(1, after=6).state is State.LOST
    stub.heal()
    assert look.gpu(1, after=6).state is State.OK
    look.sampler._close()


def test_a_gpu_that_is_not_listed_any_more_is_lost(stub: Stub) -> None:
    look = Looks(retry=5.0)
    look()
    stub.fail("nvmlDeviceGetHandleByIndex_v2", nvml.GPU_IS_LOST, gpu=1)
    stub.fail("nvmlDeviceGetMemoryInfo_v2", nvml.GPU_IS_LOST, gpu=1)
    look()
    states = {gpu.uuid: gpu.state for gpu in look(after=6).gpus}
    assert states == {stub.uuid(0): State.OK, stub.uuid(1): State.LOST}
    look.sampler._close()


def test_a_gpu_that_wants_a_reset_says_so(stub: Stub, look: Looks) -> None:
    stub.fail("nvmlDeviceGetPowerUsage", nvml.RESET_REQUIRED, gpu=0)
    gpu = look.gpu()
    assert (gpu.state, gpu.recovery) == (State.FAILED, "gpu_reset")
    assert gpu.detail == "failed: GPU requires restart"


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (nvml.VERSION_MISMATCH, (State.MISMATCH, "different versions")),
        (nvml.DRIVER_NOT_LOADED, (State.FAILED, "driver is not loaded")),
        (nvml.NO_PERMISSION, (State.DENIED, "access to /dev/nvidiactl")),
        (999, (State.FAILED, "NVML cannot be used: Unknown Error")),
    ],
)
def test_without_a_usable_driver_the_reason_is_said_once_with_a_remedy(
    stub: Stub,
    look: Looks,
    caplog: pytest.LogCaptureFixture,
    code: int,
    expected: tuple[State, str],
) -> None:
    state, words = expected
    caplog.set_level(logging.INFO)
    stub.no_driver(code)
    samples = [look() for _ in range(5)]
    assert all(not one.gpus and one.state is state and words in one.detail for one in samples)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert words in caplog.text


def test_a_driver_that_appears_later_is_found(stub: Stub) -> None:
    look = Looks(retry=5.0)
    stub.no_driver()
    assert not look().gpus
    stub.no_driver(0)
    assert not look().gpus
    assert len(look(after=5).gpus) == 2
    look.sampler._close()


def test_without_the_library_the_reason_is_said(
    monkeypatch: pytest.MonkeyPatch, look: Looks
) -> None:
    def nowhere(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(pynvml, "nvmlLib", None)
    monkeypatch.setattr(pynvml, "CDLL", nowhere)
    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer_cache", {})
    sample = look()
    assert (sample.gpus, "libnvidia-ml.so.1" in sample.detail) == ((), True)


def test_a_driver_without_a_gpu_is_no_fault(tmp_path: Path) -> None:
    with Stub(tmp_path, gpus=0).installed():
        sample = Looks()()
    assert (sample.gpus, sample.state, sample.detail) == ((), State.OK, NO_DEVICE)


def test_xid_events_are_counted_by_number_and_device(stub: Stub, look: Looks) -> None:
    look()
    stub.xid(1, 79)
    stub.xid(1, 31)
    stub.xid(1, 31)
    until(lambda: look.gpu(1).xids == {79: 1, 31: 2})
    assert look.gpu(0).xids == {}


def test_events_from_before_a_new_start_of_the_library_still_count(stub: Stub) -> None:
    look = Looks(retry=5.0)
    look()
    stub.xid(0, 31)
    until(lambda: look.gpu(0).xids == {31: 1})
    stub.lose(1)
    look()
    stub.heal()
    assert look.gpu(0, after=6).xids == {31: 1}
    look.sampler._close()


def test_where_events_cannot_be_had_a_note_says_why(stub: Stub, look: Looks) -> None:
    stub.fail("nvmlDeviceRegisterEvents", nvml.NOT_SUPPORTED, gpu=0)
    one, other = look().gpus
    assert (one.notes, other.notes) == ({"XID events": "not supported"}, {})


def test_the_processes_of_a_device_are_listed_with_their_memory(stub: Stub, look: Looks) -> None:
    stub.runs(0, (101, 3 * GIB), (102, GIB))
    stub.runs(1, 103, graphics=True)
    one, other = look().gpus
    assert one.processes == (Process(101, 3 * GIB), Process(102, GIB))
    assert other.processes == (Process(103, GIB, graphics=True),)


def test_process_lists_are_asked_less_often_but_at_once_on_demand(stub: Stub, look: Looks) -> None:
    look()
    stub.runs(0, 101)
    assert look.gpu().processes == ()
    look.sampler.wake(processes=True)
    assert look.gpu().processes == (Process(101, GIB),)
    stub.runs(0)
    assert look.gpu().processes != ()
    assert look.gpu(after=5).processes == ()


def test_a_mig_instance_is_a_device_of_its_own(stub: Stub, look: Looks) -> None:
    small, large = stub.split(0, 10 * GIB, 40 * GIB)
    stub.runs(small, 101)
    stub.runs(0, 101, 102)
    stub[0].temperature = 70
    whole, one, other, _ = look().gpus
    assert (one.uuid, one.index, one.mig_of) == (stub.uuid(small), "0:0", stub.uuid(0))
    assert (one.memory_total, other.memory_total) == (10 * GIB, 40 * GIB)
    assert (other.uuid, other.index) == (stub.uuid(large), "0:1")
    assert [process.pid for process in one.processes] == [101]
    assert [process.pid for process in whole.processes] == [102]


def test_a_mig_instance_shares_what_belongs_to_the_board(stub: Stub, look: Looks) -> None:
    stub.split(0, 10 * GIB)
    stub[0].temperature = 70
    stub[0].ecc[nvml.UNCORRECTED][nvml.VOLATILE] = 1
    whole, part, _ = look().gpus
    assert (part.temperature, part.ecc_uncorrected, part.clock) == (70.0, 1, whole.clock)
    assert (part.power, part.energy, part.busy) == (None, None, None)
    stub.xid(0, 79)
    until(lambda: look.gpu(1).xids == {79: 1})
    stub.lose(0)
    assert [gpu.state for gpu in look().gpus[:1]] == [State.LOST]


def test_a_mig_instance_that_is_dissolved_is_gone_and_not_lost(stub: Stub, look: Looks) -> None:
    stub.split(0, 10 * GIB)
    assert len(look().gpus) == 3
    stub[0].mig_mode = 0
    assert [gpu.mig_of for gpu in look(after=6).gpus] == ["", ""]


# -- the thread


async def test_a_hanging_call_leaves_the_loop_alone_and_is_said_once(
    stub: Stub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sensors.local_gpus.SILENCE", 0.2)
    caplog.set_level(logging.INFO)
    gpus = LocalGpus(lambda: None, 0.05)
    gpus.start()
    while gpus.sample is None:
        await asyncio.sleep(0.01)
    threads = threading.active_count()
    stub.hang("nvmlDeviceGetTemperatureV")
    longest, began, last = 0.0, time.monotonic(), time.monotonic()
    while time.monotonic() - began < 0.8:
        await asyncio.sleep(0.001)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert longest < 0.25
    assert gpus.seen.error == HANGS
    assert time.monotonic() - gpus.seen.at > 0.5
    assert threading.active_count() <= threads
    assert caplog.text.count(HANGS) == 1
    stub.heal()
    while gpus.seen.error:
        await asyncio.sleep(0.01)
    assert "answers again" in caplog.text
    await gpus.stop()


async def test_the_end_does_not_wait_for_a_call_that_hangs(stub: Stub) -> None:
    gpus = LocalGpus(lambda: None, 0.05)
    gpus.start()
    while gpus.sample is None:
        await asyncio.sleep(0.01)
    stub.hang()
    await asyncio.sleep(0.1)
    began = time.monotonic()
    await gpus.stop()
    assert time.monotonic() - began < 2.0


def test_eight_gpus_once_a_second_cost_under_a_hundredth_of_a_core(tmp_path: Path) -> None:
    with Stub(tmp_path, gpus=8) as stub, stub.installed():
        for number in range(8):
            stub.runs(number, 100 + number)
        taken: list[Sample] = []
        sampler = Sampler("host", taken.append)
        for second in range(1, 11):
            sampler.look(float(second))
        before = time.thread_time()
        for second in range(11, 31):
            sampler.look(float(second))
        spent = time.thread_time() - before
        sampler._close()
    assert spent / 20 < 0.01
