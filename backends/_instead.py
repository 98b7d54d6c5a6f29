"""What to call instead of each Ollama route, for runtimes without that dialect."""

from __future__ import annotations

from gateway.core.runtime import Cell, Support
from gateway.core.types import Op, Wire

_INSTEAD = {
    Op.CHAT: "call POST /v1/chat/completions for this model, or ask an Ollama backend",
    Op.GENERATE: "call POST /v1/completions for this model, or ask an Ollama backend",
    Op.EMBED: "call POST /v1/embeddings of an embedding model, or ask an Ollama backend",
    Op.EMBEDDINGS: "call POST /v1/embeddings of an embedding model, or ask an Ollama backend",
    Op.TAGS: "call GET /v1/models, or ask an Ollama backend",
    Op.SHOW: "call GET /v1/models, or ask an Ollama backend",
    Op.PS: "call GET /v1/models, or ask an Ollama backend",
    Op.VERSION: "call GET /version of this gateway, or ask an Ollama backend",
}


def no_ollama(note: str) -> dict[tuple[Wire, Op], Cell]:
    """The cells of the whole dialect, all NO for the reason in ``note``."""
    return {
        (Wire.OLLAMA, op): Cell(Support.NO, note=note, remedy=remedy)
        for op, remedy in _INSTEAD.items()
    }
