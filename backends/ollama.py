"""Ollama: many models by name, loaded on demand (sheet: ollama)."""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    Wake,
    health_by_status,
    openai_models,
)
from gateway.core.types import Doc, Health, Model, Op, Wire

from ._portico import CLUE, is_portico

BANNER = "Ollama is running"
_LATEST = ":latest"
_CLOUD = ("-cloud", ":cloud")


def _fingerprint(evidence: Evidence) -> str | None:
    """Sheet: ollama 3, localai 3, sglang 3. ``/api/status`` decides; builds older than that path
    are told by their banner and ``/api/version``, unless a mark of an imitator is there."""
    if is_portico(evidence) or _imitator(evidence):
        return None
    version, banner = _version(evidence), _banner(evidence)
    status = evidence.get("/api/status", NO_ANSWER)
    if _cloud_status(status) and (version or banner):
        return "/api/status tells of Ollama's cloud"
    if version and banner:
        return f"says '{BANNER}' and answers /api/version"
    return None


def _imitator(evidence: Evidence) -> bool:
    """LocalAI has its well-known card and an empty ``/readyz``; SGLang has ``/model_info``."""
    ready = evidence.get("/readyz", NO_ANSWER)
    return (
        _is_object(evidence, "/.well-known/localai.json")
        or _is_object(evidence, "/model_info")
        or (ready.status in (200, 503) and not ready.text.lstrip().startswith("<"))
    )


def _is_object(evidence: Evidence, path: str) -> bool:
    answer = evidence.get(path, NO_ANSWER)
    return answer.status == 200 and isinstance(answer.doc, dict)


def _cloud_status(answer: Answer) -> bool:
    return answer.status == 200 and isinstance(answer.doc, dict) and "cloud" in answer.doc


def _banner(evidence: Evidence) -> bool:
    root = evidence.get("/", NO_ANSWER)
    return root.status == 200 and root.text.strip() == BANNER


def _version(evidence: Evidence) -> str:
    answer = evidence.get("/api/version", NO_ANSWER)
    version = answer.doc.get("version") if isinstance(answer.doc, dict) else None
    return version if answer.status == 200 and isinstance(version, str) else ""


def _health(answer: Answer) -> tuple[Health, str]:
    """Sheet: ollama 1. Ready as soon as it answers; 403 means it will refuse every request."""
    if answer.status == 403:
        return Health.SICK, (
            "refuses the host name it is addressed by (403): use its IP address or localhost in"
            " the url, or start it with OLLAMA_HOST=0.0.0.0"
        )
    return health_by_status(answer)


def full_name(name: str) -> str:
    """``foo`` and ``foo:latest`` are one model (sheet: ollama 4); this is the long form."""
    return name if ":" in name.rpartition("/")[2] else name + _LATEST


def _aliases(name: str) -> tuple[str, ...]:
    if name.endswith(_LATEST):
        return (name.removesuffix(_LATEST),)
    full = full_name(name)
    return (full,) if full != name else ()


def _models(evidence: Evidence) -> tuple[Model, ...]:
    """What is installed: the OpenAI list (``data`` may be null), with the names of ``/api/tags``
    that it lacks, completed by what the tags and ``/api/ps`` say. Models that run at ollama.com
    are left out: nobody here asked for prompts to leave the house (sheet: ollama 4)."""
    tags = _by_name(evidence.get("/api/tags", NO_ANSWER))
    resident = evidence.get("/api/ps", NO_ANSWER)
    running = _by_name(resident) if _is_list(resident) else None
    listed = openai_models(evidence.get("/v1/models", NO_ANSWER))
    entries = {full_name(model.id): model.entry for model in listed}
    for name, tag in tags.items():
        entries.setdefault(name, _entry(tag))
    return tuple(
        _model(entry, tags.get(name, {}), name, running)
        for name, entry in entries.items()
        if not _remote(str(entry["id"]), tags.get(name, {}))
    )


def _by_name(answer: Answer) -> dict[str, Doc]:
    rows = answer.doc["models"] if _is_list(answer) else ()
    named = [
        (row.get("model") or row.get("name"), row) for row in rows or () if isinstance(row, dict)
    ]
    return {full_name(name): row for name, row in named if isinstance(name, str)}


