"""vLLM 0.32 to 0.33: routes by the kind of model, queues without bound, 404s unknown names."""

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

from ._body import DROP, patched
from ._clues import document, owners, refuses
from ._metrics import series, total
from ._portico import CLUE, is_portico

_GENERATIVE = "only generative models have it"
_LOAD_GENERATIVE = "serve a generative model with vLLM (without --runner pooling)"
_POOLING = "only if the loaded model is of that kind; a generative one has no such route"
_SPEECH = "only if the loaded model is a speech model"


def _generates(path: str, note: str = _GENERATIVE) -> Cell:
    return Cell(Support.YES, path, note, _LOAD_GENERATIVE)


def _no(remedy: str, note: str = "it has no such route, whatever the model") -> Cell:
    return Cell(Support.NO, note=note, remedy=remedy)


_OLLAMA_CHAT = "call POST /v1/chat/completions for this model, or ask an Ollama backend"
_OLLAMA_EMBED = "call POST /v1/embeddings of an embedding model, or ask an Ollama backend"
_OLLAMA_LISTS = "call GET /v1/models, or ask an Ollama backend"

CELLS: Mapping[tuple[Wire, Op], Cell] = {
    (Wire.OPENAI, Op.CHAT): _generates("/v1/chat/completions"),
    (Wire.OPENAI, Op.COMPLETIONS): _generates("/v1/completions"),
    (Wire.OPENAI, Op.EMBEDDINGS): Cell(
        Support.MODEL,
        "/v1/embeddings",
        _POOLING,
        "serve an embedding model: vllm serve MODEL --runner pooling",
    ),
    (Wire.OPENAI, Op.RESPONSES): _generates(
        "/v1/responses", "only generative models have it; nothing is stored by default"
    ),
    # No path: the route's own one is right both for /{id} and for /{id}/cancel.
    (Wire.OPENAI, Op.RESPONSES_BY_ID): Cell(
        Support.FLAG,
        note="it keeps responses only if told to, in one process's memory, and has no DELETE",
        remedy="start vLLM with VLLM_ENABLE_RESPONSES_API_STORE=1 in its environment",
    ),
    (Wire.OPENAI, Op.RERANK): Cell(
        Support.MODEL,
        "/v1/rerank",
        _POOLING,
        "serve a reranking model (cross-encoder): vllm serve MODEL --runner pooling",
    ),
    (Wire.OPENAI, Op.SCORE): Cell(
        Support.MODEL,
        "/v1/score",
        _POOLING,
        "serve a scoring model (cross-encoder): vllm serve MODEL --runner pooling",
    ),
    (Wire.OPENAI, Op.TRANSCRIBE): Cell(
        Support.MODEL,
        "/v1/audio/transcriptions",
        f"{_SPEECH}; clips up to 25 MB (VLLM_MAX_AUDIO_CLIP_FILESIZE_MB)",
        "serve a speech model such as Whisper with vLLM, or use LocalAI",
    ),
    (Wire.OPENAI, Op.TRANSLATE): Cell(
        Support.MODEL,
        "/v1/audio/translations",
        f"{_SPEECH} that translates",
        "serve a speech model that translates, such as Whisper, with vLLM",
    ),
    (Wire.OPENAI, Op.SPEECH): _no("serve a voice with LocalAI", "it does not synthesise speech"),
    (Wire.OPENAI, Op.IMAGES): _no("serve an image model with LocalAI", "it makes no images"),
    (Wire.OPENAI, Op.IMAGE_EDITS): _no(
        "use a cloud provider (runtime openai) that edits images", "it makes no images"
    ),
    (Wire.OPENAI, Op.TOKENIZE): Cell(
        Support.YES, "/tokenize", "prompt or messages", chat_path="/tokenize"
    ),
    (Wire.OPENAI, Op.DETOKENIZE): Cell(Support.YES, "/detokenize", "answers {prompt}"),
    (Wire.ANTHROPIC, Op.MESSAGES): _generates("/v1/messages"),
    (Wire.ANTHROPIC, Op.COUNT_TOKENS): _generates("/v1/messages/count_tokens"),
    **{
        (Wire.OLLAMA, op): _no(remedy, "it does not speak Ollama's API")
        for op, remedy in {
            Op.CHAT: _OLLAMA_CHAT,
            Op.GENERATE: "call POST /v1/completions for this model, or ask an Ollama backend",
            Op.EMBED: _OLLAMA_EMBED,
            Op.EMBEDDINGS: _OLLAMA_EMBED,
            Op.TAGS: _OLLAMA_LISTS,
            Op.SHOW: _OLLAMA_LISTS,
            Op.PS: _OLLAMA_LISTS,
            Op.VERSION: "call GET /version of this gateway, or ask an Ollama backend",
        }.items()
    },
}

