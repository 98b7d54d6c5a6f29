"""From a snapshot of the counts to the page that Prometheus scrapes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.core.types import ROUTABLE, Backend, Fleet, Load, Sight

from . import families as fam
from .families import Family

Labels = tuple[str, ...]
"""The values of a series' labels, in the order of its family."""

OPENMETRICS = "application/openmetrics-text"


@dataclass(frozen=True, slots=True)
class State:
    """Counts by family name and labels. A histogram is its counts per bucket (not cumulative,
    the last one for values over all bounds) and the sum of its values."""

    counters: Mapping[str, Mapping[Labels, float]]
    histograms: Mapping[str, Mapping[Labels, tuple[tuple[int, ...], float]]]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a page is made from. ``read`` are values that are not counted here but read from
    somewhere, by family; ``process`` collects what the operating system knows."""

    state: State
    fleet: Fleet | None = None
    in_flight: Mapping[tuple[str, str], int] = field(default_factory=dict)
    queued: Mapping[str, int] = field(default_factory=dict)
    read: Mapping[str, Mapping[Labels, float]] = field(default_factory=dict)
    process: CollectorRegistry = field(default_factory=CollectorRegistry)


def exposition(snapshot: Snapshot, accept: str) -> tuple[bytes, str]:
    """The page and its content type: OpenMetrics 1.0 if the Accept header prefers it, the
    Prometheus text format 0.0.4 otherwise."""
    page = _Page(snapshot)
    if wants_openmetrics(accept):
        body: bytes = openmetrics.generate_latest(page, version="1.0.0")  # type: ignore[no-untyped-call]
        return body, f"{OPENMETRICS}; version=1.0.0; charset=utf-8"
    return generate_latest(page), CONTENT_TYPE_PLAIN_0_0_4


def wants_openmetrics(accept: str) -> bool:
    """True when an Accept header names OpenMetrics and ranks nothing of plain text above it."""
    quality = dict(_ranked(accept))
    asked = quality.get(OPENMETRICS, 0.0)
    return asked > 0 and asked >= quality.get("text/plain", 0.0)


def _ranked(accept: str) -> Iterator[tuple[str, float]]:
    for item in accept.lower().split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        yield media, min((_quality(part) for part in parameters), default=1.0)


def _quality(parameter: str) -> float:
    """The number of ``q=0.5``; 1 for other parameters, 0 for a q that is no number."""
    name, _, value = parameter.partition("=")
    if name.strip() != "q":
        return 1.0
    try:
        return float(value)
    except ValueError:
        return 0.0


class _Page(Collector):
    """All families of one snapshot, in the order of the table, then the process's own."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        state = self._snapshot.state
        gauges = _gauges(self._snapshot)
        for family in fam.FAMILIES:
            read = self._snapshot.read.get(family.name, {})
            if family.name in state.counters:
                yield _counter(family, {**state.counters[family.name], **read})
            elif family.name in state.histograms:
                yield _histogram(family, state.histograms[family.name])
            else:
                yield _gauge(family, {**gauges[family.name], **read})
        yield from self._snapshot.process.collect()


def _values(labels: Labels) -> list[str]:
    """Label values that UTF-8 can carry: an engine may name a model with half a surrogate pair,
    and one such name must not cost the whole page."""
    return [label.encode("utf-8", "backslashreplace").decode() for label in labels]


def _counter(family: Family, rows: Mapping[Labels, float]) -> Metric:
    metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in rows.items():
        metric.add_metric(_values(labels), value)
    return metric


def _gauge(family: Family, rows: Mapping[Labels, float]) -> Metric:
    metric = GaugeMetricFamily(family.name, family.help, labels=family.labels)
    for labels, value in rows.items():
        metric.add_metric(_values(labels), value)
    return metric


def _histogram(family: Family, rows: Mapping[Labels, tuple[tuple[int, ...], float]]) -> Metric:
    metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
    names = [*map(floatToGoString, family.bounds), "+Inf"]
    for labels, (counts, total) in rows.items():
        buckets = list(zip(names, accumulate(counts), strict=True))
        metric.add_metric(_values(labels), buckets, total)
    return metric


def _gauges(snapshot: Snapshot) -> dict[str, dict[Labels, float]]:
    """The rows of every gauge. A number that an engine does not publish has no row: a zero
    would be a claim."""
    rows: dict[str, dict[Labels, float]] = {
        row.name: {} for row in fam.FAMILIES if row.type is fam.Type.GAUGE
    }
    for labels, count in snapshot.in_flight.items():
        rows[fam.IN_FLIGHT.name][labels] = count
    for model, count in snapshot.queued.items():
        rows[fam.QUEUE_DEPTH.name][(model,)] = count
    if snapshot.fleet is not None:
        for name, backend in snapshot.fleet.backends.items():
            _add_backend(rows, backend, snapshot.fleet.sights.get(name, Sight()))
    return rows


def _add_backend(rows: dict[str, dict[Labels, float]], backend: Backend, sight: Sight) -> None:
    runtime = _runtime(backend, sight)
    rows[fam.BACKEND_UP.name][(backend.name, runtime)] = float(sight.health in ROUTABLE)
    rows[fam.CIRCUIT.name][(backend.name,)] = float(sight.circuit)
    rows[fam.BACKEND_INFO.name][(backend.name, runtime, sight.version)] = 1.0
    for family, value in _load(sight.load):
        if value is not None:
            rows[family.name][(backend.name,)] = value


def _load(load: Load) -> tuple[tuple[Family, float | None], ...]:
    return (
        (fam.BACKEND_RUNNING, load.running),
        (fam.BACKEND_WAITING, load.waiting),
        (fam.BACKEND_KV, load.kv_used),
        (fam.BACKEND_HITS, load.hit_ratio),
    )


def _runtime(backend: Backend, sight: Sight) -> str:
    """The runtime as found out, else as configured; 'unknown' before it was found out."""
    if sight.runtime:
        return sight.runtime
    return backend.runtime if backend.runtime != "auto" else "unknown"
