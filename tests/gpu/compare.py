"""``make test-gpu``: the NVML sensor beside nvidia-smi on a real GPU under a real load.

Needs pynvml (nvidia-ml-py) and, for the load, torch in this or another python3. Prints a table,
what could not be read and why, whose GPU it is, what sampling costs. Status 1 on a difference."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from gateway.core.gpus import Gpu, State, Throttle
from gateway.sensors.nvml import Sample, Sampler
from gateway.sensors.owners import find
from gateway.sensors.proc import Looker

ROUNDS = 5
MIB = 1 << 20

Value = float | str | None


@dataclass(frozen=True)
class Column:
    """A field of ``nvidia-smi --query-gpu``, ours in its unit, and how far they may be apart: a
    share of its value, or so many units. Both move while they are read; 0 for those that do not."""

    smi: str
    ours: Callable[[Gpu], Value]
    share: float = 0.0
    units: float = 0.0


def _mib(value: int | None) -> float | None:
    return None if value is None else value / MIB


def _percent(value: float | None) -> float | None:
    return None if value is None else value * 100


def _reason(what: Throttle) -> Callable[[Gpu], Value]:
    return lambda gpu: "active" if what in gpu.throttle else "not active"


def _recovery(gpu: Gpu) -> Value:
    return None if "recovery action" in gpu.notes else gpu.recovery or "none"


COLUMNS = (
    Column("name", lambda gpu: gpu.name),
    Column("uuid", lambda gpu: gpu.uuid),
    Column("pci.bus_id", lambda gpu: gpu.pci),
    Column("memory.total", lambda gpu: _mib(gpu.memory_total), units=1),
    Column("memory.reserved", lambda gpu: _mib(gpu.memory_reserved), units=2),
    Column("memory.used", lambda gpu: _mib(gpu.memory_used), share=0.02, units=64),
    Column("utilization.gpu", lambda gpu: _percent(gpu.busy), units=10),
    Column("temperature.gpu", lambda gpu: gpu.temperature, units=3),
    Column("power.draw", lambda gpu: gpu.power, share=0.1, units=15),
    Column("enforced.power.limit", lambda gpu: gpu.power_limit, units=0.1),
    Column("clocks.sm", lambda gpu: gpu.clock, share=0.1, units=30),
    Column("clocks.max.sm", lambda gpu: gpu.clock_max),
    Column("ecc.errors.corrected.volatile.total", lambda gpu: gpu.ecc_corrected),
    Column("ecc.errors.uncorrected.volatile.total", lambda gpu: gpu.ecc_uncorrected),
    Column("ecc.errors.corrected.aggregate.total", lambda gpu: gpu.ecc_corrected_total),
    Column("ecc.errors.uncorrected.aggregate.total", lambda gpu: gpu.ecc_uncorrected_total),
    Column("clocks_event_reasons.hw_slowdown", _reason(Throttle.HW_SLOWDOWN)),
    Column("clocks_event_reasons.hw_thermal_slowdown", _reason(Throttle.HW_THERMAL)),
    Column("clocks_event_reasons.hw_power_brake_slowdown", _reason(Throttle.HW_POWER_BRAKE)),
    Column("clocks_event_reasons.sw_thermal_slowdown", _reason(Throttle.SW_THERMAL)),
    Column("clocks_event_reasons.sw_power_cap", _reason(Throttle.SW_POWER_CAP)),
    Column("gpu_recovery_action", _recovery),
)


def smi(*args: str) -> str | None:
    """What nvidia-smi prints; None where it refuses."""
    done = subprocess.run(
        ["nvidia-smi", *args], check=False, capture_output=True, text=True, timeout=60
    )
    return done.stdout if done.returncode == 0 else None


def query(names: list[str]) -> list[dict[str, str]] | None:
    """One row for each GPU."""
    text = smi(f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits")
    if text is None:
        return None
    rows = csv.reader(io.StringIO(text), skipinitialspace=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def same(theirs: str, ours: Value, column: Column) -> bool:
    """Whether the two say the same, 'not available' for None included."""
    if ours is None:
        return "N/A" in theirs or "Not Supported" in theirs
    if isinstance(ours, str):
        return theirs.lower() == ours.lower()
    try:
        return abs(float(theirs) - ours) <= max(column.units, column.share * abs(float(theirs)))
    except ValueError:
        return False


@contextmanager
def load() -> Iterator[dict[str, int] | None]:
    """The matrix product, by the first python that has torch; None where there is none."""
    for python in filter(None, (sys.executable, shutil.which("python3"))):
        if (
            subprocess.run(
                [python, "-c", "import torch"], check=False, capture_output=True
            ).returncode
            == 0
        ):
            break
    else:
        yield None
        return
    pipe = subprocess.PIPE
    process = subprocess.Popen([python, "-m", "tests.gpu.load"], stdin=pipe, stdout=pipe)
    assert process.stdin and process.stdout
    try:
        line = process.stdout.readline()
        yield json.loads(line) if line else None
    finally:
        process.stdin.close()
        process.wait(30)


def show(*cells: object) -> None:
    widths = (44, 22, 22, 0)
    print("  ".join(f"{cell!s:<{width}}" for cell, width in zip(cells, widths, strict=False)))


def brief(value: Value) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def compare(sampler: Sampler, samples: list[Sample]) -> list[str]:
    """Several rounds of both, then a line for each column; what differs comes back."""
    known = [column for column in COLUMNS if query([column.smi]) is not None]
    for column in COLUMNS:
        if column not in known:
            show(column.smi, "this nvidia-smi has no such field", "", "")
    rounds: list[tuple[Sample, list[dict[str, str]]]] = []
    for _ in range(ROUNDS):
        rows = query([column.smi for column in known])
        sampler.wake(processes=True)
        time.sleep(1.2)
        assert rows is not None
        rounds.append((samples[-1], rows))
    wrong: list[str] = []
    for number, gpu in enumerate(g for g in rounds[-1][0].gpus if not g.mig_of):
        print(f"\nGPU {gpu.index}, {gpu.state}")
        show("field", "nvidia-smi", "portico", f"agrees in (of {ROUNDS})")
        for column in known:
            pairs = [
                (rows[number][column.smi], column.ours(one.gpus[number])) for one, rows in rounds
            ]
            agreed = sum(same(theirs, ours, column) for theirs, ours in pairs)
            good = agreed * 2 > ROUNDS
            show(column.smi, pairs[-1][0], brief(pairs[-1][1]), f"{agreed}{'' if good else '  !'}")
            if not good:
                wrong.append(f"GPU {gpu.index}: {column.smi}: {pairs}")
    return wrong


def compare_remaps(gpus: list[Gpu]) -> list[str]:
    text = smi(
        "--query-remapped-rows=gpu_uuid,remapped_rows.uncorrectable,remapped_rows.pending,"
        "remapped_rows.failure",
        "--format=csv,noheader,nounits",
    )
    print("\nremapped rows (uncorrectable, pending, failed)")
    wrong = []
    for row in csv.reader(io.StringIO(text or ""), skipinitialspace=True):
        gpu = next((one for one in gpus if one.uuid == row[0]), None)
        ours = None if gpu is None else [gpu.remapped_rows, gpu.remap_pending, gpu.remap_failed]
        show(row[0], " ".join(row[1:]), ours)
        yes = {"yes": 1, "no": 0}
        theirs = [yes.get(cell.lower(), cell) for cell in row[1:]]
        if ours is None or [str(int(one or 0)) for one in ours] != [str(one) for one in theirs]:
            wrong.append(f"remapped rows of {row[0]}: nvidia-smi {row[1:]}, portico {ours}")
    return wrong


def compare_processes(gpus: list[Gpu]) -> list[str]:
    """``pmon`` and the list of computing processes against ours."""
    print("\nprocesses: nvidia-smi pmon -c 1")
    pmon = smi("pmon", "-c", "1") or ""
    print("  " + pmon.strip().replace("\n", "\n  "))
    rows = [line.split() for line in pmon.splitlines() if not line.startswith("#")]
    theirs = {(row[0], int(row[1])) for row in rows if len(row) > 2 and row[1].isdigit()}
    ours = {(gpu.index, one.pid) for gpu in gpus if not gpu.mig_of for one in gpu.processes}
    apps = smi("--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits") or ""
    show("pmon (gpu, pid)", sorted(theirs))
    show("portico (gpu, pid)", sorted(ours))
    show("--query-compute-apps (pid, MiB)", apps.split("\n")[:-1])
    show("portico (pid, MiB)", [(p.pid, _mib(p.memory)) for gpu in gpus for p in gpu.processes])
    return [] if theirs == ours else [f"processes: pmon {theirs}, portico {ours}"]


def map_backend(gpus: list[Gpu], started: dict[str, int]) -> list[str]:
    """Whose GPU is it: the listener of ``tests.gpu.load`` must be led to the GPU of its child."""
    pids = [process.pid for gpu in gpus for process in gpu.processes]
    before = time.process_time()
    scene = Looker().look(pids)
    cost = time.process_time() - before
    holding = find(scene, gpus, "127.0.0.1", started["port"])
    print(f"\nwhose GPU: a listener (pid {started['parent']}, port {started['port']}) whose child")
    print(f"  {started['child']} computes; found in {cost * 1000:.1f} ms: {holding.gpus}")
    print(f"  {holding.matched}: {holding.why}")
    print(f"  own PID namespace: {scene.contained}; pids that are not visible: {scene.unseen or 0}")
    expected = next((gpu.uuid for gpu in gpus if not gpu.mig_of), "")
    if holding.gpus == (expected,):
        return []
    if scene.contained and not holding.gpus:
        print("  not possible in this container, as it should say: the GPU's pids are the host's")
        return []
    return [f"mapping: expected {expected}, found {holding}"]


def tell_readings(gpus: list[Gpu]) -> list[str]:
    """All that was read, and what could not be."""
    skip = {"host", "name", "uuid", "processes", "notes", "at"}
    for gpu in gpus:
        print(f"\nall readings of GPU {gpu.index} ({gpu.uuid})")
        for field in fields(gpu):
            if field.name not in skip:
                show(f"  {field.name}", getattr(gpu, field.name))
        for name, note in gpu.notes.items():
            show(f"  no {name}", note)
        if not gpu.mig_of:
            print("  " + (smi("-q", "-d", "TEMPERATURE", "-i", gpu.index) or "").strip())
    whole = [gpu for gpu in gpus if not gpu.mig_of]
    wanted = ("ECC", "remapped rows", "XID events")
    return [
        f"GPU {gpu.index}: {name} cannot be read: {gpu.notes[name]}"
        for gpu in whole
        for name in wanted
        if name in gpu.notes and gpu.notes[name] != State.UNSUPPORTED
    ]


def check_energy(samples: list[Sample]) -> list[str]:
    """The energy counter against the mean of the power readings."""
    first, last = samples[-6], samples[-1]
    a, b = first.gpus[0].energy, last.gpus[0].energy
    powers = [one.gpus[0].power for one in samples[-6:] if one.gpus[0].power is not None]
    if a is None or b is None or not powers:
        print("\nenergy: not told by this device")
        return []
    watts = (b - a) / (last.at - first.at)
    mean = statistics.fmean(powers)
    print(
        f"\nenergy counter: {watts:.0f} W over {last.at - first.at:.1f} s; mean power {mean:.0f} W"
    )
    near = math.isclose(watts, mean, rel_tol=0.2, abs_tol=15)
    return [] if near else [f"energy: {watts:.0f} W by the counter, {mean:.0f} W by readings"]


def cost(sampler: Sampler) -> None:
    """CPU of the sampling thread over some seconds, at one sample a second."""
    assert sampler.thread.ident
    clock = time.pthread_getcpuclockid(sampler.thread.ident)
    before, began = time.clock_gettime(clock), time.monotonic()
    time.sleep(5)
    share = (time.clock_gettime(clock) - before) / (time.monotonic() - began)
    print(f"\ncost: the sampling thread takes {share:.2%} of a core at one sample a second")


def examine(sampler: Sampler, samples: list[Sample]) -> list[str]:
    with load() as started:
        if started is None:
            print("no python here has torch, or its matrix product did not start: no load")
        time.sleep(4)
        wrong = compare(sampler, samples)
        gpus = list(samples[-1].gpus)
        wrong += compare_remaps(gpus) + compare_processes(gpus) + check_energy(samples)
        if started is not None:
            wrong += map_backend(gpus, started)
        wrong += tell_readings(gpus)
    cost(sampler)
    return wrong


def main() -> int:
    if shutil.which("nvidia-smi") is None:
        print(
            "test-gpu: skipped: there is no nvidia-smi on this host, so there is no GPU to compare"
        )
        return 0
    samples: list[Sample] = []
    sampler = Sampler(os.uname().nodename, samples.append)
    sampler.start()
    deadline = time.monotonic() + 30
    while not samples and time.monotonic() < deadline:
        time.sleep(0.1)
    if not samples or not samples[-1].gpus:
        why = samples[-1].detail if samples else "NVML does not answer"
        print(f"test-gpu: skipped: {why}")
        return 0
    print(f"driver {samples[-1].driver}, {len(samples[-1].gpus)} devices, Python {sys.version}")
    wrong = examine(sampler, samples)
    ended = sampler.stop(3)
    print(f"\nthe sampler {'ended' if ended else 'did not end'}; {len(wrong)} differences")
    print("\n".join(wrong))
    return 1 if wrong or not ended else 0


if __name__ == "__main__":
    sys.exit(main())
