"""SGLang 0.5: answers to any model name, and its health check generates a token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

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
from gateway.core.types import Doc, Health, Load, Model, Op, Sight, Wire

from ._clues import document, owners, refuses
from ._metrics import series, total
from ._portico import CLUE, is_portico

_EMBEDDING = "only if it was started as an embedding server"
_IS_EMBEDDING = "start SGLang with --is-embedding and {}"
_IMITATION = "its imitation of Ollama loses the end of a stream and ignores format, think and tools"
_NO_OLLAMA = "its imitation of Ollama does not have this"


def _generates(path: str) -> Cell:
    return Cell(
        Support.YES,
        path,
        "only generative models have it",
        "serve a generative model with SGLang (without --is-embedding)",
    )


def _no(remedy: str, note: str) -> Cell:
    return Cell(Support.NO, note=note, remedy=remedy)


CELLS: Mapping[tuple[Wire, Op], Cell] = {
    (Wire.OPENAI, Op.CHAT): _generates("/v1/chat/completions"),
    (Wire.OPENAI, Op.COMPLETIONS): _generates("/v1/completions"),
    (Wire.OPENAI, Op.EMBEDDINGS): Cell(
        Support.MODEL, "/v1/embeddings", _EMBEDDING, _IS_EMBEDDING.format("an embedding model")
    ),
    (Wire.OPENAI, Op.RESPONSES): _generates("/v1/responses"),
    # No path: the route's own one is right both for /{id} and for /{id}/cancel.
    (Wire.OPENAI, Op.RESPONSES_BY_ID): Cell(
        Support.FLAG,
        note="it keeps responses only if told to, in one process's memory, and has no DELETE",
        remedy="start SGLang with --enable-response-store",
    ),
    (Wire.OPENAI, Op.RERANK): Cell(
        Support.MODEL,
        "/v1/rerank",
        f"{_EMBEDDING}; the answer is a bare list of {{score, document, index}}",
        _IS_EMBEDDING.format("a reranking model"),
    ),
    (Wire.OPENAI, Op.SCORE): Cell(
        Support.MODEL,
        "/v1/score",
        "only models that can score; the request is SGLang's own, not vLLM's",
        "serve a scoring model with vLLM",
    ),
    (Wire.OPENAI, Op.TRANSCRIBE): Cell(
        Support.MODEL,
        "/v1/audio/transcriptions",
        "only if the loaded model is a speech model",
        "serve a speech model with SGLang or vLLM, or use LocalAI",
    ),
    (Wire.OPENAI, Op.TRANSLATE): _no(
        "serve a speech model that translates, such as Whisper, with vLLM",
        "it transcribes but does not translate speech",
    ),
    (Wire.OPENAI, Op.SPEECH): _no("serve a voice with LocalAI", "it does not synthesise speech"),
    (Wire.OPENAI, Op.IMAGES): _no(
        "serve an image model with LocalAI", "SGLang's image server is another program"
    ),
    (Wire.OPENAI, Op.IMAGE_EDITS): _no(
        "use a cloud provider (runtime openai) that edits images",
        "SGLang's image server is another program",
    ),
    (Wire.OPENAI, Op.TOKENIZE): Cell(Support.YES, "/tokenize", "prompt or messages, not both"),
    (Wire.OPENAI, Op.DETOKENIZE): Cell(Support.YES, "/detokenize", "answers {text}"),
    (Wire.ANTHROPIC, Op.MESSAGES): _generates("/v1/messages"),
    (Wire.ANTHROPIC, Op.COUNT_TOKENS): _generates("/v1/messages/count_tokens"),
    **{
        (Wire.OLLAMA, op): _no(remedy, note)
        for op, remedy, note in (
            (Op.CHAT, "call POST /v1/chat/completions for this model", _IMITATION),
            (Op.GENERATE, "call POST /v1/completions for this model", _IMITATION),
            (Op.EMBED, "call POST /v1/embeddings of an embedding model", _NO_OLLAMA),
            (Op.EMBEDDINGS, "call POST /v1/embeddings of an embedding model", _NO_OLLAMA),
            (Op.TAGS, "call GET /v1/models", "its imitation of Ollama invents sizes and digests"),
            (Op.SHOW, "call GET /v1/models", "its imitation of Ollama invents what it shows"),
            (Op.PS, "call GET /v1/models", _NO_OLLAMA),
            (Op.VERSION, "call GET /version of this gateway", _NO_OLLAMA),
        )
    },
}
"""Ollama's routes are not relayed though four of them exist (sheet: sglang 2, 7)."""

