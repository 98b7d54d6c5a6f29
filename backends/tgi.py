"""Hugging Face's text-generation-inference 3.3: frozen, strict about JSON types, text only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
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
    health_by_status,
    openai_models,
)
from gateway.core.types import Doc, Health, Load, Model, Op, Wire

from ._body import DROP, patched, renamed, without
from ._instead import no_ollama
from ._metrics import total
from ._portico import CLUE, is_portico


def _no(remedy: str, note: str = "it only generates text") -> Cell:
    return Cell(Support.NO, note=note, remedy=remedy)


_CHAT_INSTEAD = "call POST /v1/chat/completions for this model, which TGI does have"

CELLS: Mapping[tuple[Wire, Op], Cell] = {
    (Wire.OPENAI, Op.CHAT): Cell(
        Support.YES,
        "/v1/chat/completions",
        "n is ignored; at most one tool call, and tool_choice auto may generate twice",
    ),
    (Wire.OPENAI, Op.COMPLETIONS): Cell(
        Support.YES,
        "/v1/completions",
        "prompt as text only, at most 4 of them (--max-client-batch-size); no suffix",
    ),
    (Wire.OPENAI, Op.EMBEDDINGS): _no(
        "serve the model with text-embeddings-inference (another project, runtime openai here)"
        " or with vLLM, SGLang, llama.cpp or Ollama",
        "it has no embeddings route at all",
    ),
    (Wire.OPENAI, Op.RESPONSES): _no(_CHAT_INSTEAD, "it has no Responses API"),
    (Wire.OPENAI, Op.RESPONSES_BY_ID): _no(
        "use a vLLM or LocalAI backend, which keep responses", "it keeps no responses"
    ),
    (Wire.OPENAI, Op.RERANK): _no(
        "serve a reranking model with vLLM, SGLang or llama-server --reranking"
    ),
    (Wire.OPENAI, Op.SCORE): _no("serve a scoring model with vLLM or SGLang"),
    (Wire.OPENAI, Op.TRANSCRIBE): _no("serve a speech model with vLLM, SGLang or LocalAI"),
    (Wire.OPENAI, Op.TRANSLATE): _no("serve a speech model with vLLM"),
    (Wire.OPENAI, Op.SPEECH): _no("serve a voice with LocalAI"),
    (Wire.OPENAI, Op.IMAGES): _no("serve an image model with LocalAI"),
    (Wire.OPENAI, Op.IMAGE_EDITS): _no("use a cloud provider (runtime openai) that edits images"),
    (Wire.OPENAI, Op.TOKENIZE): Cell(
        Support.YES,
        "/tokenize",
        "text only; answers a list of {id, text, start, stop}",
        # Sheet: tgi 2. It takes a chat's body, tools and all.
        chat_path="/chat_tokenize",
    ),
    (Wire.OPENAI, Op.DETOKENIZE): _no(
        "serve the model with vLLM, SGLang or llama-server", "it can tokenize but not back"
    ),
    (Wire.ANTHROPIC, Op.MESSAGES): _no(_CHAT_INSTEAD, "it does not speak Anthropic's API"),
    (Wire.ANTHROPIC, Op.COUNT_TOKENS): _no(
        "call POST /tokenize, or serve the model with vLLM, SGLang or llama-server",
        "it does not speak Anthropic's API",
    ),
    **no_ollama("it does not speak Ollama's API"),
}


def _info(evidence: Evidence) -> Doc:
    doc = evidence.get("/info", NO_ANSWER).doc
    return doc if isinstance(doc, dict) else {}


def fingerprint(evidence: Evidence) -> str | None:
    """The open ``/info`` names the router; text-embeddings-inference, which has ``/info`` too,
    does not (sheet: tgi 3)."""
    if is_portico(evidence):
        return None
    router = _info(evidence).get("router")
    return f"/info says router '{router}'" if router == "text-generation-router" else None


def version(evidence: Evidence) -> str:
    """TGI's version from ``/info``."""
    found = _info(evidence).get("version")
    return found if isinstance(found, str) else ""


