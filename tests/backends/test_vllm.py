"""What the sheet says of vLLM, held against its row and against recordings of it."""

from __future__ import annotations

from typing import Any

import pytest

from backends.sglang import SGLANG
from backends.vllm import VLLM
from gateway.core.runtime import NO_ANSWER, Answer, Support, Verdict, judge
from gateway.core.types import Health, Load, Model, Op, Sight, Wire
from tests.backends.recorded import answer, events, evidence, request_doc

PLAIN, GUARDED, EMBEDDING = "vllm-0.32.0", "vllm-0.32.0-guarded", "vllm-0.32.0-embedding"
OPEN = {"/version": "get_version", "/v1/models": "get_models"}
LOCKED = {"/version": "auth_none_version", "/v1/models": "auth_none_models"}


def ok(doc: Any) -> Answer:
    return Answer(200, doc=doc)


def listing(*entries: dict[str, Any]) -> Answer:
    return ok({"object": "list", "data": list(entries)})


def verdict(folder: str, case: str, op: Op = Op.CHAT) -> Verdict:
    found = answer(folder, case)
    return judge(VLLM, op, found.status, found.text)


# -- who it is (sheet: vllm 3) ---------------------------------------------------------------------


def test_the_owner_of_the_models_tells_vllm():
    """vllm 3: owned_by."""
    assert "owned_by 'vllm'" in (VLLM.fingerprint(evidence(PLAIN, OPEN)) or "")


def test_behind_a_key_its_401_beside_an_open_version_tells_it():
    """vllm 1: /version stays open, /v1 does not; 401 is a string."""
    assert VLLM.fingerprint(evidence(GUARDED, LOCKED)) is not None


@pytest.mark.parametrize("cases", [OPEN, {"/version": "get_version"}])
def test_sglang_is_not_taken_for_vllm(cases: dict[str, str]):
    """vllm 3: SGLang has no /version."""
    assert VLLM.fingerprint(evidence("sglang-0.5.23", cases)) is None
    assert VLLM.fingerprint(evidence("sglang-0.5.23-guarded", LOCKED)) is None


@pytest.mark.parametrize("folder", ["xllamacpp-2026.10.11549", "llama-cpp-python-0.3.36"])
def test_llama_cpp_is_not_taken_for_vllm(folder: str):
    """vllm 3."""
    assert VLLM.fingerprint(evidence(folder, {"/v1/models": "get_models"})) is None


def test_a_portico_is_not_taken_for_vllm_although_its_list_keeps_the_owner():
    """vllm 3: one key in /version; ours has a name beside it."""
    ours = {**evidence(PLAIN, OPEN), "/version": ok({"name": "portico", "version": "1.0"})}
    assert VLLM.fingerprint(ours) is None


def test_a_list_with_other_owners_beside_vllm_is_a_gateways():
    """vllm 3: every entry of vLLM's own list has the same owner."""
    mixed = listing({"id": "a", "owned_by": "vllm"}, {"id": "b", "owned_by": "library"})
    assert VLLM.fingerprint({"/v1/models": mixed}) is None


def test_localai_has_a_version_alone_too_and_is_not_taken_for_vllm():
    """vllm 3: LocalAI's starts with a v, and its models have no owner."""
    told = {"/version": ok({"version": "v3.9.0 (abc)"}), "/v1/models": listing({"id": "a"})}
    assert VLLM.fingerprint(told) is None
    assert VLLM.version(told) == ""


@pytest.mark.parametrize("doc", [None, [], "x", {"data": None}, {"data": ["x"]}, {"data": {}}])
def test_odd_model_lists_are_nobody(doc: Any):
    """vllm 3."""
    assert VLLM.fingerprint({"/v1/models": ok(doc), "/version": NO_ANSWER}) is None


def test_the_rust_front_end_is_vllm_with_fewer_surfaces():
    """vllm 1: vllm-frontend-rs has no messages, count_tokens, responses or embeddings."""
    told = {"/v1/models": listing({"id": "m", "owned_by": "vllm-frontend-rs"})}
    assert VLLM.fingerprint(told)
    rust = VLLM.row(VLLM.variant(told))
    gone = [
        (Wire.OPENAI, Op.EMBEDDINGS),
        (Wire.OPENAI, Op.RESPONSES),
        (Wire.OPENAI, Op.RESPONSES_BY_ID),
        (Wire.ANTHROPIC, Op.MESSAGES),
        (Wire.ANTHROPIC, Op.COUNT_TOKENS),
    ]
    assert {rust.cell(*pair).support for pair in gone} == {Support.NO}
    assert "VLLM_USE_RUST_FRONTEND" in rust.cell(Wire.ANTHROPIC, Op.MESSAGES).remedy
    assert rust.cell(Wire.OPENAI, Op.CHAT).support is Support.YES


