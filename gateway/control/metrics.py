"""The counting house: Outcomes and Fleets go in, the families of ``families`` come out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from gateway.core.types import Fleet, Op, Outcome, Usage

from . import families as fam
from .exposition import Labels, Snapshot, State, exposition
from .families import Family, Type

SERIES_LIMIT = 5000
"""Series per family. Models and backends come from the catalog, so only a fault gets here."""

OTHER = "other"
"""What stands for a label's value beyond the limit."""

LEFT_EARLY = 499
"""The status of a client that left before it saw any (nginx's number, known to dashboards)."""

GENERATING = frozenset({Op.CHAT, Op.COMPLETIONS, Op.RESPONSES, Op.MESSAGES, Op.GENERATE})
"""The surfaces whose first byte is a first token."""

InFlight = Callable[[], Mapping[tuple[str, str], int]]
"""Gives (model, backend) -> requests in flight."""

Queued = Callable[[], Mapping[str, int]]
"""Gives model -> requests that wait."""


@dataclass(slots=True)
class Count:
    """One series of a counter."""

    value: float = 0


class Histogram:
    """One series of a histogram. ``counts`` has a place for each bound and one for the rest;
    they are not cumulative. ``sum`` is in the unit of the bounds."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add_all(self, counts: Sequence[int], total: float) -> None:
        """Add counts per bucket, as they stand in ``counts``, whose values sum up to ``total``.
        Raises ValueError if they are of another set of bounds."""
        self.counts = [old + new for old, new in zip(self.counts, counts, strict=True)]
        self.sum += total


@dataclass(slots=True)
class _Path:
    """The series that requests of one (surface, model, backend, status) go to."""

    model: str
    backend: str
    generates: bool
    requests: Count
    duration: Histogram
    first_token: Histogram | None = None
    inter_token: Histogram | None = None
    tokens: tuple[Count, Count, Count] | None = None


def _status(status: int) -> int:
    return status or LEFT_EARLY


def _generates(surface: str, status: int) -> bool:
    return surface in GENERATING and 0 < status < 400


def _answered_elsewhere(outcome: Outcome) -> bool:
    """True when a later attempt brought an answer of its own. When every attempt failed, one
    backend's failure passes through with its status (INTERFACE section 7)."""
    passed_on = outcome.backend != "" and outcome.refusal == ""
    return passed_on and 0 < outcome.status < 500 and outcome.status not in (424, 429)


def _overflow(family: Family, labels: Labels) -> Labels:
    """The labels under which series beyond the limit are kept together."""
    kept = {"status", "direction", "result"}
    return tuple(
        value if label in kept or (label == "surface" and value in set(Op)) else OTHER
        for label, value in zip(family.labels, labels, strict=True)
    )