_RUST = _no(
    "start SGLang without SGLANG_RUST_SERVER=1",
    "its Rust front end does not have it; the Python one does",
)
_PYTHON_ONLY = (
    (Wire.OPENAI, Op.EMBEDDINGS),
    (Wire.OPENAI, Op.RESPONSES),
    (Wire.OPENAI, Op.RESPONSES_BY_ID),
    (Wire.OPENAI, Op.RERANK),
    (Wire.OPENAI, Op.SCORE),
    (Wire.OPENAI, Op.TRANSCRIBE),
    (Wire.ANTHROPIC, Op.MESSAGES),
    (Wire.ANTHROPIC, Op.COUNT_TOKENS),
)

RUST_CELLS: Mapping[tuple[Wire, Op], Cell] = {
    **CELLS,
    **dict.fromkeys(_PYTHON_ONLY, _RUST),
    (Wire.OPENAI, Op.TOKENIZE): replace(CELLS[Wire.OPENAI, Op.TOKENIZE], path="/v1/tokenize"),
    (Wire.OPENAI, Op.DETOKENIZE): replace(CELLS[Wire.OPENAI, Op.DETOKENIZE], path="/v1/detokenize"),
}
"""The Rust front end has the routes that are listed for it, no others (sheet: sglang 1)."""

_GUARDED = ("/", "/ping", "/model_info")


def fingerprint(evidence: Evidence) -> str | None:
    """Its root text, its ``/model_info`` or its model list; where a key hides them, a 401 also
    outside /v1, where vLLM asks for none (sheet: sglang 3). Its Ollama routes prove nothing, and
    with SGLANG_OLLAMA_ROOT_ROUTE even the root says Ollama."""
    if is_portico(evidence):
        return None
    if evidence.get("/", NO_ANSWER).doc == "SGLang is running":
        return "/ says 'SGLang is running'"
    if {"weight_version", "is_generation"} <= set(_info(evidence)):
        return "/model_info has weight_version and is_generation"
    if owners(evidence) == {"sglang"}:
        return "/v1/models says owned_by 'sglang'"
    if refuses(evidence, CLUE) and any(refuses(evidence, path) for path in _GUARDED):
        return "asks for a key on every path, in SGLang's words"
    return None


def variant(evidence: Evidence) -> str:
    """'rust' for the Rust front end, which has ``/model_info`` but neither ``/`` nor ``/ping``.
    ``/server_info`` would say it outright, but tells the engine's keys too (sheet: sglang 1)."""
    missing = all(evidence.get(path, NO_ANSWER).status == 404 for path in ("/", "/ping"))
    return "rust" if missing and _info(evidence) else ""


def _info(evidence: Evidence) -> Doc:
    return document(evidence, "/model_info")


def version(evidence: Evidence) -> str:
    """From ``/v1/loads``: there is no ``/version``, and ``/server_info`` tells the engine's keys
    (sheet: sglang 1, 5)."""
    found = document(evidence, "/v1/loads").get("version")
    return found if isinstance(found, str) else ""


def health(answer: Answer) -> tuple[Health, str]:
    """``/ready`` reads a flag: 503 in warm-up, when paused, when its own check has failed, and
    while it drains (sheet: sglang 2). The port opens only after loading (sheet: sglang 1)."""
    if answer.status == 503:
        return (
            Health.LOADING,
            "says that it is not ready (503): warming up, paused, shutting down, or its own"
            " health check failed",
        )
    return health_by_status(answer)


def models(evidence: Evidence) -> tuple[Model, ...]:
    """The list. An adapter, listed by its bare name, has its base's context and also answers to
    ``served:adapter`` (sheet: sglang 4). What ``/model_info`` says goes for all of them."""
    listed = openai_models(evidence.get("/v1/models", NO_ANSWER))
    contexts = {model.id: model.context for model in listed}
    able = _capabilities(_info(evidence))
    return tuple(
        replace(
            model,
            aliases=_aliases(model),
            context=model.context or contexts.get(_parent(model)),
            capabilities=able,
        )
        for model in listed
    )


def _capabilities(info: Doc) -> frozenset[str] | None:
    """In Ollama's words. Tools are in any generative model: without a parser a named one still
    works, by grammar (sheet: sglang 9, 10)."""
    if not isinstance(info.get("is_generation"), bool):
        return None
    if not info["is_generation"]:
        return frozenset({"embedding"})
    extra = {
        "vision": info.get("has_image_understanding"),
        "audio": info.get("has_audio_understanding"),
        "thinking": info.get("reasoning_parser"),
    }
    return frozenset({"completion", "tools", *(word for word, has in extra.items() if has)})


def _parent(model: Model) -> str:
    parent = model.entry.get("parent")
    return parent if isinstance(parent, str) else ""


def _aliases(model: Model) -> tuple[str, ...]:
    name = _requestable(model)
    return (name,) if name != model.id else ()