def test_the_python_front_end_is_the_row_itself():
    """vllm 1."""
    assert VLLM.row(VLLM.variant(evidence(PLAIN, OPEN))) is VLLM


def test_its_version():
    """vllm 2: /version, also behind a key."""
    assert VLLM.version(evidence(PLAIN, OPEN)) == "0.32.0"
    assert VLLM.version(evidence(GUARDED, LOCKED)) == "0.32.0"


# -- health (sheet: vllm 2) ------------------------------------------------------------------------


def test_health_200_is_up_also_when_all_its_room_is_taken():
    """vllm 2: /health reads a dead flag only."""
    assert VLLM.health(answer(PLAIN, "get_health")) == (Health.UP, "")
    assert VLLM.health(answer(GUARDED, "overload_health"))[0] is Health.UP
    assert VLLM.probe.paths == ("/health",)


def test_health_503_is_a_dead_engine_and_not_a_loading_one():
    """vllm 2: 503 empty when the engine is dead."""
    state, detail = VLLM.health(Answer(503))
    assert state is Health.SICK
    assert "died" in detail


def test_no_connection_may_also_mean_loading():
    """vllm 1: the socket does not listen until the engine has loaded."""
    state, detail = VLLM.health(Answer(0, error="connection refused"))
    assert state is Health.DOWN
    assert "once its model is loaded" in detail


def test_no_path_of_it_generates_a_token_for_a_check():
    """vllm 2: a hung engine keeps answering 200, and nothing deeper is offered."""
    assert VLLM.deep is None


# -- models (sheet: vllm 4) ------------------------------------------------------------------------


def test_a_model_keeps_its_entry_and_shows_its_context():
    """vllm 4: max_model_len."""
    (model,) = VLLM.models(evidence(PLAIN, OPEN))
    assert (model.id, model.context) == ("tiny-chat", 4096)
    assert model.entry["permission"]


def test_an_adapter_takes_the_context_of_its_parent_and_is_asked_by_its_name():
    """vllm 4: max_model_len of a LoRA is null. vllm 10: its name goes into model."""
    base = {"id": "base", "owned_by": "vllm", "parent": None, "max_model_len": 8192}
    lora = {"id": "sql", "owned_by": "vllm", "parent": "base", "max_model_len": None}
    found = VLLM.models({"/v1/models": listing(base, lora)})
    assert [(m.id, m.context) for m in found] == [("base", 8192), ("sql", 8192)]
    assert VLLM.upstream_model(found[1], Sight()) == "sql"


def test_every_alias_is_a_model():
    """vllm 4: one entry per served name, all with one root."""
    found = VLLM.models({"/v1/models": listing({"id": "a", "root": "r"}, {"id": "b", "root": "r"})})
    assert [m.id for m in found] == ["a", "b"]


# -- load (sheet: vllm 5) --------------------------------------------------------------------------


def test_load_comes_from_the_metrics():
    """vllm 5."""
    found = VLLM.load({"/metrics": answer(GUARDED, "overload_metrics")})
    assert (found.running, found.waiting) == (4.0, 0.0)
    assert found.kv_used == pytest.approx(0.00195, abs=1e-5)
    assert found.cache == 524_288
    assert found.hit_ratio == 0.0
    assert found.progress is not None
    assert found.progress > 765


def test_a_fresh_engine_has_no_hit_ratio_yet():
    """vllm 5: hits over queries, both 0 at first."""
    assert VLLM.load({"/metrics": answer(PLAIN, "get_metrics")}).hit_ratio is None


