"""Requests that no engine has to see are answered at once."""

from __future__ import annotations

import pytest
from ollama import ChatResponse, EmbedResponse, GenerateResponse

from gateway.core.types import Op
from gateway.translate.ollama_idle import answer
from tests.translate.asks import asking


@pytest.mark.parametrize("doc", [{}, {"messages": []}, {"messages": None, "keep_alive": "5m"}])
def test_a_chat_without_messages_loads(doc) -> None:
    found = answer(Op.CHAT, asking(doc))
    assert found == {
        "model": "m:latest",
        "created_at": "2026-11-20T18:40:00.000000Z",
        "message": {"role": "assistant", "content": ""},
        "done": True,
        "done_reason": "load",
    }
    assert ChatResponse(**found).done


@pytest.mark.parametrize("keep_alive", [0, 0.0, "0", "0s", "0h0m0s", "-0s", "+0m", "0.0s"])
def test_a_keep_alive_of_zero_unloads(keep_alive) -> None:
    found = answer(Op.GENERATE, asking({"prompt": "", "keep_alive": keep_alive}))
    assert found is not None
    assert GenerateResponse(**found).done_reason == "unload"
    assert found["response"] == ""


@pytest.mark.parametrize("keep_alive", [-1, 300, "5m", "0.5s", "10s", "", False, None])
def test_any_other_keep_alive_loads(keep_alive) -> None:
    found = answer(Op.GENERATE, asking({"keep_alive": keep_alive}))
    assert found is not None
    assert found["done_reason"] == "load"


@pytest.mark.parametrize("doc", [{}, {"input": ""}, {"input": []}])
def test_nothing_to_embed_is_no_vector(doc) -> None:
    found = answer(Op.EMBED, asking(doc))
    assert found is not None
    assert EmbedResponse(**found).embeddings == []
    assert answer(Op.EMBEDDINGS, asking({"prompt": ""})) == {"embedding": []}


@pytest.mark.parametrize(
    ("op", "doc"),
    [
        (Op.CHAT, {"messages": [{"role": "user", "content": ""}]}),
        (Op.CHAT, {"messages": "faulty"}),
        (Op.GENERATE, {"prompt": "Hi", "keep_alive": 0}),
        (Op.EMBED, {"input": [""]}),
        (Op.EMBED, {"input": 7}),
        (Op.EMBEDDINGS, {"prompt": "Hi"}),
        (Op.SHOW, {}),
    ],
)
def test_everything_else_is_for_the_engine(op, doc) -> None:
    assert answer(op, asking(doc)) is None
