"""One measurement of each kind: load, clients that leave, memory. Each gives a row of figures."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from bench import ours
from bench.build import Programs
from bench.peers import Peer, Site
from bench.processes import Cores, Running, pinned
from bench.scenarios import WARMING, Scenario

Row = dict[str, Any]

SETTLING = 0.6
"""Seconds between the thawing of a peer and its load: its timers have all come due meanwhile."""

LEAVING = 8.0
"""Seconds after which an engine that is still busy for a client that left is given up."""

OVERTIME = 60.0
"""Seconds beyond its own times that a load may take before it is ended."""


class NotUp(Exception):
    """A peer that did not answer in time, and what it said last."""


@dataclass(slots=True)
class Stand:
    """A peer in its place: started, or, for the engine itself, merely there."""

    peer: Peer
    process: Running | None = None

    @property
    def pids(self) -> list[int]:
        return self.process.pids() if self.process else []

    @property
    def threads(self) -> int:
        return self.process.threads() if self.process else 0

    def freeze(self) -> None:
        if self.process:
            self.process.freeze()

    def thaw(self) -> None:
        if self.process:
            self.process.thaw()

    def stop(self) -> None:
        if self.process:
            self.process.stop()
        self.process = None


class Bench:
    """The engine, the load generator and the place where peers run."""

    def __init__(self, site: Site, programs: Programs, cores: Cores, scale: float) -> None:
        self.site, self.programs, self.cores, self.scale = site, programs, cores, scale
        self._ack = str(site.run / "ack.sock")

    def engine(self, addresses: int) -> Running:
        """Start the engine. NotUp when it does not come."""
        command = (
            *(str(self.programs.engine), "--port", str(self.site.engine_port), "--ack", self._ack),
            *("--addresses", str(addresses), "--max-seconds", "14400"),
        )
        log = self.site.run / "engine.log"
        running = Running(command, self.cores.load, log, ours.environment())
        end = time.monotonic() + 5
        while not self.engine_counts():
            if time.monotonic() > end or running.ended:
                running.stop()
                raise NotUp(log.read_text().strip() or "no answer")
            time.sleep(0.05)
        return running

    def engine_counts(self) -> dict[str, int]:
        """What the engine counts; empty when it does not answer."""
        try:
            with urllib.request.urlopen(
                f"http://{self.site.engine}/mock/stats", timeout=5
            ) as answer:
                found: dict[str, int] = json.loads(answer.read())
        except OSError:
            return {}
        return found

    def start(self, stand: Stand, warm: bool = True) -> None:
        """Start a peer and wait until a request comes through. NotUp when none does."""
        peer = stand.peer
        if not peer.command:
            return
        for name, text in peer.files.items():
            (self.site.run / name).write_text(text)
        on = self.cores.gateway if peer.workers == 1 else self.cores.two
        stand.process = Running(
            peer.command,
            on,
            self.site.run / f"{peer.name}.log",
            {**ours.environment(), **peer.env},
            peer.folder or self.site.run,
        )
        try:
            _answers(stand)
        except NotUp:
            stand.stop()
            raise
        for scenario in WARMING if warm else ():
            self._finish(self._generate(stand, scenario), scenario)

    def _generate(
        self, stand: Stand, scenario: Scenario, engine: Running | None = None
    ) -> subprocess.Popen[str]:
        """Start the load generator; with the engine it counts CPU time as well."""
        command = [
            *(str(self.programs.load), "--port", str(stand.peer.port), "--model", ours.MODEL),
            *("--ack", self._ack, *scenario.arguments(self.scale)),
        ]
        for header in stand.peer.headers:
            command += ["--header", header]
        if engine is not None:
            command += ["--cpu", f"engine={engine.pid}"]
            if stand.pids:
                command += ["--cpu", "gateway=" + ",".join(map(str, stand.pids))]
        with pinned(self.cores.load):
            return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603

    def _finish(self, load: subprocess.Popen[str], scenario: Scenario) -> Row:
        """What the load generator counted."""
        spent = scenario.seconds + scenario.warmup
        try:
            out, _ = load.communicate(timeout=spent * self.scale + scenario.grace + OVERTIME)
        finally:
            load.kill()  # of no effect on one that has ended
            load.wait()
        row: Row = json.loads(out)
        return row

    def load(self, stand: Stand, scenario: Scenario, engine: Running) -> Row:
        """Put a peer under a load; CPU seconds are those of the measured time."""
        stand.thaw()
        time.sleep(SETTLING)
        row = self._finish(self._generate(stand, scenario, engine), scenario)
        if not row["machine_busy_s"]:
            raise ValueError("the machine stood still for the whole of the measured time")
        known, whole = sum(row["cpu"].values()), row["processors"] * row["secs"]
        row["foreign_pct"] = round(max(0.0, 100 * (row["machine_busy_s"] - known) / whole), 1)
        row["threads"] = stand.threads
        return row

    def leave(self, stand: Stand, scenario: Scenario) -> Row:
        """Let clients leave; how long until the engine works for none of them? A peer that let it
        run on is started afresh, lest the next measurement find it at work."""
        stand.thaw()
        time.sleep(SETTLING)
        before = self.engine_counts()
        self._finish(self._generate(stand, scenario), scenario)
        left = time.monotonic()
        counts = self.engine_counts()
        while counts["running"] and time.monotonic() - left < LEAVING:
            time.sleep(0.02)
            counts = self.engine_counts()
        row: Row = {
            "took_s": round(time.monotonic() - left, 3),
            "left": counts["running"],
            "closed_early": counts["aborted"] - before["aborted"],
        }
        if row["left"] and stand.process:
            stand.stop()
            self.start(stand)
        return row

    def memory(self, stand: Stand, scenario: Scenario) -> Row:
        """Start a peer afresh, look, open many streams, look again."""
        assert stand.process is None
        self.start(stand, warm=False)
        assert stand.process is not None
        time.sleep(2)
        idle = stand.process.resident()
        load = self._generate(stand, scenario)
        time.sleep((scenario.warmup + scenario.seconds * 0.75) * self.scale)
        row: Row = {
            "idle_bytes": idle,
            "held_bytes": stand.process.resident(),
            "open": self.engine_counts()["running"],
            "threads": stand.threads,
        }
        self._finish(load, scenario)
        stand.stop()
        return row


def _answers(stand: Stand) -> None:
    """Wait until a chat completion comes through."""
    peer = stand.peer
    body = {"model": ours.MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    request = urllib.request.Request(
        f"http://127.0.0.1:{peer.port}/v1/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json", **dict(h.split(": ", 1) for h in peer.headers)},
    )
    end, last = time.monotonic() + peer.patience, "no answer"
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
                if b"quick brown fox" in answer.read():
                    return
            last = "an answer that is not the engine's"
        except urllib.error.HTTPError as error:
            last = f"{error} {error.read(200).decode('latin-1')}"
        except OSError as error:
            last = str(error)
        if stand.process and stand.process.ended:
            last = "it ended"
            break
        time.sleep(0.3)
    raise NotUp(f"not up: {last}")
