"""Every way in which the gateway itself refuses, as one table (INTERFACE section 4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Kind:
    """``status`` is the HTTP status; ``retry_after`` (seconds) is sent unless the refusal says
    its own; ``fault`` names who erred: caller, backend or gateway."""

    status: int
    fault: str
    retry_after: int | None = None


KINDS: dict[str, Kind] = {
    "invalid_request": Kind(400, "caller"),
    "unauthorized": Kind(401, "caller"),
    "forbidden": Kind(403, "caller"),
    "model_not_found": Kind(404, "caller"),
    "not_found": Kind(404, "caller"),
    "method_not_allowed": Kind(405, "caller"),
    "request_too_large": Kind(413, "caller"),
    "rate_limit_exceeded": Kind(429, "caller", retry_after=1),
    "internal": Kind(500, "gateway"),
    "unsupported": Kind(501, "caller"),
    "backend_unreachable": Kind(502, "backend"),
    "overloaded": Kind(503, "backend", retry_after=2),
    "draining": Kind(503, "gateway", retry_after=5),
    "backend_timeout": Kind(504, "backend"),
}


@dataclass(slots=True, eq=False)
class Refusal(Exception):
    """The gateway's own answer. ``kind`` is a row of KINDS; ``message`` says what happened, whose
    fault it is and what to do next; ``headers`` go out with it; ``label`` is the bounded name of
    the model that was meant, once that is known. ``opens``: nothing is wrong but that all places
    are taken, so that waiting would help, in so many seconds at the soonest (0: nobody knows);
    None where it would not. ``limit`` names the limit of the key that was met."""

    kind: str
    message: str
    param: str | None = None
    code: str | None = None
    retry_after: float | None = None
    headers: dict[str, str] = field(default_factory=dict)
    label: str = ""
    limit: str = ""
    opens: float | None = None

    @property
    def status(self) -> int:
        return KINDS[self.kind].status

    def body(self, request_id: str | None = None) -> dict[str, Any]:
        """The inner ``error`` object, with the optional fields only where they are known."""
        error: dict[str, Any] = {"type": self.kind, "message": self.message}
        if self.code is not None:
            error["code"] = self.code
        if self.param is not None:
            error["param"] = self.param
        if request_id is not None:
            error["request_id"] = request_id
        return error