def test_ranks_are_summed_and_their_cache_use_is_averaged():
    """vllm 5: sum the gauges over `engine`; kv_cache_usage_perc is 0 to 1."""
    page = (
        b'vllm:num_requests_running{engine="0"} 2\nvllm:num_requests_running{engine="1"} 3\n'
        b'vllm:num_requests_waiting{engine="0"} 0\nvllm:num_requests_waiting{engine="1"} 7\n'
        b'vllm:kv_cache_usage_perc{engine="0"} 0.9\nvllm:kv_cache_usage_perc{engine="1"} 0.3\n'
        b'vllm:prefix_cache_queries_total{engine="0"} 100\n'
        b'vllm:prefix_cache_hits_total{engine="0"} 25\n'
        b'vllm:num_requests_waiting_by_reason{engine="1",reason="capacity"} 7\n'
    )
    found = VLLM.load({"/metrics": Answer(200, body=page)})
    assert (found.running, found.waiting) == (5.0, 7.0)
    assert found.kv_used == pytest.approx(0.6)
    assert found.hit_ratio == 0.25


def test_an_embedding_engine_shows_progress_though_it_generates_nothing():
    """vllm 5: prompt_tokens beside generation_tokens."""
    page = b"vllm:generation_tokens_total 0\nvllm:prompt_tokens_total 40\n"
    assert VLLM.load({"/metrics": Answer(200, body=page)}).progress == 40.0


def test_without_metrics_the_load_is_unknown_and_the_load_route_is_not_believed():
    """vllm 5, 12.5: /load is 0 unless a flag is set, and never the queue."""
    assert VLLM.load({"/metrics": answer(PLAIN, "get_unknown_path")}) == Load()
    assert VLLM.load_paths == ("/metrics",)


# -- what its answers mean (sheet: vllm 6) ---------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "case", "op"),
    [
        (PLAIN, "error_embeddings_on_chat", Op.EMBEDDINGS),
        (PLAIN, "rerank", Op.RERANK),
        (EMBEDDING, "chat_on_embedding_model", Op.CHAT),
    ],
)
def test_what_the_model_cannot_do_is_not_routed(folder: str, case: str, op: Op):
    """vllm 2, 9: 404 {"detail":"Not Found"}."""
    assert verdict(folder, case, op) is Verdict.UNSUPPORTED


def test_a_routed_surface_that_the_model_lacks():
    """vllm 6: 501 NotImplementedError."""
    body = '{"error":{"message":"no","type":"NotImplementedError","param":null,"code":501}}'
    assert judge(VLLM, Op.EMBEDDINGS, 501, body) is Verdict.UNSUPPORTED


@pytest.mark.parametrize(
    ("folder", "case", "op"),
    [
        (PLAIN, "error_unknown_model", Op.CHAT),
        (PLAIN, "error_unknown_model_stream", Op.CHAT),
        (PLAIN, "messages_unknown_model", Op.MESSAGES),
        (EMBEDDING, "embeddings_unknown_model", Op.EMBEDDINGS),
    ],
)
def test_an_unknown_model_is_not_an_unsupported_surface(folder: str, case: str, op: Op):
    """vllm 6: 404 NotFoundError, also in Anthropic's envelope."""
    assert verdict(folder, case, op) is Verdict.UNKNOWN_MODEL


@pytest.mark.parametrize("case", ["responses_get", "responses_previous"])
def test_an_unknown_response_is_the_clients_affair(case: str):
    """vllm 10: without the store no response is ever found."""
    assert verdict(PLAIN, case, Op.RESPONSES_BY_ID) is Verdict.CLIENT


@pytest.mark.parametrize("case", ["overload_chat", "overload_chat_stream"])
def test_a_full_queue_is_an_overload_streamed_or_not(case: str):
    """vllm 6: 503 Service Unavailable, before a stream starts."""
    assert verdict(GUARDED, case) is Verdict.OVERLOADED


def test_a_paused_engine_refuses_for_now():
    """vllm 2, 6: 503 ServiceUnavailableError while /health is 200."""
    body = '{"error":{"message":"paused","type":"ServiceUnavailableError","param":null,"code":503}}'
    assert judge(VLLM, Op.CHAT, 503, body) is Verdict.OVERLOADED


@pytest.mark.parametrize(
    "body",
    [
        '{"error":"The model is currently scaling. Please try again later."}',
        '{"error":"This rank has been retired."}',
    ],
)
def test_a_scaling_engine_and_a_retired_rank_are_not_ready(body: str):
    """vllm 2: elastic scaling answers 503 with a string while /health is 200."""
    assert judge(VLLM, Op.CHAT, 503, body) is Verdict.LOADING


