"""Text, tool calls and usage survive the way through both translations and back."""

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.translate.chat_to_messages import CHAT_TO_MESSAGES
from gateway.translate.messages_to_chat import MESSAGES_TO_CHAT
from gateway.translate.through import through

from .recorded import asking, docs, run, sse

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
IDS = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
INPUTS = st.dictionaries(TEXT, JSON, max_size=3)


def block(kind: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(kind), **fields})


TEXTS = block("text", text=TEXT)
USES = block("tool_use", id=IDS, name=NAMES, input=INPUTS)
COUNTS = st.integers(0, 10**6)
TOKENS = st.fixed_dictionaries(
    {
        "input_tokens": COUNTS,
        "cache_creation_input_tokens": COUNTS,
        "cache_read_input_tokens": COUNTS,
        "output_tokens": COUNTS,
    }
)


@st.composite
def conversations(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Turns of user and model, each call answered in the turn behind it."""
    turns: list[dict[str, Any]] = [{"role": "user", "content": draw(TEXT)}]
    for _ in range(draw(st.integers(0, 3))):
        said = draw(st.lists(TEXTS, max_size=1))
        uses = draw(st.lists(USES, min_size=0 if said else 1, max_size=2))
        turns.append({"role": "assistant", "content": [*said, *uses]})
        results = [
            {"type": "tool_result", "tool_use_id": use["id"], "content": draw(TEXT)} for use in uses
        ]
        more = draw(st.lists(TEXTS, min_size=0 if results else 1, max_size=2))
        turns.append({"role": "user", "content": [*results, *more]})
    return turns


def plain(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A single text as a string, as either side may write it."""

    def content(found: Any) -> Any:
        if isinstance(found, list) and len(found) == 1 and found[0]["type"] == "text":
            return found[0]["text"]
        return found

    return [{**turn, "content": content(turn["content"])} for turn in turns]


@given(conversations(), TEXT, st.lists(st.tuples(NAMES, INPUTS), max_size=2))
@settings(max_examples=80, deadline=None)
def test_a_request_survives_the_way_to_chat_and_back(
    turns: list[dict[str, Any]], system: str, tools: list[tuple[str, dict[str, Any]]]
) -> None:
    doc = {
        "model": "m",
        "max_tokens": 9,
        "system": system,
        "messages": turns,
        "tools": [{"name": name, "input_schema": schema} for name, schema in tools],
    }
    there = MESSAGES_TO_CHAT.request(asking(doc)).doc
    back = CHAT_TO_MESSAGES.request(asking(there)).doc
    assert back["messages"] == plain(turns)
    assert (back["system"], back["max_tokens"]) == (system, 9)
    assert back.get("tools", []) == doc["tools"]


MESSAGES = st.fixed_dictionaries(
    {
        "content": st.tuples(
            st.lists(block("thinking", thinking=TEXT, signature=st.just("")), max_size=1),
            st.lists(TEXTS, max_size=1),
            st.lists(USES, max_size=3),
        ).map(lambda parts: [*parts[0], *parts[1], *parts[2]]),
        "usage": TOKENS,
    }
)


def stop_of(message: dict[str, Any]) -> str:
    uses = any(found["type"] == "tool_use" for found in message["content"])
    return "tool_use" if uses else "end_turn"


@given(MESSAGES)
@settings(max_examples=80, deadline=None)
def test_an_answer_survives_the_way_to_chat_and_back(message: dict[str, Any]) -> None:
    doc = {**message, "stop_reason": stop_of(message)}
    back = MESSAGES_TO_CHAT.reply(CHAT_TO_MESSAGES.reply(doc, asking()), asking())
    assert back["content"] == message["content"]
    assert back["usage"] == message["usage"]
    assert back["stop_reason"] == doc["stop_reason"]


@given(MESSAGES, st.data())
@settings(max_examples=60, deadline=None)
def test_a_stream_survives_the_way_to_chat_and_back(
    message: dict[str, Any], data: st.DataObject
) -> None:
    """Through both translations at once, cut at any place."""
    stream = events(message)
    both = through(MESSAGES_TO_CHAT, CHAT_TO_MESSAGES)
    at = data.draw(st.integers(0, len(stream)))
    question = {"max_tokens": 5, "messages": []}
    found = docs(run(both, [stream[:at], stream[at:]], question))
    ending = found[-2]
    assert (ending["usage"], ending["delta"]["stop_reason"]) == (
        message["usage"],
        stop_of(message),
    )
    assert gathered(found) == message["content"]


def events(message: dict[str, Any]) -> bytes:
    """A message as Anthropic streams it."""
    found: list[dict[str, Any]] = [
        {"type": "message_start", "message": {"usage": {**message["usage"], "output_tokens": 0}}}
    ]
    for index, whole in enumerate(message["content"]):
        key = {"text": "text", "thinking": "thinking", "tool_use": "input"}[whole["type"]]
        value = whole[key]
        text = orjson.dumps(value).decode() if key == "input" else value
        name = "partial_json" if key == "input" else key
        kind = "input_json_delta" if key == "input" else f"{key}_delta"
        start = {**whole, key: {} if key == "input" else ""}
        found.append({"type": "content_block_start", "index": index, "content_block": start})
        half = len(text) // 2
        found += (
            {"type": "content_block_delta", "index": index, "delta": {"type": kind, name: piece}}
            for piece in (text[:half], text[half:])
        )
        found.append({"type": "content_block_stop", "index": index})
    ending = {"delta": {"stop_reason": stop_of(message)}, "usage": message["usage"]}
    return sse(*found, {"type": "message_delta", **ending}, {"type": "message_stop"}, done=False)


def gathered(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The content blocks that a client puts together."""
    blocks: list[dict[str, Any]] = []
    texts: list[str] = []
    for doc in found:
        match doc["type"]:
            case "content_block_start":
                blocks.append(doc["content_block"])
                texts.append("")
            case "content_block_delta":
                parts = ("text", "thinking", "partial_json")
                texts[-1] += "".join(doc["delta"].get(part, "") for part in parts)
            case "content_block_stop":
                key = {"text": "text", "thinking": "thinking"}.get(blocks[-1]["type"], "input")
                blocks[-1][key] = orjson.loads(texts[-1]) if key == "input" else texts[-1]
    return blocks