def _processes() -> CollectorRegistry:
    """The collectors that describe this process: memory, CPU, file descriptors, GC, version."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def _no_in_flight() -> Mapping[tuple[str, str], int]:
    return {}


def _nobody() -> Mapping[str, int]:
    return {}


@dataclass(slots=True)
class Metrics:
    """All counts of one process since it started. Not thread-safe: observe and snapshot in one
    thread; only what is done with a Snapshot may happen in another."""

    limit: int = SERIES_LIMIT
    _counts: dict[str, dict[Labels, Count]] = field(init=False)
    _histograms: dict[str, dict[Labels, Histogram]] = field(init=False)
    _paths: dict[tuple[str, str, str, int], _Path] = field(init=False, default_factory=dict)
    _overhead: Histogram = field(init=False)
    _fleet: Fleet | None = field(init=False, default=None)
    _in_flight: InFlight = field(init=False, default=_no_in_flight)
    _queued: Queued = field(init=False, default=_nobody)
    _read: Mapping[str, Mapping[Labels, float]] = field(init=False, default_factory=dict)
    _process: CollectorRegistry = field(init=False, default_factory=_processes)

    def __post_init__(self) -> None:
        self._counts = {row.name: {} for row in fam.FAMILIES if row.type is Type.COUNTER}
        self._histograms = {row.name: {} for row in fam.FAMILIES if row.type is Type.HISTOGRAM}
        self._overhead = self._histogram(fam.OVERHEAD, ())
        # A rate over a series that begins with its first event misses that event.
        for result in ("success", "failure"):
            self._count(fam.RELOADS, (result,))

    def observe(self, outcome: Outcome) -> None:
        """Count one ended request, whatever became of it. Takes a few microseconds."""
        key = (outcome.surface, outcome.model, outcome.backend, outcome.status)
        path = self._paths.get(key) or self._open(key)
        path.requests.value += 1
        path.duration.add(outcome.duration)
        if outcome.overhead is not None:
            self._overhead.add(outcome.overhead)
        if path.generates and outcome.first_byte is not None:
            self._first_token(path).add(outcome.first_byte)
        if outcome.itl:
            self._inter_token(path).add_all(outcome.itl, outcome.itl_sum)
        usage = outcome.usage
        if usage.output or usage.input or usage.cached:
            self._add_tokens(path, usage)
        if outcome.moves or outcome.stale or outcome.hedged:
            self._add_moves(path.model, outcome)
        if outcome.queued is not None:
            self._histogram(fam.QUEUE_WAIT, (path.model,)).add(outcome.queued)
        if outcome.limit:
            self.rate_limited(outcome.key, outcome.limit)
        if outcome.cut_by == "client":
            self._count(fam.DISCONNECTS, (outcome.surface,)).value += 1

    def fleet(self, fleet: Fleet) -> None:
        """Take the newest view of the backends. Those that are no longer in it lose their
        gauges; their counters stay, since a counter never goes back."""
        self._fleet = fleet

    def set_in_flight_source(self, source: InFlight) -> None:
        """Ask ``source`` for the requests in flight whenever a snapshot is taken."""
        self._in_flight = source

    def set_queued_source(self, source: Queued) -> None:
        """Ask ``source`` for the requests that wait whenever a snapshot is taken."""
        self._queued = source

    def readings(self, read: Mapping[str, Mapping[Labels, float]]) -> None:
        """Take the newest values that others read, by family and labels."""
        self._read = read

    def reload(self, result: str) -> None:
        """Count a reload of the configuration: 'success' or 'failure'."""
        self._count(fam.RELOADS, (result,)).value += 1

    def rate_limited(self, key: str, limit: str) -> None:
        """Count a refusal for a key's limit. ``key`` is the key's name, never the key."""
        self._count(fam.RATE_LIMITED, (key, limit)).value += 1

    def gpu_gate(self, backend: str, reason: str) -> None:
        """Count that a backend was found sick or slow by its GPUs."""
        self._count(fam.GPU_GATE, (backend, reason)).value += 1

    def charge(self, model: str, key: str, joules: float, seconds: float) -> None:
        """Count what GPUs have spent on the requests of a key for a model."""
        self._count(fam.ENERGY, (model, key)).value += joules
        self._count(fam.GPU_SECONDS, (model, key)).value += seconds

    def state(self) -> State:
        """Every count so far, as plain data that can be pickled and merged."""
        return State(
            {
                name: {labels: series.value for labels, series in rows.items()}
                for name, rows in self._counts.items()
            },
            {
                name: {labels: (tuple(cell.counts), cell.sum) for labels, cell in rows.items()}
                for name, rows in self._histograms.items()
            },
        )

    def merge(self, other: State) -> None:
        """Add another process's counts to these. Gauges have no part in it."""
        by_name = {row.name: row for row in fam.FAMILIES}
        for name, counters in other.counters.items():
            for labels, value in counters.items():
                self._count(by_name[name], labels).value += value
        for name, histograms in other.histograms.items():
            for labels, (counts, total) in histograms.items():
                self._histogram(by_name[name], labels).add_all(counts, total)

    def snapshot(self) -> Snapshot:
        """A copy of everything at this moment; cheap, so that the event loop can take it."""
        return Snapshot(
            self.state(),
            self._fleet,
            dict(self._in_flight()),
            dict(self._queued()),
            self._read,
            self._process,
        )

    def render(self, accept: str) -> tuple[bytes, str]:
        """The page for a scraper that sent this Accept header, and its content type. With many
        series, ``asyncio.to_thread(exposition, metrics.snapshot(), accept)`` gives the same page
        without holding up streams."""
        return exposition(self.snapshot(), accept)

    def _open(self, key: tuple[str, str, str, int]) -> _Path:
        """The path of a combination that is new, or that came after the limit was reached."""
        labels: Labels = (*key[:3], str(_status(key[3])))
        rows = self._counts[fam.REQUESTS.name]
        full = labels not in rows and len(rows) >= self.limit
        surface, model, backend, status = _overflow(fam.REQUESTS, labels) if full else labels
        path = _Path(
            model,
            backend,
            _generates(surface, key[3]),
            rows.setdefault((surface, model, backend, status), Count()),
            self._histogram(fam.DURATION, (surface, model, backend)),
        )
        if not full:
            self._paths[key] = path
        return path

    def _count(self, family: Family, labels: Labels) -> Count:
        rows = self._counts[family.name]
        found = rows.get(labels)
        if found is None:
            if len(rows) >= self.limit:
                labels = _overflow(family, labels)
            found = rows.setdefault(labels, Count())
        return found

    def _histogram(self, family: Family, labels: Labels) -> Histogram:
        rows = self._histograms[family.name]
        found = rows.get(labels)
        if found is None:
            if len(rows) >= self.limit:
                labels = _overflow(family, labels)
            found = rows.setdefault(labels, Histogram(family.bounds))
        return found

    def _first_token(self, path: _Path) -> Histogram:
        if path.first_token is None:
            path.first_token = self._histogram(fam.FIRST_TOKEN, (path.model, path.backend))
        return path.first_token

    def _inter_token(self, path: _Path) -> Histogram:
        if path.inter_token is None:
            path.inter_token = self._histogram(fam.INTER_TOKEN, (path.model, path.backend))
        return path.inter_token

    def _add_tokens(self, path: _Path, usage: Usage) -> None:
        if path.tokens is None:
            into, out, cached = (
                self._count(fam.TOKENS, (path.model, path.backend, direction))
                for direction in ("input", "output", "cached")
            )
            path.tokens = (into, out, cached)
        into, out, cached = path.tokens
        into.value += usage.input
        out.value += usage.output
        cached.value += usage.cached

    def _add_moves(self, model: str, outcome: Outcome) -> None:
        # What the last attempt ended with led to no further one.
        for reason in outcome.moves[: max(outcome.attempts - 1 - bool(outcome.hedged), 0)]:
            self._count(fam.RETRIES, (model, reason)).value += 1
        if outcome.stale:
            self._count(fam.RETRIES, (model, "stale")).value += outcome.stale
        if outcome.hedged:
            self._count(fam.RETRIES, (model, "hedge")).value += 1
        if outcome.hedged == "won":
            self._count(fam.FAILOVERS, (model, "hedge")).value += 1
        elif outcome.moves and _answered_elsewhere(outcome):
            self._count(fam.FAILOVERS, (model, outcome.moves[0])).value += 1
