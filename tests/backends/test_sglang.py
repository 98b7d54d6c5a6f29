"""What the sheet says of SGLang, held against its row and against recordings of it."""

from __future__ import annotations

from typing import Any

import pytest

from backends.sglang import SGLANG
from gateway.core.runtime import Answer, Support, Verdict, judge
from gateway.core.types import Health, Load, Model, Op, Sight, Wire
from tests.backends.recorded import answer, events, evidence, request_doc

PLAIN, GUARDED = "sglang-0.5.23", "sglang-0.5.23-guarded"
OPEN = {
    "/version": "get_version",
    "/": "get_root",
    "/ping": "get_ping",
    "/model_info": "get_model_info",
    "/v1/models": "get_models",
}
LOCKED = {"/version": "auth_none_version", "/": "auth_none_unknown_path"}
"""Every path behind the key gives the same answer, so one recording stands for another."""
OLLAMA_ROOT = Answer(200, body=b'"Ollama is running"', doc="Ollama is running")


def ok(doc: Any) -> Answer:
    return Answer(200, doc=doc)


def metrics(text: str) -> dict[str, Answer]:
    return {"/metrics": Answer(200, body=text.encode())}


def verdict(folder: str, case: str, op: Op = Op.CHAT) -> Verdict:
    found = answer(folder, case)
    return judge(SGLANG, op, found.status, found.text)


# -- who it is (sheet: sglang 3) -------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/model_info", "/v1/models"])
def test_each_of_its_marks_tells_it_alone(path: str):
    """sglang 3: root text, model_info, owned_by."""
    assert SGLANG.fingerprint(evidence(PLAIN, {path: OPEN[path]}))


def test_behind_a_key_its_401_outside_v1_tells_it():
    """sglang 3: vLLM leaves unguarded paths open."""
    assert SGLANG.fingerprint(evidence(GUARDED, LOCKED))


def test_a_guarded_vllm_is_not_taken_for_it():
    """sglang 3."""
    told = evidence(
        "vllm-0.32.0-guarded",
        {
            "/version": "auth_none_version",
            "/": "auth_none_unknown_path",
            "/v1/models": "auth_none_models",
        },
    )
    assert SGLANG.fingerprint(told) is None
    assert SGLANG.fingerprint(evidence("vllm-0.32.0", OPEN)) is None


def test_with_ollamas_root_text_it_is_still_known():
    """sglang 3: SGLANG_OLLAMA_ROOT_ROUTE=/ makes the root say Ollama."""
    assert SGLANG.fingerprint({**evidence(PLAIN, OPEN), "/": OLLAMA_ROOT})


def test_its_ollama_routes_and_ollamas_root_prove_nothing():
    """sglang 3: /api/tags answers on SGLang, and on Ollama."""
    told = {"/": OLLAMA_ROOT, "/api/tags": answer(PLAIN, "get_api_tags")}
    assert SGLANG.fingerprint(told) is None


def test_a_portico_is_not_taken_for_it_although_its_list_keeps_the_owner():
    """sglang 3: SGLang has no /version at all."""
    ours = {
        "/version": ok({"name": "portico", "version": "1.0"}),
        "/v1/models": answer(PLAIN, "get_models"),
    }
    assert SGLANG.fingerprint(ours) is None


@pytest.mark.parametrize("folder", ["xllamacpp-2026.10.11549", "llama-cpp-python-0.3.36"])
def test_llama_cpp_is_not_taken_for_it(folder: str):
    """sglang 3."""
    cases = {"/": "get_root", "/version": "get_version", "/v1/models": "get_models"}
    assert SGLANG.fingerprint(evidence(folder, cases)) is None


def test_the_rust_front_end_is_known_by_what_it_lacks():
    """sglang 1: no messages, Ollama or embeddings; tokenise only under /v1."""
    missing = answer(PLAIN, "get_unknown_path")
    told = {**evidence(PLAIN, OPEN), "/": missing, "/ping": missing}
    rust = SGLANG.row(SGLANG.variant(told))
    assert rust.cell(Wire.ANTHROPIC, Op.MESSAGES).support is Support.NO
    assert rust.cell(Wire.OPENAI, Op.EMBEDDINGS).support is Support.NO
    assert rust.cell(Wire.OPENAI, Op.TOKENIZE).path == "/v1/tokenize"
    assert rust.cell(Wire.OPENAI, Op.CHAT).support is Support.YES


