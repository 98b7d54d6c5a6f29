"""LocalAI's row against its sheet: each test names the section it acts on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends import BY_NAME, detect
from backends.localai import INTERNAL, LOCALAI, WELL_KNOWN
from gateway.core.runtime import Answer, Evidence, Support, Verdict, judge
from gateway.core.types import Health, Op, Wire
from tests.backends.recorded import evidence as recorded

CARD = {"version": "v4.9.0 (82c191afa)", "endpoints": {"models": "/v1/models"}}


def answer(doc: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, headers, json.dumps(doc).encode(), doc)


MISSING = answer({"error": {"code": 404, "message": "Resource not found"}}, 404)
LOCKED = answer({"error": {"code": 401, "message": "An authentication key is required"}}, 401)
EMPTY = Answer(200)


def error(message: str, kind: str = "", code: int | str = 500) -> str:
    return json.dumps({"error": {"code": code, "message": message, "type": kind}})


def detected(evidence: Evidence) -> bool:
    return LOCALAI.fingerprint(evidence) is not None


def test_the_well_known_file_marks_it_sheet_3() -> None:
    assert detected({WELL_KNOWN: answer(CARD)})
    assert LOCALAI.clues[0] == WELL_KNOWN


def test_it_is_known_by_the_public_file_although_a_key_guards_the_rest_sheet_1() -> None:
    guarded = dict.fromkeys(("/version", "/api/version", "/api/status", "/v1/models"), LOCKED)
    assert detected({WELL_KNOWN: answer(CARD), **guarded})


def test_detection_prefers_it_to_all_whose_marks_it_bears_sheet_3() -> None:
    seen = {
        WELL_KNOWN: answer(CARD),
        "/": Answer(200, body=b"Ollama is running"),
        "/readyz": EMPTY,
        "/version": answer({"version": "v4.9.0 (82c191afa)"}),
        "/api/version": answer({"version": "0.9.0"}),
        "/api/status": MISSING,
        "/v1/models": answer({"object": "list", "data": [{"id": "m", "object": "model"}]}),
    }
    found = detect(seen)
    assert found is not None
    assert found[0] is LOCALAI


def test_builds_without_the_file_show_readyz_and_a_commit_sheet_3() -> None:
    version = answer({"version": "v3.1.0 (82c191afa)"})
    assert detected({WELL_KNOWN: MISSING, "/readyz": EMPTY, "/version": version})
    assert not detected({"/readyz": MISSING, "/version": version})
    assert not detected({"/readyz": EMPTY, "/version": answer({"version": "0.32.0"})})


def test_its_constant_ollama_version_without_api_status_marks_it_sheet_3() -> None:
    imitation = {"/api/version": answer({"version": "0.9.0"}), "/api/status": MISSING}
    assert detected({**imitation, "/readyz": EMPTY})
    assert not detected({**imitation, "/readyz": Answer(404, body=b"404 page not found")})


@pytest.mark.parametrize("folder", ["vllm-0.32.0", "sglang-0.5.23"])
def test_other_engines_are_not_taken_for_it_sheet_3(folder: str) -> None:
    cases = {"/version": "get_version", "/api/version": "get_api_version"}
    unknown = dict.fromkeys((WELL_KNOWN, "/readyz", "/api/status"), "get_unknown_path")
    assert not detected(recorded(folder, cases | unknown))


def test_a_portico_is_not_taken_for_it() -> None:
    gateway = {"/readyz": EMPTY, "/api/version": answer({"version": "0.9.0"})}
    named = {"/version": answer({"name": "portico", "version": "v1.0.0 (abc123)"})}
    assert not detected({**gateway, **named, "/api/status": MISSING})
    assert not detected({WELL_KNOWN: answer(CARD, server="portico/1.0")})


def test_it_is_judged_before_those_it_imitates_sheet_3() -> None:
    assert LOCALAI.rank < min(BY_NAME[name].rank for name in ("ollama", "vllm", "llamacpp"))


@pytest.mark.parametrize(
    ("evidence", "version"),
    [
        ({WELL_KNOWN: answer(CARD)}, "4.9.0"),
        ({WELL_KNOWN: MISSING, "/version": answer({"version": "v3.1.0 (abc)"})}, "3.1.0"),
        ({WELL_KNOWN: MISSING, "/version": LOCKED}, ""),
    ],
)
def test_the_version_is_told_without_the_commit_sheet_2(evidence: Evidence, version: str) -> None:
    assert LOCALAI.version(evidence) == version


def test_readyz_tells_starting_from_ready_sheet_2() -> None:
    starting = answer({"status": "starting", "reason": "startup preload in progress"}, 503)
    assert LOCALAI.probe.paths == ("/readyz",)
    assert LOCALAI.health(EMPTY) == (Health.UP, "")
    assert LOCALAI.health(starting) == (
        Health.LOADING,
        "is starting: startup preload in progress",
    )
    assert LOCALAI.health(Answer(0, error="refused"))[0] is Health.DOWN


LIST = answer({"object": "list", "data": [{"id": "qwen3", "object": "model"}, {"id": "bert"}]})


def test_entries_are_completed_for_typed_clients_sheet_4() -> None:
    first, _ = LOCALAI.models({"/v1/models": LIST})
    assert first.entry == {"created": 0, "owned_by": "localai", "id": "qwen3", "object": "model"}


def test_loaded_models_are_those_of_system_sheet_4() -> None:
    system = answer({"backends": [], "loaded_models": [{"id": "bert", "backend": "llama-cpp"}]})
    models = LOCALAI.models({"/v1/models": LIST, "/system": system})
    assert [model.loaded for model in models] == [False, True]


def test_a_closed_system_page_leaves_loaded_open_sheet_1() -> None:
    models = LOCALAI.models({"/v1/models": LIST, "/system": LOCKED})
    assert [model.loaded for model in models] == [None, None]


def test_capabilities_come_from_their_own_list_sheet_4() -> None:
    able = answer({"data": [{"id": "bert", "capabilities": ["embeddings"]}, {"id": "qwen3"}]})
    models = LOCALAI.models({"/v1/models": LIST, "/v1/models/capabilities": able})
    assert [model.capabilities for model in models] == [None, frozenset({"embeddings"})]


def test_every_surface_has_a_cell() -> None:
    assert {op for wire, op in LOCALAI.cells if wire is Wire.OLLAMA} == {
        Op.CHAT,
        Op.GENERATE,
        Op.EMBED,
        Op.EMBEDDINGS,
        Op.TAGS,
        Op.SHOW,
        Op.PS,
        Op.VERSION,
    }
    assert len(LOCALAI.cells) == 24


def test_the_ollama_imitation_is_not_used_sheet_2() -> None:
    for (wire, _), cell in LOCALAI.cells.items():
        if wire is Wire.OLLAMA:
            assert cell.support is Support.NO
            assert "tools" in cell.note


def test_tokenizing_is_under_v1_sheet_2() -> None:
    assert LOCALAI.cell(Wire.OPENAI, Op.TOKENIZE).path == "/v1/tokenize"
    assert LOCALAI.cell(Wire.OPENAI, Op.DETOKENIZE).path == "/v1/detokenize"


def test_there_is_no_count_tokens_and_no_image_edit_route_sheet_2() -> None:
    assert LOCALAI.cell(Wire.ANTHROPIC, Op.MESSAGES).path == "/v1/messages"
    assert LOCALAI.cell(Wire.ANTHROPIC, Op.COUNT_TOKENS).support is Support.NO
    assert LOCALAI.cell(Wire.OPENAI, Op.IMAGE_EDITS).support is Support.NO


def test_embeddings_depend_on_the_models_configuration_sheet_9() -> None:
    cell = LOCALAI.cell(Wire.OPENAI, Op.EMBEDDINGS)
    assert cell.support is Support.MODEL
    assert "embeddings: true" in cell.remedy


@pytest.mark.parametrize(
    "header",
    [
        "sec-fetch-site",
        "sec-fetch-mode",
        "cookie",
        "extra-usage",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-prefix",
        "forwarded",
        "x-localai-node",
        "xi-api-key",
    ],
)
def test_headers_that_change_its_behaviour_are_dropped_sheet_0_and_1(header: str) -> None:
    assert header in LOCALAI.drops


def test_our_request_id_goes_up_as_its_correlation_id_sheet_8() -> None:
    assert "X-Correlation-ID" in LOCALAI.request_ids
    assert "x-correlation-id" in LOCALAI.drops, "the caller's would be a second one"


def test_connections_are_kept_shorter_than_its_120_seconds_sheet_1() -> None:
    assert LOCALAI.idle < 120


def test_a_streamed_completion_gets_one_prompt_string_sheet_6() -> None:
    doc = {"model": "m", "prompt": ["once"], "stream": True}
    assert LOCALAI.rewrite(Op.COMPLETIONS, doc, None) == {**doc, "prompt": "once"}


@pytest.mark.parametrize(
    ("op", "doc"),
    [
        (Op.COMPLETIONS, {"prompt": ["once"], "stream": False}),
        (Op.COMPLETIONS, {"prompt": ["once", "twice"], "stream": True}),
        (Op.COMPLETIONS, {"prompt": [[1, 2]], "stream": True}),
        (Op.COMPLETIONS, {"prompt": [7], "stream": True}),
        (Op.COMPLETIONS, {"prompt": "once", "stream": True}),
        (Op.EMBEDDINGS, {"input": ["once"], "prompt": ["x"], "stream": True}),
    ],
)
def test_other_bodies_go_as_they_are_sheet_6(op: Op, doc: dict[str, Any]) -> None:
    assert LOCALAI.rewrite(op, doc, None) is None


def chunk(text: str, finish: str | None) -> dict[str, Any]:
    return {"object": "text_completion", "choices": [{"text": text, "finish_reason": finish}]}


def test_an_internal_error_in_a_completion_chunk_is_a_fault_sheet_6() -> None:
    event = chunk(INTERNAL + "rpc error: code = Unknown", "stop")
    assert LOCALAI.event_fault(Wire.OPENAI, Op.COMPLETIONS, event) == (
        500,
        "rpc error: code = Unknown",
    )


@pytest.mark.parametrize(
    "event",
    [
        chunk(INTERNAL + "is what the model wrote", None),
        chunk("The log says Internal error: 7", "stop"),
        {"choices": []},
        {"choices": None},
        "[DONE]",
    ],
)
def test_ordinary_completion_chunks_are_no_fault_sheet_6(event: Any) -> None:
    assert LOCALAI.event_fault(Wire.OPENAI, Op.COMPLETIONS, event) is None


def test_a_chat_that_begins_with_the_same_words_is_no_fault_sheet_6() -> None:
    assert LOCALAI.event_fault(Wire.OPENAI, Op.CHAT, chunk(INTERNAL + "x", "stop")) is None


def test_an_ollama_frame_that_is_done_by_error_is_a_fault_sheet_2() -> None:
    frame = {"done": True, "done_reason": "error"}
    fault = LOCALAI.event_fault(Wire.OLLAMA, Op.CHAT, frame)
    assert fault is not None
    assert fault[0] == 500
    assert LOCALAI.event_fault(Wire.OLLAMA, Op.CHAT, {**frame, "done_reason": "stop"}) is None


UNIMPLEMENTED = "rpc error: code = Unimplemented desc = unknown method"
NO_EMBEDDINGS = "rpc error: code = Unknown desc = This server does not support embeddings."
TOO_LONG = 'rpc error: desc = {"type":"exceed_context_size_error"}'


@pytest.mark.parametrize(
    ("op", "status", "text", "verdict"),
    [
        (Op.CHAT, 404, error('model "x" not found. To see …', code=404), Verdict.UNKNOWN_MODEL),
        (Op.CHAT, 404, "", Verdict.UNKNOWN_MODEL),
        (Op.RESPONSES, 404, error("Resource not found"), Verdict.UNSUPPORTED),
        (Op.RESPONSES_BY_ID, 404, error("response not found: resp_1"), Verdict.CLIENT),
        (Op.CHAT, 403, error("disabled", "model_disabled"), Verdict.UNKNOWN_MODEL),
        (Op.CHAT, 400, error("code=400, message=failed parsing request body"), Verdict.CLIENT),
        (Op.RERANK, 422, '"top_n must be at least 1"', Verdict.CLIENT),
        (Op.CHAT, 401, LOCKED.text, Verdict.AUTH),
        (Op.CHAT, 413, "", Verdict.CLIENT),
        (Op.CHAT, 429, error("quota", "quota_exceeded"), Verdict.OVERLOADED),
        (Op.CHAT, 503, error("full", "admission_rejected"), Verdict.OVERLOADED),
        (Op.CHAT, 429, error("full", code="admission_rejected"), Verdict.OVERLOADED),
        (Op.CHAT, 503, error("still loading", "model_loading"), Verdict.LOADING),
        (Op.CHAT, 503, '{"status":"starting","reason":"preload"}', Verdict.LOADING),
        (Op.CHAT, 503, error("in cool-down after a failed load"), Verdict.OVERLOADED),
        (Op.CHAT, 503, "", Verdict.OVERLOADED),
        (Op.CHAT, 500, error("rpc error: code = Unavailable desc = gone"), Verdict.ENGINE),
        (Op.SPEECH, 500, error(UNIMPLEMENTED), Verdict.UNSUPPORTED),
        (Op.EMBEDDINGS, 500, error(NO_EMBEDDINGS), Verdict.UNSUPPORTED),
        (Op.EMBEDDINGS, 500, error("rpc error: code = Unknown desc = x"), Verdict.ENGINE),
        (Op.CHAT, 500, error("rpc error: code = InvalidArgument"), Verdict.CLIENT),
        (Op.CHAT, 500, error(TOO_LONG), Verdict.CLIENT),
        (Op.CHAT, 500, 'model "m" is at capacity (max_concurrent=2)', Verdict.OVERLOADED),
    ],
)
def test_the_phrase_book_sheet_6(op: Op, status: int, text: str, verdict: Verdict) -> None:
    assert judge(LOCALAI, op, status, text) is verdict


def test_instructions_in_the_middle_are_said_in_the_users_turn() -> None:
    """Its anthropic/messages.go hands roles on as they came, and templates may be strict."""
    turns = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    changed = LOCALAI.rewrite(Op.MESSAGES, {"messages": turns}, None)
    assert changed is not None
    assert [message["role"] for message in changed["messages"]] == ["user"]
    assert LOCALAI.rewrite(Op.MESSAGES, {"messages": turns[:1]}, None) is None
