"""The table of metric families (INTERFACE section 6): names, labels, help texts, bucket bounds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gateway.core.types import ITL_BUCKETS


class Type(StrEnum):
    """The Prometheus type of a family."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True)
class Family:
    """One family. ``bounds`` are the upper bounds of a histogram's buckets, in seconds and rising,
    without the infinite one; other types have none."""

    name: str
    type: Type
    labels: tuple[str, ...]
    help: str
    bounds: tuple[float, ...] = ()


# Requests last from a refused one's fraction of a millisecond to a long generation's ten minutes.
DURATION_BOUNDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    *(2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0),
)
FIRST_TOKEN_BOUNDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0),
)
OVERHEAD_BOUNDS = (
    *(50e-6, 100e-6, 150e-6, 200e-6, 300e-6, 400e-6, 500e-6, 750e-6),
    *(0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
)

QUEUE_BOUNDS = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    *(2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0),
)

_C, _G, _H = Type.COUNTER, Type.GAUGE, Type.HISTOGRAM

REQUESTS = Family(
    "portico_requests_total",
    _C,
    ("surface", "model", "backend", "status"),
    "Requests that have ended, by the status the client saw; 499 if it left before any status.",
)
IN_FLIGHT = Family(
    "portico_requests_in_flight",
    _G,
    ("model", "backend"),
    "Requests that a backend is working on for this gateway now.",
)
DURATION = Family(
    "portico_request_duration_seconds",
    _H,
    ("surface", "model", "backend"),
    "Time from a request's arrival to the last byte of its answer.",
    DURATION_BOUNDS,
)
FIRST_TOKEN = Family(
    "portico_time_to_first_token_seconds",
    _H,
    ("model", "backend"),
    "Time from the arrival of a generating request to the first byte of a good answer.",
    FIRST_TOKEN_BOUNDS,
)
INTER_TOKEN = Family(
    "portico_inter_token_latency_seconds",
    _H,
    ("model", "backend"),
    "Time between two content events of one stream.",
    ITL_BUCKETS,
)
TOKENS = Family(
    "portico_tokens_total",
    _C,
    ("model", "backend", "direction"),
    "Tokens of all answers; input includes cached ones.",
)
OVERHEAD = Family(
    "portico_overhead_seconds",
    _H,
    (),
    "Time a request spends in the gateway itself before the first upstream byte is asked for.",
    OVERHEAD_BOUNDS,
)
QUEUE_DEPTH = Family(
    "portico_queue_depth",
    _G,
    ("model",),
    "Requests that wait at the gateway because all backends of their model are full.",
)
QUEUE_WAIT = Family(
    "portico_queue_wait_seconds",
    _H,
    ("model",),
    "Time that requests which had to wait at the gateway spent there, whatever became of them.",
    QUEUE_BOUNDS,
)
RETRIES = Family(
    "portico_retries_total",
    _C,
    ("model", "reason"),
    "Attempts that were given up for another one, by what was wrong with them.",
)
FAILOVERS = Family(
    "portico_failovers_total",
    _C,
    ("model", "reason"),
    "Requests that another backend answered, by why the first choice was given up.",
)
DISCONNECTS = Family(
    "portico_client_disconnects_total",
    _C,
    ("surface",),
    "Requests whose client went away before the end of its answer.",
)
BACKEND_UP = Family(
    "portico_backend_up",
    _G,
    ("backend", "runtime"),
    "1 if the backend takes requests, 0 if it does not.",
)
BACKEND_INFO = Family(
    "portico_backend_info",
    _G,
    ("backend", "runtime", "version"),
    "Always 1; the labels tell what the backend runs.",
)
BACKEND_RUNNING = Family(
    "portico_backend_requests_running",
    _G,
    ("backend",),
    "Requests that the engine says it is working on, from all its clients.",
)
BACKEND_WAITING = Family(
    "portico_backend_requests_waiting",
    _G,
    ("backend",),
    "Requests that the engine says it has queued, from all its clients.",
)
BACKEND_KV = Family(
    "portico_backend_kv_cache_usage_ratio",
    _G,
    ("backend",),
    "Share of the engine's KV cache that is in use, 0 to 1.",
)
BACKEND_HITS = Family(
    "portico_backend_prefix_cache_hit_ratio",
    _G,
    ("backend",),
    "Share of prompt tokens that the engine found in its prefix cache, 0 to 1.",
)
CIRCUIT = Family(
    "portico_circuit_state",
    _G,
    ("backend",),
    "What failed requests made of it: 0 closed, 1 half open (one request at a time), 2 open.",
)
_GPU = ("host", "gpu", "uuid", "backend")

