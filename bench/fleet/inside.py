"""Portico's own decisions in virtual time: its plan, its books and its line, without its processes.

The prompt is hashed, the fleet ranked, the request booked, its first token and end told, all by
the code that serves traffic; only clock and engines are the simulation's. What is found here is
free of the noise of a machine and takes a second, so that a constant can be tried on every load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from backends import BY_NAME
from bench.fleet.engine import Engine
from bench.fleet.model import Job, Spec
from bench.fleet.server import MODEL
from bench.fleet.text import Writing
from bench.fleet.virtual import Sending
from gateway.core.catalog import build
from gateway.core.plan import Means, Plan, plan, route
from gateway.core.types import (
    Backend,
    Call,
    Caller,
    Fleet,
    Health,
    Load,
    Model,
    Op,
    Sight,
    Usage,
    Wire,
)
from gateway.policies import POLICIES
from gateway.state.board import Board, Page
from gateway.state.lore import Sent

RUNTIME = "vllm"
PATH = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Way:
    """A request at its engine: its ticket there, and what the books know it by."""

    ticket: int
    backend: str
    sent: Sent | None


class Inside:
    """A gateway of one process. ``scale`` are its seconds for one of the engines'; its books
    stand on ``page``, and ``board`` is its hand on it."""

    def __init__(
        self, spec: Spec, count: int, writing: Writing, scale: float, policy: str = "auto"
    ) -> None:
        self._writing, self._scale = writing, scale
        self.page = Page(1)
        self.board = Board(self.page)
        self._means = Means(POLICIES, policy, self.board.busy, self.board.lore)
        names = [f"engine{number}" for number in range(1, count + 1)]
        self._numbers = {name: number for number, name in enumerate(names)}
        self._catalog = build(fleet(names, spec), (), lambda name, _: BY_NAME.get(name))
        self._ways: dict[Job, Way] = {}
        self._turn = 0

    def comes(self, job: Job, _engines: Sequence[Engine], now: float) -> Iterable[Sending]:
        call = self._call(job)
        found = self._plan(call, now)
        place = found.first
        name = place.backend.name
        ticket = self.board.enter(MODEL, name, self._time(now))
        assert ticket is not None
        brief = found.brief_of(place)
        sent = brief and self.board.lore.send(call, brief, place, self._time(now))
        self._ways[job] = Way(ticket, name, sent)
        return ((job, self._numbers[name]),)

    def first(self, job: Job, now: float) -> None:
        sent = self._ways[job].sent
        if sent is not None:
            self.board.lore.first(sent, self._time(now))

    def ended(self, job: Job, now: float) -> None:
        way = self._ways.pop(job)
        self.board.leave(way.ticket, MODEL, way.backend)
        if way.sent is not None:
            usage = Usage(job.prompt.tokens, job.prompt.answer, job.cached)
            self.board.lore.end(way.sent, self._time(now), usage)

    def looks(self, _now: float) -> Iterable[Sending]:
        return ()

    def wakes(self) -> float | None:
        return None

    def _time(self, now: float) -> float:
        """Seconds of the gateway, in which nothing happens at 0."""
        return 1.0 + now * self._scale

    def _call(self, job: Job) -> Call:
        prompt = job.prompt
        messages = [{"role": "user", "content": self._writing.prompt(prompt)}]
        doc = {"model": MODEL, "messages": messages, "max_tokens": prompt.answer, "stream": True}
        return Call(str(job.number), Wire.OPENAI, Op.CHAT, PATH, MODEL, stream=True, doc=doc)

    def _plan(self, call: Call, now: float) -> Plan:
        self._turn += 1
        way = route(call, Caller(), self._catalog)
        return plan(call, way, self._means, turn=self._turn, dice=0.5, now=self._time(now))


def fleet(names: Sequence[str], spec: Spec) -> Fleet:
    """Engines that are all up and tell the size of their cache."""
    load = Load(cache=spec.kv_tokens)
    sight = Sight(Health.UP, runtime=RUNTIME, models=(Model(MODEL),), load=load)
    backends: Mapping[str, Backend] = {n: Backend(n, f"http://{n}:8000", RUNTIME) for n in names}
    return Fleet(1, 0.0, backends, dict.fromkeys(names, sight))