def _requestable(model: Model) -> str:
    parent = _parent(model)
    if not parent or model.id.startswith(f"{parent}:"):
        return model.id
    return f"{parent}:{model.id}"


def upstream_model(model: Model, sight: Sight) -> str:
    """``served:adapter`` for an adapter: by its bare name the base would answer, with 200 (sheet:
    sglang 10)."""
    return _requestable(model)


STALE = 30.0
"""Seconds. A snapshot is renewed only every few decode steps (sheet: sglang 5), so an older one
may tell of requests that are long gone."""


def load(evidence: Evidence) -> Load:
    """From ``/v1/loads``, which is always there, and ``/metrics``, which needs a flag (sheet:
    sglang 5). Where both speak, the snapshot counts requests and the counters count tokens: the
    snapshot's own hit rate is that of one short window."""
    page = evidence.get("/metrics", NO_ANSWER)
    text = page.text if page.status == 200 else ""
    snapshot, scraped = _snapshot(document(evidence, "/v1/loads")), _scraped(text)
    if snapshot is None:
        return scraped
    return replace(
        snapshot,
        hit_ratio=snapshot.hit_ratio if scraped.hit_ratio is None else scraped.hit_ratio,
        progress=snapshot.progress if scraped.progress is None else scraped.progress,
    )


def _snapshot(doc: Doc) -> Load | None:
    """Over all data-parallel ranks: counts summed, shares averaged. None when there is none, or
    only stale ones."""
    loads = doc.get("loads")
    ranks = [rank for rank in loads if isinstance(rank, dict)] if isinstance(loads, list) else []
    if not ranks or _age(doc, ranks) > STALE:
        return None
    slots = _added(ranks, "max_running_requests")
    cache = _added(ranks, "max_total_num_tokens")
    return Load(
        running=_added(ranks, "num_running_reqs"),
        waiting=_added(ranks, "num_waiting_reqs"),
        kv_used=_averaged(ranks, "token_usage"),
        hit_ratio=_averaged(ranks, "cache_hit_rate"),
        progress=_steps(ranks),
        slots=int(slots) if slots else None,
        cache=int(cache) if cache else None,
    )


def _age(doc: Doc, ranks: Sequence[Doc]) -> float:
    """Seconds between the answer and its newest snapshot, by the engine's own clock; 0 unknown."""
    newest = max(_numbers(ranks, "timestamp"), default=None)
    try:
        asked = datetime.fromisoformat(str(doc.get("timestamp"))).timestamp()
    except (ValueError, OverflowError):
        return 0.0
    return asked - newest if newest is not None else 0.0


def _numbers(ranks: Sequence[Doc], key: str) -> Iterator[float]:
    for rank in ranks:
        value = rank.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield float(value)


def _added(ranks: Sequence[Doc], key: str) -> float | None:
    values = list(_numbers(ranks, key))
    return sum(values) if values else None


def _averaged(ranks: Sequence[Doc], key: str) -> float | None:
    values = list(_numbers(ranks, key))
    return sum(values) / len(values) if values else None


def _steps(ranks: Sequence[Doc]) -> float | None:
    """Tokens prefilled plus decode steps made so far: the first of the moments is their count."""
    prefilled = _added(ranks, "total_prefill_uncached_tokens")
    moments = [rank.get("decode_moments") for rank in ranks]
    decoded = [{"steps": found[0]} for found in moments if isinstance(found, list) and found]
    if prefilled is None and not decoded:
        return None
    return (prefilled or 0.0) + (_added(decoded, "steps") or 0.0)


def _scraped(text: str) -> Load:
    kv = _by_rank(text, "sglang:token_usage")
    return Load(
        running=_total_by_rank(text, "sglang:num_running_reqs"),
        waiting=_total_by_rank(text, "sglang:num_queue_reqs"),
        kv_used=sum(kv) / len(kv) if kv else None,
        hit_ratio=_hit_ratio(text),
        progress=_progress(text),
    )


def _by_rank(text: str, name: str) -> list[float]:
    """One value a data-parallel rank: ``priority`` splits a total that stands beside its parts,
    and with --enable-metrics-for-all-schedulers every tensor rank repeats its group's number."""
    ranks: dict[str, float] = {}
    for labels, value in series(text, name):
        if not labels.get("priority"):
            rank = labels.get("dp_rank", "")
            ranks[rank] = max(value, ranks.get(rank, value))
    return list(ranks.values())


def _total_by_rank(text: str, name: str) -> float | None:
    values = _by_rank(text, name)
    return sum(values) if values else None


def _hit_ratio(text: str) -> float | None:
    """Cached over prompt tokens. ``cache_source="total"``, where there is one, stands beside its
    parts."""
    prompt = total(text, "sglang:prompt_tokens_total")
    if not prompt:
        return None
    cached = series(text, "sglang:cached_tokens_total")
    whole = [value for labels, value in cached if labels.get("cache_source") == "total"]
    return min(sum(whole or [value for _, value in cached]) / prompt, 1.0)


