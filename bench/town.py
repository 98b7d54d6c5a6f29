"""The gateway of the soak, its engines, and what is done to them."""

from __future__ import annotations

import signal
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from bench import ours
from bench.build import ROOT
from bench.crowd import dice
from bench.processes import Running, cores, free_port

ENGINES = 2

FAULTY = "backends: [{name: a, url: 7}]\n"


@dataclass(frozen=True, slots=True)
class State:
    """What has to be the same before and after."""

    resident: float
    descriptors: int
    connections: int
    in_flight: float
    at_work: float
    up: float

    @property
    def resting(self) -> bool:
        return self.in_flight == 0 and self.at_work == 0 and self.up == ENGINES


class Town:
    """The gateway, its engines, and what is done to them."""

    def __init__(self, folder: Path, engine: Path, workers: int) -> None:
        self._folder, self._program, self._workers = folder, engine, workers
        self._ports = [free_port() for _ in range(ENGINES)]
        self._engines: dict[int, Running] = {}
        self._file = folder / "soak.yaml"
        self._cores = cores()
        self._weight = 1
        self.port = free_port()
        self.reloads = {"success": 0, "failure": 0}
        self.engines_killed = 0
        self.processes_killed = 0

    def __enter__(self) -> Town:
        self.revive()
        self._file.write_text(self._good())
        command = ours.command(self._file, self.port, self._workers)
        on = self._cores.gateway if self._workers == 1 else self._cores.two
        log = self._folder / "soak-gateway.log"
        self.gateway = Running(command, on, log, ours.environment(), ROOT)
        return self

    def __exit__(self, *_: object) -> None:
        self.gateway.stop()
        for engine in self._engines.values():
            engine.stop()

    def _good(self) -> str:
        return ours.configuration([f"127.0.0.1:{port}" for port in self._ports], self._weight)

    def _start_engine(self, port: int) -> None:
        command = (str(self._program), "--port", str(port), "--max-seconds", "14400")
        log = self._folder / f"soak-engine-{port}.log"
        self._engines[port] = Running(command, self._cores.load, log, ours.environment())

    def kill_engine(self) -> None:
        """Kill one that lives, if any does."""
        if self._engines:
            self._engines.pop(dice.choice(list(self._engines))).kill()
            self.engines_killed += 1

    def revive(self) -> None:
        """Start all that are dead."""
        for port in self._ports:
            if port not in self._engines:
                self._start_engine(port)

    def reload(self) -> None:
        """Another configuration, one in three of them faulty."""
        good = dice.random() < 2 / 3
        self._weight = 3 - self._weight
        self._file.write_text(self._good() if good else FAULTY)
        self.gateway.tell(signal.SIGHUP)
        self.reloads["success" if good else "failure"] += 1

    def kill_process(self) -> None:
        """Kill a worker or the control process."""
        family = self.gateway.family()[1:]
        if family:
            dice.choice(family).kill()
            self.processes_killed += 1

    def state(self) -> State:
        """How things are. OSError when somebody does not answer."""
        metrics = scraped(self.port)
        engines = [scraped(port) for port in self._engines]
        return State(
            resident=self.gateway.resident() / 1e6,
            descriptors=self.gateway.descriptors(),
            connections=self.gateway.connections(),
            in_flight=metrics.get("portico_requests_in_flight", 0.0),
            at_work=sum(engine["vllm:num_requests_running"] for engine in engines),
            up=metrics.get("portico_backend_up", 0.0),
        )

    def counted_reloads(self) -> dict[str, int]:
        """What the gateway says about them."""
        metrics = scraped(self.port)
        return {kind: int(metrics.get(RELOADS + kind, 0)) for kind in self.reloads}


RELOADS = "portico_config_reloads_total:"


def scraped(port: int) -> dict[str, float]:
    """Sample name, with its result where it has one, and the sum over all series."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            result = sample.labels.get("result")
            name = f"{sample.name}:{result}" if result else sample.name
            sums[name] = sums.get(name, 0.0) + sample.value
    return sums