def test_the_event_of_a_dead_engine_blames_the_engine():
    """vllm 6: HTTP 200, then an error event with code 500, then [DONE]."""
    *_, fault, done = events(GUARDED, "kill_kill_engine_core")
    assert done == "[DONE]"
    text = f'{{"error":{{"message":"{fault["error"]["message"]}"}}}}'
    assert judge(VLLM, Op.CHAT, fault["error"]["code"], text) is Verdict.ENGINE


def test_a_media_url_that_cannot_be_fetched_is_the_clients_fault():
    """vllm 6: 422 UnprocessableEntityError."""
    body = '{"error":{"message":"x","type":"UnprocessableEntityError","param":null,"code":422}}'
    assert judge(VLLM, Op.CHAT, 422, body) is Verdict.CLIENT


@pytest.mark.parametrize(
    "case",
    ["error_malformed_json", "error_too_long", "error_schema", "error_not_utf8", "chat_image"],
)
def test_bad_requests_are_the_clients_fault(case: str):
    """vllm 6: 400."""
    assert verdict(PLAIN, case) is Verdict.CLIENT


def test_a_client_cannot_word_its_input_so_that_a_surface_seems_missing():
    """vllm 6: 400s repeat the input; only an unquoted 404 means unrouted."""
    body = '{"error":{"message":"bad: {\\"detail\\":\\"Not Found\\"}","code":400}}'
    assert judge(VLLM, Op.CHAT, 400, body) is Verdict.CLIENT
    assert judge(VLLM, Op.CHAT, 404, body) is Verdict.CLIENT


@pytest.mark.parametrize(
    ("case", "op"),
    [
        ("auth_none_chat", Op.CHAT),
        ("auth_wrong_chat", Op.CHAT),
        ("auth_none_messages", Op.MESSAGES),
    ],
)
def test_a_refused_key_is_ours(case: str, op: Op):
    """vllm 1: 401 {"error":"Unauthorized"}."""
    assert verdict(GUARDED, case, op) is Verdict.AUTH


# -- what goes to it (sheet: vllm 1, 8, 10) --------------------------------------------------------


def test_its_key_goes_out_as_bearer_since_x_api_key_is_refused():
    """vllm 1, 12.4."""
    assert answer(GUARDED, "auth_x_api_key_messages").status == 401
    assert VLLM.auth == ("Authorization", "Bearer {key}")


@pytest.mark.parametrize("header", ["x-data-parallel-rank", "x-vllm-priority"])
def test_headers_that_steer_the_scheduler_stay_behind(header: str):
    """vllm 10: rank pinning, and a priority that wins over the body's."""
    assert header in VLLM.drops


def test_its_request_id_is_taken_in():
    """vllm 8: X-Request-Id is the base of the answer's id."""
    assert VLLM.request_ids == ("X-Request-Id",)
    assert answer(PLAIN, "request_id").doc["id"] == "chatcmpl-req-123"


def test_connections_are_dropped_before_the_server_drops_them():
    """vllm 8, 12.2: 5 s keep-alive."""
    assert VLLM.idle < 5


def test_an_empty_list_of_tools_is_left_out():
    """vllm 10: tools: [] is a 400, and so is tool_choice without tools."""
    doc = {"model": "m", "messages": [], "tools": [], "tool_choice": "auto", "x": 1}
    assert VLLM.rewrite(Op.CHAT, doc, None) == {"model": "m", "messages": [], "x": 1}
    assert VLLM.rewrite(Op.CHAT, {"tools": []}, None) == {}


def test_a_demanded_tool_without_tools_is_still_refused_by_the_engine():
    """vllm 10."""
    doc = {"tools": [], "tool_choice": "required"}
    assert VLLM.rewrite(Op.CHAT, doc, None) == {"tool_choice": "required"}


@pytest.mark.parametrize("kind", ["json", "regex", "choice", "grammar"])
@pytest.mark.parametrize("op", [Op.CHAT, Op.COMPLETIONS])
def test_guided_fields_get_their_new_name_beside_the_old(kind: str, op: Op):
    """vllm 10, 12.11: guided_* is ignored in silence."""
    doc = {"model": "m", f"guided_{kind}": "V"}
    assert VLLM.rewrite(op, doc, None) == {**doc, "structured_outputs": {kind: "V"}}


def test_the_new_name_is_believed_over_the_old():
    """vllm 12.11."""
    doc = {"guided_json": {"type": "object"}, "structured_outputs": {"regex": "a"}}
    assert VLLM.rewrite(Op.CHAT, doc, None) is None


