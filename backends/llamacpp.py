"""llama.cpp: llama-server, its router mode, and the other program, llama-cpp-python's server."""

from __future__ import annotations

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
from gateway.core.types import Doc, Health, Load, Model, Op, Wire

from ._body import DROP, patched, renamed, without
from ._instead import no_ollama
from ._metrics import total
from ._portico import CLUE, is_portico

Cells = Mapping[tuple[Wire, Op], Cell]

# ---- what it can do ------------------------------------------------------------------------


def _no(remedy: str, note: str) -> Cell:
    return Cell(Support.NO, note=note, remedy=remedy)


_COMMON_CELLS: Cells = {
    **no_ollama("it does not speak Ollama's API"),
    (Wire.OPENAI, Op.CHAT): Cell(Support.YES, "/v1/chat/completions"),
    (Wire.OPENAI, Op.COMPLETIONS): Cell(Support.YES, "/v1/completions"),
    (Wire.OPENAI, Op.TRANSLATE): _no("serve a speech model with vLLM", "it only transcribes"),
    (Wire.OPENAI, Op.SPEECH): _no("serve a voice with LocalAI", "it makes no audio"),
    (Wire.OPENAI, Op.IMAGES): _no("serve an image model with LocalAI", "it makes no images"),
    (Wire.OPENAI, Op.IMAGE_EDITS): _no(
        "use a cloud provider (runtime openai) that edits images", "it makes no images"
    ),
    (Wire.OPENAI, Op.RESPONSES_BY_ID): _no(
        "use a vLLM or LocalAI backend, which keep responses", "it keeps no responses"
    ),
}

CELLS: Cells = {
    **_COMMON_CELLS,
    (Wire.OPENAI, Op.EMBEDDINGS): Cell(
        Support.FLAG,
        "/v1/embeddings",
        "needs --embeddings; dimensions is ignored; each input must fit in -ub",
        "start llama-server with --embeddings and an embedding model, and with -b and -ub as large"
        " as its context",
    ),
    (Wire.OPENAI, Op.RESPONSES): Cell(
        Support.YES, "/v1/responses", "stateless: previous_response_id is refused"
    ),
    (Wire.OPENAI, Op.RERANK): Cell(
        Support.FLAG,
        "/v1/rerank",
        "needs --reranking",
        "start llama-server with --reranking and a reranking model",
    ),
    (Wire.OPENAI, Op.SCORE): _no(
        "call POST /v1/rerank on a llama-server started with --reranking, or serve the model with"
        " vLLM or SGLang",
        "it has no score route",
    ),
    (Wire.OPENAI, Op.TRANSCRIBE): Cell(
        Support.MODEL,
        "/v1/audio/transcriptions",
        "needs a model that hears; response_format json only",
        "start llama-server with an audio model and its --mmproj file",
    ),
    (Wire.OPENAI, Op.TOKENIZE): Cell(
        Support.YES, "/tokenize", "text only (content, or prompt); answers {tokens}"
    ),
    (Wire.OPENAI, Op.DETOKENIZE): Cell(Support.YES, "/detokenize", "answers {content}"),
    (Wire.ANTHROPIC, Op.MESSAGES): Cell(
        Support.YES, "/v1/messages", "max_tokens may be missing (4096)"
    ),
    (Wire.ANTHROPIC, Op.COUNT_TOKENS): Cell(Support.YES, "/v1/messages/count_tokens"),
}

_SERVER_INSTEAD = "run llama.cpp's own llama-server instead of llama_cpp.server"

