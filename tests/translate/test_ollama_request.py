"""What an engine is asked when an Ollama client calls /api/chat or /api/generate."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ollama._types import ChatRequest, GenerateRequest, Options

from backends import BY_NAME
from gateway.core.errors import Refusal
from gateway.core.types import Op, Wire
from gateway.translate import BRIDGES
from gateway.translate.ollama_chat import CHAT, GENERATE_AS_CHAT, GENERATE_AS_COMPLETION
from tests.translate.asks import asked

HELLO = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
VLLM = BY_NAME["vllm"].extras
LLAMA = BY_NAME["llamacpp"].extras


def refused(bridge, doc, **more) -> Refusal:
    with pytest.raises(Refusal) as caught:
        asked(bridge, doc, **more)
    return caught.value


def test_every_route_that_asks_an_engine_has_its_bridges() -> None:
    for op in (Op.CHAT, Op.GENERATE, Op.EMBED, Op.EMBEDDINGS):
        for bridge in BRIDGES[(Wire.OLLAMA, op)]:
            assert (bridge.wire, bridge.op) == (Wire.OLLAMA, op)
    ends = [bridge.to_op for bridge in BRIDGES[(Wire.OLLAMA, Op.GENERATE)]]
    assert ends == [Op.CHAT, Op.MESSAGES, Op.COMPLETIONS]


def test_a_plain_chat_loses_nothing() -> None:
    found = asked(CHAT, {**HELLO, "stream": False})
    assert found.doc == {"model": "m:latest", "messages": HELLO["messages"]}
    assert found.lost == ()


def test_a_stream_is_asked_for_its_usage() -> None:
    doc = asked(CHAT, HELLO, stream=True).doc
    assert doc["stream"] is True
    assert doc["stream_options"] == {"include_usage": True}


# ---- options


EVERY = {
    "num_predict": 20,
    "temperature": 0.5,
    "top_p": 0.9,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.2,
    "seed": 7,
    "stop": ["\n"],
    "top_k": 40,
    "min_p": 0.05,
    "typical_p": 0.9,
    "repeat_penalty": 1.1,
    "repeat_last_n": 64,
    "num_keep": 4,
    "num_ctx": 8192,
    "num_gpu": 1,
}
OPENAIS = {
    "max_tokens": 20,
    "temperature": 0.5,
    "top_p": 0.9,
    "presence_penalty": 0.1,
    "frequency_penalty": 0.2,
    "seed": 7,
    "stop": ["\n"],
}


@pytest.mark.parametrize(
    ("extras", "own", "lost"),
    [
        (
            {},
            {},
            "top_k min_p typical_p repeat_penalty repeat_last_n num_keep num_ctx num_gpu",
        ),
        (
            VLLM,
            {"top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1},
            "typical_p repeat_last_n num_keep num_ctx num_gpu",
        ),
        (
            LLAMA,
            {
                "top_k": 40,
                "min_p": 0.05,
                "typical_p": 0.9,
                "repeat_penalty": 1.1,
                "repeat_last_n": 64,
                "n_keep": 4,
            },
            "num_ctx num_gpu",
        ),
    ],
)
def test_options_go_where_the_engine_has_them_and_the_rest_is_named(extras, own, lost) -> None:
    found = asked(CHAT, {**HELLO, "options": EVERY}, extras=extras)
    told = {k: v for k, v in found.doc.items() if k not in ("model", "messages")}
    assert told == {**OPENAIS, **own}
    assert found.lost == tuple(f"options.{name}" for name in lost.split())


def test_values_that_mean_not_given_are_not_sent() -> None:
    options = {"num_predict": -1, "seed": -1, "stop": [], "temperature": None}
    found = asked(CHAT, {**HELLO, "options": options})
    assert found.doc.keys() == {"model", "messages"}
    assert found.lost == ()


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("temperature", "hot", "number"),
        ("temperature", True, "number"),
        ("num_predict", 1.5, "integer"),
        ("stop", "x", "list of strings"),
        ("top_k", [], "integer"),
    ],
)
def test_an_option_of_a_wrong_type_is_refused_in_ollamas_words(name, value, kind) -> None:
    refusal = refused(CHAT, {**HELLO, "options": {name: value}})
    assert (refusal.kind, refusal.param) == ("invalid_request", f"options.{name}")
    assert refusal.message == f'option "{name}" must be of type {kind}'


@given(st.builds(Options, num_predict=st.integers(0, 9), temperature=st.floats(0, 2)))
def test_options_of_the_official_client_are_taken(options: Options) -> None:
    request = ChatRequest(model="m", messages=HELLO["messages"], options=options)
    doc = asked(CHAT, request.model_dump(exclude_none=True)).doc
    assert (doc["max_tokens"], doc["temperature"]) == (options.num_predict, options.temperature)


# ---- format, think, logprobs, what is lost


def test_format_is_a_response_format() -> None:
    assert asked(CHAT, {**HELLO, "format": "json"}).doc["response_format"] == {
        "type": "json_object"
    }
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    assert asked(CHAT, {**HELLO, "format": schema}).doc["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "schema", "schema": schema},
    }
    assert "response_format" not in asked(CHAT, {**HELLO, "format": ""}).doc
    assert refused(CHAT, {**HELLO, "format": "yaml"}).param == "format"


def test_thinking_is_switched_in_the_template_where_there_is_one() -> None:
    found = asked(CHAT, {**HELLO, "think": False}, extras=VLLM)
    assert found.doc["chat_template_kwargs"] == {"enable_thinking": False}
    assert found.lost == ()
    assert asked(CHAT, {**HELLO, "think": True}).lost == ("think",)


@pytest.mark.parametrize("level", ["low", "medium", "high"])
def test_a_level_of_thinking_is_a_reasoning_effort(level) -> None:
    found = asked(CHAT, {**HELLO, "think": level})
    assert (found.doc["reasoning_effort"], found.lost) == (level, ())


def test_the_highest_level_is_told_with_a_loss_and_others_are_refused() -> None:
    found = asked(CHAT, {**HELLO, "think": "max"})
    assert (found.doc["reasoning_effort"], found.lost) == ("high", ("think",))
    assert refused(CHAT, {**HELLO, "think": "hard"}).param == "think"


def test_log_probabilities_are_asked_for_on_both_ways() -> None:
    doc = asked(CHAT, {**HELLO, "logprobs": True, "top_logprobs": 2}).doc
    assert (doc["logprobs"], doc["top_logprobs"]) == (True, 2)
    raw = {"model": "m", "prompt": "Hi", "raw": True, "logprobs": True, "top_logprobs": 2}
    assert asked(GENERATE_AS_COMPLETION, raw).doc["logprobs"] == 2
    assert "logprobs" not in asked(CHAT, {**HELLO, "top_logprobs": 2}).doc
    assert refused(CHAT, {**HELLO, "top_logprobs": 21}).param == "top_logprobs"
    assert refused(CHAT, {**HELLO, "logprobs": 5}).param == "logprobs"


def test_what_no_engine_is_told_is_named() -> None:
    doc = {**HELLO, "keep_alive": "5m", "truncate": True, "shift": False, "new_field": 1}
    assert asked(CHAT, doc).lost == ("new_field", "keep_alive", "truncate")


# ---- messages


PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"\0" * 60).decode()


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n123", "png"),
        (b"\xff\xd8\xff\xe0123", "jpeg"),
        (b"RIFF\0\0\0\0WEBPVP8", "webp"),
        (b"GIF89a123", "gif"),
        (b"BM123456", "bmp"),
        (b"\0\0\0\x20ftypavif", "avif"),
    ],
)
def test_a_picture_becomes_a_data_url_of_its_kind(data, kind) -> None:
    image = base64.b64encode(data).decode()
    doc = {"messages": [{"role": "user", "content": "What?", "images": [image]}]}
    assert asked(CHAT, doc).doc["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{image}"}},
        {"type": "text", "text": "What?"},
    ]


@pytest.mark.parametrize("image", ["http://x/y.png", "not base64!", "aGVsbG8=", "", 7])
def test_what_is_no_picture_is_refused_by_its_place(image) -> None:
    doc = {"messages": [{"role": "user", "content": "", "images": [PNG, image]}]}
    refusal = refused(CHAT, doc)
    assert (refusal.kind, refusal.param) == ("invalid_request", "messages[0].images[1]")


def test_past_reasoning_goes_into_the_engines_field() -> None:
    said = {"role": "assistant", "content": "4", "thinking": "2+2"}
    doc = {"messages": [said, said]}
    assert asked(CHAT, doc, extras=VLLM).doc["messages"][0]["reasoning"] == "2+2"
    assert asked(CHAT, doc, extras=LLAMA).doc["messages"][0]["reasoning_content"] == "2+2"
    found = asked(CHAT, doc)
    assert found.lost == ("messages.thinking",)
    assert found.doc["messages"][0] == {"role": "assistant", "content": "4"}


def call(name, **more):
    return {"function": {"name": name, "arguments": {"city": "Oslo"}}, **more}


def test_calls_and_results_find_each_other_by_order_name_and_id() -> None:
    doc = {
        "messages": [
            {"role": "assistant", "tool_calls": [call("a"), call("b"), call("a"), call("c")]},
            {"role": "tool", "content": "first a", "tool_name": "a"},
            {"role": "tool", "content": "c", "tool_name": "c"},
            {"role": "tool", "content": "second a", "tool_name": "a"},
            {"role": "tool", "content": "what is left: b"},
            {"role": "assistant", "tool_calls": [call("a", id="own")]},
            {"role": "tool", "content": "own", "tool_call_id": "own"},
            {"role": "tool", "content": "nobody asked", "tool_name": "zzz"},
        ]
    }
    messages = asked(CHAT, doc).doc["messages"]
    ids = [made["id"] for made in messages[0]["tool_calls"]]
    assert len(set(ids)) == 4
    answered = [m["tool_call_id"] for m in messages if m["role"] == "tool"]
    assert answered[:5] == [ids[0], ids[3], ids[2], ids[1], "own"]
    assert answered[5] not in {*ids, "own"}
    function = messages[0]["tool_calls"][0]
    assert function["type"] == "function"
    assert function["function"] == {"name": "a", "arguments": '{"city":"Oslo"}'}


def test_tools_get_the_type_that_openai_wants() -> None:
    tool = {"function": {"name": "f", "parameters": {"type": "object"}}}
    found = asked(CHAT, {**HELLO, "tools": [tool, {**tool, "type": "function"}]})
    assert [given["type"] for given in found.doc["tools"]] == ["function", "function"]
    assert "tools" not in asked(CHAT, {**HELLO, "tools": []}).doc


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("hello", "messages[0]"),
        ({"content": "x"}, "messages[0].role"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content"),
        ({"role": "user", "content": "x", "images": "y"}, "messages[0].images"),
        ({"role": "assistant", "tool_calls": {"a": 1}}, "messages[0].tool_calls"),
        ({"role": "assistant", "tool_calls": [{"id": "x"}]}, "messages[0].tool_calls[0]"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            "messages[0].tool_calls[0].function.arguments",
        ),
    ],
)
def test_a_faulty_message_is_refused_by_its_place(message, param) -> None:
    refusal = refused(CHAT, {"messages": [message]})
    assert (refusal.kind, refusal.param) == ("invalid_request", param)


# ---- generate


def test_a_prompt_becomes_a_conversation() -> None:
    doc = {"model": "m", "prompt": "Hi", "system": "Be brief", "images": [PNG], "stream": False}
    messages = asked(GENERATE_AS_CHAT, doc).doc["messages"]
    assert messages[0] == {"role": "system", "content": "Be brief"}
    assert messages[1]["content"][0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert messages[1]["content"][1] == {"type": "text", "text": "Hi"}
    assert asked(GENERATE_AS_CHAT, {"prompt": "Hi"}).doc["messages"] == [
        {"role": "user", "content": "Hi"}
    ]


def test_the_official_clients_request_is_taken() -> None:
    request = GenerateRequest(model="m", prompt="Hi", think=False, keep_alive="5m", options={})
    found = asked(GENERATE_AS_CHAT, request.model_dump(exclude_none=True), extras=VLLM)
    assert found.lost == ("keep_alive",)


def test_a_raw_prompt_is_for_completions_alone() -> None:
    doc = {"model": "m", "prompt": "<s>Hi", "raw": True, "options": {"num_predict": 3}}
    refusal = refused(GENERATE_AS_CHAT, doc)
    assert (refusal.kind, refusal.param) == ("unsupported", "raw")
    found = asked(GENERATE_AS_COMPLETION, doc)
    assert found.doc == {"model": "m:latest", "prompt": "<s>Hi", "max_tokens": 3}
    plain = refused(GENERATE_AS_COMPLETION, {"prompt": "Hi"})
    assert (plain.kind, plain.param) == ("unsupported", "prompt")


def test_a_gap_is_filled_only_by_an_engine_that_can() -> None:
    doc = {"prompt": "def f(", "suffix": "return x", "system": "s", "think": False}
    assert refused(GENERATE_AS_CHAT, doc).param == "suffix"
    assert refused(GENERATE_AS_COMPLETION, doc).param == "suffix"
    found = asked(GENERATE_AS_COMPLETION, doc, extras={"suffix": "suffix"})
    assert (found.doc["suffix"], found.lost) == ("return x", ("system",))


@pytest.mark.parametrize("bridge", [GENERATE_AS_CHAT, GENERATE_AS_COMPLETION])
@pytest.mark.parametrize(
    ("more", "kind", "param"),
    [
        ({"template": "{{ .Prompt }}"}, "unsupported", "template"),
        ({"context": [1, 2]}, "unsupported", "context"),
        ({"width": 512}, "unsupported", "width"),
        ({"raw": True, "system": "s"}, "invalid_request", "raw"),
        ({"options": 3}, "invalid_request", "options"),
        ({"_debug_render_only": True}, "unsupported", "_debug_render_only"),
    ],
)
def test_what_cannot_be_expressed_is_refused_by_name(bridge, more, kind, param) -> None:
    refusal = refused(bridge, {"prompt": "Hi", **more})
    assert (refusal.kind, refusal.param) == (kind, param)
    assert param in refusal.message


@pytest.mark.parametrize("more", [{"images": [PNG]}, {"format": "json"}])
def test_a_raw_prompt_takes_neither_pictures_nor_a_format(more) -> None:
    doc = {"prompt": "Hi", "raw": True, **more}
    assert refused(GENERATE_AS_COMPLETION, doc).param == next(iter(more))
