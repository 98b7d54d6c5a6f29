"""The runtimes: one file and one row each. Importing this module only defines."""

from __future__ import annotations

from gateway.core.runtime import Evidence, Runtime

from .anthropic_cloud import ANTHROPIC_CLOUD
from .llamacpp import LLAMACPP
from .localai import LOCALAI
from .ollama import OLLAMA
from .openai_cloud import OPENAI_CLOUD
from .sglang import SGLANG
from .tgi import TGI
from .vllm import VLLM

RUNTIMES: tuple[Runtime, ...] = (
    VLLM,
    SGLANG,
    TGI,
    LLAMACPP,
    LOCALAI,
    OLLAMA,
    OPENAI_CLOUD,
    ANTHROPIC_CLOUD,
)

PLAIN: Runtime = OPENAI_CLOUD
"""The row for a server of which nothing is known yet but that it should speak OpenAI's API."""

DEMO: Runtime = LLAMACPP
"""The row of the engine that is embedded for trying things out."""

BY_NAME: dict[str, Runtime] = {row.name: row for row in RUNTIMES}


def detect(evidence: Evidence) -> tuple[Runtime, str] | None:
    """The row whose fingerprint fits the evidence, and why; None when none fits."""
    for row in sorted(RUNTIMES, key=lambda row: row.rank):
        reason = row.fingerprint(evidence)
        if reason is not None:
            return row, reason
    return None


CLUES: tuple[str, ...] = tuple(dict.fromkeys(path for row in RUNTIMES for path in row.clues))
"""Every path that some fingerprint reads."""