def test_the_python_front_end_is_the_row_itself_also_with_another_root():
    """sglang 2: SGLANG_OLLAMA_ROOT_ROUTE moves the root away, /ping stays."""
    assert SGLANG.row(SGLANG.variant(evidence(PLAIN, OPEN))) is SGLANG
    moved = {**evidence(PLAIN, OPEN), "/": answer(PLAIN, "get_unknown_path")}
    assert SGLANG.variant(moved) == ""


def test_its_version_comes_with_the_load():
    """sglang 5: /v1/loads has it; there is no /version."""
    assert SGLANG.version(evidence(PLAIN, {"/v1/loads": "get_loads"})) == "0.5.23"
    assert SGLANG.version({}) == ""


def test_server_info_which_tells_its_keys_is_never_asked_for():
    """sglang 1, 12.10."""
    asked = (
        *SGLANG.clues,
        *SGLANG.model_paths,
        *SGLANG.load_paths,
        *SGLANG.version_paths,
        *SGLANG.probe.paths,
    )
    assert not any("server_info" in path for path in asked)


# -- health (sheet: sglang 2) ----------------------------------------------------------------------


def test_the_frequent_check_reads_a_flag_and_the_slow_one_generates():
    """sglang 2, 12.1: /health takes 1 s at best and 20 s at worst."""
    assert "/health" not in SGLANG.probe.paths
    assert SGLANG.probe.paths[0] == "/ready"
    assert SGLANG.deep is not None
    assert SGLANG.deep.paths == ("/health",)
    assert SGLANG.deep.timeout >= 25


def test_200_is_up():
    """sglang 2."""
    assert SGLANG.health(answer(PLAIN, "get_ping"))[0] is Health.UP
    assert SGLANG.health(answer(GUARDED, "overload_health"))[0] is Health.UP


def test_503_is_not_ready():
    """sglang 2: warm-up, pause, shut-down or a failed check."""
    state, detail = SGLANG.health(Answer(503))
    assert state is Health.LOADING
    assert "warming up" in detail


def test_no_connection_is_down():
    """sglang 1: refused during the load, and after a crash."""
    assert SGLANG.health(Answer(0, error="connection refused"))[0] is Health.DOWN


# -- models (sheet: sglang 4) ----------------------------------------------------------------------

BASE = {"id": "served", "owned_by": "sglang", "parent": None, "max_model_len": 4096}
LORA = {"id": "sql", "owned_by": "sglang", "parent": "served", "max_model_len": None}
WITH_LORA = {"/v1/models": ok({"object": "list", "data": [BASE, LORA]})}


def test_the_model_its_entry_and_its_context():
    """sglang 4."""
    (model,) = SGLANG.models(evidence(PLAIN, OPEN))
    assert (model.id, model.context, model.entry["owned_by"]) == ("tiny-chat", 4096, "sglang")
    assert model.aliases == ()
    assert SGLANG.upstream_model(model, Sight()) == "tiny-chat"


def test_an_adapter_is_asked_for_as_served_and_adapter():
    """sglang 10: by its bare name the base model would answer."""
    base, lora = SGLANG.models(WITH_LORA)
    assert SGLANG.upstream_model(base, Sight()) == "served"
    assert SGLANG.upstream_model(lora, Sight()) == "served:sql"


def test_an_adapter_answers_to_both_names_and_has_its_bases_context():
    """sglang 4: bare id, parent, max_model_len null."""
    lora = SGLANG.models(WITH_LORA)[1]
    assert (lora.id, lora.aliases, lora.context) == ("sql", ("served:sql",), 4096)


def test_a_served_name_with_a_colon_stays_whole():
    """sglang 6, 12.3: exact served names containing a colon are fine."""
    model = Model("qwen:7b", entry={"id": "qwen:7b", "parent": None})
    assert SGLANG.upstream_model(model, Sight()) == "qwen:7b"


def test_a_name_that_is_already_the_full_one_is_not_doubled():
    """sglang 10."""
    model = Model("served:sql", entry={"id": "served:sql", "parent": "served"})
    assert SGLANG.upstream_model(model, Sight()) == "served:sql"


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"is_generation": False}, {"embedding"}),
        ({"is_generation": True}, {"completion", "tools"}),
        (
            {"is_generation": True, "has_image_understanding": True, "reasoning_parser": "qwen3"},
            {"completion", "tools", "vision", "thinking"},
        ),
    ],
)
def test_model_info_tells_what_the_model_can(info: dict[str, Any], expected: set[str]):
    """sglang 2, 9, 10."""
    (model, _) = SGLANG.models({**WITH_LORA, "/model_info": ok(info)})
    assert model.capabilities == expected