@pytest.mark.parametrize(
    "case", ["chat", "chat_tools_auto", "chat_stream_usage", "chat_unknown_field", "completion"]
)
def test_other_requests_go_as_they_came(case: str):
    """vllm 10: unknown fields are ignored, so nothing else needs a change."""
    op = Op.COMPLETIONS if case == "completion" else Op.CHAT
    assert VLLM.rewrite(op, request_doc(PLAIN, case), Model("tiny-chat")) is None


def test_stream_options_without_a_stream_stay_wrong():
    """vllm 7: 400, as OpenAI itself answers."""
    assert VLLM.rewrite(Op.CHAT, request_doc(PLAIN, "error_stream_options"), None) is None


# -- surfaces (sheet: vllm 2) ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wire", "op", "support", "path"),
    [
        (Wire.OPENAI, Op.CHAT, Support.YES, "/v1/chat/completions"),
        (Wire.OPENAI, Op.COMPLETIONS, Support.YES, "/v1/completions"),
        (Wire.OPENAI, Op.RESPONSES, Support.YES, "/v1/responses"),
        (Wire.OPENAI, Op.RESPONSES_BY_ID, Support.FLAG, ""),
        (Wire.OPENAI, Op.EMBEDDINGS, Support.MODEL, "/v1/embeddings"),
        (Wire.OPENAI, Op.RERANK, Support.MODEL, "/v1/rerank"),
        (Wire.OPENAI, Op.SCORE, Support.MODEL, "/v1/score"),
        (Wire.OPENAI, Op.TRANSCRIBE, Support.MODEL, "/v1/audio/transcriptions"),
        (Wire.OPENAI, Op.TRANSLATE, Support.MODEL, "/v1/audio/translations"),
        (Wire.OPENAI, Op.TOKENIZE, Support.YES, "/tokenize"),
        (Wire.OPENAI, Op.DETOKENIZE, Support.YES, "/detokenize"),
        (Wire.ANTHROPIC, Op.MESSAGES, Support.YES, "/v1/messages"),
        (Wire.ANTHROPIC, Op.COUNT_TOKENS, Support.YES, "/v1/messages/count_tokens"),
        (Wire.OPENAI, Op.SPEECH, Support.NO, ""),
        (Wire.OPENAI, Op.IMAGES, Support.NO, ""),
        (Wire.OPENAI, Op.IMAGE_EDITS, Support.NO, ""),
        *((Wire.OLLAMA, op, Support.NO, "") for op in (Op.CHAT, Op.GENERATE, Op.EMBED, Op.TAGS)),
    ],
)
def test_each_surface_is_where_the_sheet_has_it(wire: Wire, op: Op, support: Support, path: str):
    """vllm 2: Routes, and what is not there."""
    cell = VLLM.cell(wire, op)
    assert (cell.support, cell.path) == (support, path)


@pytest.mark.parametrize("row", [VLLM, VLLM.row("rust"), SGLANG, SGLANG.row("rust")])
def test_whatever_is_not_simply_there_says_what_would_help(row: Any):
    """A 501 names what would work (INTERFACE 4)."""
    short = {k for k, cell in row.cells.items() if cell.support is not Support.YES}
    assert all(row.cells[key].remedy and row.cells[key].note for key in short)


@pytest.mark.parametrize(
    ("feature", "flag"),
    [
        ("tools", "--enable-auto-tool-choice --tool-call-parser"),
        ("embeddings", "--runner pooling"),
        ("reasoning", "--reasoning-parser"),
        ("cached tokens in usage", "--enable-prompt-tokens-details"),
        ("bounded queue", "--max-num-queued-reqs"),
        ("metrics", "--disable-log-stats"),
    ],
)
def test_features_name_their_flag(feature: str, flag: str):
    """vllm 5, 6, 7, 10."""
    assert flag in VLLM.flags[feature]


def test_older_engines_tell_their_cache_in_blocks_and_all_engines_add_up():
    """Sheet: vllm 5."""
    page = "".join(
        f'vllm:cache_config_info{{engine="{n}",block_size="16",num_gpu_blocks="1000"}} 1.0\n'
        for n in range(2)
    )
    assert VLLM.load({"/metrics": Answer(200, body=page.encode())}).cache == 32_000