def _is_list(answer: Answer) -> bool:
    return (
        answer.status == 200
        and isinstance(answer.doc, dict)
        and isinstance(answer.doc.get("models", 0), list | None)
    )


def _entry(tag: Doc) -> Doc:
    name = tag.get("name") or tag.get("model")
    return {"id": name, "object": "model", "created": 0, "owned_by": "library"}


def _remote(name: str, tag: Doc) -> bool:
    return bool(tag.get("remote_host")) or name.endswith(_CLOUD)


def _model(entry: Doc, tag: Doc, name: str, running: Mapping[str, Doc] | None) -> Model:
    """``running`` None: ``/api/ps`` did not answer. A model that is still loading is listed there
    as well, so ``loaded`` means resident or about to be (sheet: ollama 5)."""
    resident = (running or {}).get(name, {})
    share = {"size_vram": resident["size_vram"]} if "size_vram" in resident else {}
    details = tag.get("details")
    trained = details.get("context_length") if isinstance(details, dict) else None
    able = tag.get("capabilities")
    return Model(
        entry["id"],
        aliases=_aliases(entry["id"]),
        entry=entry,
        context=_size(resident.get("context_length")) or _size(trained),
        capabilities=frozenset(map(str, able)) if isinstance(able, list) else None,
        loaded=None if running is None else name in running,
        tag={**tag, **share},
    )


def _size(value: Any) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _rewrite(op: Op, doc: Doc, model: Model | None) -> Doc | None:
    """The OpenAI bodies as Ollama reads them (sheet: ollama 10, 11); None if nothing is to do."""
    changed = dict(doc)
    if op in (Op.CHAT, Op.COMPLETIONS):
        _rename_limit(changed)
    if op is Op.COMPLETIONS:
        _single_prompt(changed)
    if op in (Op.CHAT, Op.RESPONSES):
        _hide_tools(changed)
    if op is Op.CHAT and isinstance(doc.get("messages"), list):
        changed["messages"] = [_message(message) for message in doc["messages"]]
    return changed if changed != doc else None


def _rename_limit(doc: dict[str, Any]) -> None:
    """``max_completion_tokens`` is ignored, so the answer would have no limit (#7125)."""
    if doc.get("max_completion_tokens") is not None:
        doc["max_tokens"] = doc.pop("max_completion_tokens")


def _single_prompt(doc: dict[str, Any]) -> None:
    prompt = doc.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str):
        doc["prompt"] = prompt[0]


def _hide_tools(doc: dict[str, Any]) -> None:
    """``tool_choice`` is ignored (#17921): 'none' holds only if the model sees no tools."""
    if doc.get("tool_choice") == "none" and doc.get("tools"):
        del doc["tools"], doc["tool_choice"]


def _message(message: Any) -> Any:
    """Role ``developer`` is not mapped; ``content: null`` is refused without tool calls; content
    in several parts becomes several messages, so text parts are joined, a line each."""
    if not isinstance(message, dict):
        return message
    changed = dict(message)
    if message.get("role") == "developer":
        changed["role"] = "system"
    content = message.get("content")
    if content is None and not message.get("tool_calls"):
        changed["content"] = ""
    elif isinstance(content, list) and len(content) > 1 and all(map(_is_text, content)):
        changed["content"] = "\n".join(part["text"] for part in content)
    return changed


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
    )


def _event_fault(wire: Wire, op: Op, event: Any) -> tuple[int, str] | None:
    """Errors that do not look like one: on /v1 a chunk without model and content stands for a
    lost message (sheet: ollama 6); natively the text may be llama-server's JSON once more."""
    if not isinstance(event, dict):
        return None
    if wire is Wire.OPENAI and op in (Op.CHAT, Op.COMPLETIONS):
        return _swallowed(event)
    if wire is Wire.OLLAMA:
        return _nested(event.get("error"))
    return None


