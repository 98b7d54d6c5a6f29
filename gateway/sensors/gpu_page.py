"""GPU readings as a Prometheus page, under the names that the gateway's own page uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.core.gpus import Gpu, State, Throttle

LABELS = ("host", "gpu", "uuid")


@dataclass(frozen=True, slots=True)
class Row:
    """A metric with its reading of a GPU; None where it is not told."""

    name: str
    help: str
    value: Callable[[Gpu], float | None]


GAUGES = (
    Row("portico_gpu_utilization_ratio", "Share of time in which it computed", lambda g: g.busy),
    Row("portico_gpu_memory_used_bytes", "Memory in use", lambda g: g.memory_used),
    Row("portico_gpu_memory_total_bytes", "Memory in all", lambda g: g.memory_total),
    Row("portico_gpu_temperature_celsius", "Temperature", lambda g: g.temperature),
    Row("portico_gpu_power_watts", "Power drawn", lambda g: g.power),
)
"""Of every device that tells it."""


class Devices(Collector):
    """The readings of some GPUs, once."""

    def __init__(self, gpus: Iterable[Gpu]) -> None:
        self._gpus = list(gpus)

    def collect(self) -> Iterator[Metric]:
        for row in GAUGES:
            yield self._gauge(row)
        yield self._throttled()
        yield self._healthy()
        yield self._counter(
            "portico_gpu_energy_joules",
            "Energy used since the driver was loaded",
            lambda gpu: [] if gpu.energy is None else [("", gpu.energy)],
        )
        yield self._counter(
            "portico_gpu_ecc_errors", "Memory errors since the driver was loaded", _ecc, "kind"
        )
        yield self._counter(
            "portico_gpu_xid_errors",
            "Critical events since the agent was started",
            lambda gpu: [(str(xid), float(count)) for xid, count in gpu.xids.items()],
            "xid",
        )

    def _gauge(self, row: Row) -> Metric:
        family = GaugeMetricFamily(row.name, row.help, labels=LABELS)
        for gpu in self._gpus:
            value = row.value(gpu)
            if value is not None:
                family.add_metric(_labels(gpu), value)
        return family

    def _throttled(self) -> Metric:
        text = "Whether its clocks are held down for this reason"
        family = GaugeMetricFamily("portico_gpu_throttled", text, labels=(*LABELS, "reason"))
        for gpu in self._gpus:
            for reason in Throttle:
                family.add_metric([*_labels(gpu), reason.value], reason in gpu.throttle)
        return family

    def _healthy(self) -> Metric:
        """The agent does not judge: that a device answers is all it says."""
        family = GaugeMetricFamily("portico_gpu_healthy", "Whether it answers", labels=LABELS)
        for gpu in self._gpus:
            family.add_metric(_labels(gpu), gpu.state is not State.LOST)
        return family

    def _counter(
        self,
        name: str,
        text: str,
        values: Callable[[Gpu], list[tuple[str, float]]],
        label: str = "",
    ) -> Metric:
        family = CounterMetricFamily(name, text, labels=(*LABELS, *filter(None, [label])))
        for gpu in self._gpus:
            for kind, value in values(gpu):
                family.add_metric([*_labels(gpu), *filter(None, [kind])], value)
        return family


def _labels(gpu: Gpu) -> list[str]:
    return [gpu.host, gpu.index, gpu.uuid]


def _ecc(gpu: Gpu) -> list[tuple[str, float]]:
    told = {"corrected": gpu.ecc_corrected, "uncorrected": gpu.ecc_uncorrected}
    return [(kind, float(count)) for kind, count in told.items() if count is not None]


def page(gpus: Iterable[Gpu]) -> bytes:
    """The page in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(Devices(gpus))
    return generate_latest(registry)