def health(answer: Answer) -> tuple[Health, str]:
    """A 503 does not mean loading: the port opens only when the model is ready (sheet: tgi 1), so
    it means that generating failed (sheet: tgi 2)."""
    if answer.status == 503:
        return (
            Health.SICK,
            "says that it cannot generate (503 healthcheck); see its log for the failed shard",
        )
    return health_by_status(answer)


def models(evidence: Evidence) -> tuple[Model, ...]:
    """The one model, with the context (prompt + output, tokens) that only ``/info`` has. Adapters
    are listed nowhere: an operator names them in the backend's ``models`` (sheet: tgi 4)."""
    context = _info(evidence).get("max_total_tokens")
    return tuple(
        replace(model, context=context if isinstance(context, int) else None)
        for model in openai_models(evidence.get("/v1/models", NO_ANSWER))
    )


def load(evidence: Evidence) -> Load:
    """From ``/metrics`` (sheet: tgi 5). ``kv_used`` is a stand-in: tokens reserved by the running
    batch over the capacity, which is above the true use. ``progress`` counts forward passes."""
    page = evidence.get("/metrics", NO_ANSWER)
    text = page.text if page.status == 200 else ""
    cache = total(text, "tgi_batch_max_total_tokens")
    return Load(
        running=total(text, "tgi_batch_current_size"),
        waiting=total(text, "tgi_queue_size"),
        kv_used=_share(total(text, "tgi_batch_current_max_tokens"), cache),
        progress=total(text, "tgi_batch_inference_count"),
        cache=int(cache) if cache else None,
    )


def _share(part: float | None, whole: float | None) -> float | None:
    if part is None or not whole:
        return None
    return min(part / whole, 1.0)


def _is(value: Any, number: float) -> bool:
    """Equality of numbers that does not take ``true`` for 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == number


def _stop(doc: Doc) -> Mapping[str, Any]:
    # More than 4 go as they are: --max-stop-sequences may allow them, and its 422 says so if not.
    stop = doc.get("stop")
    return {"stop": [stop]} if isinstance(stop, str) else {}


def _stream_options(doc: Doc) -> Mapping[str, Any]:
    options = doc.get("stream_options", DROP)
    empty = options is None or (isinstance(options, dict) and "include_usage" not in options)
    return {"stream_options": DROP} if empty else {}


def _sampling(doc: Doc) -> Mapping[str, Any]:
    # top_p must be under 1; a presence_penalty of 0 would become a repetition penalty of 2.0.
    changes: dict[str, Any] = {}
    if _is(doc.get("top_p"), 1):
        changes["top_p"] = DROP
    if _is(doc.get("presence_penalty"), 0):
        changes["presence_penalty"] = DROP
    return changes


def _limit(doc: Doc) -> Mapping[str, Any]:
    # Two names of one field: its parser refuses a body that has both.
    if "max_tokens" not in doc or "max_completion_tokens" not in doc:
        return {}
    spare = "max_completion_tokens" if doc["max_completion_tokens"] is None else "max_tokens"
    return {spare: DROP}


def _suffix(doc: Doc) -> Mapping[str, Any]:
    return {"suffix": DROP} if doc.get("suffix") == "" else {}


_ANY_OBJECT: Doc = {"type": "object"}


def _response_format(doc: Doc) -> Mapping[str, Any]:
    wanted = doc.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if not isinstance(wanted, dict) or "value" in wanted:
        return {}
    if kind == "text":
        return {"response_format": DROP}
    if kind == "json_object":
        return {"response_format": {"type": "json", "value": _ANY_OBJECT}}
    if kind == "json_schema" and isinstance(wanted.get("json_schema"), dict):
        return {"response_format": {"type": kind, "value": _schema(wanted["json_schema"])}}
    return {}


def _schema(asked: Doc) -> Doc:
    """``name`` and ``schema``: OpenAI's other fields mean nothing here."""
    kept = {name: asked[name] for name in ("name", "schema") if asked.get(name) is not None}
    return {"schema": _ANY_OBJECT, **kept}


