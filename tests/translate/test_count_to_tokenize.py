"""Tokens are counted by the engine's own template and tokenizer, or not at all."""

from typing import Any

import pytest

from backends import RUNTIMES
from gateway.core.errors import Refusal
from gateway.core.types import Op, Wire
from gateway.translate.count_to_tokenize import COUNT_TO_TOKENIZE

from .recorded import asking, whole_of

TOOL = {"name": "f", "input_schema": {"type": "object"}}


def doc(content: Any = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": content}], **fields}


def test_the_prompt_and_nothing_else_is_asked_for() -> None:
    asked = COUNT_TO_TOKENIZE.request(asking(doc(system="Be brief.", tools=[TOOL]))).doc
    assert asked.keys() == {"model", "messages", "tools"}
    assert [message["role"] for message in asked["messages"]] == ["system", "user"]


def test_it_counts_what_the_engines_own_count_says() -> None:
    ours = COUNT_TO_TOKENIZE.reply(whole_of("vllm-0.32.0", "tokenize_chat"), asking(doc()))
    its = whole_of("vllm-0.32.0", "messages_count_tokens")
    assert ours == {"input_tokens": its["input_tokens"]}


def test_a_list_of_tokens_is_counted() -> None:
    answer = {"tokenize_response": [{"id": 1}, {"id": 2}], "templated_text": "x"}
    assert COUNT_TO_TOKENIZE.reply(answer, asking(doc())) == {"input_tokens": 2}


def test_a_tokenizer_that_overlooked_the_messages_counts_nothing() -> None:
    with pytest.raises(Refusal, match="does not count"):
        COUNT_TO_TOKENIZE.reply({"tokens": []}, asking(doc()))


def test_images_are_refused_since_a_tokenizer_does_not_see_them() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    with pytest.raises(Refusal) as caught:
        COUNT_TO_TOKENIZE.request(asking(doc([{"type": "image", "source": source}])))
    assert (caught.value.kind, caught.value.param) == ("unsupported", "messages.0.content")


def test_a_mark_for_a_cache_changes_no_count() -> None:
    marked = [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]
    assert COUNT_TO_TOKENIZE.request(asking(doc(marked))).lost == ()


def test_only_rows_whose_tokenizer_takes_a_chat_can_be_asked() -> None:
    assert COUNT_TO_TOKENIZE.chat
    cells = {row.name: row.cell(Wire.OPENAI, Op.TOKENIZE) for row in RUNTIMES}
    assert {name: cell.chat_path for name, cell in cells.items() if cell.chat_path} == {
        "vllm": "/tokenize",
        "tgi": "/chat_tokenize",
    }


def test_a_count_is_not_streamed() -> None:
    with pytest.raises(Refusal, match="not streamed"):
        COUNT_TO_TOKENIZE.stream(asking(doc()))
