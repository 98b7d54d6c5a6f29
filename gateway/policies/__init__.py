"""The routing policies: one function a file, from a View to one score a candidate, lowest first."""

from __future__ import annotations

from collections.abc import Iterable

from gateway.core.plan import Policy

from .auto import auto
from .gpu import gpu
from .least_loaded import least_loaded
from .local_first import local_first
from .lowest_latency import lowest_latency
from .mixed import mixed, read, spelt
from .power_of_two import power_of_two
from .prefix import prefix
from .round_robin import round_robin
from .session import session
from .weighted import weighted

__all__ = ["POLICIES", "policies_for", "read", "spelt"]

POLICIES: dict[str, Policy] = {
    "auto": auto,
    "gpu": gpu,
    "least_loaded": least_loaded,
    "local_first": local_first,
    "lowest_latency": lowest_latency,
    "power_of_two": power_of_two,
    "prefix": prefix,
    "round_robin": round_robin,
    "session": session,
    "weighted": weighted,
}


def policies_for(names: Iterable[str | None]) -> dict[str, Policy]:
    """Every policy, and the mixes among the names."""
    mixes = {name for name in names if name and name not in POLICIES}
    return {**POLICIES, **{name: mixed(read(name), POLICIES) for name in mixes}}