_RUST = _no(
    "start vLLM without VLLM_USE_RUST_FRONTEND=1",
    "its Rust front end does not have it; the Python one does",
)

RUST_CELLS: Mapping[tuple[Wire, Op], Cell] = {
    **CELLS,
    (Wire.OPENAI, Op.EMBEDDINGS): _RUST,
    (Wire.OPENAI, Op.RESPONSES): _RUST,
    (Wire.OPENAI, Op.RESPONSES_BY_ID): _RUST,
    (Wire.ANTHROPIC, Op.MESSAGES): _RUST,
    (Wire.ANTHROPIC, Op.COUNT_TOKENS): _RUST,
}
"""The experimental Rust front end (sheet: vllm 1)."""

PYTHON_OWNER, RUST_OWNER = "vllm", "vllm-frontend-rs"


def fingerprint(evidence: Evidence) -> str | None:
    """Every listed model owned by vLLM; or, where a key hides the list, its 401 beside an open
    ``/version`` (sheet: vllm 1, 3). A mixed list is some gateway's."""
    if is_portico(evidence):
        return None
    found = owners(evidence)
    if found and found <= {PYTHON_OWNER, RUST_OWNER}:
        return f"/v1/models says owned_by '{min(found)}'"
    if refuses(evidence, "/v1/models") and version(evidence):
        return "/version is open while /v1/models asks for a key"
    return None


def variant(evidence: Evidence) -> str:
    """'rust' for the Rust front end, which lacks surfaces (sheet: vllm 1)."""
    return "rust" if RUST_OWNER in owners(evidence) else ""


def version(evidence: Evidence) -> str:
    """The only key of ``/version`` (sheet: vllm 3), without a leading v, which is LocalAI's."""
    doc = document(evidence, "/version")
    found = doc.get("version") if set(doc) == {"version"} else None
    return found if isinstance(found, str) and found[:1].isdigit() else ""


def health(answer: Answer) -> tuple[Health, str]:
    """While the model loads nobody listens (sheet: vllm 1), so a refused connection may be a start
    as well as an end, and a 503 is a dead engine whose server is about to exit (sheet: vllm 2)."""
    if answer.status == 0:
        return Health.DOWN, f"{answer.error}; vLLM listens only once its model is loaded"
    if answer.status == 503:
        return Health.SICK, "its engine process has died (503); restart it and see its log"
    return health_by_status(answer)


def models(evidence: Evidence) -> tuple[Model, ...]:
    """The list, an adapter taking the context (tokens) of its ``parent`` (sheet: vllm 4)."""
    listed = openai_models(evidence.get("/v1/models", NO_ANSWER))
    contexts = {model.id: model.context for model in listed}
    return tuple(
        model
        if model.context is not None
        else replace(model, context=contexts.get(str(model.entry.get("parent"))))
        for model in listed
    )


def load(evidence: Evidence) -> Load:
    """From ``/metrics`` (sheet: vllm 5), over all ``engine`` labels: counts are summed, KV use is
    the mean. ``progress`` counts tokens in and out, since embedding engines make none. ``/load``
    is not read: it is 0 unless a flag is set, and counts one server process only."""
    page = evidence.get("/metrics", NO_ANSWER)
    text = page.text if page.status == 200 else ""
    return Load(
        running=total(text, "vllm:num_requests_running"),
        waiting=total(text, "vllm:num_requests_waiting"),
        kv_used=_mean(text, "vllm:kv_cache_usage_perc"),
        hit_ratio=_ratio(
            total(text, "vllm:prefix_cache_hits_total"),
            total(text, "vllm:prefix_cache_queries_total"),
        ),
        progress=_sum(
            total(text, "vllm:generation_tokens_total"), total(text, "vllm:prompt_tokens_total")
        ),
        cache=_cache(text),
    )


def _cache(text: str) -> int | None:
    """Tokens of KV cache over all engines: older ones only say their blocks (sheet: vllm 5)."""
    tokens = 0
    for labels, _ in series(text, "vllm:cache_config_info"):
        said = labels.get("kv_cache_size_tokens", "")
        blocks, size = labels.get("num_gpu_blocks", ""), labels.get("block_size", "")
        if said.isdecimal():
            tokens += int(said)
        elif blocks.isdecimal() and size.isdecimal():
            tokens += int(blocks) * int(size)
    return tokens or None


def _mean(text: str, name: str) -> float | None:
    values = [value for _, value in series(text, name)]
    return sum(values) / len(values) if values else None


def _ratio(part: float | None, whole: float | None) -> float | None:
    return min(part / whole, 1.0) if part is not None and whole else None


def _sum(*parts: float | None) -> float | None:
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _empty_tools(doc: Doc) -> Mapping[str, Any]:
    """An empty list of tools means none; vLLM refuses it, and a ``tool_choice`` without tools. A
    choice that demands a tool stays, so that it is refused and not forgotten."""
    if doc.get("tools") != []:
        return {}
    if doc.get("tool_choice") in ("auto", "none"):
        return {"tools": DROP, "tool_choice": DROP}
    return {"tools": DROP}