GPU_BUSY = Family(
    "portico_gpu_utilization_ratio",
    _G,
    _GPU,
    "Share of the last sampling period in which the GPU was at work, 0 to 1.",
)
GPU_MEMORY_USED = Family(
    "portico_gpu_memory_used_bytes", _G, _GPU, "Memory of the GPU that is in use."
)
GPU_MEMORY_TOTAL = Family("portico_gpu_memory_total_bytes", _G, _GPU, "Memory of the GPU.")
GPU_HEAT = Family("portico_gpu_temperature_celsius", _G, _GPU, "Temperature of the GPU.")
GPU_POWER = Family("portico_gpu_power_watts", _G, _GPU, "Power that the GPU draws.")
GPU_THROTTLED = Family(
    "portico_gpu_throttled",
    _G,
    (*_GPU, "reason"),
    "1 while the clocks of the GPU are held down for this reason, 0 if not.",
)
GPU_HEALTHY = Family(
    "portico_gpu_healthy",
    _G,
    _GPU,
    "1 if nothing is held against the GPU, 0 if an engine on it would get no new requests.",
)
GPU_ECC = Family(
    "portico_gpu_ecc_errors_total",
    _C,
    (*_GPU, "kind"),
    "Memory errors since the driver was loaded, corrected and uncorrected.",
)
GPU_XIDS = Family(
    "portico_gpu_xid_errors_total",
    _C,
    (*_GPU, "xid"),
    "Critical events of the driver, by NVIDIA's number, since they are listened for.",
)
GPU_JOULES = Family(
    "portico_gpu_energy_joules_total",
    _C,
    _GPU,
    "Energy that the GPU has drawn since it is watched.",
)
GPU_GATE = Family(
    "portico_gpu_gate_events_total",
    _C,
    ("backend", "reason"),
    "Times that a backend was held to be sick or slow for what its GPUs said.",
)
ENERGY = Family(
    "portico_energy_joules_total",
    _C,
    ("model", "key"),
    "Energy of GPUs while they worked, shared by the tokens in flight.",
)
GPU_SECONDS = Family(
    "portico_gpu_seconds_total",
    _C,
    ("model", "key"),
    "Time of GPUs while they worked, shared by the tokens in flight.",
)
RATE_LIMITED = Family(
    "portico_rate_limited_total",
    _C,
    ("key", "limit"),
    "Requests refused because of a limit of their key.",
)
RELOADS = Family(
    "portico_config_reloads_total",
    _C,
    ("result",),
    "Attempts to reload the configuration.",
)

FAMILIES: tuple[Family, ...] = (
    REQUESTS,
    IN_FLIGHT,
    DURATION,
    FIRST_TOKEN,
    INTER_TOKEN,
    TOKENS,
    OVERHEAD,
    QUEUE_DEPTH,
    QUEUE_WAIT,
    RETRIES,
    FAILOVERS,
    DISCONNECTS,
    BACKEND_UP,
    BACKEND_INFO,
    BACKEND_RUNNING,
    BACKEND_WAITING,
    BACKEND_KV,
    BACKEND_HITS,
    CIRCUIT,
    GPU_BUSY,
    GPU_MEMORY_USED,
    GPU_MEMORY_TOTAL,
    GPU_HEAT,
    GPU_POWER,
    GPU_THROTTLED,
    GPU_ECC,
    GPU_XIDS,
    GPU_HEALTHY,
    GPU_JOULES,
    GPU_GATE,
    ENERGY,
    GPU_SECONDS,
    RATE_LIMITED,
    RELOADS,
)
