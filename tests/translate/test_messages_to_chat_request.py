"""A Messages request as a chat completions request: what is said, what is refused, what is lost."""

from typing import Any

import orjson
import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsNonStreaming
from pydantic import TypeAdapter

from gateway.core.errors import Refusal
from gateway.translate.bridge import Asked
from gateway.translate.messages_to_chat import MESSAGES_TO_CHAT

from .recorded import asking

PARAMS: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsNonStreaming)

WEATHER = {
    "name": "get_weather",
    "description": "Get the weather",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
PIXEL = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}


def asked(*messages: Any, **fields: Any) -> Asked:
    doc = {"model": "m", "max_tokens": 5, "messages": list(messages) or [user("hi")], **fields}
    found = MESSAGES_TO_CHAT.request(asking(doc))
    list(PARAMS.validate_python(found.doc)["messages"])  # pydantic looks at them one by one
    return found


def refused(kind: str, param: str, *messages: Any, **fields: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        asked(*messages, **fields)
    assert (caught.value.kind, caught.value.param) == (kind, param)
    return caught.value


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def use(name: str = "get_weather", **given: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": "t1", "name": name, "input": given}


def result(content: Any = None, **more: Any) -> dict[str, Any]:
    said = {} if content is None else {"content": content}
    return {"type": "tool_result", "tool_use_id": "t1", **said, **more}


def test_a_plain_question() -> None:
    found = asked(temperature=0.5, top_p=0.9, stop_sequences=["a"], metadata={"user_id": "u"})
    assert found.doc == {
        "model": "m",
        "messages": [user("hi")],
        "max_completion_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["a"],
        "user": "u",
    }
    assert found.lost == ()


def test_a_user_whose_name_openai_would_refuse_is_left_out_and_named() -> None:
    found = asked(metadata={"user_id": "u" * 65, "more": 1})
    assert ("user" not in found.doc, found.lost) == (True, ("metadata.user_id", "metadata"))


def test_a_stream_asks_the_engine_for_usage() -> None:
    doc = {"max_tokens": 5, "messages": [user("hi")], "stream": True}
    found = MESSAGES_TO_CHAT.request(asking(doc, stream=True)).doc
    assert (found["stream"], found["stream_options"]) == (True, {"include_usage": True})


@pytest.mark.parametrize("system", ["Be brief.", [text("Be brief.")]])
def test_the_system_prompt_is_the_first_message(system: Any) -> None:
    assert asked(system=system).doc["messages"][0] == {"role": "system", "content": "Be brief."}


def test_blocks_of_a_system_prompt_stand_on_lines_of_their_own() -> None:
    assert asked(system=[text("a"), text("b")]).doc["messages"][0]["content"] == "a\nb"


def test_a_system_message_in_the_middle_is_said_in_the_users_turn() -> None:
    found = asked(user("a"), {"role": "system", "content": "b"}, assistant(text("c")), system="d")
    reminder = text("<system-reminder>\nb\n</system-reminder>")
    assert found.doc["messages"] == [
        {"role": "system", "content": "d"},
        {"role": "user", "content": [text("a"), reminder]},
        {"role": "assistant", "content": "c"},
    ]
    assert found.lost == ("messages.role",)


def test_a_system_message_after_a_tools_result_comes_behind_that_result() -> None:
    turns = (user([result("sunny")]), {"role": "system", "content": "b"})
    *_, answer, said = asked(assistant(use()), *turns).doc["messages"]
    assert (answer["role"], said["role"]) == ("tool", "user")


def test_the_attribution_of_a_coding_agent_is_no_part_of_the_prompt() -> None:
    bill = text("x-anthropic-billing-header: cc_version=2.1.197.fa0; cc_entrypoint=cli;")
    found = asked(system=[bill, text("Be brief.")])
    assert found.doc["messages"][0] == {"role": "system", "content": "Be brief."}
    assert found.lost == ("system.x-anthropic-billing-header",)
    assert [message["role"] for message in asked(system=[bill]).doc["messages"]] == ["user"]


def test_images_become_addresses() -> None:
    other = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    found = asked(user([text("what?"), PIXEL, other])).doc["messages"][0]["content"]
    assert found[1:] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
    ]


def test_a_stored_image_cannot_be_said() -> None:
    stored = {"type": "image", "source": {"type": "file", "file_id": "f"}}
    refused("unsupported", "messages.0.content.1.source", user([text("a"), stored]))


def test_documents_become_files_or_text() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}
    plain = {"type": "text", "media_type": "text/plain", "data": "words"}
    found = asked(
        user(
            [
                {"type": "document", "source": pdf},
                {"type": "document", "source": plain, "title": "T", "citations": {"enabled": True}},
                {"type": "document", "source": {"type": "content", "content": [text("inner")]}},
            ]
        )
    )
    file = {"filename": "document.pdf", "file_data": "data:application/pdf;base64,AAAA"}
    parts = found.doc["messages"][0]["content"]
    assert parts == [{"type": "file", "file": file}, text("T"), text("words"), text("inner")]
    assert found.lost == ("messages.content.citations",)


