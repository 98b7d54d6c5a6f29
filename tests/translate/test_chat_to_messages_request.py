"""A chat completions request as a Messages request: what is said, refused and lost."""

from typing import Any

import pytest
from anthropic.types.message_create_params import MessageCreateParamsNonStreaming
from pydantic import TypeAdapter

from gateway.core.errors import Refusal
from gateway.translate.bridge import Asked
from gateway.translate.chat_to_messages import CHAT_TO_MESSAGES
from gateway.translate.chat_to_messages_request import DEFAULT_MAX_TOKENS

from .recorded import asking

PARAMS: TypeAdapter[Any] = TypeAdapter(MessageCreateParamsNonStreaming)

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": PARAMETERS}}
OTHER = {"type": "function", "function": {"name": "other"}}


def asked(*messages: Any, **fields: Any) -> Asked:
    doc = {"model": "m", "max_tokens": 5, "messages": list(messages) or [user("hi")], **fields}
    found = CHAT_TO_MESSAGES.request(asking(doc))
    list(PARAMS.validate_python(found.doc)["messages"])  # pydantic looks at them one by one
    return found


def refused(kind: str, param: str, *messages: Any, **fields: Any) -> None:
    with pytest.raises(Refusal) as caught:
        asked(*messages, **fields)
    assert (caught.value.kind, caught.value.param) == (kind, param)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def calls(*ids: str, arguments: str = "{}", **more: Any) -> dict[str, Any]:
    function = {"name": "get_weather", "arguments": arguments}
    found = [{"id": name, "type": "function", "function": function} for name in ids]
    return {"role": "assistant", "content": None, "tool_calls": found, **more}


def tool(name: str, content: Any = "sunny") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": name, "content": content}


def test_a_plain_question() -> None:
    found = asked(temperature=0.5, top_p=0.9, stop="a", user="u")
    assert found.doc == {
        "model": "m",
        "max_tokens": 5,
        "messages": [user("hi")],
        "temperature": 0.5,
        "top_p": 0.9,
        "stop_sequences": ["a"],
        "metadata": {"user_id": "u"},
    }
    assert found.lost == ()


def test_a_limit_is_needed_and_named_where_it_is_ours() -> None:
    assert asked(max_completion_tokens=7).doc["max_tokens"] == 7
    found = asked(max_tokens=None)
    assert (found.doc["max_tokens"], found.lost) == (DEFAULT_MAX_TOKENS, ("max_tokens",))


def test_a_stream_is_asked_for_as_one() -> None:
    doc = {"messages": [user("hi")], "stream": True, "stream_options": {"include_usage": True}}
    found = CHAT_TO_MESSAGES.request(asking(doc, stream=True)).doc
    assert found["stream"] is True
    assert "stream_options" not in found


def test_system_and_developer_messages_are_the_system_prompt() -> None:
    found = asked(
        {"role": "system", "content": "a"},
        {"role": "developer", "content": [{"type": "text", "text": "b"}]},
        user("c"),
    )
    assert (found.doc["system"], found.doc["messages"]) == ("a\nb", [user("c")])
    assert found.lost == ()


def test_a_system_message_that_is_moved_to_the_front_is_named() -> None:
    found = asked(user("a"), {"role": "system", "content": "b"}, user("c"))
    assert (found.doc["system"], found.lost) == ("b", ("messages.role",))


def test_images_and_files_become_sources() -> None:
    data, web = "data:image/png;base64,AAAA", "https://x/y.png"
    found = asked(
        user(
            [
                {"type": "text", "text": "what?"},
                {"type": "image_url", "image_url": {"url": data}},
                {"type": "image_url", "image_url": {"url": web, "detail": "low"}},
                {
                    "type": "file",
                    "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AAAA"},
                },
            ]
        )
    )
    _, first, second, third = found.doc["messages"][0]["content"]
    assert first["source"] == {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    assert second["source"] == {"type": "url", "url": web}
    assert (third["type"], third["title"]) == ("document", "a.pdf")
    assert found.lost == ("messages.content.image_url.detail",)


def test_results_of_parallel_calls_are_one_turn_with_what_the_user_says_next() -> None:
    found = asked(user("a"), calls("c1", "c2"), tool("c1"), tool("c2"), user("b")).doc["messages"]
    assert [message["role"] for message in found] == ["user", "assistant", "user"]
    assert [block["type"] for block in found[1]["content"]] == ["tool_use", "tool_use"]
    assert [block["type"] for block in found[2]["content"]] == [
        "tool_result",
        "tool_result",
        "text",
    ]


def test_ids_that_anthropic_would_refuse_are_changed_alike_on_both_sides() -> None:
    found = asked(user("a"), calls("functions.f:0"), tool("functions.f:0")).doc["messages"]
    assert found[1]["content"][0]["id"] == "functions_f_0"
    assert found[2]["content"][0]["tool_use_id"] == "functions_f_0"


def test_broken_arguments_in_the_history_stay_readable() -> None:
    found = asked(user("a"), calls("c", arguments='{"a'), tool("c")).doc["messages"]
    assert found[1]["content"][0]["input"] == {"INVALID_JSON": '{"a'}


def test_thinking_without_a_signature_is_of_no_use_and_named() -> None:
    found = asked(user("a"), {"role": "assistant", "content": "b", "reasoning_content": "c"})
    assert found.doc["messages"][1] == {"role": "assistant", "content": "b"}
    assert found.lost == ("messages.reasoning_content",)


def test_empty_texts_are_left_out() -> None:
    found = asked(user("a"), calls("c", content=""), tool("c", "")).doc["messages"]
    assert [block["type"] for block in found[1]["content"]] == ["tool_use"]
    assert found[2]["content"][0]["content"] == ""


def test_tools_and_their_schemas() -> None:
    found = asked(tools=[WEATHER, OTHER]).doc["tools"]
    assert found[0] == {"name": "get_weather", "input_schema": PARAMETERS}
    assert found[1]["input_schema"] == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ("auto", {"type": "auto"}),
        ("required", {"type": "any"}),
        ("none", {"type": "none"}),
        (
            {"type": "function", "function": {"name": "get_weather"}},
            {"type": "tool", "name": "get_weather"},
        ),
    ],
)
def test_every_choice_of_tools(choice: Any, wanted: dict[str, Any]) -> None:
    assert asked(tools=[WEATHER], tool_choice=choice).doc["tool_choice"] == wanted