PYTHON_CELLS: Cells = {
    **_COMMON_CELLS,
    (Wire.OPENAI, Op.CHAT): Cell(
        Support.YES,
        "/v1/chat/completions",
        "one request at a time; n is ignored; streams carry no usage; tools by named tool_choice",
    ),
    (Wire.OPENAI, Op.COMPLETIONS): Cell(
        Support.YES, "/v1/completions", "one request at a time, with one prompt as text"
    ),
    (Wire.OPENAI, Op.EMBEDDINGS): Cell(
        Support.FLAG,
        "/v1/embeddings",
        "needs --embedding true; dimensions and encoding_format are ignored",
        "start llama_cpp.server with --embedding true and an embedding model",
    ),
    (Wire.OPENAI, Op.TOKENIZE): Cell(
        Support.YES, "/extras/tokenize", "text only (input, prompt or content); answers {tokens}"
    ),
    (Wire.OPENAI, Op.DETOKENIZE): Cell(Support.YES, "/extras/detokenize", "answers {text}"),
    (Wire.OPENAI, Op.RESPONSES): _no(_SERVER_INSTEAD, "it has no Responses API"),
    (Wire.OPENAI, Op.RERANK): _no(f"{_SERVER_INSTEAD}, with --reranking", "it cannot rerank"),
    (Wire.OPENAI, Op.SCORE): _no("serve the model with vLLM or SGLang", "it cannot score"),
    (Wire.OPENAI, Op.TRANSCRIBE): _no(
        f"{_SERVER_INSTEAD}, with an audio model and its --mmproj file", "it takes no audio"
    ),
    (Wire.ANTHROPIC, Op.MESSAGES): _no(_SERVER_INSTEAD, "it does not speak Anthropic's API"),
    (Wire.ANTHROPIC, Op.COUNT_TOKENS): _no(_SERVER_INSTEAD, "it does not speak Anthropic's API"),
}

# ---- which one it is -----------------------------------------------------------------------


def _doc(evidence: Evidence, path: str) -> Doc:
    doc = evidence.get(path, NO_ANSWER).doc
    return doc if isinstance(doc, dict) else {}


def _props(evidence: Evidence) -> Doc:
    return _doc(evidence, "/props")


def _entries(evidence: Evidence) -> tuple[Doc, ...]:
    return tuple(model.entry for model in openai_models(evidence.get("/v1/models", NO_ANSWER)))


def _servers(evidence: Evidence) -> frozenset[str]:
    return frozenset(answer.headers.get("server", "") for answer in evidence.values())


def _is_python(evidence: Evidence) -> bool:
    """The title of ``/docs`` is open with a key too, and needs no lock (sheet: llamacpp A)."""
    if "llama.cpp" in _servers(evidence):
        return False
    titled = "llama.cpp Python API" in evidence.get("/docs", NO_ANSWER).text
    return titled or any(
        entry.get("owned_by") == "me" and "permissions" in entry for entry in _entries(evidence)
    )


def _is_router(evidence: Evidence) -> bool:
    if _props(evidence).get("role") == "router":
        return True
    return any(
        isinstance(entry.get("status"), dict) and "value" in entry["status"]
        for entry in _entries(evidence)
    )


def fingerprint(evidence: Evidence) -> str | None:
    """First by the header that llama-server sends even with 401 and while loading, then by what
    is left of it behind a proxy (sheet: llamacpp 3, A)."""
    if is_portico(evidence):
        return None
    if "llama.cpp" in _servers(evidence):
        return "it answers with 'Server: llama.cpp'"
    props = _props(evidence)
    if "build_info" in props and ("total_slots" in props or props.get("role") == "router"):
        return "/props has llama.cpp's build_info"
    if any(entry.get("owned_by") == "llamacpp" for entry in _entries(evidence)):
        return "its models are owned by 'llamacpp'"
    if _is_python(evidence):
        return "it is llama-cpp-python's server, by its /docs or the owner 'me' of its models"
    return None


def variant(evidence: Evidence) -> str:
    """``python``, ``router`` or, for llama-server with one model, ''."""
    if _is_python(evidence):
        return "python"
    return "router" if _is_router(evidence) else ""


def version(evidence: Evidence) -> str:
    """llama.cpp's build, such as ``b1-1652066``."""
    build = _props(evidence).get("build_info")
    return build if isinstance(build, str) else ""


def python_version(evidence: Evidence) -> str:
    """llama-cpp-python's version, from the open ``/openapi.json``."""
    info = _doc(evidence, "/openapi.json").get("info")
    found = info.get("version") if isinstance(info, dict) else None
    return found if isinstance(found, str) else ""