def test_a_tool_loop_keeps_its_order() -> None:
    found = asked(
        user("weather?"),
        assistant(text("I look."), use(city="Paris")),
        user([result("sunny"), text("and then?")]),
        tools=[WEATHER],
    ).doc["messages"]
    assert [message["role"] for message in found] == ["user", "assistant", "tool", "user"]
    call = found[1]["tool_calls"][0]
    assert (call["id"], orjson.loads(call["function"]["arguments"])) == ("t1", {"city": "Paris"})
    assert found[2] == {"role": "tool", "tool_call_id": "t1", "content": "sunny"}


def test_a_call_without_words_has_no_content() -> None:
    """TGI takes an empty text for the whole message and forgets the call."""
    assert (
        asked(user("a"), assistant(use()), user([result()])).doc["messages"][1]["content"] is None
    )


def test_results_stand_right_behind_their_calls() -> None:
    found = asked(user("a"), assistant(use()), user([text("b"), result("c")])).doc["messages"]
    assert [message["role"] for message in found[2:]] == ["tool", "user"]


def test_an_image_in_a_result_follows_in_the_next_message() -> None:
    found = asked(user("a"), assistant(use()), user([result([text("b"), PIXEL])]))
    tool, shown = found.doc["messages"][2:]
    assert tool["content"] == "b"
    assert [part["type"] for part in shown["content"]] == ["text", "image_url"]
    assert found.lost == ("messages.content.tool_result.content",)


def test_a_failed_call_says_so_in_words() -> None:
    found = asked(user("a"), assistant(use()), user([result("no net", is_error=True)]))
    assert found.doc["messages"][2]["content"] == "Error: no net"
    assert found.lost == ("messages.content.tool_result.is_error",)


def test_thinking_goes_back_to_the_engine_and_what_nobody_can_read_is_named() -> None:
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    found = asked(user("a"), assistant(thought, hidden, text("b")), user("c"))
    assert found.doc["messages"][1]["reasoning_content"] == "hm"
    assert found.lost == ("messages.content.redacted_thinking",)


def test_marks_for_a_cache_are_named_wherever_they_stand() -> None:
    mark = {"cache_control": {"type": "ephemeral"}}
    found = asked(
        user([{**text("a"), **mark}]),
        system=[{**text("b"), **mark}],
        tools=[{**WEATHER, **mark}],
        **mark,
    )
    assert set(found.lost) == {
        "cache_control",
        "system.cache_control",
        "messages.content.cache_control",
        "tools.cache_control",
    }


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        (
            {"type": "tool", "name": "get_weather"},
            {"type": "function", "function": {"name": "get_weather"}},
        ),
    ],
)
def test_every_choice_of_tools(choice: dict[str, Any], wanted: Any) -> None:
    found = asked(tools=[WEATHER], tool_choice=choice).doc
    assert found["tool_choice"] == wanted
    assert "parallel_tool_calls" not in found
    assert found["tools"][0]["function"]["parameters"] == WEATHER["input_schema"]