def test_a_choice_of_allowed_tools_leaves_those() -> None:
    allowed = {"mode": "required", "tools": [OTHER]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    found = asked(tools=[WEATHER, OTHER], tool_choice=choice).doc
    assert [kept["name"] for kept in found["tools"]] == ["other"]
    assert found["tool_choice"] == {"type": "any"}


def test_one_call_at_a_time() -> None:
    found = asked(tools=[WEATHER], parallel_tool_calls=False).doc
    assert found["tool_choice"] == {"type": "auto", "disable_parallel_tool_use": True}
    none = asked(tools=[WEATHER], tool_choice="none", parallel_tool_calls=False).doc
    assert none["tool_choice"] == {"type": "none"}
    assert "tool_choice" not in asked(tools=[WEATHER], parallel_tool_calls=True).doc


def test_a_schema_for_the_answer() -> None:
    schema = {"type": "object", "properties": {}}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}
    found = asked(response_format=form, reasoning_effort="high").doc
    assert found["output_config"] == {
        "effort": "high",
        "format": {"type": "json_schema", "schema": schema},
    }
    assert found["thinking"] == {"type": "adaptive"}
    assert "output_config" not in asked(response_format={"type": "text"}).doc


def test_efforts() -> None:
    assert asked(reasoning_effort="none").doc["thinking"] == {"type": "disabled"}
    found = asked(reasoning_effort="minimal")
    assert (found.doc["output_config"], found.lost) == ({"effort": "low"}, ("reasoning_effort",))
    refused("invalid_request", "reasoning_effort", reasoning_effort="huge")


def test_more_warmth_than_anthropic_has_is_cut_and_named() -> None:
    found = asked(temperature=1.5)
    assert (found.doc["temperature"], found.lost) == (1, ("temperature",))


def test_tiers() -> None:
    assert asked(service_tier="default").doc["service_tier"] == "standard_only"
    assert asked(service_tier="flex").lost == ("service_tier",)


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"1": 5}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("modalities", ["text", "audio"]),
        ("functions", [{"name": "f"}]),
        ("function_call", "auto"),
        ("web_search_options", {"x": 1}),
        ("response_format", {"type": "json_object"}),
        ("tools.0.type", None),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(param: str, value: Any) -> None:
    fields = {param: value} if value is not None else {"tools": [{"type": "custom"}]}
    refused("unsupported", param, **fields)


def test_what_asks_for_nothing_is_no_reason_to_refuse() -> None:
    found = asked(
        n=1, logprobs=False, logit_bias={}, frequency_penalty=0, presence_penalty=0.0, functions=[]
    )
    assert found.doc.keys() == {"model", "max_tokens", "messages"}
    assert found.lost == ()


def test_hints_are_lost_by_name() -> None:
    found = asked(seed=1, store=True, metadata={"a": "b"}, prompt_cache_key="k", verbosity="low")
    assert set(found.lost) == {"seed", "store", "metadata", "prompt_cache_key", "verbosity"}
    assert found.doc.keys() == {"model", "max_tokens", "messages"}


def test_anthropics_own_fields_go_on() -> None:
    found = asked(thinking={"type": "enabled", "budget_tokens": 2000}, top_k=5)
    assert (found.doc["thinking"]["budget_tokens"], found.doc["top_k"]) == (2000, 5)


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("max_tokens", {"max_tokens": 0}),
        ("max_completion_tokens", {"max_completion_tokens": "5"}),
        ("temperature", {"temperature": 3}),
        ("messages", {"messages": None}),
        ("messages.0.role", {"messages": [{"role": "x"}]}),
        ("messages.0.content.0.text", {"messages": [user([{"type": "text"}])]}),
        ("messages.0.tool_call_id", {"messages": [{"role": "tool", "content": "x"}]}),
        ("tools.0.function", {"tools": [{"type": "function"}]}),
        ("tool_choice", {"tools": [WEATHER], "tool_choice": "any"}),
        (
            "messages.0.content.0.image_url.url",
            {"messages": [user([{"type": "image_url", "image_url": {"url": "data:x"}}])]},
        ),
    ],
)
def test_a_faulty_document_is_told_where(param: str, fields: dict[str, Any]) -> None:
    refused("invalid_request", param, **fields)


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("messages.0.content.0", user([{"type": "input_audio", "input_audio": {}}])),
        ("messages.0.content.0.file", user([{"type": "file", "file": {"file_id": "f"}}])),
        ("messages.0.function_call", {"role": "assistant", "function_call": {"name": "f"}}),
        ("messages.0.tool_calls.0.type", {"role": "assistant", "tool_calls": [{"type": "custom"}]}),
    ],
)
def test_parts_that_messages_do_not_have_are_refused_by_place(
    param: str, message: dict[str, Any]
) -> None:
    refused("unsupported", param, message)