# ---- how it is doing -----------------------------------------------------------------------


def health(answer: Answer) -> tuple[Health, str]:
    """Loading shows as 503 on every path (sheet: llamacpp 2). In router mode it is always up."""
    if answer.status == 503 and "Loading model" in answer.text:
        return Health.LOADING, "is loading its model"
    return health_by_status(answer)


_WORK = (
    "llamacpp:n_decode_total",
    "llamacpp:prompt_tokens_total",
    "llamacpp:tokens_predicted_total",
)
"""Counters of work. The token counters stand still until a request ends, as the recording
``overload_metrics`` shows, so the count of decode calls is what moves meanwhile."""


def load(evidence: Evidence) -> Load:
    """From ``/metrics`` (needs ``--metrics``) and the slots in ``/props``; there is no KV gauge
    any more (sheet: llamacpp 5). ``/slots`` would wake a sleeping server (sheet: llamacpp 2)."""
    page = evidence.get("/metrics", NO_ANSWER)
    text = page.text if page.status == 200 else ""
    slots = _props(evidence).get("total_slots")
    work = [count for name in _WORK if (count := total(text, name)) is not None]
    return Load(
        running=total(text, "llamacpp:requests_processing"),
        waiting=total(text, "llamacpp:requests_deferred"),
        hit_ratio=_hit_ratio(text),
        progress=sum(work) if work else None,
        slots=slots if isinstance(slots, int) else None,
    )


def _hit_ratio(text: str) -> float | None:
    """Share of prompt tokens that came out of the cache; the other counter excludes those."""
    cached = total(text, "llamacpp:prompt_tokens_cached_total")
    fresh = total(text, "llamacpp:prompt_tokens_total")
    if cached is None or fresh is None or cached + fresh == 0:
        return None
    return cached / (cached + fresh)


# ---- what it serves ------------------------------------------------------------------------

_UNSTEADY = frozenset({"created"})
"""It is the time of the answer (sheet: llamacpp 4): kept, every look would see a new fleet."""

_STATUS = frozenset({"value", "failed", "exit_code", "progress"})
"""What of a router entry's ``status`` may be shown; the rest is the child's command line."""

_SENSES = {"image": "vision", "audio": "audio", "video": "video"}


def models(evidence: Evidence) -> tuple[Model, ...]:
    """The served model, or in router mode all that can be. ``context`` is that of one slot."""
    props = _props(evidence)
    return tuple(_model(entry, props) for entry in _entries(evidence))


def _model(entry: Doc, props: Doc) -> Model:
    meta = entry.get("meta")
    context = meta.get("n_ctx") if isinstance(meta, dict) else None
    return Model(
        id=entry["id"],
        aliases=_aliases(entry),
        entry=_shown(entry),
        context=context if isinstance(context, int) and context > 0 else None,
        capabilities=_capabilities(entry, props),
        loaded=_loaded(entry, props),
    )


def _aliases(entry: Doc) -> tuple[str, ...]:
    """Its other names. Without ``--alias`` the id is the path as given; the file's name then
    serves as well, since llama-server takes any name (sheet: llamacpp 4)."""
    own, listed = entry["id"], entry.get("aliases")
    names = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    if own.endswith(".gguf") and "/" in own:
        names.append(own.rpartition("/")[2])
    return tuple(name for name in dict.fromkeys(names) if name and name != own)


def _shown(entry: Doc) -> Doc:
    kept = {name: value for name, value in entry.items() if name not in _UNSTEADY}
    status = kept.get("status")
    if isinstance(status, dict):
        kept["status"] = {name: status[name] for name in status if name in _STATUS}
    return kept


