"""How each runtime identifies itself and answers by default: recordings first, fact sheets else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gateway.core.types import Op, Wire
from tests.fakes import steps, talk, wire
from tests.fakes.peer import Recorded
from tests.fakes.steps import Step

Gets = Mapping[str, Step]


@dataclass(frozen=True, slots=True)
class Persona:
    """``gets(models)`` are the GET addresses by which it is known; ``not_found`` and
    ``unauthorized`` its refusals; ``folders`` its recordings for answers to requests, best first;
    ``strict(request)`` is a refusal of inputs that only this runtime refuses; ``open_paths`` need
    no key; ``any_model`` tells that it answers any name."""

    gets: Callable[[Sequence[str]], Gets]
    not_found: Step
    unauthorized: Step
    folders: tuple[str, ...] = ()
    unknown_model: Callable[[str], Step] | None = None
    strict: Callable[[Recorded], Step | None] = lambda request: None
    open_paths: frozenset[str] = frozenset()
    loading: Step = field(default_factory=lambda: steps.reply(503))


def _replayed(
    folder: str, *, listing: Callable[[Any, Sequence[str]], Any], **more: Step
) -> Callable[..., Gets]:
    """All recorded GETs of a folder, with the list of models rewritten to those that are wanted;
    ``more`` are addresses of the sheet that were not recorded."""

    def gets(models: Sequence[str]) -> Gets:
        answers = wire.folder(folder, "get_")
        name = models[0] if models else wire.RECORDED_MODEL
        table = {answer.path: steps.replay(answer.naming(name)) for answer in answers.values()}
        listed = listing(json.loads(answers["get_models"].body), models)
        headers = answers["get_models"].headers
        answer = steps.reply(200, talk.dumps(listed), headers, content_type=None)
        unrecorded = {f"/{path}": step for path, step in more.items()}
        return {**table, **unrecorded, "/v1/models": answer}

    return gets


def _data_only(doc: Any, models: Sequence[str]) -> Any:
    entry = doc["data"][0]
    return {**doc, "data": [{**entry, "id": model} for model in models]}


def _llamacpp(doc: Any, models: Sequence[str]) -> Any:
    named = [{**doc["models"][0], "name": model, "model": model} for model in models]
    data = [{**doc["data"][0], "id": model, "aliases": [model]} for model in models]
    return {**doc, "models": named, "data": data}


def _recorded(case: str) -> Step:
    found = wire.load(case)
    assert found is not None, case
    return steps.replay(found)


def _text(body: str, status: int = 200) -> Step:
    return steps.reply(status, body.encode(), content_type="text/plain; charset=utf-8")


def _vllm_unknown(model: str) -> Step:
    message = f"The model `{model}` does not exist."
    error = {"message": message, "type": "NotFoundError", "param": "model", "code": 404}
    return steps.reply(404, {"error": error})


def _tgi_gets(models: Sequence[str]) -> Gets:
    """sheet: tgi 2 to 5."""
    model = models[0] if models else "m"
    info = {
        "model_id": model,
        "model_sha": None,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": 128,
        "max_best_of": 2,
        "max_stop_sequences": 4,
        "max_input_tokens": 4095,
        "max_total_tokens": 4096,
        "validation_workers": 2,
        "max_client_batch_size": 4,
        "router": "text-generation-router",
        "version": "3.3.7",
        "sha": None,
        "docker_label": None,
    }
    entries = [{"id": name, "object": "model", "created": 0, "owned_by": name} for name in models]
    metrics = (
        "# TYPE tgi_queue_size gauge\ntgi_queue_size 0\n"
        "# TYPE tgi_batch_current_size gauge\ntgi_batch_current_size 0\n"
        "# TYPE tgi_batch_current_max_tokens gauge\ntgi_batch_current_max_tokens 0\n"
        "# TYPE tgi_batch_max_total_tokens gauge\ntgi_batch_max_total_tokens 4096\n"
    )
    return {
        "/": steps.reply(),
        "/health": steps.reply(),
        "/ping": steps.reply(),
        "/info": steps.reply(200, info),
        "/v1/models": steps.reply(200, {"object": "list", "data": entries}),
        "/metrics": _text(metrics),
    }


def _tgi_strict(request: Recorded) -> Step | None:
    """sheet: tgi 10, strict types; a plain text 422 from its JSON layer."""
    doc = request.doc if isinstance(request.doc, dict) else {}
    wrong = (
        isinstance(doc.get("stop"), str)
        or ("stream_options" in doc and doc["stream_options"] is None)
        or isinstance(doc.get("logit_bias"), dict)
        or doc.get("top_p") in {0, 1}
        or (doc.get("response_format") or {}).get("type") == "text"
    )
    return _text("Failed to deserialize the JSON body into the target type", 422) if wrong else None


def _localai_gets(models: Sequence[str]) -> Gets:
    """sheet: localai 2 to 5."""
    loaded = [{"id": model, "backend": "llama-cpp"} for model in models]
    known = {"version": "v4.9.0", "endpoints": {"chat": "/v1/chat/completions"}}
    abilities = [
        {"id": model, "object": "model", "capabilities": ["FLAG_CHAT", "FLAG_EMBEDDINGS"]}
        for model in models
    ]
    entries = [{"id": model, "object": "model"} for model in models]
    return {
        "/.well-known/localai.json": steps.reply(200, known),
        "/healthz": steps.reply(),
        "/readyz": steps.reply(),
        "/version": steps.reply(200, {"version": "v4.9.0 (82c191afa)"}),
        "/system": steps.reply(200, {"backends": ["llama-cpp"], "loaded_models": loaded}),
        "/v1/models": steps.reply(200, {"object": "list", "data": entries}),
        "/v1/models/capabilities": steps.reply(200, {"object": "list", "data": abilities}),
        "/metrics": _text("# TYPE localai_tokens_total counter\nlocalai_tokens_total 0\n"),
        "/api/version": steps.reply(200, {"version": "0.9.0"}),
        "/api/tags": steps.reply(200, {"models": [_tag(model, "sha256:") for model in models]}),
        "/api/ps": steps.reply(200, {"models": []}),
    }


def _localai_unknown(model: str) -> Step:
    message = f'model "{model}" not found. To see available models, call GET /v1/models'
    error = {"code": 404, "message": message, "type": "invalid_request_error"}
    return steps.reply(404, {"error": error})


def _tag(model: str, prefix: str = "") -> dict[str, Any]:
    return {
        "name": model,
        "model": model,
        "modified_at": talk.CREATED,
        "size": 5_000_000,
        "digest": f"{prefix}{'ab' * 32}",
        "details": {
            "parent_model": "",
            "format": "gguf",
            "family": "llama",
            "families": ["llama"],
            "parameter_size": "8.0B",
            "quantization_level": "Q4_K_M",
        },
        "capabilities": ["completion", "tools", "embedding"],
    }


def _ollama_gets(models: Sequence[str]) -> Gets:
    """sheet: ollama 2 to 5. An empty list is null there, not []."""
    entries = [
        {"id": model, "object": "model", "created": 1, "owned_by": "library"} for model in models
    ]
    tags = [_tag(model) for model in models]
    return {
        "/": _text("Ollama is running"),
        "/api/status": steps.reply(200, {"cloud": {"disabled": True, "source": "env"}}),
        "/api/version": steps.reply(200, {"version": "0.33.0"}),
        "/api/tags": steps.reply(200, {"models": tags}),
        "/api/ps": steps.reply(200, {"models": [{**tag, "size_vram": 0} for tag in tags]}),
        "/v1/models": steps.reply(200, {"object": "list", "data": entries or None}),
    }


def _ollama_unknown(model: str) -> Step:
    error = {"message": f"model '{model}' not found", "type": "not_found_error"}
    return steps.reply(404, {"error": {**error, "param": None, "code": None}})


def _ollama_strict(request: Recorded) -> Step | None:
    """sheet: ollama 1, a foreign Host or any Origin is refused with an empty 403."""
    host = (request.header("host") or "").rpartition(":")[0]
    foreign = host not in {"127.0.0.1", "localhost"} or request.header("origin") is not None
    return steps.reply(403) if foreign else None


LLAMA_CPP_PYTHON_API = {
    "openapi": "3.1.0",
    "info": {"title": "llama.cpp Python API", "version": "0.3.36"},
    "paths": {},
}

PERSONAS: dict[str, Persona] = {
    "vllm": Persona(
        gets=_replayed("vllm-0.32.0", listing=_data_only),
        not_found=_recorded("vllm-0.32.0/get_unknown_path"),
        unauthorized=_recorded("vllm-0.32.0-guarded/auth_none_chat"),
        folders=("vllm-0.32.0", "vllm-0.32.0-embedding"),
        unknown_model=_vllm_unknown,
        open_paths=frozenset({"/health", "/ping", "/version", "/load", "/metrics", "/tokenize"}),
    ),
    "sglang": Persona(
        gets=_replayed("sglang-0.5.23", listing=_data_only, ready=steps.reply()),
        not_found=_recorded("sglang-0.5.23/get_unknown_path"),
        unauthorized=_recorded("sglang-0.5.23-guarded/auth_none_chat"),
        folders=("sglang-0.5.23", "vllm-0.32.0-embedding"),
        open_paths=frozenset({"/health", "/ready", "/metrics"}),
    ),
    "llamacpp": Persona(
        gets=_replayed("xllamacpp-2026.10.11549", listing=_llamacpp),
        not_found=_recorded("xllamacpp-2026.10.11549/get_unknown_path"),
        unauthorized=_recorded("llama-server-0.5.0-dev-guarded/auth_none_chat"),
        folders=("xllamacpp-2026.10.11549", "vllm-0.32.0-embedding"),
        open_paths=frozenset({"/health", "/v1/health"}),
        loading=_recorded("llama-server-0.5.0-dev/loading_chat"),
    ),
    "llamacpp-python": Persona(
        gets=_replayed(
            "llama-cpp-python-0.3.36",
            listing=_data_only,
            docs=steps.reply(
                200, b"<title>llama.cpp Python API</title>", content_type="text/html; charset=utf-8"
            ),
            **{"openapi.json": steps.reply(200, LLAMA_CPP_PYTHON_API)},
        ),
        not_found=_recorded("llama-cpp-python-0.3.36/get_unknown_path"),
        unauthorized=_recorded("llama-cpp-python-0.3.36-guarded/auth_none_chat"),
        folders=("llama-cpp-python-0.3.36", "llama-cpp-python-0.3.36-embedding"),
    ),
    "tgi": Persona(
        gets=_tgi_gets,
        not_found=steps.reply(404),
        unauthorized=steps.reply(401),
        strict=_tgi_strict,
        open_paths=frozenset({"/", "/health", "/ping", "/info", "/metrics", "/v1/models"}),
    ),
    "localai": Persona(
        gets=_localai_gets,
        not_found=steps.reply(404, {"error": {"code": 404, "message": "Resource not found"}}),
        unauthorized=steps.reply(
            401,
            {"error": {"code": 401, "message": "An authentication key is required"}},
            [("WWW-Authenticate", "Bearer")],
        ),
        unknown_model=_localai_unknown,
        open_paths=frozenset({"/healthz", "/readyz", "/.well-known/localai.json"}),
    ),
    "ollama": Persona(
        gets=_ollama_gets,
        not_found=_text("404 page not found", 404),
        unauthorized=steps.reply(401),
        unknown_model=_ollama_unknown,
        strict=_ollama_strict,
    ),
    "openai": Persona(
        gets=lambda models: {
            "/v1/models": steps.reply(
                200,
                {
                    "object": "list",
                    "data": [
                        {"id": model, "object": "model", "created": 1, "owned_by": "system"}
                        for model in models
                    ],
                },
            )
        },
        not_found=steps.reply(404, {"error": {"message": "Invalid URL", "type": "invalid"}}),
        unauthorized=steps.reply(
            401, {"error": {"message": "Incorrect API key provided", "code": "invalid_api_key"}}
        ),
    ),
    "anthropic": Persona(
        gets=lambda models: {
            "/v1/models": steps.reply(
                200,
                {
                    "data": [
                        {
                            "type": "model",
                            "id": model,
                            "display_name": model,
                            "created_at": "2026-01-01T00:00:00Z",
                        }
                        for model in models
                    ],
                    "has_more": False,
                },
            )
        },
        not_found=steps.reply(404, {"type": "error", "error": {"type": "not_found_error"}}),
        unauthorized=steps.reply(401, {"type": "error", "error": {"type": "authentication_error"}}),
    ),
}

CASES: dict[Op, tuple[str, str]] = {
    Op.CHAT: ("chat", "chat_stream"),
    Op.COMPLETIONS: ("completion", "completion_stream"),
    Op.EMBEDDINGS: ("embeddings", "embeddings"),
    Op.MESSAGES: ("messages", "messages_stream"),
    Op.COUNT_TOKENS: ("messages_count_tokens", "messages_count_tokens"),
    Op.RESPONSES: ("responses", "responses_stream"),
    Op.TOKENIZE: ("tokenize", "tokenize"),
    Op.DETOKENIZE: ("detokenize", "detokenize"),
}
"""The recordings that answer a surface: whole and streamed."""

MADE_WHOLE: dict[tuple[Wire, Op], Callable[[str], Any]] = {
    (Wire.OPENAI, Op.CHAT): talk.chat_body,
    (Wire.OPENAI, Op.COMPLETIONS): talk.completion_body,
    (Wire.OPENAI, Op.EMBEDDINGS): talk.embeddings_body,
    (Wire.OPENAI, Op.RESPONSES): talk.response_body,
    (Wire.OPENAI, Op.RESPONSES_BY_ID): talk.response_body,
    (Wire.ANTHROPIC, Op.MESSAGES): talk.message_body,
    (Wire.OLLAMA, Op.CHAT): talk.ollama_chat_body,
    (Wire.OLLAMA, Op.GENERATE): talk.ollama_generate_body,
    (Wire.OLLAMA, Op.SHOW): talk.ollama_show_body,
    (Wire.OLLAMA, Op.EMBED): talk.ollama_embed_body,
}

MADE_STREAM: dict[tuple[Wire, Op], Callable[[str], list[bytes]]] = {
    (Wire.OPENAI, Op.CHAT): talk.chat_events,
    (Wire.OPENAI, Op.COMPLETIONS): talk.completion_events,
    (Wire.OPENAI, Op.RESPONSES): talk.response_events,
    (Wire.ANTHROPIC, Op.MESSAGES): talk.message_events,
    (Wire.OLLAMA, Op.CHAT): talk.ollama_chat_lines,
    (Wire.OLLAMA, Op.GENERATE): talk.ollama_generate_lines,
}


def default(persona: Persona, dialect: Wire, op: Op, request: Recorded) -> Step:
    """What this runtime says to a good request: its recording where there is a good one, else a
    body in the shape of its dialect."""
    doc = request.doc if isinstance(request.doc, dict) else {}
    model = doc.get("model") if isinstance(doc.get("model"), str) else "m"
    streamed = bool(doc.get("stream", dialect is Wire.OLLAMA))
    usage = bool((doc.get("stream_options") or {}).get("include_usage"))
    found = None if dialect is Wire.OLLAMA else _best(persona, op, streamed, usage)
    if found is not None:
        return steps.replay(found.naming(model))
    return _made(dialect, op, model, streamed, usage)


def _best(persona: Persona, op: Op, streamed: bool, usage: bool) -> wire.Recording | None:
    if op not in CASES:
        return None
    case = CASES[op][streamed] + ("_usage" if usage and streamed else "")
    for folder in persona.folders:
        found = wire.load(f"{folder}/{case}")
        if found is not None and found.status == 200:
            return found
    return None


def _made(dialect: Wire, op: Op, model: str, streamed: bool, usage: bool) -> Step:
    if streamed and (dialect, op) in MADE_STREAM:
        events = MADE_STREAM[dialect, op](model)
        if usage and op is Op.CHAT:
            events[-1:-1] = [talk.usage_chunk(model)]
        kind = steps.NDJSON if dialect is Wire.OLLAMA else steps.SSE
        return steps.stream(events, content_type=kind)
    make = MADE_WHOLE.get((dialect, op), lambda name: {"model": name, "surface": op.value})
    return steps.reply(200, make(model))
