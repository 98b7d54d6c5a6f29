"""What a Responses client asks, in the words of chat completions; what has none is refused."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.core.errors import Refusal
from gateway.translate.bridge import Asked
from gateway.translate.responses_to_chat import RESPONSES_TO_CHAT

from .recorded import asking

TOOL = {
    "type": "function",
    "name": "f",
    "description": "Does it.",
    "parameters": {"type": "object"},
    "strict": True,
}
OTHER = {"type": "function", "name": "g", "parameters": None, "strict": None}
CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"a": 1}'}
FREE = {"type": "custom", "name": "patch", "description": "Edits."}
GROUP = {"type": "namespace", "name": "crm", "tools": [TOOL, OTHER]}
"""As coding agents send them: for tools of MCP servers, of their own sub-agents."""
RESULT = {"type": "function_call_output", "call_id": "c1", "output": "7"}
PNG = "data:image/png;base64,AAAA"


def asked(*, extras: dict[str, str] | None = None, stream: bool = False, **doc: Any) -> Asked:
    found = asking({"model": "m", "input": "Hi", **doc}, stream=stream)
    return RESPONSES_TO_CHAT.request(replace(found, extras=extras or {}))


def said(*items: Any, **doc: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = asked(input=list(items), **doc).doc["messages"]
    return found


def refused(**doc: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        asked(**doc)
    return caught.value


def test_a_text_is_what_a_user_says() -> None:
    found = asked()
    assert found.doc == {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    assert found.lost == ()


def test_a_stream_is_asked_for_its_usage() -> None:
    doc = asked(stream=True).doc
    assert doc["stream"] is True
    assert doc["stream_options"] == {"include_usage": True}


def test_instructions_and_what_developers_say_first_are_one_system_message() -> None:
    developer = {"role": "developer", "content": [{"type": "input_text", "text": "Be kind."}]}
    user = {"type": "message", "role": "user", "content": "Hi"}
    late = {"role": "system", "content": "Be quick."}
    assert said(developer, user, late, instructions="Be brief.") == [
        {"role": "system", "content": "Be brief.\n\nBe kind."},
        {"role": "user", "content": "Hi"},
        {"role": "system", "content": "Be quick."},
    ]


def test_parts_of_a_message_keep_their_order() -> None:
    content = [
        {"type": "input_text", "text": "Look:"},
        {"type": "input_image", "image_url": PNG, "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"},
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]
    assert said({"role": "user", "content": content})[0]["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
        {
            "type": "file",
            "file": {"file_data": "data:application/pdf;base64,AA", "filename": "a.pdf"},
        },
        {"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}},
    ]


def test_what_the_model_thought_said_and_called_is_one_message() -> None:
    thought = {"type": "reasoning", "id": "rs", "summary": [], "content": [{"text": "Hm."}]}
    text = {"type": "output_text", "text": "So:", "annotations": []}
    message = {"type": "message", "id": "msg", "role": "assistant", "content": [text]}
    second = {**CALL, "call_id": "c2", "name": "g"}
    found = asked(
        input=[thought, message, CALL, second, RESULT, {**RESULT, "call_id": "c2"}],
        extras={"thinking": "reasoning"},
    )
    assert found.lost == ()
    assert found.doc["messages"] == [
        {
            "role": "assistant",
            "content": "So:",
            "reasoning": "Hm.",
            "tool_calls": [
                {
                    "id": name,
                    "type": "function",
                    "function": {"name": function, "arguments": '{"a": 1}'},
                }
                for name, function in (("c1", "f"), ("c2", "g"))
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
        {"role": "tool", "tool_call_id": "c2", "content": "7"},
    ]


def test_a_call_alone_has_no_text() -> None:
    assert said(CALL, RESULT)[0]["content"] is None


def test_messages_after_calls_or_each_other_are_new_turns() -> None:
    message = {"role": "assistant", "content": "x"}
    found = said(message, message, CALL, message)
    assert [list(turn) for turn in found] == [
        ["role", "content"],
        ["role", "content", "tool_calls"],
        ["role", "content"],
    ]


def test_reasoning_that_an_engine_cannot_read_is_named_as_lost() -> None:
    thought = {"type": "reasoning", "id": "rs", "summary": [{"text": "Hm.", "type": "x"}]}
    found = asked(input=[thought, {"role": "user", "content": "Hi"}])
    assert found.doc["messages"] == [{"role": "user", "content": "Hi"}]
    assert found.lost == ("input.reasoning",)


def test_pictures_of_results_stand_in_the_next_message_of_the_user() -> None:
    output = [{"type": "input_image", "image_url": PNG, "detail": "auto"}]
    found = asked(input=[CALL, {**RESULT, "output": output}, {"role": "user", "content": "And?"}])
    assert found.lost == ("input.output",)
    _, tool, user = found.doc["messages"]
    assert tool["content"] == "The result is shown in the next message."
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text"]
    last = asked(input=[CALL, {**RESULT, "output": output}]).doc["messages"][-1]
    assert last["role"] == "user"


def test_texts_of_a_result_are_joined() -> None:
    output = [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]
    assert said(CALL, {**RESULT, "output": output})[-1]["content"] == "a\nb"


def test_tools_are_functions_with_their_schema() -> None:
    doc = asked(tools=[TOOL, OTHER], parallel_tool_calls=False).doc
    function = {name: value for name, value in TOOL.items() if name != "type"}
    assert doc["tools"] == [
        {"type": "function", "function": function},
        {"type": "function", "function": {"name": "g"}},
    ]
    assert doc["parallel_tool_calls"] is False


def test_tools_of_a_group_are_functions_with_its_name_in_front() -> None:
    found = asked(tools=[GROUP, TOOL])
    assert [tool["function"]["name"] for tool in found.doc["tools"]] == ["crm__f", "crm__g", "f"]
    assert found.lost == ()
    assert asked(tools=[{**GROUP, "description": "Customers."}]).lost == ("tools.description",)


def test_a_tool_of_a_group_can_be_chosen() -> None:
    choice = {"type": "function", "name": "f", "namespace": "crm"}
    asked_for = asked(tools=[GROUP], tool_choice=choice).doc["tool_choice"]
    assert asked_for["function"]["name"] == "crm__f"


def test_a_tool_that_takes_a_text_is_a_function_with_one_argument() -> None:
    function = asked(tools=[FREE]).doc["tools"][0]["function"]
    assert function == {
        "name": "patch",
        "description": "Edits.",
        "parameters": {
            "type": "object",
            "properties": {"input": {"type": "string"}},
            "required": ["input"],
        },
    }


def test_a_grammar_for_a_text_is_told_to_the_model() -> None:
    shape = {"type": "grammar", "syntax": "lark", "definition": "start: WORD"}
    found = asked(tools=[{**FREE, "format": shape}])
    assert "start: WORD" in found.doc["tools"][0]["function"]["description"]
    assert found.lost == ("tools.format",)


@pytest.mark.parametrize("kind", ["web_search", "image_generation"])
def test_what_openai_would_run_is_left_out_beside_tools_of_the_clients(kind: str) -> None:
    found = asked(tools=[TOOL, {"type": kind}])
    assert [tool["function"]["name"] for tool in found.doc["tools"]] == ["f"]
    assert found.lost == (f"tools.{kind}",)


def test_calls_of_such_tools_are_told_under_the_names_that_the_engine_knows() -> None:
    grouped = {**CALL, "namespace": "crm"}
    free = {"type": "custom_tool_call", "call_id": "c2", "name": "patch", "input": 'say "hi"'}
    after = {"type": "custom_tool_call_output", "call_id": "c2", "output": "done"}
    turn, *results = said(grouped, free, RESULT, after, tools=[GROUP, FREE])
    called = [call["function"] for call in turn["tool_calls"]]
    assert called == [
        {"name": "crm__f", "arguments": '{"a": 1}'},
        {"name": "patch", "arguments": '{"input":"say \\"hi\\""}'},
    ]
    assert [result["tool_call_id"] for result in results] == ["c1", "c2"]


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_a_choice_in_one_word_stays(choice: str) -> None:
    assert asked(tools=[TOOL], tool_choice=choice).doc["tool_choice"] == choice


def test_a_named_function_is_chosen_by_its_name() -> None:
    doc = asked(tools=[TOOL], tool_choice={"type": "function", "name": "f"}).doc
    assert doc["tool_choice"] == {"type": "function", "function": {"name": "f"}}


def test_allowed_tools_are_those_that_are_sent() -> None:
    allowed = {"type": "function", "name": "g"}
    choice = {"type": "allowed_tools", "mode": "required", "tools": [allowed]}
    doc = asked(tools=[TOOL, OTHER], tool_choice=choice).doc
    assert [tool["function"]["name"] for tool in doc["tools"]] == ["g"]
    assert doc["tool_choice"] == "required"


def test_without_tools_nothing_is_said_of_a_choice() -> None:
    found = asked(tools=[], tool_choice="auto", parallel_tool_calls=True)
    assert found.doc.keys() == {"model", "messages"}


@pytest.mark.parametrize(
    ("form", "sent"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json_object"}),
        (
            {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True},
            {
                "type": "json_schema",
                "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
            },
        ),
    ],
)
def test_the_form_of_the_answer_is_asked_for(form: Any, sent: Any) -> None:
    assert asked(text={"format": form}).doc.get("response_format") == sent


def test_sampling_and_the_like_have_their_words() -> None:
    found = asked(
        max_output_tokens=5,
        temperature=0,
        top_p=1,
        reasoning={"effort": "low"},
        include=["message.output_text.logprobs"],
        top_logprobs=2,
        safety_identifier="s",
        metadata={"a": "b"},
        service_tier="auto",
        truncation="disabled",
        max_tool_calls=3,
        store=False,
        background=False,
    )
    assert found.lost == ()
    assert found.doc == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_completion_tokens": 5,
        "temperature": 0,
        "top_p": 1,
        "reasoning_effort": "low",
        "logprobs": True,
        "top_logprobs": 2,
        "user": "s",
    }


@pytest.mark.parametrize(
    ("doc", "name"),
    [
        ({"store": True}, "store"),
        ({"prompt_cache_key": "k"}, "prompt_cache_key"),
        ({"client_metadata": {"session_id": "s"}}, "client_metadata"),
        ({"truncation": "auto"}, "truncation"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
        ({"tools": [{**TOOL, "defer_loading": True}]}, "tools.defer_loading"),
        ({"input": [{"role": "assistant", "content": "x", "phase": "commentary"}]}, "input.phase"),
    ],
)
def test_what_is_said_roughly_is_named(doc: dict[str, Any], name: str) -> None:
    assert asked(**doc).lost == (name,)


def test_who_did_not_ask_for_storage_is_told_by_the_answer_alone() -> None:
    assert asked().lost == ()


def test_an_engines_own_field_goes_on_and_is_named() -> None:
    found = asked(top_k=3)
    assert found.doc["top_k"] == 3
    assert found.lost == ("top_k",)


@pytest.mark.parametrize(
    ("doc", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [TOOL, {"type": "mcp", "server_label": "x"}]}, "tools.1.type"),
        ({"tools": [{**GROUP, "tools": [GROUP]}]}, "tools.0.tools.0.type"),
        ({"tools": [TOOL], "tool_choice": {"type": "file_search"}}, "tool_choice"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0"),
        ({"input": [{"id": "msg_1"}]}, "input.0"),
        ({"input": [{"type": "computer_call_output"}]}, "input.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input.0.content.0.file_id",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "u"}]}]},
            "input.0.content.0.file_url",
        ),
        ({"input": [{"role": "user", "content": [{"type": "video"}]}]}, "input.0.content.0.type"),
    ],
)
def test_what_cannot_be_said_is_refused_by_name(doc: dict[str, Any], param: str) -> None:
    found = refused(**doc)
    assert (found.kind, found.param) == ("unsupported", param)


@pytest.mark.parametrize(
    ("doc", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": 7}, "input"),
        ({"input": ["x"]}, "input.0"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": 7}]}, "input.0.content"),
        ({"input": [{**CALL, "arguments": {}}]}, "input.0.arguments"),
        ({"input": [{**RESULT, "call_id": None}]}, "input.0.call_id"),
        ({"instructions": 7}, "instructions"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": [{"type": "namespace", "tools": []}]}, "tools.0.name"),
        ({"tools": [{"type": "namespace", "name": "n"}]}, "tools.0.tools"),
        ({"tools": [{**FREE, "format": {"type": "grammar"}}]}, "tools.0.format.definition"),
        ({"input": [{"type": "custom_tool_call", "name": "f"}]}, "input.0.input"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [TOOL], "parallel_tool_calls": 1}, "parallel_tool_calls"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"max_output_tokens": "5"}, "max_output_tokens"),
        ({"temperature": "warm"}, "temperature"),
        ({"top_logprobs": -1}, "top_logprobs"),
        ({"include": "x"}, "include"),
        ({"metadata": "x"}, "metadata"),
        ({"messages": []}, "messages"),
        ({"max_tokens": 5}, "max_tokens"),
    ],
)
def test_a_fault_of_the_document_is_told_by_name(doc: dict[str, Any], param: str) -> None:
    found = refused(**doc)
    assert (found.kind, found.param) == ("invalid_request", param)


def test_an_answer_can_be_handed_back_as_it_came() -> None:
    calls = [{"id": "c1", "function": {"name": "f", "arguments": '{"a": 1}'}}]
    message = {"reasoning": "Hm.", "content": "So:", "tool_calls": calls}
    doc = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    output = RESPONSES_TO_CHAT.reply(doc, asking({"input": "x"}))["output"]
    found = asked(input=[*output, RESULT], extras={"thinking": "reasoning"})
    first = found.doc["messages"][0]
    assert (first["reasoning"], first["content"]) == ("Hm.", "So:")
    assert first["tool_calls"][0]["function"] == calls[0]["function"]
    assert found.lost == ()


ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "reasoning": st.text(min_size=1),
        "content": st.text(min_size=1),
        "tool_calls": st.lists(
            st.fixed_dictionaries(
                {
                    "id": st.uuids().map(str),
                    "function": st.fixed_dictionaries(
                        {"name": st.text(min_size=1), "arguments": st.text()}
                    ),
                }
            ),
            min_size=1,
            max_size=3,
        ),
    },
)


@settings(max_examples=60, deadline=None)
@given(ANSWERS)
def test_text_thoughts_and_calls_survive_a_round_trip(message: dict[str, Any]) -> None:
    doc = {"choices": [{"message": message, "finish_reason": "stop"}]}
    output = RESPONSES_TO_CHAT.reply(doc, asking({"input": "x"}))["output"]
    back = asked(input=output, extras={"thinking": "reasoning"}).doc["messages"]
    assert len(back) == 1
    assert back[0].get("reasoning") == message.get("reasoning")
    assert (back[0]["content"] or "") == message.get("content", "")
    calls = [{"type": "function", **call} for call in message.get("tool_calls", [])]
    assert back[0].get("tool_calls", []) == calls