def _capabilities(entry: Doc, props: Doc) -> frozenset[str] | None:
    """In Ollama's words: completion, tools, vision, audio, video. ``/props`` tells them of the
    one model; a router's entries tell the senses, and tools are on by default."""
    modalities, caps = props.get("modalities"), props.get("chat_template_caps")
    if isinstance(modalities, dict):
        senses = {name for name in _SENSES.values() if modalities.get(name) is True}
        tools = not isinstance(caps, dict) or caps.get("supports_tools") is not False
        return frozenset({"completion", *(("tools",) if tools else ()), *senses})
    architecture = entry.get("architecture")
    inputs = architecture.get("input_modalities") if isinstance(architecture, dict) else None
    if not isinstance(inputs, list):
        return None
    return frozenset(
        {"completion", "tools", *(_SENSES[name] for name in inputs if name in _SENSES)}
    )


def _loaded(entry: Doc, props: Doc) -> bool | None:
    """Whether a request finds the model in memory: a router's ``status.value``, or whether the
    server has gone to sleep (sheet: llamacpp 2, 4)."""
    status = entry.get("status")
    if isinstance(status, dict):
        return status.get("value") == "loaded"
    sleeping = props.get("is_sleeping")
    return not sleeping if isinstance(sleeping, bool) else None


# ---- what a request must look like ---------------------------------------------------------


def _named_tool(doc: Doc) -> Mapping[str, Any]:
    """A named function would silently become ``auto`` (sheet: llamacpp 10). With that tool alone
    and ``required`` the engine does what was asked. On /v1/messages the object is understood as
    ``required``, so there only the tools are cut."""
    choice, tools = doc.get("tool_choice"), doc.get("tools")
    if not isinstance(choice, dict) or not isinstance(tools, list):
        return {}
    wanted = _name(choice) if choice.get("type") in ("function", "tool") else None
    kept = [tool for tool in tools if isinstance(tool, dict) and _name(tool) == wanted]
    if wanted is None or not kept:
        return {}
    only: dict[str, Any] = {} if len(kept) == len(tools) else {"tools": kept}
    return only if choice["type"] == "tool" else {**only, "tool_choice": "required"}


def _name(thing: Doc) -> str | None:
    """The function's name in any of the three dialects: inside ``function``, or beside it."""
    inner = thing.get("function")
    name = (inner if isinstance(inner, dict) else thing).get("name")
    return name if isinstance(name, str) else None


def _bare(thing: Doc) -> Doc:
    """A tool, or the function in it, without members that are null."""
    return {
        name: _bare(value) if name == "function" and isinstance(value, dict) else value
        for name, value in thing.items()
        if value is not None
    }


def _tools(doc: Doc) -> Mapping[str, Any]:
    """``"description": null``, which SDKs send for a function without a docstring, is a 500
    ("Failed to parse tools", seen with xllamacpp 2026.10.11549). Then the choice among them."""
    tools = doc.get("tools")
    if not isinstance(tools, list):
        return {}
    bare = [_bare(tool) if isinstance(tool, dict) else tool for tool in tools]
    changed = {} if bare == tools else {"tools": bare}
    return {**changed, **_named_tool({**doc, **changed})}


_PRIVATE = without("id_slot", "lora", "sse_ping_interval")
"""Fields that reach into the server's own affairs (sheet: llamacpp 0)."""

_GENERATING = (_PRIVATE, _tools)

FIXES = {
    Op.CHAT: _GENERATING,
    Op.COMPLETIONS: (_PRIVATE,),
    Op.RESPONSES: _GENERATING,
    Op.MESSAGES: (*_GENERATING, settled),
    Op.COUNT_TOKENS: (settled,),
    Op.EMBEDDINGS: (_PRIVATE,),
    Op.RERANK: (_PRIVATE,),
    # An unknown 'prompt' is answered with 200 and no tokens (recording: tokenize).
    Op.TOKENIZE: (renamed("content", "prompt"),),
}


def rewrite(op: Op, doc: Doc, model: Model | None) -> Doc | None:
    """The body as llama-server wants it; None when it may go as it is."""
    return patched(doc, FIXES.get(op, ()))


def _limit(doc: Doc) -> Mapping[str, Any]:
    # It ignores the new name, and then generates without a limit.
    limit = doc.get("max_completion_tokens")
    if limit is None:
        return {}
    return {"max_completion_tokens": DROP, "max_tokens": limit}


