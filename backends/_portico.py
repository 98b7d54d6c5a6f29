"""Tells another Portico from an engine: a gateway answers in many engines' manners."""

from __future__ import annotations

from gateway.core.runtime import NO_ANSWER, Evidence

CLUE = "/version"


def is_portico(evidence: Evidence) -> bool:
    """True when some answer carries ``Server: portico/…``, or ``/version`` names its product
    (engines that have that path answer the version alone)."""
    version = evidence.get(CLUE, NO_ANSWER).doc
    return (isinstance(version, dict) and "name" in version) or any(
        answer.headers.get("server", "").casefold().startswith("portico")
        for answer in evidence.values()
    )