def test_without_model_info_nothing_is_claimed():
    """sglang 2."""
    assert SGLANG.models(WITH_LORA)[0].capabilities is None


# -- load (sheet: sglang 5) ------------------------------------------------------------------------


def loads(*ranks: dict[str, Any], at: str = "2026-11-20T19:15:32+00:00") -> dict[str, Answer]:
    return {"/v1/loads": ok({"timestamp": at, "version": "0.5.23", "loads": list(ranks)})}


def test_the_recorded_snapshot():
    """sglang 5: /v1/loads works without --enable-metrics."""
    found = SGLANG.load(evidence(PLAIN, {"/v1/loads": "get_loads"}))
    assert found == Load(0.0, 0.0, 0.0, 0.0, progress=12.0, slots=2500, cache=20000)


def test_ranks_are_summed_and_shares_averaged():
    """sglang 5: one entry a data-parallel rank."""
    rank = {"num_running_reqs": 3, "num_waiting_reqs": 1, "max_running_requests": 8}
    found = SGLANG.load(loads({**rank, "token_usage": 0.5}, {**rank, "token_usage": 0.1}))
    assert (found.running, found.waiting, found.slots) == (6.0, 2.0, 16)
    assert found.kv_used == pytest.approx(0.3)


def test_a_stale_snapshot_is_not_believed_and_the_metrics_are():
    """sglang 5: renewed every 15 decode steps, so check its timestamp."""
    old = loads({"timestamp": 1795202000.0, "num_running_reqs": 9})
    assert SGLANG.load(old) == Load()
    assert SGLANG.load({**old, **metrics("sglang:num_running_reqs 1\n")}).running == 1.0


def test_one_fresh_rank_vouches_for_an_idle_one():
    """sglang 5."""
    ranks = loads(
        {"timestamp": 1795202000.0, "num_running_reqs": 0},
        {"timestamp": 1795202131.0, "num_running_reqs": 4},
    )
    assert SGLANG.load(ranks).running == 4.0


def test_metrics_stand_in_where_the_snapshot_is_refused():
    """sglang 5, 12.9: /v1/loads needs the key, /metrics does not."""
    told = {
        "/v1/loads": answer(GUARDED, "auth_none_unknown_path"),
        "/metrics": answer(GUARDED, "overload_metrics"),
    }
    found = SGLANG.load(told)
    assert (found.running, found.waiting, found.kv_used) == (2.0, 2.0, 0.02)
    assert found.hit_ratio == pytest.approx(63 / 95)
    assert found.progress


def test_counters_beat_the_snapshots_own_window():
    """sglang 5: cache_hit_rate is the last report window only."""
    told = {
        **loads({"num_running_reqs": 1, "cache_hit_rate": 0.9}),
        **metrics("sglang:prompt_tokens_total 100\nsglang:cached_tokens_total 20\n"),
    }
    assert SGLANG.load(told).hit_ratio == 0.2


def test_the_total_over_priorities_is_not_added_to_its_parts():
    """sglang 5: with priority scheduling the total sits under priority=""."""
    page = (
        'sglang:num_queue_reqs{priority=""} 5\n'
        'sglang:num_queue_reqs{priority="0"} 2\n'
        'sglang:num_queue_reqs{priority="9"} 3\n'
    )
    assert SGLANG.load(metrics(page)).waiting == 5.0


def test_tensor_ranks_repeat_a_number_and_data_ranks_add_to_it():
    """sglang 5: --enable-metrics-for-all-schedulers."""
    page = "".join(
        f'sglang:num_running_reqs{{dp_rank="{dp}",tp_rank="{tp}"}} {3 + dp}\n'
        for dp in (0, 1)
        for tp in (0, 1)
    )
    assert SGLANG.load(metrics(page)).running == 7.0