def _swallowed(event: Doc) -> tuple[int, str] | None:
    choices = event.get("choices")
    if event.get("model") != "" or not isinstance(choices, list) or not all(map(_hollow, choices)):
        return None
    return 500, "Ollama failed and hid the reason from its OpenAI route: its own log tells it"


def _hollow(choice: Any) -> bool:
    """Nothing said and nothing finished."""
    if not isinstance(choice, dict) or choice.get("finish_reason"):
        return False
    delta = choice.get("delta")
    said = delta if isinstance(delta, dict) else choice
    return not any(said.get(part) for part in ("content", "text", "reasoning", "tool_calls"))


def _nested(text: Any) -> tuple[int, str] | None:
    if not isinstance(text, str) or "{" not in text:
        return None
    try:
        inner = json.loads(text[text.index("{") :])
    except ValueError:
        return None
    error = inner.get("error", inner)
    code = error.get("code") if isinstance(error, dict) else None
    if not isinstance(code, int) or not 400 <= code <= 599:
        return None
    return code, str(error.get("message") or text)


def _yes(path: str, note: str = "") -> Cell:
    return Cell(Support.YES, path, note)


def _embeds(path: str) -> Cell:
    return Cell(
        Support.MODEL,
        path,
        "the model must have the capability 'embedding'",
        "pull an embedding model (ollama pull nomic-embed-text) and name that model",
    )


def _no(note: str, remedy: str = "") -> Cell:
    return Cell(Support.NO, "", note, remedy)


_CELLS: dict[tuple[Wire, Op], Cell] = {
    (Wire.OPENAI, Op.CHAT): _yes(
        "/v1/chat/completions", "tool_choice, n and logit_bias are ignored"
    ),
    (Wire.OPENAI, Op.COMPLETIONS): _yes("/v1/completions", "one prompt string"),
    (Wire.OPENAI, Op.EMBEDDINGS): _embeds("/v1/embeddings"),
    (Wire.OPENAI, Op.RESPONSES): _yes("/v1/responses", "nothing is stored"),
    (Wire.OPENAI, Op.RESPONSES_BY_ID): _no(
        "it stores no responses", "send the whole conversation in 'input' of POST /v1/responses"
    ),
    (Wire.OPENAI, Op.RERANK): _no(
        "it has no rerank", "serve a reranker with vLLM, llama.cpp (--reranking) or LocalAI"
    ),
    (Wire.OPENAI, Op.SCORE): _no("it has no scoring", "serve a scoring model with vLLM or SGLang"),
    (Wire.OPENAI, Op.TRANSCRIBE): Cell(
        Support.MODEL,
        "/v1/audio/transcriptions",
        "the model must have the capability 'audio'",
        "pull a model that hears (capability 'audio' in ollama show) and name it",
    ),
    (Wire.OPENAI, Op.TRANSLATE): _no(
        "it has no audio translation", "serve a whisper model with vLLM"
    ),
    (Wire.OPENAI, Op.SPEECH): _no(
        "it has no speech synthesis", "serve a text-to-speech model with LocalAI"
    ),
    (Wire.OPENAI, Op.IMAGES): _no(
        "it makes no images on this route", "serve an image model with LocalAI"
    ),
    (Wire.OPENAI, Op.IMAGE_EDITS): _no(
        "it edits no images", "use a provider that has /v1/images/edits"
    ),
    (Wire.OPENAI, Op.TOKENIZE): _no(
        "it has no tokenizer route", "serve the model with vLLM, SGLang or llama.cpp"
    ),
    (Wire.OPENAI, Op.DETOKENIZE): _no(
        "it has no tokenizer route", "serve the model with vLLM, SGLang or llama.cpp"
    ),
    (Wire.ANTHROPIC, Op.MESSAGES): _yes(
        "/v1/messages", "the input tokens in message_start are an estimate"
    ),
    (Wire.ANTHROPIC, Op.COUNT_TOKENS): _no(
        "it has no count_tokens", "serve the model with vLLM, SGLang or llama.cpp"
    ),
    (Wire.OLLAMA, Op.CHAT): _yes("/api/chat"),
    (Wire.OLLAMA, Op.GENERATE): _yes("/api/generate"),
    (Wire.OLLAMA, Op.EMBED): _embeds("/api/embed"),
    (Wire.OLLAMA, Op.EMBEDDINGS): _embeds("/api/embeddings"),
    (Wire.OLLAMA, Op.TAGS): _yes("/api/tags"),
    (Wire.OLLAMA, Op.SHOW): _yes("/api/show"),
    (Wire.OLLAMA, Op.PS): _yes("/api/ps"),
    (Wire.OLLAMA, Op.VERSION): _yes("/api/version"),
}

