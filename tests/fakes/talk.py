"""What engines say: the events and bodies of each dialect, as lists of whole frames in bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

DONE = b"data: [DONE]\n\n"
WORDS = ("Hello", ",", " wor", "ld", "!")
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def dumps(value: Any) -> bytes:
    """Compact JSON, not escaped: as engines write it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def data(value: Any) -> bytes:
    """One ``data:`` frame."""
    return b"data: " + dumps(value) + b"\n\n"


def named(value: dict[str, Any]) -> bytes:
    """One ``event:`` + ``data:`` frame, the event named by ``type``."""
    return b"event: " + value["type"].encode() + b"\n" + data(value)


def line(value: Any) -> bytes:
    """One NDJSON line."""
    return dumps(value) + b"\n"


def chat_chunk(model: str, delta: dict[str, Any], finish: str | None = None) -> bytes:
    return data(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": model,
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        }
    )


def usage_chunk(model: str, usage: dict[str, Any] | None = None) -> bytes:
    """The extra event of ``stream_options.include_usage``: no choices, only usage."""
    return data(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": model,
            "choices": [],
            "usage": usage or USAGE,
        }
    )


def chat_events(
    model: str,
    words: Iterable[str] = WORDS,
    *,
    usage: dict[str, Any] | None = None,
    finish: str | None = "stop",
    done: bool = True,
) -> list[bytes]:
    """A whole chat stream: role, one event per word, finish, usage if given, [DONE]."""
    events = [chat_chunk(model, {"role": "assistant", "content": ""})]
    events += [chat_chunk(model, {"content": word}) for word in words]
    events += [chat_chunk(model, {}, finish)] if finish else []
    events += [usage_chunk(model, usage)] if usage else []
    return events + ([DONE] if done else [])


def chat_body(model: str, words: Sequence[str] = WORDS) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "".join(words)},
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }


def completion_events(model: str, words: Iterable[str] = WORDS) -> list[bytes]:
    def chunk(text: str, finish: str | None) -> bytes:
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return data(
            {
                "id": "cmpl-1",
                "object": "text_completion",
                "created": 1,
                "model": model,
                "choices": [choice],
            }
        )

    return [*(chunk(word, None) for word in words), chunk("", "stop"), DONE]


def completion_body(model: str) -> dict[str, Any]:
    return {
        "id": "cmpl-1",
        "object": "text_completion",
        "created": 1,
        "model": model,
        "choices": [
            {"index": 0, "text": "".join(WORDS), "logprobs": None, "finish_reason": "stop"}
        ],
        "usage": USAGE,
    }


def embeddings_body(model: str) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5, 1.0]}],
        "model": model,
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


def message_events(model: str, words: Iterable[str] = WORDS, *, stop: bool = True) -> list[bytes]:
    """A whole Anthropic stream; without ``stop`` the last ``message_stop`` is missing."""
    message = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": model,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 0},
    }
    text = [
        named(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": word},
            }
        )
        for word in words
    ]
    return [
        named({"type": "message_start", "message": message}),
        named(
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "text", "text": ""},
            }
        ),
        *text,
        named({"type": "content_block_stop", "index": 0}),
        named(
            {
                "type": "message_delta",
                "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                "usage": {"output_tokens": 5},
            }
        ),
        *([named({"type": "message_stop"})] if stop else []),
    ]


def message_body(model: str) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "content": [{"type": "text", "text": "".join(WORDS)}],
        "model": model,
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 7, "output_tokens": 5},
    }


def response_events(
    model: str, words: Iterable[str] = WORDS, *, completed: bool = True
) -> list[bytes]:
    """A Responses stream; without ``completed`` the last event is missing."""
    head = {"id": "resp_1", "object": "response", "model": model, "status": "in_progress"}
    whole = {**head, "status": "completed", "output": [], "usage": RESPONSE_USAGE}
    events = [named({"type": "response.created", "response": head})]
    events += [named({"type": "response.output_text.delta", "delta": word}) for word in words]
    return events + (
        [named({"type": "response.completed", "response": whole})] if completed else []
    )


RESPONSE_USAGE = {"input_tokens": 7, "output_tokens": 5, "total_tokens": 12}


def response_body(model: str) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "model": model,
        "status": "completed",
        "output": [],
        "usage": RESPONSE_USAGE,
    }


NANOS = {
    "total_duration": 5_000_000,
    "load_duration": 1_000_000,
    "prompt_eval_count": 7,
    "prompt_eval_duration": 1_000_000,
    "eval_count": 5,
    "eval_duration": 3_000_000,
}
CREATED = "2026-01-01T00:00:00.000000001Z"


def ollama_chat_lines(
    model: str, words: Iterable[str] = WORDS, *, done: bool = True
) -> list[bytes]:
    """Ollama's own chat stream, one JSON object a line; without ``done`` the last is missing."""

    def frame(text: str, **rest: Any) -> bytes:
        message = {"role": "assistant", "content": text}
        return line({"model": model, "created_at": CREATED, "message": message, **rest})

    last = [frame("", done=True, done_reason="stop", **NANOS)] if done else []
    return [*(frame(word, done=False) for word in words), *last]


def ollama_chat_body(model: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": "".join(WORDS)}
    return {
        "model": model,
        "created_at": CREATED,
        "message": message,
        "done": True,
        "done_reason": "stop",
        **NANOS,
    }


def ollama_generate_lines(model: str, words: Iterable[str] = WORDS) -> list[bytes]:
    def frame(text: str, **rest: Any) -> bytes:
        return line({"model": model, "created_at": CREATED, "response": text, **rest})

    last = frame("", done=True, done_reason="stop", context=[1, 2], **NANOS)
    return [*(frame(word, done=False) for word in words), last]


def ollama_generate_body(model: str) -> dict[str, Any]:
    text = {"response": "".join(WORDS), "done": True, "done_reason": "stop"}
    return {"model": model, "created_at": CREATED, **text, **NANOS}


def ollama_show_body(model: str) -> dict[str, Any]:
    """sheet: ollama 2.2."""
    return {
        "modelfile": "",
        "template": "{{ .Prompt }}",
        "details": {"format": "gguf", "family": "llama", "families": ["llama"]},
        "model_info": {"general.architecture": "llama", "llama.context_length": 4096},
        "capabilities": ["completion", "tools"],
        "modified_at": CREATED,
    }


def ollama_embed_body(model: str) -> dict[str, Any]:
    return {"model": model, "embeddings": [[0.25, -0.5, 1.0]], "prompt_eval_count": 3}


VLLM_ERROR = data(
    {
        "error": {
            "message": "EngineCore encountered an issue.",
            "type": "InternalServerError",
            "param": None,
            "code": 500,
        }
    }
)
"""sheet: vllm 6, an error in a stream; [DONE] follows it."""

SGLANG_FULL = data(
    {
        "error": {
            "object": "error",
            "message": "The request queue is full.",
            "type": "SERVICE_UNAVAILABLE",
            "param": None,
            "code": 503,
        }
    }
)
"""sheet: sglang 6, overload of a stream; [DONE] follows it."""

TGI_FULL = data({"error": {"message": "Model is overloaded", "http_status_code": 422}})
"""sheet: tgi 6, overload of a stream, always with the code 422; [DONE] follows it."""

TGI_INVALID = data(
    {"error": {"message": "Input validation error: too long", "http_status_code": 422}}
)
"""sheet: tgi 6, a true validation error of a stream."""
