"""Equal beginnings give equal links, whatever else a request holds."""

import pytest

from gateway.core.prompt import BLOCK, MEDIUM, MOST_BLOCKS, NO_PROMPT, prompt_of
from gateway.core.types import Op, Wire
from tests.core.fleets import call

LONG = "word " * 400


def of(model="m1", **doc):
    return prompt_of(call(model, doc=doc))


def talk(*texts):
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


def shared(one, other):
    pairs = zip(one.chain, other.chain, strict=False)
    return next(
        (n for n, (a, b) in enumerate(pairs) if a != b), min(map(len, [one.chain, other.chain]))
    )


def test_a_conversation_that_goes_on_keeps_the_links_of_what_was_said():
    before, after = of(messages=talk(LONG, LONG)), of(messages=talk(LONG, LONG, LONG))
    assert len(before.chain) == before.length // BLOCK
    assert after.chain[: len(before.chain)] == before.chain
    assert len(after.chain) > len(before.chain)


def test_a_link_stands_for_all_before_it():
    one, other = of(messages=talk("a" + LONG, LONG)), of(messages=talk("b" + LONG, LONG))
    assert shared(one, other) == 0


def test_another_model_and_another_salt_share_nothing():
    messages = talk(LONG)
    plain = of(messages=messages)
    assert shared(plain, of("m2", messages=messages)) == 0
    assert shared(plain, of(messages=messages, cache_salt="s")) == 0
    assert of(messages=messages, temperature=1, stream=True) == plain


def test_tools_and_system_come_before_the_messages():
    messages = talk(LONG * 2)
    tools = [{"type": "function", "function": {"name": "f", "description": LONG}}]
    one = of(messages=messages, tools=tools, system=LONG)
    other = of(messages=talk("other"), tools=tools, system=LONG)
    assert shared(one, other) >= 2 * len(LONG) // BLOCK - 1
    assert shared(one, of(messages=messages)) == 0


@pytest.mark.parametrize(
    "doc",
    [
        {"prompt": LONG},
        {"prompt": [LONG, LONG]},
        {"input": LONG},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": LONG}]}]},
        {"instructions": LONG, "input": "go on"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": LONG}]}]},
        {"messages": [{"role": "tool", "tool_call_id": "1", "content": LONG}]},
        {"query": "q", "documents": [LONG, {"text": LONG}]},
        {"prompt": list(range(2000))},
    ],
    ids=str,
)
def test_the_prompt_is_found_wherever_a_surface_has_it(doc):
    found = of(**doc)
    assert len(found.chain) >= 3
    assert found.length >= len(LONG) - 10


def test_cache_marks_that_move_with_the_conversation_do_not_count():
    def turn(**mark):
        part = {"type": "text", "text": LONG, **mark}
        return of(messages=[{"role": "user", "content": [part]}])

    assert turn(cache_control={"type": "ephemeral"}) == turn()


def image(data):
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def test_an_image_counts_for_some_hundred_tokens_and_is_told_from_another():
    def asked(data):
        content = [image(data), {"type": "text", "text": LONG}]
        return of(messages=[{"role": "user", "content": content}])

    one = asked("A" * 5_000_000)
    assert one.length < len(LONG) + MEDIUM + 3000
    assert one == asked("A" * 5_000_000)
    assert shared(one, asked("A" * 4_999_999 + "B")) < len(one.chain)
    assert shared(one, asked("A" * 4_000_000)) == 0


def test_what_has_no_prompt_has_no_chain():
    assert prompt_of(call()) == NO_PROMPT
    assert of(model_name="x") == NO_PROMPT
    assert of(prompt="short").chain == ()
    assert of(prompt="short").length == 5


def test_no_document_however_odd_makes_it_fail():
    deep = []
    for _ in range(900):
        deep = [deep]
    for value in (deep, {"a": deep}, None, 1, 1.5, True, [None, {"content": None}], [[1, "a"]], {}):
        for name in ("messages", "tools", "input", "system", "prompt"):
            of(**{name: value})
    assert of(prompt="\ud800" * BLOCK).length


def test_what_is_longer_than_any_cache_is_hashed_only_so_far():
    messages = talk(*["x" * BLOCK] * (MOST_BLOCKS + 500))
    asked = call(doc={"messages": messages}, body=b"x" * (BLOCK * (MOST_BLOCKS + 500)))
    found = prompt_of(asked)
    assert len(found.chain) == MOST_BLOCKS
    assert found.length == len(asked.body)


def test_the_dialect_makes_no_difference():
    doc = {"messages": talk(LONG)}
    openai = prompt_of(call(doc=doc))
    ollama = prompt_of(call(op=Op.CHAT, wire=Wire.OLLAMA, doc=doc))
    assert openai == ollama


def test_the_attribution_of_a_coding_agent_keeps_nobody_from_a_shared_beginning():
    def prompt(version):
        bill = {"type": "text", "text": f"x-anthropic-billing-header: cc_version={version};"}
        return of(system=[bill, {"type": "text", "text": LONG}], messages=talk("hello"))

    assert prompt("2.1.197.fa0") == prompt("2.1.197.fc8")