_RULES: tuple[Rule, ...] = (
    Rule(
        Verdict.UNSUPPORTED,
        text="does not support embeddings",
        why="ollama 9: 501; on the legacy /api/embeddings every fault is a 500",
    ),
    Rule(
        Verdict.UNSUPPORTED,
        status=(400,),
        text="does not support chat",
        why="ollama 6: the model lacks the surface",
    ),
    Rule(
        Verdict.UNSUPPORTED,
        status=(400,),
        text="does not support generate",
        why="ollama 6: the model lacks the surface",
    ),
    Rule(
        Verdict.CLIENT,
        status=(400,),
        text="does not support",
        why="ollama 6: tools, thinking, insert: the request asks too much of this model",
    ),
    Rule(
        Verdict.UNSUPPORTED,
        status=(404,),
        text="404 page not found",
        why="ollama 2: this build has no such route",
    ),
    Rule(Verdict.UNKNOWN_MODEL, status=(404,), text="not found", why="ollama 6"),
    Rule(Verdict.CLIENT, status=(499,), why="ollama 6: 'request canceled'"),
    Rule(
        Verdict.OVERLOADED,
        status=(503,),
        text="server busy",
        why="ollama 6: the queue of loads is full",
    ),
    Rule(Verdict.AUTH, status=(401,), why="ollama 4: a cloud model, and nobody signed in"),
    Rule(
        Verdict.AUTH,
        status=(403,),
        why="ollama 1: the host or origin check, or cloud models disabled: for the operator",
    ),
    Rule(
        Verdict.CLIENT,
        text="exceed_context_size",
        why="ollama 6: llama-server's own error object inside the text",
    ),
    Rule(
        Verdict.CLIENT,
        text="exceeds the context length",
        why="ollama 9: also a 500 on the legacy /api/embeddings",
    ),
    Rule(
        Verdict.CLIENT,
        status=(500,),
        text="too large to process",
        why="llamacpp 6: an input beyond the runner's batch",
    ),
    Rule(
        Verdict.CLIENT,
        status=(500,),
        text="image input is not supported",
        why="llamacpp 6: an image for a model without eyes",
    ),
)

OLLAMA = Runtime(
    name="ollama",
    title="Ollama",
    cells=_CELLS,
    fingerprint=_fingerprint,
    clues=(
        "/api/status",
        "/api/version",
        "/",
        "/.well-known/localai.json",
        "/readyz",
        "/model_info",
        CLUE,
    ),
    rank=40,
    version=_version,
    version_paths=("/api/version",),
    probe=Probe(("/api/version",)),
    health=_health,
    model_paths=("/v1/models", "/api/tags", "/api/ps"),
    models=_models,
    drops=frozenset({"origin"}),
    rewrite=_rewrite,
    rules=_RULES,
    event_fault=_event_fault,
    idle=30.0,
    needs_finish=True,
    # Without a prompt it only loads, and answers when that is done (sheet: ollama 5).
    wake=Wake("/api/generate"),
    ports=(11434,),
    flags={
        "tools": "none; the model must have the capability tools",
        "embeddings": "none; the model must have the capability embedding",
        "json_schema": "none",
        "reasoning": "none; models with the capability thinking think by default",
        "vision": "none; the model must have the capability vision",
        "parallel": "OLLAMA_NUM_PARALLEL=N (default 1)",
        "context": "OLLAMA_CONTEXT_LENGTH=N (default by GPU memory, from 4096)",
        "preload": "OLLAMA_KEEP_ALIVE=-1 keeps what was loaded",
    },
)