def test_the_total_of_cached_tokens_is_not_added_to_its_sources():
    """sglang 5: do not sum with cache_source="total"."""
    page = (
        'sglang:prompt_tokens_total{is_streaming="true"} 60\n'
        'sglang:prompt_tokens_total{is_streaming="false"} 40\n'
        'sglang:cached_tokens_total{cache_source="device"} 30\n'
        'sglang:cached_tokens_total{cache_source="host"} 10\n'
        'sglang:cached_tokens_total{cache_source="total"} 40\n'
    )
    assert SGLANG.load(metrics(page)).hit_ratio == 0.4


def test_metrics_that_are_off_are_no_load():
    """sglang 5, 12.9: 404 by default."""
    assert SGLANG.load({"/metrics": answer(PLAIN, "get_unknown_path")}) == Load()


@pytest.mark.parametrize("doc", [None, [], {"loads": None}, {"loads": ["x"]}, {"loads": []}])
def test_odd_snapshots_are_no_load(doc: Any):
    """sglang 5."""
    assert SGLANG.load({"/v1/loads": ok(doc)}) == Load()


def test_odd_numbers_in_a_snapshot_are_left_out():
    """sglang 5."""
    found = SGLANG.load(loads({"num_running_reqs": "many", "num_waiting_reqs": True}))
    assert found == Load()


# -- what its answers mean (sheet: sglang 6) -------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "op"), [("error_embeddings_on_chat", Op.EMBEDDINGS), ("rerank", Op.RERANK)]
)
def test_a_generative_model_does_not_embed(case: str, op: Op):
    """sglang 9: 400 naming --is-embedding."""
    assert verdict(PLAIN, case, op) is Verdict.UNSUPPORTED
    assert "--is-embedding" in SGLANG.cell(Wire.OPENAI, op).remedy


def test_a_client_cannot_word_its_input_so_that_a_surface_seems_missing():
    """sglang 6: validation messages repeat the input."""
    body = (
        '{"object":"error","message":"1 validation error: \'input\': \'x'
        '\\"message\\":\\"This model does not appear to be an embedding model","code":400}'
    )
    assert judge(SGLANG, Op.EMBEDDINGS, 400, body) is Verdict.CLIENT


def test_stored_responses_need_a_flag():
    """sglang 10: --enable-response-store. A request that builds on one is the client's affair."""
    assert verdict(PLAIN, "responses_get", Op.RESPONSES_BY_ID) is Verdict.UNSUPPORTED
    assert verdict(PLAIN, "responses_previous", Op.RESPONSES) is Verdict.CLIENT


def test_an_unrouted_path_is_an_unsupported_surface():
    """sglang 6: 404 {"detail":"Not Found"}."""
    assert verdict(PLAIN, "error_post_unknown_path", Op.TRANSLATE) is Verdict.UNSUPPORTED


@pytest.mark.parametrize(
    "body",
    [
        '{"error":{"message":"The model `x` does not exist.","type":"NotFoundError","code":404}}',
        '{"error":{"message":"x","type":"invalid_request_error","code":"model_not_found"}}',
    ],
)
def test_where_the_name_is_checked_an_unknown_one_is_known_as_such(body: str):
    """sglang 2, 6: /v1/responses and the Rust front end."""
    assert judge(SGLANG, Op.RESPONSES, 404, body) is Verdict.UNKNOWN_MODEL


def test_a_full_queue_is_an_overload():
    """sglang 6: --max-queued-requests, 503."""
    assert verdict(GUARDED, "overload_chat") is Verdict.OVERLOADED


def test_a_full_queue_is_an_overload_also_inside_a_stream():
    """sglang 6, 12.5: HTTP 200, an error event with code 503, then [DONE]."""
    assert answer(GUARDED, "overload_chat_stream").status == 200
    fault, done = events(GUARDED, "overload_chat_stream")
    assert done == "[DONE]"
    assert judge(SGLANG, Op.CHAT, fault["error"]["code"], str(fault)) is Verdict.OVERLOADED


def test_an_evicted_request_is_an_overload():
    """sglang 6: a lower priority can be evicted from a full queue."""
    body = '{"object":"error","message":"Aborted by a higher priority request.","code":503}'
    assert judge(SGLANG, Op.CHAT, 503, body) is Verdict.OVERLOADED


def test_a_priority_where_none_is_allowed_is_the_clients_fault_although_it_is_a_503():
    """sglang 6: --abort-on-priority-when-disabled."""
    body = '{"object":"error","message":"Using priority is disabled for this server.","code":503}'
    assert judge(SGLANG, Op.CHAT, 503, body) is Verdict.CLIENT