def _tool_history(doc: Doc) -> Mapping[str, Any]:
    messages = doc.get("messages")
    if not isinstance(messages, list) or not any(_hides_calls(message) for message in messages):
        return {}
    return {
        "messages": [_bare(message) if _hides_calls(message) else message for message in messages]
    }


def _hides_calls(message: Any) -> bool:
    """With an empty ``content`` beside them the calls would be dropped without a word."""
    return (
        isinstance(message, dict)
        and bool(message.get("tool_calls"))
        and message.get("content") in ("", [])
    )


def _bare(message: Doc) -> Doc:
    return {name: value for name, value in message.items() if name != "content"}


_COMMON = (_stop, _stream_options, without("logit_bias"), _sampling, _limit)

FIXES = {
    Op.CHAT: (*_COMMON, _response_format, _tool_history),
    Op.COMPLETIONS: (*_COMMON, _suffix),
    Op.TOKENIZE: (renamed("inputs", "prompt"),),
}
"""OpenAI-legal input that TGI's strict parser refuses or misreads (sheet: tgi 10)."""


def rewrite(op: Op, doc: Doc, model: Model | None) -> Doc | None:
    """The body with TGI's types; None when it may go as it is."""
    return patched(doc, FIXES.get(op, ()))


RULES = (
    Rule(Verdict.OVERLOADED, (429,), why="tgi 6: over --max-concurrent-requests"),
    Rule(Verdict.CLIENT, (422,), "input validation error", why="tgi 6: too long, out of range"),
    Rule(Verdict.CLIENT, (422,), "template error", why="tgi 6: template_error"),
    Rule(Verdict.CLIENT, (422,), "tool error", why="tgi 6: tool_error"),
    Rule(
        Verdict.OVERLOADED,
        (422,),
        "model is overloaded",
        why="tgi 6: error events always say 422, overload too",
    ),
    Rule(
        Verdict.ENGINE,
        (422,),
        "request failed during generation",
        why="tgi 6: error events always say 422, a failed backend too",
    ),
    Rule(Verdict.ENGINE, (422,), "incomplete generation", why="tgi 12.4: as the one before"),
    Rule(Verdict.CLIENT, (422,), why="tgi 6: validation, or JSON of the wrong type"),
    Rule(Verdict.ENGINE, (424,), why="tgi 6: Failed Dependency is a failed shard"),
    Rule(Verdict.UNSUPPORTED, (404, 405), why="tgi 6: no such route; models are never refused"),
)

_GRAMMAR = "none, unless started with --disable-grammar-support"

TGI = Runtime(
    name="tgi",
    title="TGI",
    cells=CELLS,
    fingerprint=fingerprint,
    clues=("/info", CLUE),
    # After a failed request the check generates a token, so it takes its turn in the queue.
    probe=Probe(("/health",), timeout=8.0),
    health=health,
    rank=20,
    version=version,
    version_paths=("/info",),
    model_paths=("/v1/models", "/info"),
    models=models,
    load_paths=("/metrics",),
    load=load,
    rewrite=rewrite,
    rules=RULES,
    # The server sets no idle time-out (sheet: tgi 8); proxies in front of it do.
    idle=30.0,
    needs_finish=True,
    ports=(3000, 8080),
    flags={
        "tools": _GRAMMAR,
        "json_schema": _GRAMMAR,
        "embeddings": "not available: use text-embeddings-inference or another runtime",
        "rerank": "not available: use vLLM, SGLang or llama.cpp",
        "vision": "a vision model; --payload-limit above 2000000 bytes for images in the request",
        "reasoning": "not available: the thinking text stays in the content",
        "metrics": "none: always on",
    },
)
"""Text generation only; the sheet's facts are in the functions above."""
