"""What vLLM's and SGLang's fingerprints have in common: who owns the models, how 401 is said."""

from __future__ import annotations

from typing import Any

from gateway.core.runtime import NO_ANSWER, Evidence
from gateway.core.types import Doc

UNAUTHORIZED: Doc = {"error": "Unauthorized"}
"""How vLLM and SGLang say 401 (sheets: vllm 1, sglang 1): a string where others have an object."""


def document(evidence: Evidence, path: str) -> Doc:
    """The JSON object that a 200 at ``path`` brought; empty for anything else."""
    answer = evidence.get(path, NO_ANSWER)
    return answer.doc if answer.status == 200 and isinstance(answer.doc, dict) else {}


def owners(evidence: Evidence) -> frozenset[str]:
    """All ``owned_by`` of the model list; empty when any entry has none."""
    data = document(evidence, "/v1/models").get("data")
    found = [_owner(entry) for entry in data] if isinstance(data, list) else []
    return frozenset(found) if all(found) else frozenset()


def refuses(evidence: Evidence, path: str) -> bool:
    """True when ``path`` answered 401 in the words of vLLM and SGLang."""
    answer = evidence.get(path, NO_ANSWER)
    return answer.status == 401 and answer.doc == UNAUTHORIZED


def _owner(entry: Any) -> str:
    owner = entry.get("owned_by") if isinstance(entry, dict) else None
    return owner if isinstance(owner, str) else ""
