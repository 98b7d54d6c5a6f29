"""One trial: engines and a router are started, a load is replayed, all is stopped again."""

from __future__ import annotations

import gc
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import psutil
import uvloop

from bench import ours
from bench.build import ROOT
from bench.fleet.cells import Cell, Load
from bench.fleet.engines import Setting
from bench.fleet.inside import Inside
from bench.fleet.model import Spec
from bench.fleet.replay import Door, Replay
from bench.fleet.routers import ORACLE, Place, in_virtual_time, policy_of, router, write_files
from bench.fleet.server import MODEL, Mode
from bench.fleet.summary import summary
from bench.fleet.text import Writing
from bench.fleet.virtual import Oracle, Router, Simulation
from bench.measure import NotUp
from bench.peers import Peer, Site
from bench.processes import Cores, Running, free_port, pinned

SETTLING = 2.0
"""Seconds after which a router that answers has probed every engine."""

LIFETIME = 3600.0
"""Seconds after which the engines end by themselves, should nobody stop them."""


@dataclass(frozen=True, slots=True)
class Ground:
    """What all trials of a run have in common. ``token_width`` are characters for a token,
    ``flush`` wall seconds between two events of a stream."""

    site: Site
    cores: Cores
    spec: Spec
    token_width: float
    flush: float
    further: Mapping[str, Any]

    def writing(self, cell: Cell) -> Writing:
        return Writing(cell.kind.block, max(1, round(cell.kind.block * self.token_width)))


@contextmanager
def running(process: Running) -> Iterator[Running]:
    try:
        yield process
    finally:
        process.stop()


def measure(ground: Ground, cell: Cell, load: Load, name: str, scale: float) -> dict[str, Any]:
    """One router under one load. NotUp when it or the engines do not come."""
    port, control = free_port(cell.engines), free_port()
    addresses = [f"127.0.0.{number}:{port}" for number in range(1, cell.engines + 1)]
    place = Place(ground.site, addresses, ground.token_width, scale, ground.further)
    peer = router(name, place)
    if peer.missing:
        raise NotUp(peer.missing)
    write_files(peer, ground.site.run)
    setting = engine_setting(ground, cell, port, control, scale)
    door = Door(f"http://127.0.0.1:{peer.port}", headers(peer), f"http://127.0.0.1:{control}")
    with running(start_engines(ground, setting)) as engines:
        wait_for(f"http://{addresses[-1]}/v1/models", None, {}, 20.0, engines)
        with running(start_router(ground, peer)) as process:
            url = door.url + "/v1/chat/completions"
            wait_for(url, HELLO, door.headers, peer.patience, process)
            time.sleep(SETTLING)
            replay = Replay(door, load, ground.writing(cell), scale)
            with pinned(ground.cores.load):
                used = under_load(replay, cell, process, engines)
    spec = replace(ground.spec, block=cell.kind.block)
    figures = summary(replay.results, load.begin, load.end, spec, replay.engines)
    return {**figures, **used, "note": peer.note, "version": peer.says()}


def under_load(replay: Replay, cell: Cell, process: Running, engines: Running) -> dict[str, Any]:
    """Replay; returns CPU seconds of each part and what others took of the machine (percent)."""
    gc.collect()
    begin, busy = time.monotonic(), machine_busy()
    before = {"router": spent(process), "engines": spent(engines), "clients": own()}
    uvloop.run(replay.run(cell.changes))
    seconds = time.monotonic() - begin
    after = {"router": spent(process), "engines": spent(engines), "clients": own()}
    used = {name: round(after[name] - before[name], 2) for name in after}
    others = machine_busy() - busy - sum(used.values())
    whole = seconds * (psutil.cpu_count() or 1)
    return {
        "cpu": used,
        "seconds": round(seconds, 1),
        "others_pct": round(max(0.0, 100 * others / whole), 1),
    }


def virtual(ground: Ground, cell: Cell, load: Load, name: str, scale: float) -> dict[str, Any]:
    """One that routes in virtual time. ValueError for a fault that is not played there."""
    modes = {change.mode for change in cell.changes}
    if modes - {Mode.SLOW}:
        raise ValueError("of the faults only slow engines are played in virtual time")
    spec = replace(ground.spec, block=cell.kind.block)
    here: Router = Oracle()
    if name != ORACLE:
        here = Inside(spec, cell.engines, ground.writing(cell), scale, policy_of(name))
    simulation = Simulation(load.sessions, spec, cell.engines, here, bool(modes))
    simulation.run()
    return summary(simulation.results, load.begin, load.end, spec, simulation.stats())


def engine_setting(ground: Ground, cell: Cell, port: int, control: int, scale: float) -> Setting:
    writing = ground.writing(cell)
    return Setting(
        count=cell.engines,
        port=port,
        control=control,
        scale=scale,
        block=writing.block,
        width=writing.width,
        kv_tokens=ground.spec.kv_tokens,
        host_tokens=ground.spec.host_tokens,
        flush=ground.flush,
        seconds=LIFETIME,
    )


def start_engines(ground: Ground, setting: Setting) -> Running:
    command = (sys.executable, "-m", "bench.fleet.engines", json.dumps(asdict(setting)))
    log = ground.site.run / "fleet-engines.log"
    return Running(command, ground.cores.load, log, ours.environment(), ROOT)


def start_router(ground: Ground, peer: Peer) -> Running:
    on = ground.cores.gateway if peer.workers == 1 else ground.cores.two
    log = ground.site.run / f"fleet-{peer.name.replace('/', '-')}.log"
    folder = peer.folder or ground.site.run
    return Running(peer.command, on, log, {**ours.environment(), **peer.env}, folder)


HELLO = json.dumps(
    {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
).encode()


def headers(peer: Peer) -> dict[str, str]:
    given = dict(header.split(": ", 1) for header in peer.headers)
    return {"content-type": "application/json", **given}


def wait_for(
    url: str, body: bytes | None, headers: Mapping[str, str], patience: float, process: Running
) -> None:
    """Until it answers 200. NotUp when it does not in so many seconds, or has ended."""
    asked = urllib.request.Request(url, body, dict(headers))  # noqa: S310 - of this machine
    end, last = time.monotonic() + patience, "no answer"
    while time.monotonic() < end and not process.ended:
        try:
            with urllib.request.urlopen(asked, timeout=5):  # noqa: S310
                return
        except urllib.error.HTTPError as error:
            last = f"{error} {error.read(200).decode('latin-1')}"
        except OSError as error:
            last = str(error)
        time.sleep(0.2)
    raise NotUp("it ended" if process.ended else f"not up: {last}")


def machine_busy() -> float:
    """CPU seconds that the machine has worked."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - times.guest)


def spent(process: Running) -> float:
    """CPU seconds of a process and its descendants."""
    total = 0.0
    for member in process.family():
        try:
            times = member.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def own() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)


def play(ground: Ground, cell: Cell, load: Load, name: str, scale: float) -> dict[str, Any]:
    """A row of the results, whatever came of it."""
    row = {"cell": cell.name, "router": name}
    try:
        if in_virtual_time(name):
            return {**row, **virtual(ground, cell, load, name, scale)}
        return {**row, **measure(ground, cell, load, name, scale)}
    except (NotUp, OSError, ValueError) as error:
        return {**row, "skipped": str(error)}
