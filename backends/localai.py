"""LocalAI: a front of many backends, one process a model (sheet: localai)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gateway.core.asides import settled
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
    Wake,
    health_by_status,
    openai_models,
)
from gateway.core.types import Doc, Health, Model, Op, Wire

from ._body import patched
from ._instead import no_ollama
from ._portico import CLUE, is_portico

WELL_KNOWN = "/.well-known/localai.json"
INTERNAL = "Internal error: "

_VERSION = re.compile(r"^v?\d+\.\d+\S* \([0-9a-f]+\)$")
_EMULATED_VERSION = "0.9.0"


def _fingerprint(evidence: Evidence) -> str | None:
    """Sheet: localai 3. The well-known file is open even where a key guards the rest; the other
    marks serve builds without it, and count only beside ``/readyz``, which Ollama has not."""
    if is_portico(evidence):
        return None
    card = evidence.get(WELL_KNOWN, NO_ANSWER)
    if card.status == 200 and isinstance(card.doc, dict) and "endpoints" in card.doc:
        return f"answers {WELL_KNOWN}"
    if not _ready_route(evidence.get("/readyz", NO_ANSWER)):
        return None
    if _VERSION.match(_text(evidence, "/version")):
        return "has /readyz, and /version names a commit in parentheses"
    if _text(evidence, "/api/version") == _EMULATED_VERSION and _absent(evidence, "/api/status"):
        return "has /readyz, imitates Ollama 0.9.0 and lacks Ollama's /api/status"
    return None


def _ready_route(answer: Answer) -> bool:
    """200 with an empty body, or 503 with JSON; a page made for every path is neither."""
    return (answer.status == 200 and not answer.body.strip()) or (
        answer.status == 503 and isinstance(answer.doc, dict)
    )


def _text(evidence: Evidence, path: str) -> str:
    answer = evidence.get(path, NO_ANSWER)
    version = answer.doc.get("version") if isinstance(answer.doc, dict) else None
    return version if answer.status == 200 and isinstance(version, str) else ""


def _absent(evidence: Evidence, path: str) -> bool:
    return evidence.get(path, NO_ANSWER).status == 404


def _version(evidence: Evidence) -> str:
    """``4.9.0`` of ``v4.9.0 (commit)``."""
    told = _text(evidence, WELL_KNOWN) or _text(evidence, "/version")
    return told.partition(" ")[0].removeprefix("v")


def _health(answer: Answer) -> tuple[Health, str]:
    """Sheet: localai 2. 503 carries the reason why it is still starting."""
    if answer.status == 503 and isinstance(answer.doc, dict) and answer.doc.get("reason"):
        return Health.LOADING, f"is starting: {answer.doc['reason']}"
    return health_by_status(answer)


def _models(evidence: Evidence) -> tuple[Model, ...]:
    """The list, completed by what ``/system`` says of loaded models and by capabilities. Entries
    have neither ``created`` nor ``owned_by``, which typed clients need (sheet: localai 4)."""
    loaded = _loaded(evidence.get("/system", NO_ANSWER))
    able = _capabilities(evidence.get("/v1/models/capabilities", NO_ANSWER))
    return tuple(
        replace(
            model,
            entry={"created": 0, "owned_by": "localai", **model.entry},
            loaded=None if loaded is None else model.id in loaded,
            capabilities=able.get(model.id),
        )
        for model in openai_models(evidence.get("/v1/models", NO_ANSWER))
    )


def _rows(answer: Answer, field: str) -> list[Doc]:
    rows = answer.doc.get(field) if isinstance(answer.doc, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _loaded(answer: Answer) -> frozenset[str] | None:
    """Ids of the loaded models; None where ``/system`` is closed to us (admin only with users)."""
    if answer.status != 200 or not isinstance(answer.doc, dict):
        return None
    return frozenset(str(row.get("id")) for row in _rows(answer, "loaded_models"))


def _capabilities(answer: Answer) -> dict[str, frozenset[str]]:
    return {
        str(row.get("id")): frozenset(map(str, row["capabilities"]))
        for row in _rows(answer, "data")
        if isinstance(row.get("capabilities"), list)
    }


def _one_prompt(doc: Doc) -> Mapping[str, Any]:
    """A streamed completion takes one prompt string only (sheet: localai 6); a list of one, which
    SDKs send, is the same request."""
    prompt = doc.get("prompt")
    if (
        doc.get("stream")
        and isinstance(prompt, list)
        and len(prompt) == 1
        and isinstance(prompt[0], str)
    ):
        return {"prompt": prompt[0]}
    return {}


FIXES = {
    Op.COMPLETIONS: (_one_prompt,),
    # It hands each role to the model's chat template as it came (its anthropic/messages.go).
    Op.MESSAGES: (settled,),
}


def _rewrite(op: Op, doc: Doc, model: Model | None) -> Doc | None:
    """The body as LocalAI reads it; None when it may go as it is."""
    return patched(doc, FIXES.get(op, ()))


def _event_fault(wire: Wire, op: Op, event: Any) -> tuple[int, str] | None:
    """Failures after the 200 that look like content (sheet: localai 6): a completion chunk that
    begins ``Internal error: `` and stops at once; an Ollama frame whose reason is ``error``."""
    if not isinstance(event, dict):
        return None
    if wire is Wire.OLLAMA:
        failed = event.get("done") is True and event.get("done_reason") == "error"
        return (500, "LocalAI ended the answer with an error and gave no text") if failed else None
    if wire is Wire.OPENAI and op is Op.COMPLETIONS:
        return _disguised(event.get("choices"))
    return None


def _disguised(choices: Any) -> tuple[int, str] | None:
    for choice in choices if isinstance(choices, list) else ():
        text = choice.get("text") if isinstance(choice, dict) else None
        if (
            isinstance(text, str)
            and text.startswith(INTERNAL)
            and choice.get("finish_reason") == "stop"
        ):
            return 500, text.removeprefix(INTERNAL)
    return None


def _kind(path: str, note: str, remedy: str) -> Cell:
    return Cell(Support.MODEL, path, note, remedy)


def _no(note: str, remedy: str = "") -> Cell:
    return Cell(Support.NO, "", note, remedy)


_IMITATION = (
    "its imitation of Ollama ignores tools, format, think, seed and keep_alive, so it is not used"
)


_CELLS: dict[tuple[Wire, Op], Cell] = {
    (Wire.OPENAI, Op.CHAT): Cell(Support.YES, "/v1/chat/completions"),
    (Wire.OPENAI, Op.COMPLETIONS): Cell(
        Support.YES, "/v1/completions", "whole answers report a usage of zero"
    ),
    (Wire.OPENAI, Op.EMBEDDINGS): _kind(
        "/v1/embeddings",
        "the model's configuration must say 'embeddings: true'; answers carry no usage",
        "set 'embeddings: true' in the configuration of an embedding model and name that model",
    ),
    (Wire.OPENAI, Op.RESPONSES): Cell(
        Support.YES, "/v1/responses", "kept in the memory of that one process"
    ),
    (Wire.OPENAI, Op.RESPONSES_BY_ID): Cell(Support.YES, note="GET and cancel; there is no DELETE"),
    (Wire.OPENAI, Op.RERANK): _kind(
        "/v1/rerank",
        "needs a reranker model; top_n must be at least 1",
        "install a reranker model (the rerankers or llama-cpp backend) and name it",
    ),
    (Wire.OPENAI, Op.SCORE): _no(
        "its /api/score has another shape", "serve a scoring model with vLLM or SGLang"
    ),
    (Wire.OPENAI, Op.TRANSCRIBE): _kind(
        "/v1/audio/transcriptions",
        "needs a speech recognition model",
        "install a whisper model and name it",
    ),
    (Wire.OPENAI, Op.TRANSLATE): _no(
        "there is no /v1/audio/translations", "serve a whisper model with vLLM"
    ),
    (Wire.OPENAI, Op.SPEECH): _kind(
        "/v1/audio/speech",
        "needs a text-to-speech model",
        "install a text-to-speech model (piper, kokoro) and name it",
    ),
    (Wire.OPENAI, Op.IMAGES): _kind(
        "/v1/images/generations",
        "needs an image model",
        "install an image model (diffusers, stablediffusion) and name it",
    ),
    (Wire.OPENAI, Op.IMAGE_EDITS): _no(
        "it edits images only on its own /v1/images/inpainting",
        "use a provider that has /v1/images/edits",
    ),
    (Wire.OPENAI, Op.TOKENIZE): Cell(Support.YES, "/v1/tokenize"),
    (Wire.OPENAI, Op.DETOKENIZE): Cell(Support.YES, "/v1/detokenize"),
    (Wire.ANTHROPIC, Op.MESSAGES): Cell(Support.YES, "/v1/messages"),
    (Wire.ANTHROPIC, Op.COUNT_TOKENS): _no(
        "there is no count_tokens", "count with POST /tokenize, or ask a vLLM or llama.cpp backend"
    ),
    **no_ollama(_IMITATION),
}

_RULES: tuple[Rule, ...] = (
    Rule(
        Verdict.CLIENT,
        status=(404,),
        ops=frozenset({Op.RESPONSES_BY_ID}),
        why="localai 2: responses live in memory; an id that is gone is not a missing model",
    ),
    Rule(
        Verdict.UNSUPPORTED,
        status=(404,),
        text="resource not found",
        why="localai 2: the route is not in this build",
    ),
    Rule(
        Verdict.UNKNOWN_MODEL,
        status=(404,),
        why="localai 6: the only other 404; with LOCALAI_OPAQUE_ERRORS it has no body",
    ),
    Rule(
        Verdict.UNKNOWN_MODEL,
        status=(403,),
        text="model_disabled",
        why="localai 6: an administrator took the model out of service",
    ),
    Rule(
        Verdict.LOADING,
        status=(503,),
        text="model_loading",
        why="localai 6: distributed mode, still loading after LOCALAI_MODEL_LOAD_WAIT",
    ),
    Rule(Verdict.LOADING, status=(503,), text='"starting"', why="localai 2: /readyz's own words"),
    Rule(
        Verdict.OVERLOADED,
        text="admission_rejected",
        why="localai 6: limits.max_concurrent; some builds say it with 429",
    ),
    Rule(
        Verdict.OVERLOADED,
        text="is at capacity (max_concurrent=",
        why="localai 6: the same limit inside a stream, where the type is lost",
    ),
    Rule(
        Verdict.OVERLOADED,
        status=(503,),
        why="localai 6: process-wide limit, or the cool-down after a failed load",
    ),
    Rule(
        Verdict.OVERLOADED, status=(429,), text="quota_exceeded", why="localai 6: the key's quota"
    ),
    Rule(
        Verdict.UNSUPPORTED,
        status=(500, 501),
        text="does not support embeddings",
        ops=frozenset({Op.EMBEDDINGS}),
        why="localai 9: 'embeddings: true' is missing",
    ),
    Rule(
        Verdict.UNSUPPORTED,
        status=(500,),
        text="code = unimplemented",
        why="localai 6: the model's backend process lacks this call",
    ),
    Rule(
        Verdict.CLIENT,
        status=(500,),
        text="code = invalidargument",
        why="localai 6: the backend process found the request at fault",
    ),
    Rule(
        Verdict.CLIENT,
        status=(500,),
        text="exceed_context_size",
        why="localai 6: llama.cpp's text inside the RPC error",
    ),
    Rule(Verdict.CLIENT, status=(422,), why="localai 6: rerank's top_n below 1"),
)

LOCALAI = Runtime(
    name="localai",
    title="LocalAI",
    cells=_CELLS,
    fingerprint=_fingerprint,
    clues=(WELL_KNOWN, "/readyz", CLUE, "/api/version", "/api/status"),
    rank=5,
    version=_version,
    version_paths=(WELL_KNOWN, "/version"),
    probe=Probe(("/readyz",)),
    health=_health,
    model_paths=("/v1/models", "/system", "/v1/models/capabilities"),
    models=_models,
    drops=frozenset(
        {
            "sec-fetch-site",
            "sec-fetch-mode",
            "sec-fetch-dest",
            "sec-fetch-user",
            "sec-fetch-storage-access",
            "cookie",
            "xi-api-key",
            "extra-usage",
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-prefix",
            "x-forwarded-proto",
            "x-localai-node",
            "x-correlation-id",
        }
    ),
    rewrite=_rewrite,
    extras={
        "top_k": "top_k",
        "min_p": "min_p",
        "typical_p": "typical_p",
        "repeat_penalty": "repeat_penalty",
        "repeat_last_n": "repeat_last_n",
        "num_keep": "n_keep",
        "thinking": "reasoning",
    },
    rules=_RULES,
    event_fault=_event_fault,
    idle=30.0,
    request_ids=("X-Request-Id", "X-Correlation-ID"),
    # It blocks until the model is loaded (sheet: localai 2).
    wake=Wake("/backend/load"),
    ports=(8080,),
    flags={
        "tools": "no flag: a function template in the model's YAML, or the backend's own parser",
        "embeddings": "embeddings: true in the model's YAML",
        "json_schema": "none; only backends with grammars obey (llama.cpp does)",
        "reasoning": "none",
        "vision": "mmproj: FILE in the model's YAML",
        "parallel": "LLAMACPP_PARALLEL=N, or the model's parallel option",
        "context": "context_size: N in the model's YAML, or LOCALAI_CONTEXT_SIZE=N",
        "preload": "LOCALAI_LOAD_TO_MEMORY=MODEL",
    },
)
