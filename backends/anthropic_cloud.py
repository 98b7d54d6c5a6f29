"""Anthropic's API, or a provider that speaks it, by base URL and key."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gateway.core.runtime import (
    NO_ANSWER,
    Answer,
    Cell,
    Evidence,
    Probe,
    Rule,
    Runtime,
    Support,
    Verdict,
)
from gateway.core.types import Doc, Model, Op, Wire

from .openai_cloud import cloud_health

MODELS = "/v1/models?limit=1000"
"""The whole list on one page: the default page has 20 entries."""

STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
"""Error type -> the status it has outside a stream."""


def _fingerprint(evidence: Evidence) -> str | None:
    """Its own list, or its own refusal: who is still unknown is asked without the version header,
    and perhaps without a key."""
    answer = evidence.get("/v1/models", NO_ANSWER)
    if not isinstance(answer.doc, dict):
        return None
    if answer.status == 200 and "has_more" in answer.doc and _rows(answer):
        return "lists models in Anthropic's shape"
    error = answer.doc.get("error")
    refused = isinstance(error, dict) and error.get("type") in STATUS_OF
    if answer.status in (400, 401, 403) and answer.doc.get("type") == "error" and refused:
        return "refuses a bare request in Anthropic's shape"
    return None


def _rows(answer: Answer) -> list[Doc]:
    rows = answer.doc.get("data") if isinstance(answer.doc, dict) else None
    return [
        row
        for row in (rows if isinstance(rows, list) else ())
        if isinstance(row, dict) and row.get("type") == "model" and isinstance(row.get("id"), str)
    ]


def _models(evidence: Evidence) -> tuple[Model, ...]:
    """The list in OpenAI's terms, every field of its own kept."""
    answer = evidence.get(MODELS, NO_ANSWER)
    return tuple(
        Model(
            row["id"],
            entry={
                "object": "model",
                "created": _seconds(row.get("created_at")),
                "owned_by": "anthropic",
                **row,
            },
            context=_size(row.get("max_input_tokens")),
        )
        for row in _rows(answer)
    )


def _seconds(moment: Any) -> int:
    """Unix seconds of an RFC 3339 time, read as UTC if it names no zone; 0 when it is none."""
    try:
        told = datetime.fromisoformat(str(moment))
    except ValueError:
        return 0
    return int((told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp())


def _size(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _event_fault(wire: Wire, op: Op, event: Any) -> tuple[int, str] | None:
    """An ``error`` event carries a type and no status; the type says which it would have been."""
    error = event.get("error") if isinstance(event, dict) else None
    if wire is not Wire.ANTHROPIC or not isinstance(error, dict):
        return None
    status = STATUS_OF.get(str(error.get("type")))
    return (status, str(error.get("message") or error["type"])) if status else None


def _no(note: str, remedy: str = "") -> Cell:
    return Cell(Support.NO, "", note, remedy)


_ABSENT = {
    Op.COMPLETIONS: "it has no plain completions",
    Op.EMBEDDINGS: "it has no embeddings",
    Op.RERANK: "it has no rerank",
    Op.SCORE: "it has no scoring",
    Op.TRANSCRIBE: "it has no audio",
    Op.TRANSLATE: "it has no audio",
    Op.SPEECH: "it has no audio",
    Op.IMAGES: "it makes no images",
    Op.IMAGE_EDITS: "it makes no images",
    Op.TOKENIZE: "it shows no tokens",
    Op.DETOKENIZE: "it shows no tokens",
}
_NOT_OPENAI = "it speaks only Anthropic's API"
_NOT_OLLAMA = "it does not speak Ollama's API"
_REMEDY = "add a backend that has it; MODELS.md lists them"

_CELLS: dict[tuple[Wire, Op], Cell] = {
    (Wire.ANTHROPIC, Op.MESSAGES): Cell(Support.YES, "/v1/messages"),
    (Wire.ANTHROPIC, Op.COUNT_TOKENS): Cell(Support.YES, "/v1/messages/count_tokens"),
    (Wire.OPENAI, Op.CHAT): _no(_NOT_OPENAI, "call POST /v1/messages with this model"),
    (Wire.OPENAI, Op.RESPONSES): _no(_NOT_OPENAI, "call POST /v1/messages with this model"),
    (Wire.OPENAI, Op.RESPONSES_BY_ID): _no("it stores no responses", _REMEDY),
    **{(Wire.OPENAI, op): _no(note, _REMEDY) for op, note in _ABSENT.items()},
    **{
        (Wire.OLLAMA, op): _no(_NOT_OLLAMA, "call POST /v1/messages with this model")
        for op in (Op.CHAT, Op.GENERATE)
    },
    **{(Wire.OLLAMA, op): _no("it has no embeddings", _REMEDY) for op in (Op.EMBED, Op.EMBEDDINGS)},
    **{
        (Wire.OLLAMA, op): _no(_NOT_OLLAMA, "call GET /v1/models")
        for op in (Op.TAGS, Op.SHOW, Op.PS, Op.VERSION)
    },
}

_RULES: tuple[Rule, ...] = (
    Rule(
        Verdict.UNKNOWN_MODEL,
        status=(404,),
        text="model:",
        why="its words for an unknown model: 'model: NAME'",
    ),
    Rule(Verdict.UNSUPPORTED, status=(404,), why="no such route at this provider"),
    Rule(
        Verdict.AUTH,
        status=(400,),
        text="credit balance is too low",
        why="the account's money is spent: for the operator, though it is a 400",
    ),
    Rule(Verdict.AUTH, status=(401, 402, 403), why="key, payment or permission"),
    Rule(Verdict.OVERLOADED, status=(429, 529), why="rate_limit_error, overloaded_error"),
)

ANTHROPIC_CLOUD = Runtime(
    name="anthropic",
    title="Anthropic",
    cells=_CELLS,
    extras={"top_k": "top_k"},
    fingerprint=_fingerprint,
    clues=("/v1/models",),
    rank=80,
    probe=Probe((MODELS,), timeout=10.0),
    health=cloud_health,
    model_paths=(MODELS,),
    models=_models,
    auth=("x-api-key", "{key}"),
    adds={"anthropic-version": "2023-06-01"},
    # The caller's own version header would stand there twice.
    drops=frozenset({"cookie", "origin", "anthropic-version"}),
    rules=_RULES,
    event_fault=_event_fault,
    idle=30.0,
    cloud=True,
    url="https://api.anthropic.com",
    flags={
        "tools": "none",
        "embeddings": "not there",
        "json_schema": "none; depends on the model",
        "reasoning": "thinking in the body",
        "vision": "none",
    },
)