def _json_schema(doc: Doc) -> Mapping[str, Any]:
    # It takes a schema only under json_object, and refuses json_schema (ENGINES, Fields).
    wanted = doc.get("response_format")
    asked = wanted.get("json_schema") if isinstance(wanted, dict) else None
    if not isinstance(asked, dict) or "schema" not in asked:
        return {}
    return {"response_format": {"type": "json_object", "schema": asked["schema"]}}


PYTHON_FIXES = {
    Op.CHAT: (_limit, _json_schema, without("stream_options")),
    Op.COMPLETIONS: (_limit, without("stream_options")),
    Op.TOKENIZE: (renamed("input", "prompt", "content"),),
}


def python_rewrite(op: Op, doc: Doc, model: Model | None) -> Doc | None:
    """The body as llama_cpp.server wants it (sheet: llamacpp A); None when it may go as it is."""
    return patched(doc, PYTHON_FIXES.get(op, ()))


# ---- what its answers mean -----------------------------------------------------------------

RULES = (
    Rule(Verdict.LOADING, (503,), "loading model", why="llamacpp 2: on every path while loading"),
    Rule(Verdict.UNSUPPORTED, (501,), why="llamacpp 6: not_supported_error, a missing flag"),
    Rule(Verdict.UNSUPPORTED, (404,), "file not found", why="llamacpp 2: no such route here"),
    Rule(Verdict.CLIENT, (500,), "[json.exception.", why="llamacpp 6: malformed JSON is 500"),
    Rule(Verdict.CLIENT, (500,), "failed to parse tools", why="recording: error_tools_no_name"),
    Rule(
        Verdict.CLIENT,
        (500,),
        "input is not supported - hint",
        why="llamacpp 6: image or audio to a text model is 500; the chat itself works",
    ),
    Rule(
        Verdict.CLIENT,
        (500,),
        "is too large to process",
        why="llamacpp 6: embedding input over the physical batch is 500",
    ),
    Rule(
        Verdict.CLIENT,
        (500,),
        "tools param requires --jinja",
        why="llamacpp 10: --no-jinja; chat without tools works",
    ),
    Rule(
        Verdict.OVERLOADED,
        (500,),
        "context size has been exceeded",
        why="llamacpp 6: the shared KV cache ran full, whoever filled it",
    ),
)

ROUTER_RULES = (
    Rule(
        Verdict.UNKNOWN_MODEL,
        (400,),
        "\"model '",
        why="llamacpp 6: router: model 'zzz' not found",
    ),
    Rule(Verdict.LOADING, (400,), "model is not loaded", why="llamacpp 6: router: autoload off"),
    Rule(Verdict.ENGINE, (500,), "failed to load", why="llamacpp 4: router: the child failed"),
    Rule(Verdict.ENGINE, (500,), "proxy error:", why="llamacpp 6: router: child unreachable"),
    *RULES,
)

PYTHON_RULES = (
    Rule(
        Verdict.UNSUPPORTED,
        (500,),
        "created with embedding=true",
        ops=frozenset({Op.EMBEDDINGS}),
        why="llamacpp A: Embeddings",
    ),
    Rule(Verdict.UNSUPPORTED, (404, 405), '"detail"', why="llamacpp A: Routes"),
    Rule(Verdict.UNKNOWN_MODEL, (400,), '"model_not_found"', why="llamacpp A: Errors"),
    Rule(Verdict.CLIENT, (500,), " validation error", why="ENGINES: 500 for nearly all of them"),
    Rule(
        Verdict.CLIENT,
        (500,),
        "list object has no element",
        why="llamacpp A: empty messages are 500 from the template",
    ),
    Rule(
        Verdict.CLIENT,
        (500,),
        '"message":""',
        ops=frozenset({Op.COMPLETIONS}),
        why="llamacpp A: no prompt, or several, fail an assertion without a text",
    ),
    Rule(
        Verdict.CLIENT,
        (500,),
        "llama_decode returned -1",
        ops=frozenset({Op.EMBEDDINGS}),
        why="recording: embeddings_empty",
    ),
    Rule(
        Verdict.CLIENT,
        (500,),
        "internal server error",
        why="llamacpp A: malformed JSON is plain text; the engine's own faults are JSON",
    ),
)