def _progress(text: str) -> float | None:
    """Tokens by the step; else those of finished requests."""
    stepwise = total(text, "sglang:realtime_tokens_total")
    return stepwise if stepwise is not None else total(text, "sglang:generation_tokens_total")


DROPS = frozenset(
    {
        "x-data-parallel-rank",
        # Honoured with SGLANG_ENABLE_REQUEST_HEADER_OVERRIDES=1 (sheet: sglang 8).
        "x-override-*",
        "x-custom-labels",
        "x-body-compressed",
        # It would put frames between the events that no client of ours asks for (sheet: sglang 7).
        "x-sglext-ids-framed",
        "x-smg-routing-key",
    }
)

RULES = (
    Rule(
        Verdict.UNSUPPORTED,
        (400,),
        '"message":"this model does not appear to be an embedding model',
        why="sglang 9: embeddings and reranking asked of a generative model",
    ),
    Rule(
        Verdict.UNSUPPORTED,
        (400,),
        '"message":"response store is disabled',
        frozenset({Op.RESPONSES_BY_ID}),
        why="sglang 10: responses are kept only with --enable-response-store",
    ),
    Rule(
        Verdict.UNSUPPORTED,
        (404,),
        '"not found"',
        why="sglang 6: an unrouted path says {'detail': 'Not Found'}",
    ),
    Rule(
        Verdict.UNKNOWN_MODEL,
        (404,),
        "does not exist",
        why="sglang 6: /v1/responses and the Rust front end check the name",
    ),
    Rule(Verdict.UNKNOWN_MODEL, (404,), "model_not_found", why="sglang 2: the code for it"),
    Rule(
        Verdict.CLIENT,
        (503,),
        "priority is disabled",
        why="sglang 6: --abort-on-priority-when-disabled refuses the request's own field",
    ),
    Rule(Verdict.OVERLOADED, (503,), "queue is full", why="sglang 6: --max-queued-requests"),
    Rule(Verdict.OVERLOADED, (503,), why="sglang 6: evicted, or waited too long"),
    Rule(Verdict.ENGINE, (500,), why="sglang 6: the scheduler failed"),
    Rule(Verdict.AUTH, (401, 403), why="sglang 1: wants Authorization: Bearer, on every route"),
)

_PYTHON = Runtime(
    name="sglang",
    title="SGLang",
    cells=CELLS,
    fingerprint=fingerprint,
    clues=(CLUE, "/", "/ping", "/model_info", "/v1/models"),
    # /ready is open and counts a pause; the flag behind it changes only when /health is asked,
    # which generates: a second at best, 20 s when it fails (sheet: sglang 2).
    probe=Probe(("/ready", "/ping"), timeout=5.0),
    deep=Probe(("/health",), timeout=25.0),
    health=health,
    rank=10,
    variant=variant,
    version=version,
    version_paths=("/v1/loads",),
    model_paths=("/v1/models", "/model_info"),
    models=models,
    load_paths=("/v1/loads", "/metrics"),
    load=load,
    drops=DROPS,
    upstream_model=upstream_model,
    extras={
        "top_k": "top_k",
        "min_p": "min_p",
        "repeat_penalty": "repetition_penalty",
        "chat_template_kwargs": "chat_template_kwargs",
        "thinking": "reasoning_content",
    },
    rules=RULES,
    # The server closes idle connections after 5 s (sheet: sglang 8).
    idle=4.0,
    ports=(30000,),
    flags={
        "tools": "--tool-call-parser PARSER; without it calls come back as plain text, unrefused",
        "json_schema": "none: always on (--grammar-backend)",
        "embeddings": "--is-embedding, with an embedding model",
        "rerank": "--is-embedding, with a reranking model",
        "vision": "a vision model",
        "reasoning": "--reasoning-parser PARSER; comes as `reasoning_content`",
        "lora": "--enable-lora --lora-paths NAME=PATH; the gateway asks for `served:NAME`",
        "cached tokens in usage": "--enable-cache-report",
        "stored responses": "--enable-response-store",
        "bounded queue": "--max-queued-requests N; otherwise it queues without end",
        "priority": "--enable-priority-scheduling; the higher, the earlier",
        "long idle connections": "SGLANG_TIMEOUT_KEEP_ALIVE above 5 in the environment",
        "metrics": "--enable-metrics; without it load comes from /v1/loads",
    },
)

SGLANG = replace(_PYTHON, variants={"rust": replace(_PYTHON, cells=RUST_CELLS)})
"""Text or embeddings, by how it was started."""
