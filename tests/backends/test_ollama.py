"""Ollama's row against its sheet: each test names the section it acts on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends import detect
from backends.ollama import BANNER, OLLAMA, full_name
from gateway.core.runtime import Answer, Evidence, Support, Verdict, judge
from gateway.core.types import Health, Model, Op, Wire
from tests.backends.recorded import evidence as recorded


def answer(doc: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, headers, json.dumps(doc).encode(), doc)


ROOT = Answer(200, body=BANNER.encode())
MISSING = Answer(404, body=b"404 page not found")
VERSION = answer({"version": "0.33.0"})
STATUS = answer({"cloud": {"disabled": False, "source": "none"}})
OWN = {"/": ROOT, "/api/version": VERSION, "/api/status": STATUS}
OLD = {"/": ROOT, "/api/version": answer({"version": "0.5.1"}), "/api/status": MISSING}


def detected(evidence: Evidence) -> bool:
    return OLLAMA.fingerprint(evidence) is not None


def test_api_status_with_cloud_marks_it_sheet_3() -> None:
    assert detected(OWN)
    assert detected({**OWN, "/": MISSING})


def test_detection_finds_it_among_all_rows_sheet_3() -> None:
    for seen in (OWN, OLD):
        found = detect({**seen, "/v1/models": listed("foo:latest")})
        assert found is not None
        assert found[0] is OLLAMA


def test_older_builds_are_told_by_banner_and_version_sheet_3() -> None:
    assert detected(OLD)
    assert not detected({**OLD, "/": Answer(200, body=b"hello")})
    assert not detected({**OLD, "/api/version": MISSING})


def test_the_tags_list_alone_is_no_proof_sheet_3() -> None:
    assert not detected({"/api/tags": answer({"models": []}), "/api/version": VERSION})


def test_localai_with_ollamas_root_text_is_not_it_sheet_3_localai_3() -> None:
    imitation = {"/": ROOT, "/api/version": answer({"version": "0.9.0"}), "/api/status": MISSING}
    assert not detected(
        {**imitation, "/.well-known/localai.json": answer({"version": "v4", "endpoints": {}})}
    )
    assert not detected({**imitation, "/readyz": Answer(200)})


def test_a_recorded_sglang_is_not_it_sheet_sglang_3() -> None:
    cases = {
        "/": "get_root",
        "/api/version": "get_api_version",
        "/api/tags": "get_api_tags",
        "/model_info": "get_model_info",
        "/version": "get_version",
        "/api/status": "get_unknown_path",
        "/readyz": "get_unknown_path",
    }
    seen = recorded("sglang-0.5.23", cases)
    assert not detected(seen)
    renamed = {**seen, "/": ROOT}
    assert not detected(renamed), "SGLANG_OLLAMA_ROOT_ROUTE=/"
    assert not detected({**renamed, "/api/version": VERSION})


def test_a_portico_is_not_it() -> None:
    assert not detected({**OWN, "/version": answer({"name": "portico", "version": "1.0.0"})})
    assert not detected({**OWN, "/api/version": answer({"version": "0.9.0"}, server="portico/1")})


def test_the_version_is_api_versions_sheet_2() -> None:
    assert OLLAMA.version(OWN) == "0.33.0"
    assert OLLAMA.version({"/api/version": MISSING}) == ""


def test_it_is_up_as_soon_as_it_answers_sheet_0() -> None:
    assert OLLAMA.probe.paths == ("/api/version",)
    assert OLLAMA.health(VERSION) == (Health.UP, "")
    assert OLLAMA.health(Answer(0, error="refused"))[0] is Health.DOWN


def test_a_refused_host_name_is_explained_sheet_1() -> None:
    health, detail = OLLAMA.health(Answer(403))
    assert health is Health.SICK
    assert "OLLAMA_HOST" in detail


def entry(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 1755771379, "owned_by": "library"}


def listed(*names: str) -> Answer:
    return answer({"object": "list", "data": [entry(name) for name in names] or None})


def tags(*rows: dict[str, Any]) -> Answer:
    return answer({"models": [{"name": row["model"], **row} for row in rows]})


def models(**answers: Answer) -> tuple[Model, ...]:
    paths = {"v1": "/v1/models", "tags": "/api/tags", "ps": "/api/ps"}
    return OLLAMA.models({paths[key]: value for key, value in answers.items()})


def test_null_data_is_an_empty_list_sheet_4() -> None:
    assert models(v1=listed(), tags=tags()) == ()
    assert models(v1=listed(), tags=answer({"models": None}), ps=answer({"models": None})) == ()


def test_entries_keep_the_openai_fields_sheet_4() -> None:
    (model,) = models(v1=listed("qwen3:8b"))
    assert model.entry == entry("qwen3:8b")
    assert model.loaded is None
    assert model.capabilities is None


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("foo", "foo:latest"),
        ("foo:latest", "foo:latest"),
        ("llama3.2:3b", "llama3.2:3b"),
        ("hf.co/org/repo", "hf.co/org/repo:latest"),
        ("host:5000/org/repo", "host:5000/org/repo:latest"),
    ],
)
def test_latest_is_implied_sheet_4(name: str, full: str) -> None:
    assert full_name(name) == full


def test_a_latest_model_answers_to_its_short_name_sheet_4() -> None:
    found = models(v1=listed("foo:latest", "bar", "qwen3:8b"))
    assert [model.aliases for model in found] == [("foo",), ("bar:latest",), ()]
    assert [OLLAMA.upstream_model(model, None) for model in found] == [  # type: ignore[arg-type]
        "foo:latest",
        "bar",
        "qwen3:8b",
    ]


def test_tags_add_capabilities_and_the_trained_context_sheet_2() -> None:
    row = {
        "model": "foo:latest",
        "details": {"context_length": 40960},
        "capabilities": ["completion", "tools"],
    }
    (model,) = models(v1=listed("foo:latest"), tags=tags(row))
    assert model.context == 40960
    assert model.capabilities == frozenset({"completion", "tools"})


def test_a_resident_models_context_is_what_it_was_loaded_with_sheet_5() -> None:
    row = {"model": "foo:latest", "details": {"context_length": 40960}}
    running = tags({"model": "foo:latest", "context_length": 4096})
    (model,) = models(v1=listed("foo:latest"), tags=tags(row), ps=running)
    assert model.context == 4096


def test_resident_models_are_loaded_sheet_5() -> None:
    found = models(v1=listed("a:1", "b:2"), ps=tags({"model": "b:2"}))
    assert [(model.id, model.loaded) for model in found] == [("a:1", False), ("b:2", True)]


def test_models_of_the_tags_are_found_without_the_openai_list_sheet_2() -> None:
    (model,) = models(v1=MISSING, tags=tags({"model": "foo:latest"}))
    assert model.id == "foo:latest"
    assert model.entry["owned_by"] == "library"


def test_cloud_models_are_left_out_sheet_4() -> None:
    hosted = {"model": "quiet:1b", "remote_host": "https://ollama.com:443"}
    found = models(
        v1=listed("gpt-oss:120b-cloud", "kimi:cloud", "quiet:1b", "own:1b"), tags=tags(hosted)
    )
    assert [model.id for model in found] == ["own:1b"]


def test_every_surface_has_a_cell() -> None:
    assert len(OLLAMA.cells) == 24
    assert {cell.support for (wire, _), cell in OLLAMA.cells.items() if wire is Wire.OLLAMA} == {
        Support.YES,
        Support.MODEL,
    }


@pytest.mark.parametrize(
    ("wire", "op"),
    [
        (Wire.ANTHROPIC, Op.COUNT_TOKENS),
        (Wire.OPENAI, Op.RERANK),
        (Wire.OPENAI, Op.IMAGES),
        (Wire.OPENAI, Op.SPEECH),
        (Wire.OPENAI, Op.TOKENIZE),
        (Wire.OPENAI, Op.RESPONSES_BY_ID),
    ],
)
def test_absent_routes_say_what_would_work_sheet_2(wire: Wire, op: Op) -> None:
    cell = OLLAMA.cell(wire, op)
    assert cell.support is Support.NO
    assert cell.note
    assert cell.remedy


def test_embeddings_depend_on_a_capability_sheet_9() -> None:
    for wire, op in ((Wire.OPENAI, Op.EMBEDDINGS), (Wire.OLLAMA, Op.EMBED)):
        assert OLLAMA.cell(wire, op).support is Support.MODEL
        assert "embedding" in OLLAMA.cell(wire, op).note


def test_origin_never_reaches_it_sheet_1() -> None:
    assert "origin" in OLLAMA.drops


def test_the_limit_is_renamed_sheet_11_1() -> None:
    doc = {"model": "m", "messages": [], "max_completion_tokens": 9, "max_tokens": 4}
    assert OLLAMA.rewrite(Op.CHAT, doc, None) == {"model": "m", "messages": [], "max_tokens": 9}


def test_a_null_limit_stays_sheet_11_1() -> None:
    doc: dict[str, Any] = {"messages": [], "max_completion_tokens": None, "max_tokens": 4}
    assert OLLAMA.rewrite(Op.CHAT, doc, None) is None


def rewritten(*messages: Any) -> list[Any] | None:
    doc = OLLAMA.rewrite(Op.CHAT, {"messages": list(messages)}, None)
    return None if doc is None else doc["messages"]


def test_null_content_becomes_empty_sheet_10_messages() -> None:
    message = {"role": "assistant", "content": None}
    assert rewritten(message) == [{"role": "assistant", "content": ""}]


def test_null_content_beside_tool_calls_stays_sheet_10_messages() -> None:
    assert rewritten({"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}) is None


def test_developer_becomes_system_sheet_10_messages() -> None:
    assert rewritten({"role": "developer", "content": "be brief"}) == [
        {"role": "system", "content": "be brief"}
    ]


def test_text_parts_stay_one_message_sheet_10_messages() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert rewritten({"role": "user", "content": parts}) == [{"role": "user", "content": "a\nb"}]


@pytest.mark.parametrize(
    "content",
    [
        "plain",
        [{"type": "text", "text": "one part"}],
        [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {"url": "http://x"}}],
        7,
    ],
)
def test_other_contents_go_as_they_are_sheet_10_images(content: Any) -> None:
    assert rewritten({"role": "user", "content": content}) is None


def test_a_refused_tool_choice_hides_the_tools_sheet_11_2() -> None:
    doc = {"messages": [], "tools": [{"type": "function"}], "tool_choice": "none", "seed": 1}
    assert OLLAMA.rewrite(Op.CHAT, doc, None) == {"messages": [], "seed": 1}
    assert OLLAMA.rewrite(Op.CHAT, {**doc, "tool_choice": "auto"}, None) is None


def test_a_list_of_one_prompt_becomes_a_string_sheet_10_completions() -> None:
    assert OLLAMA.rewrite(Op.COMPLETIONS, {"prompt": ["x"]}, None) == {"prompt": "x"}
    assert OLLAMA.rewrite(Op.COMPLETIONS, {"prompt": ["x", "y"]}, None) is None


def test_token_ids_for_embeddings_are_left_to_its_400_sheet_9() -> None:
    assert OLLAMA.rewrite(Op.EMBEDDINGS, {"input": [[1, 2]]}, None) is None


def test_the_original_body_is_never_changed() -> None:
    doc = {"messages": [{"role": "developer", "content": None}], "max_completion_tokens": 1}
    before = json.dumps(doc)
    OLLAMA.rewrite(Op.CHAT, doc, None)
    assert json.dumps(doc) == before


def chunk(model: str, **choice: Any) -> dict[str, Any]:
    return {"object": "chat.completion.chunk", "model": model, "choices": [{"index": 0, **choice}]}


LOST = chunk("", delta={"role": "assistant", "content": ""}, finish_reason=None)


def test_a_chunk_without_model_and_content_is_a_lost_error_sheet_6() -> None:
    fault = OLLAMA.event_fault(Wire.OPENAI, Op.CHAT, LOST)
    assert fault is not None
    assert fault[0] == 500
    text = {"model": "", "choices": [{"index": 0, "text": "", "finish_reason": None}]}
    assert OLLAMA.event_fault(Wire.OPENAI, Op.COMPLETIONS, text) is not None


@pytest.mark.parametrize(
    "event",
    [
        chunk("m", delta={"role": "assistant", "content": ""}, finish_reason=None),
        chunk("", delta={"content": "words"}, finish_reason=None),
        chunk("", delta={"content": "", "reasoning": "hm"}, finish_reason=None),
        chunk("", delta={}, finish_reason="stop"),
        {"model": "m", "choices": [], "usage": {}},
        {"choices": []},
        "[DONE]",
    ],
)
def test_other_chunks_are_no_fault_sheet_7(event: Any) -> None:
    assert OLLAMA.event_fault(Wire.OPENAI, Op.CHAT, event) is None


def test_a_stream_without_finish_reason_was_cut_sheet_6() -> None:
    assert OLLAMA.needs_finish


def test_llama_servers_error_is_read_out_of_the_text_sheet_6() -> None:
    inner = {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}
    for text in (json.dumps(inner), "runner: " + json.dumps(inner["error"])):
        assert OLLAMA.event_fault(Wire.OLLAMA, Op.CHAT, {"error": text}) == (400, "too long")


@pytest.mark.parametrize("text", ["plain words", "{broken", '{"no": "code"}', '{"code": 7}', None])
def test_other_native_errors_keep_their_general_reading_sheet_6(text: Any) -> None:
    assert OLLAMA.event_fault(Wire.OLLAMA, Op.CHAT, {"error": text}) is None


NO_EMBEDDINGS = "This server does not support embeddings. Start it with `--embeddings`"
NESTED = json.dumps({"error": '{"error":{"type":"exceed_context_size_error"}}'})


@pytest.mark.parametrize(
    ("op", "status", "text", "verdict"),
    [
        (Op.EMBEDDINGS, 501, NO_EMBEDDINGS, Verdict.UNSUPPORTED),
        (Op.EMBED, 501, NO_EMBEDDINGS, Verdict.UNSUPPORTED),
        (Op.EMBEDDINGS, 500, NO_EMBEDDINGS, Verdict.UNSUPPORTED),
        (Op.CHAT, 400, '"bert" does not support chat', Verdict.UNSUPPORTED),
        (Op.GENERATE, 400, '"bert" does not support generate', Verdict.UNSUPPORTED),
        (Op.CHAT, 400, "m does not support tools", Verdict.CLIENT),
        (Op.CHAT, 400, '"m" does not support thinking', Verdict.CLIENT),
        (Op.CHAT, 404, '{"error":"model \'x\' not found"}', Verdict.UNKNOWN_MODEL),
        (Op.CHAT, 404, 'model "x" not found, try pulling it first', Verdict.UNKNOWN_MODEL),
        (Op.RESPONSES, 404, "404 page not found", Verdict.UNSUPPORTED),
        (Op.CHAT, 499, "request canceled", Verdict.CLIENT),
        (Op.CHAT, 503, "server busy, please try again.  maximum pending", Verdict.OVERLOADED),
        (Op.CHAT, 401, '{"error":"unauthorized","signin_url":"…"}', Verdict.AUTH),
        (Op.CHAT, 403, "", Verdict.AUTH),
        (Op.CHAT, 400, NESTED, Verdict.CLIENT),
        (Op.EMBEDDINGS, 500, "the input length exceeds the context length", Verdict.CLIENT),
        (Op.CHAT, 500, "model requires more system memory", Verdict.ENGINE),
        (Op.CHAT, 500, "model runner has unexpectedly stopped", Verdict.ENGINE),
        (Op.CHAT, 500, "image input is not supported - hint: mmproj", Verdict.CLIENT),
        (Op.EMBED, 500, "input (901 tokens) is too large to process", Verdict.CLIENT),
        (Op.EMBEDDINGS, 400, "invalid input type", Verdict.CLIENT),
    ],
)
def test_the_phrase_book_sheet_6_and_9(op: Op, status: int, text: str, verdict: Verdict) -> None:
    assert judge(OLLAMA, op, status, text) is verdict