# ---- the rows ------------------------------------------------------------------------------

_FLAGS = {
    "tools": "--jinja (on by default)",
    "json_schema": "none",
    "embeddings": "--embeddings, with -b and -ub as large as the context",
    "rerank": "--reranking",
    "vision": "--mmproj FILE (found by itself with -hf)",
    "reasoning": "--reasoning-format auto (the default)",
    "metrics": "--metrics",
    "model name": "--alias NAME, else the id is the path of the file",
}

_SERVER = Runtime(
    name="llamacpp",
    title="llama.cpp",
    cells=CELLS,
    fingerprint=fingerprint,
    clues=("/v1/models", "/props", "/docs", CLUE),
    probe=Probe(("/health",)),
    health=health,
    rank=20,
    variant=variant,
    version=version,
    version_paths=("/props",),
    model_paths=("/v1/models", "/props"),
    models=models,
    load_paths=("/metrics", "/props"),
    load=load,
    # With it the output is kept and generation outlives the client (sheet: llamacpp 8).
    drops=frozenset({"x-conversation-id"}),
    rewrite=rewrite,
    extras={
        "top_k": "top_k",
        "min_p": "min_p",
        "typical_p": "typical_p",
        "repeat_penalty": "repeat_penalty",
        "repeat_last_n": "repeat_last_n",
        "num_keep": "n_keep",
        "chat_template_kwargs": "chat_template_kwargs",
        "thinking": "reasoning_content",
    },
    rules=RULES,
    # It closes after 5 s of silence and after 100 requests (sheet: llamacpp 8).
    idle=4.0,
    uses=100,
    ports=(8080,),
    flags=_FLAGS,
)

_ROUTER = replace(
    _SERVER,
    title="llama.cpp (router)",
    # Its /metrics wants a model's name, and may load that model (sheet: llamacpp 5).
    load_paths=(),
    rules=ROUTER_RULES,
    # It answers at once, and 400 when the model runs or is being loaded (sheet: llamacpp 4).
    wake=Wake("/models/load", waits=False, already="already running"),
)

_PYTHON = replace(
    _SERVER,
    title="llama-cpp-python's server",
    cells=PYTHON_CELLS,
    # There is no /health, and /v1/models waits behind a running request (sheet: llamacpp A).
    probe=Probe(("/docs",)),
    health=health_by_status,
    version=python_version,
    version_paths=("/openapi.json",),
    model_paths=("/v1/models",),
    load_paths=(),
    rewrite=python_rewrite,
    extras={
        "top_k": "top_k",
        "min_p": "min_p",
        "repeat_penalty": "repeat_penalty",
        "suffix": "suffix",
    },
    rules=PYTHON_RULES,
    uses=None,
    # A stream that a later request interrupts ends with a bare [DONE] (sheet: llamacpp A).
    needs_finish=True,
    slots=1,
    # An X-Request-Id that is no UUID is refused with 400 (recording: request_id).
    drops=frozenset({"x-request-id"}),
    request_ids=("X-Correlation-Id",),
    flags={
        "tools": "--chat_format chatml-function-calling, or a named tool_choice",
        "json_schema": "none",
        "embeddings": "--embedding true",
        "rerank": "not available: use llama-server --reranking",
        "vision": "--clip_model_path FILE and a matching --chat_format",
        "reasoning": "not available: the thinking text stays in the content",
        "metrics": "not available: use llama-server --metrics",
        "whole streams": "--interrupt_requests false, else any request, even for the model list,"
        " cuts the running stream",
    },
)

LLAMACPP = replace(_SERVER, variants={"python": _PYTHON, "router": _ROUTER})
"""llama-server with one model; ``variants`` are its router mode and llama-cpp-python's server."""
