"""Ollama's /api/embed and its older /api/embeddings in front of /v1/embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot, isclose
from typing import Any

from gateway.core.errors import Refusal
from gateway.core.types import Doc, Op, Wire

from .bridge import Asked, Asking, Bridge
from .chunks import nonsense
from .fields import wrong
from .ollama_fields import Draft, note_unsaid, text_field
from .ollama_timings import Meter

KEPT = ("total_duration", "load_duration", "prompt_eval_count")
"""The figures that ``/api/embed`` tells (sheet: ollama 2.2)."""


def _embed(asking: Asking) -> Asked:
    """``dimensions`` stays here: engines take it only for models trained so, while Ollama cuts
    the vectors of any model."""
    doc = asking.doc
    given = doc.get("input")
    if not isinstance(given, str) and not (
        isinstance(given, list) and all(isinstance(text, str) for text in given)
    ):
        raise wrong("input", "invalid input type: 'input' has to be a string or a list of strings.")
    _dimensions(doc)
    draft = _draft(asking, given)
    if doc.get("truncate"):
        # -1 is 'as long as the model takes' (vLLM, pooling protocol).
        draft.own("truncate", -1, "truncate")
    note_unsaid(draft, {**doc, "truncate": None}, {"input", "dimensions"})
    return Asked(draft.doc, tuple(draft.lost))


def _draft(asking: Asking, texts: str | list[str]) -> Draft:
    draft = Draft(asking.extras)
    draft.doc = {"model": asking.model, "input": texts, "encoding_format": "float"}
    options = asking.doc.get("options")
    if not isinstance(options, dict | None):
        raise wrong("options", "'options' has to be an object.")
    draft.lost += [
        f"options.{name}" for name, value in (options or {}).items() if value is not None
    ]
    return draft


def _dimensions(doc: Doc) -> int | None:
    wanted = doc.get("dimensions")
    if wanted is None or wanted == 0:
        return None
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted < 0:
        raise wrong("dimensions", "'dimensions' has to be a whole number above zero.")
    return wanted


def _embeddings(asking: Asking) -> Asked:
    draft = _draft(asking, text_field(asking.doc, "prompt"))
    note_unsaid(draft, asking.doc, {"prompt"})
    return Asked(draft.doc, tuple(draft.lost))


def _embed_reply(doc: Doc, asking: Asking) -> Doc:
    meter, wanted = Meter(asking), _dimensions(asking.doc)
    meter.counts(doc)
    figures = meter.figures(asking.clock())
    return {
        "model": asking.model,
        "embeddings": [unit(vector[:wanted]) for vector in _vectors(doc)],
        **{name: figures[name] for name in KEPT if name in figures},
    }


def _embeddings_reply(doc: Doc, asking: Asking) -> Doc:
    """The vector as the engine made it: this route never normalised (sheet: ollama 2.2)."""
    vectors = _vectors(doc)
    if len(vectors) != 1:
        raise nonsense(f"{len(vectors)} embeddings for one prompt")
    return {"embedding": vectors[0]}


def _vectors(doc: Doc) -> list[Sequence[float]]:
    data = doc.get("data")
    rows = [row for row in data if isinstance(row, dict)] if isinstance(data, list) else []
    rows.sort(key=_place)
    vectors = [row.get("embedding") for row in rows]
    if not vectors or not all(isinstance(vector, list) for vector in vectors):
        raise nonsense("an answer without embeddings as lists of numbers")
    return [vector for vector in vectors if isinstance(vector, list)]


def _place(row: dict[str, Any]) -> int:
    index = row.get("index")
    return index if isinstance(index, int) else 0


def unit(vector: Sequence[float]) -> Sequence[float]:
    """The vector at length 1, as it is where it is that long already or zero."""
    length = hypot(*vector)
    if length == 0 or isclose(length, 1.0, abs_tol=1e-6):
        return vector
    return [value / length for value in vector]


def _no_stream(asking: Asking) -> Any:
    raise Refusal("internal", "Embeddings are not streamed.")


EMBED = Bridge(
    Wire.OLLAMA,
    Op.EMBED,
    Wire.OPENAI,
    Op.EMBEDDINGS,
    request=_embed,
    reply=_embed_reply,
    stream=_no_stream,
)

EMBEDDINGS = Bridge(
    Wire.OLLAMA,
    Op.EMBEDDINGS,
    Wire.OPENAI,
    Op.EMBEDDINGS,
    request=_embeddings,
    reply=_embeddings_reply,
    stream=_no_stream,
)
