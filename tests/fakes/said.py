"""One answer of each kind on each surface: what a matrix of clients and runtimes is tried with."""

from __future__ import annotations

from typing import Any

from gateway.core.types import Op, Wire
from tests.fakes import steps, talk
from tests.fakes.steps import Step

TEXT = "".join(talk.WORDS)
TOOL = "get_weather"
ARGUMENTS = {"city": "Paris"}
VECTOR = [0.6, -0.8, 0.0]
"""Of length one, as Ollama makes them."""
COUNT = 6
TROUBLE = "the temperature must not be below zero"

_PIECES = ('{"city"', ': "Paris"}')
_JSON = "".join(_PIECES)


def say(surface: tuple[Wire, Op], kind: str, model: str, *, streamed: bool) -> Step:
    """The answer of an engine on ``surface`` to a request of this kind."""
    if kind == "error":
        return steps.reply(400, _trouble(surface[0]))
    if kind in ("embeddings", "count"):
        return steps.reply(200, _PLAIN[surface](model))
    if not streamed:
        return steps.reply(200, (_TOOLS if kind == "tools" else _WHOLE)[surface](model))
    events = (_TOOL_STREAMS if kind == "tools" else _STREAMS)[surface](model)
    ndjson = surface[0] is Wire.OLLAMA
    return steps.stream(events, content_type=steps.NDJSON if ndjson else steps.SSE)


def _trouble(wire: Wire) -> Any:
    if wire is Wire.OLLAMA:
        return {"error": TROUBLE}
    error = {"type": "invalid_request_error", "message": TROUBLE}
    return {"type": "error", "error": error} if wire is Wire.ANTHROPIC else {"error": error}


def _call(arguments: str, **more: Any) -> dict[str, Any]:
    return {**more, "type": "function", "function": {"name": TOOL, "arguments": arguments}}


def _chat_tools(model: str) -> Any:
    doc = talk.chat_body(model)
    message = {"role": "assistant", "content": None, "tool_calls": [_call(_JSON, id="call_1")]}
    doc["choices"][0] |= {"message": message, "finish_reason": "tool_calls"}
    return doc


def _chat_tool_events(model: str) -> list[bytes]:
    begun = _call("", index=0, id="call_1")
    rest = [{"index": 0, "function": {"arguments": piece}} for piece in _PIECES]
    return [
        talk.chat_chunk(model, {"role": "assistant", "content": ""}),
        *(talk.chat_chunk(model, {"tool_calls": [call]}) for call in (begun, *rest)),
        talk.chat_chunk(model, {}, "tool_calls"),
        talk.usage_chunk(model),
        talk.DONE,
    ]


def _message_tools(model: str) -> Any:
    use = {"type": "tool_use", "id": "toolu_1", "name": TOOL, "input": ARGUMENTS}
    return {**talk.message_body(model), "content": [use], "stop_reason": "tool_use"}


def _message_tool_events(model: str) -> list[bytes]:
    start, *_ = talk.message_events(model)
    use = {"type": "tool_use", "id": "toolu_1", "name": TOOL, "input": {}}
    deltas = [
        {"type": "content_block_delta", "index": 0}
        | {"delta": {"type": "input_json_delta", "partial_json": piece}}
        for piece in _PIECES
    ]
    delta = {"stop_reason": "tool_use", "stop_sequence": None}
    told = [
        {"type": "content_block_start", "index": 0, "content_block": use},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    ]
    return [start, *map(talk.named, told)]


_OUTPUT = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
}
_FUNCTION = {
    "id": "fc_1",
    "type": "function_call",
    "call_id": "call_1",
    "name": TOOL,
    "arguments": _JSON,
    "status": "completed",
}


def _response(model: str, item: Any = _OUTPUT) -> Any:
    return {**talk.response_body(model), "output": [item]}


def _response_tool_events(model: str) -> list[bytes]:
    first, *_, last = talk.response_events(model)
    done = {"type": "response.output_item.done", "output_index": 0, "item": _FUNCTION}
    return [first, talk.named(done), last]


def _ollama_tools(model: str) -> Any:
    doc = talk.ollama_chat_body(model)
    calls = [{"function": {"name": TOOL, "arguments": ARGUMENTS}}]
    return {**doc, "message": {"role": "assistant", "content": "", "tool_calls": calls}}


def _ollama_tool_lines(model: str) -> list[bytes]:
    *_, last = talk.ollama_chat_lines(model)
    return [talk.line({**_ollama_tools(model), "done": False}), last]


def _chat_stream(model: str) -> list[bytes]:
    return talk.chat_events(model, usage=talk.USAGE)


_CHAT, _COMPLETIONS = (Wire.OPENAI, Op.CHAT), (Wire.OPENAI, Op.COMPLETIONS)
_RESPONSES, _MESSAGES = (Wire.OPENAI, Op.RESPONSES), (Wire.ANTHROPIC, Op.MESSAGES)
_OLLAMA, _GENERATE = (Wire.OLLAMA, Op.CHAT), (Wire.OLLAMA, Op.GENERATE)

_WHOLE = {
    _CHAT: talk.chat_body,
    _COMPLETIONS: talk.completion_body,
    _RESPONSES: _response,
    _MESSAGES: talk.message_body,
    _OLLAMA: talk.ollama_chat_body,
    _GENERATE: talk.ollama_generate_body,
}
_STREAMS = {
    _CHAT: _chat_stream,
    _COMPLETIONS: talk.completion_events,
    _RESPONSES: talk.response_events,
    _MESSAGES: talk.message_events,
    _OLLAMA: talk.ollama_chat_lines,
    _GENERATE: talk.ollama_generate_lines,
}
_TOOLS = {
    _CHAT: _chat_tools,
    _RESPONSES: lambda model: _response(model, _FUNCTION),
    _MESSAGES: _message_tools,
    _OLLAMA: _ollama_tools,
}
_TOOL_STREAMS = {
    _CHAT: _chat_tool_events,
    _RESPONSES: _response_tool_events,
    _MESSAGES: _message_tool_events,
    _OLLAMA: _ollama_tool_lines,
}
_PLAIN = {
    (Wire.OPENAI, Op.EMBEDDINGS): lambda model: {
        **talk.embeddings_body(model),
        "data": [{"object": "embedding", "index": 0, "embedding": VECTOR}],
    },
    (Wire.OLLAMA, Op.EMBED): lambda model: {"model": model, "embeddings": [VECTOR]},
    (Wire.OLLAMA, Op.EMBEDDINGS): lambda model: {"embedding": VECTOR},
    (Wire.OPENAI, Op.TOKENIZE): lambda model: {
        "count": COUNT,
        "tokens": [1] * COUNT,
        "tokenize_response": [{"id": 1}] * COUNT,
    },
    (Wire.ANTHROPIC, Op.COUNT_TOKENS): lambda model: {"input_tokens": COUNT},
}