GUIDED: Mapping[str, str] = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}


def _guided(doc: Doc) -> Mapping[str, Any]:
    """The old names are ignored in silence, which would leave the text unconstrained. They stay
    beside the new one, for engines of before the change. What says it the new way is believed."""
    if doc.keys().isdisjoint(GUIDED) or doc.get("structured_outputs") is not None:
        return {}
    asked = {new: doc[old] for old, new in GUIDED.items() if doc.get(old) is not None}
    return {"structured_outputs": asked} if asked else {}


FIXES = {
    Op.CHAT: (_empty_tools, _guided),
    Op.COMPLETIONS: (_guided,),
}
"""Input that clients send in good faith and vLLM refuses or forgets (sheet: vllm 10, 12.11)."""


def rewrite(op: Op, doc: Doc, model: Model | None) -> Doc | None:
    """The body as vLLM reads it; None when it may go as it is."""
    return patched(doc, FIXES.get(op, ()))


RULES = (
    Rule(
        Verdict.UNSUPPORTED,
        (404,),
        '"not found"',
        why="vllm 2, 9: what the model cannot do is not routed: {'detail': 'Not Found'}",
    ),
    Rule(
        Verdict.UNSUPPORTED, (501,), why="vllm 6: NotImplementedError, routed but not the model's"
    ),
    Rule(Verdict.UNKNOWN_MODEL, (404,), "` does not exist", why="vllm 6: unknown model"),
    Rule(Verdict.LOADING, (503,), "currently scaling", why="vllm 2: elastic scaling"),
    Rule(Verdict.LOADING, (503,), '{"error":"', why="vllm 2: retired rank, a string error"),
    Rule(Verdict.OVERLOADED, (503,), '"service unavailable"', why="vllm 6: queue limit hit"),
    Rule(Verdict.OVERLOADED, (503,), "serviceunavailableerror", why="vllm 2, 6: paused engine"),
    Rule(Verdict.CLIENT, (422,), why="vllm 6: the caller's media URL cannot be fetched"),
    Rule(Verdict.ENGINE, (500,), why="vllm 6: generation failed or the engine is dead"),
    Rule(Verdict.AUTH, (401,), why="vllm 1: wants Authorization: Bearer, on every route"),
)

_PYTHON = Runtime(
    name="vllm",
    title="vLLM",
    cells=CELLS,
    fingerprint=fingerprint,
    clues=(CLUE, "/v1/models"),
    # No deep check: nothing it offers generates a token (sheet: vllm 2).
    probe=Probe(("/health",), timeout=5.0),
    health=health,
    rank=20,
    variant=variant,
    version=version,
    version_paths=("/version",),
    models=models,
    load_paths=("/metrics",),
    load=load,
    # One picks a rank past the engine's own balancing, one jumps its queue (sheet: vllm 10).
    drops=frozenset({"x-data-parallel-rank", "x-vllm-priority"}),
    rewrite=rewrite,
    extras={
        "top_k": "top_k",
        "min_p": "min_p",
        "repeat_penalty": "repetition_penalty",
        "chat_template_kwargs": "chat_template_kwargs",
        "thinking": "reasoning",
        "truncate": "truncate_prompt_tokens",
    },
    rules=RULES,
    # The server closes idle connections after 5 s (sheet: vllm 8).
    idle=4.0,
    ports=(8000,),
    flags={
        "tools": "--enable-auto-tool-choice --tool-call-parser PARSER; both, or it answers 400",
        "json_schema": "none: always on",
        "embeddings": "--runner pooling, with an embedding model",
        "rerank": "--runner pooling, with a cross-encoder",
        "vision": "a vision model; --limit-mm-per-prompt for several images in one request",
        "reasoning": "--reasoning-parser PARSER; comes as `reasoning`, not `reasoning_content`",
        "lora": "--enable-lora --lora-modules NAME=PATH; the name goes into `model`",
        "cached tokens in usage": "--enable-prompt-tokens-details",
        "stored responses": "VLLM_ENABLE_RESPONSES_API_STORE=1 in the environment",
        "bounded queue": "--max-num-queued-reqs N; otherwise it queues without end",
        "priority": "--scheduling-policy priority; the lower, the earlier",
        "long idle connections": "VLLM_HTTP_TIMEOUT_KEEP_ALIVE above 5 in the environment",
        "metrics": "none: always on, unless started with --disable-log-stats",
    },
)

VLLM = replace(_PYTHON, variants={"rust": replace(_PYTHON, cells=RUST_CELLS)})
"""Text, embeddings, reranking or speech to text, each by the kind of model that is loaded."""