def test_a_failed_scheduler_is_the_engines_fault():
    """sglang 6: 500."""
    assert judge(SGLANG, Op.CHAT, 500, "Internal Server Error") is Verdict.ENGINE


@pytest.mark.parametrize("case", ["error_malformed_json", "error_too_long", "chat_image"])
def test_bad_requests_are_the_clients_fault(case: str):
    """sglang 6: 400."""
    assert verdict(PLAIN, case) is Verdict.CLIENT


@pytest.mark.parametrize("case", ["auth_none_chat", "auth_x_api_key_messages"])
def test_a_refused_key_is_ours(case: str):
    """sglang 1: 401 as a string; x-api-key is not taken."""
    assert verdict(GUARDED, case) is Verdict.AUTH


def test_a_key_that_may_not_is_ours():
    """sglang 1: 403 {"error":"Forbidden"}."""
    assert judge(SGLANG, Op.CHAT, 403, '{"error":"Forbidden"}') is Verdict.AUTH


# -- what goes to it (sheet: sglang 1, 8, 10) ------------------------------------------------------


def test_its_key_goes_out_as_bearer():
    """sglang 1."""
    assert SGLANG.auth == ("Authorization", "Bearer {key}")


@pytest.mark.parametrize(
    "header",
    [
        "x-data-parallel-rank",
        "x-custom-labels",
        "x-body-compressed",
        "x-sglext-ids-framed",
        "x-smg-routing-key",
        "x-override-*",
    ],
)
def test_headers_that_steer_the_engine_stay_behind(header: str):
    """sglang 7, 8, 10: a public gateway must strip these."""
    assert header in SGLANG.drops


def test_connections_are_dropped_before_the_server_drops_them():
    """sglang 8: 5 s keep-alive."""
    assert SGLANG.idle < 5


@pytest.mark.parametrize("case", ["chat", "chat_tools_auto", "error_stream_options"])
def test_requests_go_as_they_came(case: str):
    """sglang 10: native fields are accepted in the body."""
    assert SGLANG.rewrite(Op.CHAT, request_doc(PLAIN, case), Model("tiny-chat")) is None


# -- surfaces (sheet: sglang 2) --------------------------------------------------------------------


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
        (Wire.OPENAI, Op.TRANSLATE, Support.NO, ""),
        (Wire.OPENAI, Op.SPEECH, Support.NO, ""),
        (Wire.OPENAI, Op.IMAGES, Support.NO, ""),
        (Wire.OPENAI, Op.IMAGE_EDITS, Support.NO, ""),
        (Wire.OPENAI, Op.TOKENIZE, Support.YES, "/tokenize"),
        (Wire.OPENAI, Op.DETOKENIZE, Support.YES, "/detokenize"),
        (Wire.ANTHROPIC, Op.MESSAGES, Support.YES, "/v1/messages"),
        (Wire.ANTHROPIC, Op.COUNT_TOKENS, Support.YES, "/v1/messages/count_tokens"),
    ],
)
def test_each_surface_is_where_the_sheet_has_it(wire: Wire, op: Op, support: Support, path: str):
    """sglang 2: Routes, and what is not there."""
    cell = SGLANG.cell(wire, op)
    assert (cell.support, cell.path) == (support, path)


@pytest.mark.parametrize(
    "op",
    [Op.CHAT, Op.GENERATE, Op.EMBED, Op.EMBEDDINGS, Op.TAGS, Op.SHOW, Op.PS, Op.VERSION],
)
def test_its_imitation_of_ollama_is_not_used(op: Op):
    """sglang 7: it loses text and ignores fields; prefer the OpenAI routes."""
    cell = SGLANG.cell(Wire.OLLAMA, op)
    assert cell.support is Support.NO
    assert "imitation" in cell.note


@pytest.mark.parametrize(
    ("feature", "flag"),
    [
        ("tools", "--tool-call-parser"),
        ("embeddings", "--is-embedding"),
        ("reasoning", "--reasoning-parser"),
        ("cached tokens in usage", "--enable-cache-report"),
        ("stored responses", "--enable-response-store"),
        ("bounded queue", "--max-queued-requests"),
        ("metrics", "--enable-metrics"),
    ],
)
def test_features_name_their_flag(feature: str, flag: str):
    """sglang 5, 6, 7, 9, 10."""
    assert flag in SGLANG.flags[feature]