def test_one_call_at_a_time() -> None:
    choice = {"type": "auto", "disable_parallel_tool_use": True}
    assert asked(tools=[WEATHER], tool_choice=choice).doc["parallel_tool_calls"] is False


def test_no_tools_are_no_tools() -> None:
    found = asked(tools=[], tool_choice={"type": "auto"}).doc
    assert not {"tools", "tool_choice"} & found.keys()


def test_tools_of_anthropics_own_are_refused_by_name() -> None:
    search = {"type": "web_search_20250305", "name": "web_search"}
    refusal = refused("unsupported", "tools.1.type", tools=[WEATHER, search])
    assert "web_search_20250305" in refusal.message


@pytest.mark.parametrize(("budget", "effort"), [(1024, "low"), (4000, "medium"), (32000, "high")])
def test_a_budget_of_thinking_becomes_an_effort(budget: int, effort: str) -> None:
    found = asked(thinking={"type": "enabled", "budget_tokens": budget})
    assert (found.doc["reasoning_effort"], found.lost) == (effort, ("thinking.budget_tokens",))


def test_adaptive_thinking_is_what_engines_do_anyway() -> None:
    found = asked(thinking={"type": "adaptive"}, output_config={"effort": "max"})
    assert (found.doc["reasoning_effort"], found.lost) == ("max", ())
    assert "reasoning_effort" not in asked(thinking={"type": "adaptive"}).doc


def test_thinking_that_is_not_wanted_cannot_be_said_and_is_named() -> None:
    found = asked(thinking={"type": "disabled"})
    assert ("reasoning_effort" not in found.doc, found.lost) == (True, ("thinking",))


@pytest.mark.parametrize("place", ["output_config", "output_format"])
def test_a_schema_for_the_answer(place: str) -> None:
    schema = {"type": "object", "properties": {}}
    form = {"type": "json_schema", "schema": schema}
    found = asked(**{place: {"format": form} if place == "output_config" else form}).doc
    assert found["response_format"]["json_schema"]["schema"] == schema


def test_what_only_hints_is_lost_by_name() -> None:
    found = asked(top_k=5, context_management={"edits": []}, speed="fast", seed=3)
    assert set(found.lost) == {"top_k", "context_management", "speed", "seed"}
    assert (found.doc["top_k"], found.doc["seed"]) == (5, 3)
    assert "context_management" not in found.doc


@pytest.mark.parametrize("name", ["container", "mcp_servers", "inference_geo"])
def test_what_cannot_be_said_is_refused_by_name(name: str) -> None:
    refused("unsupported", name, **{name: "x"})


@pytest.mark.parametrize(
    ("param", "fields"),
    [
        ("max_tokens", {"max_tokens": None}),
        ("max_tokens", {"max_tokens": True}),
        ("messages", {"messages": "hi"}),
        ("messages.0", {"messages": ["hi"]}),
        ("messages.0.role", {"messages": [{"role": "x", "content": ""}]}),
        ("messages.0.content", {"messages": [{"role": "user"}]}),
        ("messages.0.content.0.text", {"messages": [user([{"type": "text"}])]}),
        ("messages.0.content.0.source", {"messages": [user([{"type": "image"}])]}),
        ("messages.0.content.0.input", {"messages": [assistant({**use(), "input": "{}"})]}),
        ("tools.0.input_schema", {"tools": [{"name": "f"}]}),
        ("tool_choice.type", {"tool_choice": {"type": "x"}}),
        ("metadata", {"metadata": "x"}),
        ("output_config.format", {"output_config": {"format": {"type": "x"}}}),
    ],
)
def test_a_faulty_document_is_told_where(param: str, fields: dict[str, Any]) -> None:
    refused("invalid_request", param, **fields)


def test_a_block_that_nobody_else_has_is_refused_by_its_place() -> None:
    block = {"type": "server_tool_use", "id": "x", "name": "web_search", "input": {}}
    refused("unsupported", "messages.0.content.0", assistant(block))


def test_filling_a_cache_cannot_be_asked_for() -> None:
    refused("unsupported", "max_tokens", max_tokens=0)
