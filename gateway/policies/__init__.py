"""The routing policies: one function a file, from a View to one score a candidate, lowest first."""

from __future__ import annotations

from gateway.core.plan import Policy

from .gpu import gpu
from .least_loaded import least_loaded
from .power_of_two import power_of_two
from .round_robin import round_robin
from .session import session
from .weighted import weighted

POLICIES: dict[str, Policy] = {
    "auto": least_loaded,
    "gpu": gpu,
    "least_loaded": least_loaded,
    "power_of_two": power_of_two,
    "round_robin": round_robin,
    "session": session,
    "weighted": weighted,
}
