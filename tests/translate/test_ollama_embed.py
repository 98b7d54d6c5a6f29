"""Ollama's two embedding routes through /v1/embeddings."""

from __future__ import annotations

from math import hypot

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ollama import EmbeddingsResponse, EmbedResponse

from backends import BY_NAME
from gateway.core.errors import Refusal
from gateway.translate.ollama_embed import EMBED, EMBEDDINGS, unit
from tests.backends.recorded import answer
from tests.translate.asks import asked, asking

RECORDED = answer("vllm-0.32.0-embedding", "embeddings_two").doc
PYTHON = answer("llama-cpp-python-0.3.36-embedding", "embeddings_two").doc


def rows(*vectors):
    return {"data": [{"index": i, "embedding": list(v)} for i, v in enumerate(vectors)]}


def refused(bridge, doc) -> Refusal:
    with pytest.raises(Refusal) as caught:
        asked(bridge, doc)
    return caught.value


@pytest.mark.parametrize("given", ["one", ["one"], ["one", "two"]])
def test_texts_are_sent_as_they_are(given) -> None:
    found = asked(EMBED, {"model": "m", "input": given})
    assert found.doc == {"model": "m:latest", "input": given, "encoding_format": "float"}
    assert found.lost == ()


@pytest.mark.parametrize("given", [7, [1, 2], [["a"]], None, {"a": 1}])
def test_other_inputs_are_refused(given) -> None:
    refusal = refused(EMBED, {"input": given})
    assert (refusal.kind, refusal.param) == ("invalid_request", "input")


def test_an_explicit_truncate_is_told_to_engines_that_can() -> None:
    doc = {"input": "x", "truncate": True, "options": {"num_ctx": 9}, "keep_alive": "1m"}
    lost = asked(EMBED, doc).lost
    assert set(lost) == {"truncate", "options.num_ctx", "keep_alive"}
    found = EMBED.request(asking(doc, extras=BY_NAME["vllm"].extras))
    assert found.doc["truncate_prompt_tokens"] == -1
    assert "truncate" not in found.lost
    assert asked(EMBED, {"input": "x", "truncate": False}).lost == ()


@pytest.mark.parametrize("doc", [RECORDED, PYTHON])
def test_recorded_vectors_come_back_in_order_and_of_length_one(doc) -> None:
    found = EMBED.reply(doc, asking({}, clock=lambda: 3.0, arrived=1.0, sent=1.5))
    assert EmbedResponse(**found).embeddings
    assert [hypot(*vector) for vector in found["embeddings"]] == pytest.approx([1.0, 1.0])
    assert found["prompt_eval_count"] == doc["usage"]["prompt_tokens"]
    assert (found["total_duration"], found["load_duration"]) == (2_000_000_000, 500_000_000)
    assert "eval_duration" not in found


def test_vectors_are_sorted_by_their_index() -> None:
    doc = rows([1.0, 0.0], [0.0, 1.0])
    doc["data"].reverse()
    assert EMBED.reply(doc, asking({}))["embeddings"] == [[1.0, 0.0], [0.0, 1.0]]


def test_dimensions_cut_any_models_vectors_and_make_them_unit_again() -> None:
    doc = rows([0.6, 0.0, 0.8])
    assert EMBED.reply(doc, asking({"dimensions": 2}))["embeddings"] == [[1.0, 0.0]]
    assert EMBED.reply(doc, asking({"dimensions": 99}))["embeddings"] == [[0.6, 0.0, 0.8]]
    assert "dimensions" not in asked(EMBED, {"input": "x", "dimensions": 2}).doc
    for wrong in (-1, "2", True, 1.5):
        assert refused(EMBED, {"input": "x", "dimensions": wrong}).param == "dimensions"


def test_the_old_route_gives_one_vector_as_it_is() -> None:
    assert asked(EMBEDDINGS, {"prompt": "x"}).doc["input"] == "x"
    found = EMBEDDINGS.reply(rows([3.0, 4.0]), asking({}))
    assert EmbeddingsResponse(**found).embedding == [3.0, 4.0]
    assert refused(EMBEDDINGS, {"prompt": ["x"]}).param == "prompt"
    with pytest.raises(Refusal):
        EMBEDDINGS.reply(rows([1.0], [1.0]), asking({}))


@pytest.mark.parametrize("doc", [{}, {"data": []}, {"data": [{"embedding": "AAAA"}]}])
def test_an_answer_without_vectors_is_the_engines_fault(doc) -> None:
    with pytest.raises(Refusal) as caught:
        EMBED.reply(doc, asking({}))
    assert caught.value.status == 502


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_a_unit_vector_has_length_one_unless_it_is_zero(vector) -> None:
    length = hypot(*unit(vector))
    assert length == pytest.approx(1.0, abs=1e-5) or hypot(*vector) == 0
