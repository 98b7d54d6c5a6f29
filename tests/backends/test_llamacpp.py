"""The three llama.cpp rows against recordings of the real servers and the sheet."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.llamacpp import LLAMACPP
from gateway.core.runtime import Answer, Runtime, Support, Verdict, judge
from gateway.core.types import Health, Load, Op, Wire
from tests.backends.recorded import answer, events, evidence, recording, request_doc

ONE = "xllamacpp-2026.10.11549"
DEV = "llama-server-0.5.0-dev"
DEV_KEY = f"{DEV}-guarded"
PY = "llama-cpp-python-0.3.36"
PY_KEY = f"{PY}-guarded"
PY_EMBED = f"{PY}-embedding"

ROUTER = LLAMACPP.row("router")
PYTHON = LLAMACPP.row("python")


def told(doc: Any = None, status: int = 200, body: str = "", **headers: str) -> Answer:
    raw = body.encode() if doc is None else json.dumps(doc, separators=(",", ":")).encode()
    return Answer(status, headers, raw, doc)


def seen() -> dict[str, Answer]:
    """What the sensors see of llama-server with one model."""
    return evidence(
        ONE, {"/v1/models": "get_models", "/props": "get_props", "/metrics": "get_metrics"}
    )


ROUTED = {
    "id": "acme/chat-GGUF:Q4",
    "aliases": ["chat"],
    "tags": [],
    "object": "model",
    "owned_by": "llamacpp",
    "created": 1795201510,
    "status": {"value": "unloaded", "args": ["llama-server", "--api-key", "x"], "preset": "[a]"},
    "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
    "source": "cache",
}
ROUTER_PROPS = {"role": "router", "max_instances": 4, "model_path": "none", "build_info": "b7-a"}
ROUTER_SEEN = {
    "/v1/models": told({"object": "list", "data": [ROUTED]}, server="llama.cpp"),
    "/props": told(ROUTER_PROPS, server="llama.cpp"),
}
DOCS = told(body="<title>🦙 llama.cpp Python API - Swagger UI</title>", server="uvicorn")


def verdict(row: Runtime, folder: str, case: str, op: Op = Op.CHAT) -> Verdict:
    found = answer(folder, case)
    return judge(row, op, found.status, found.text)


# ---- which one it is


@pytest.mark.parametrize(
    ("folder", "case"),
    [(ONE, "get_models"), (DEV, "loading_models"), (DEV_KEY, "auth_none_models")],
)
def test_llama_server_is_known_by_its_server_header_alone(folder: str, case: str) -> None:
    """Sheet: llamacpp 3.1: also while loading and without the key."""
    found = {"/v1/models": answer(folder, case)}
    assert "Server: llama.cpp" in (LLAMACPP.fingerprint(found) or "")
    assert LLAMACPP.variant(found) == ""


@pytest.mark.parametrize("path", ["/v1/models", "/props"])
def test_llama_server_is_known_behind_a_proxy_that_changes_the_header(path: str) -> None:
    """Sheet: llamacpp 3.2, 3.3."""
    found = {path: told(seen()[path].doc, server="nginx")}
    assert LLAMACPP.fingerprint(found)


def test_the_router_is_known_by_its_role_or_by_its_entries() -> None:
    """Sheet: llamacpp 4."""
    assert LLAMACPP.fingerprint(ROUTER_SEEN)
    for path in ("/v1/models", "/props"):
        assert LLAMACPP.variant({path: ROUTER_SEEN[path]}) == "router"


@pytest.mark.parametrize(
    "found",
    [{"/v1/models": answer(PY, "get_models")}, {"/docs": DOCS}],
    ids=["by its models' owner", "by its docs, open with a key too"],
)
def test_llama_cpp_python_is_a_variant(found: dict[str, Answer]) -> None:
    """Sheet: llamacpp A, Fingerprint, Auth."""
    assert LLAMACPP.fingerprint(found)
    assert LLAMACPP.variant(found) == "python"


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"/v1/models": answer("vllm-0.32.0", "get_models")},
        {"/v1/models": answer("sglang-0.5.23", "get_models")},
        {
            "/v1/models": told({"object": "list", "data": [{"id": "m", "object": "model"}]}),
            "/props": told({"error": {"code": 404, "message": "Resource not found"}}, 404),
            "/version": told({"version": "v4.9.0 (82c191af)"}),
        },
        {"/v1/models": told(answer(PY, "get_models").doc, server="portico/0.1")},
        {
            "/v1/models": told(answer(ONE, "get_models").doc),
            "/version": told({"name": "portico", "version": "0.1"}),
        },
    ],
    ids=["nothing asked", "vllm", "sglang", "localai", "gateway by header", "gateway by name"],
)
def test_others_are_not_taken_for_llama_cpp(found: dict[str, Answer]) -> None:
    """Sheet: llamacpp 3; localai 3: the same port; INTERFACE 1: never a Portico."""
    assert LLAMACPP.fingerprint(found) is None


def test_all_three_are_called_llamacpp() -> None:
    """INTERFACE 3: RUNTIME:ID has one name for them."""
    assert {row.name for row in (LLAMACPP, ROUTER, PYTHON)} == {"llamacpp"}
    assert len({row.title for row in (LLAMACPP, ROUTER, PYTHON)}) == 3


def test_the_build_is_the_version() -> None:
    """Sheet: llamacpp 2, /props."""
    assert LLAMACPP.version(seen()) == "b0-unknown"
    assert ROUTER.version(ROUTER_SEEN) == "b7-a"
    assert LLAMACPP.version({"/props": answer(DEV_KEY, "auth_none_props")}) == ""


def test_llama_cpp_python_tells_its_version_without_the_lock() -> None:
    """Sheet: llamacpp A, Auth: /openapi.json is open."""
    assert PYTHON.version_paths == ("/openapi.json",)
    page = {"info": {"title": "🦙 llama.cpp Python API", "version": "0.3.36"}}
    assert PYTHON.version({"/openapi.json": told(page)}) == "0.3.36"


# ---- how it is doing


def test_health_while_loading_ready_and_gone() -> None:
    """Sheet: llamacpp 2, health."""
    assert LLAMACPP.probe.paths == ("/health",)
    assert LLAMACPP.health(answer(DEV, "loading_health"))[0] is Health.LOADING
    assert LLAMACPP.health(answer(ONE, "get_health"))[0] is Health.UP
    assert LLAMACPP.health(answer(ONE, "overload_health"))[0] is Health.UP
    assert LLAMACPP.health(Answer(0, error="refused"))[0] is Health.DOWN


def test_llama_cpp_python_is_probed_where_no_lock_is_taken() -> None:
    """Sheet: llamacpp A, Concurrency: /v1/models waits for a running completion."""
    assert answer(PY, "get_health").status == 404
    assert PYTHON.probe.paths == ("/docs",)
    assert PYTHON.health(DOCS)[0] is Health.UP


def test_load_of_a_full_server() -> None:
    """Sheet: llamacpp 5."""
    found = {"/metrics": answer(ONE, "overload_metrics"), "/props": answer(ONE, "get_props")}
    assert set(found) == set(LLAMACPP.load_paths)
    assert LLAMACPP.load(found) == Load(
        running=2.0, waiting=6.0, hit_ratio=0.0, progress=1616.0 + 26.0, slots=2
    )


def test_progress_moves_though_no_request_has_ended() -> None:
    """Recording overload_metrics: 1616 decode calls, and tokens_predicted_total still 0."""
    page = answer(ONE, "overload_metrics")
    before = told(body=page.text.replace("n_decode_total 1616", "n_decode_total 1600"))
    assert LLAMACPP.load({"/metrics": before}).progress == 1626.0


def test_the_hit_ratio_is_of_all_prompt_tokens() -> None:
    """Sheet: llamacpp 5: prompt_tokens_total leaves out the cached ones."""
    page = "llamacpp:prompt_tokens_total 30\nllamacpp:prompt_tokens_cached_total 10\n"
    assert LLAMACPP.load({"/metrics": told(body=page)}).hit_ratio == 0.25
    assert LLAMACPP.load({"/metrics": answer(ONE, "get_metrics")}).hit_ratio is None


def test_without_the_metrics_flag_the_slots_are_still_known() -> None:
    """Sheet: llamacpp 5: 501 without --metrics."""
    refusal = {"error": {"code": 501, "message": "Start it with `--metrics`"}}
    found = {"/metrics": told(refusal, 501), "/props": answer(ONE, "get_props")}
    assert LLAMACPP.load(found) == Load(slots=2)


def test_nothing_that_wakes_a_sleeping_server_is_asked() -> None:
    """Sheet: llamacpp 2: /slots does."""
    paths = (*LLAMACPP.load_paths, *LLAMACPP.model_paths, *LLAMACPP.clues, *LLAMACPP.probe.paths)
    assert "/slots" not in paths


@pytest.mark.parametrize("row", [ROUTER, PYTHON], ids=["router", "python"])
def test_rows_without_usable_metrics_ask_for_none(row: Runtime) -> None:
    """Sheet: llamacpp 5: the router's wants a model and may load it; A: there is none."""
    assert row.load_paths == ()
    assert row.load({}) == Load()


# ---- what it serves


def test_the_model_of_a_single_server() -> None:
    """Sheet: llamacpp 4, 2 (/props)."""
    (model,) = LLAMACPP.models(seen())
    assert (model.id, model.aliases, model.context) == ("tiny-chat", (), 4096)
    assert model.capabilities == frozenset({"completion", "tools"})
    assert model.loaded is True
    assert model.entry["meta"]["n_params"] == 918656


def test_two_looks_at_an_unchanged_server_are_equal() -> None:
    """Sheet: llamacpp 4: created is the time of the answer."""
    first = seen()["/v1/models"].doc
    later = {**first, "data": [{**first["data"][0], "created": 1}]}
    assert LLAMACPP.models({"/v1/models": told(later)}) == LLAMACPP.models(
        {"/v1/models": told(first)}
    )


def test_senses_and_sleep_are_read_from_props() -> None:
    """Sheet: llamacpp 2, /props, --sleep-idle-seconds."""
    props = {
        **seen()["/props"].doc,
        "modalities": {"vision": True, "audio": True, "video": False},
        "chat_template_caps": {"supports_tools": False},
        "is_sleeping": True,
    }
    (model,) = LLAMACPP.models({**seen(), "/props": told(props)})
    assert model.capabilities == frozenset({"completion", "vision", "audio"})
    assert model.loaded is False


def test_a_path_as_id_is_also_known_by_the_file_name() -> None:
    """Sheet: llamacpp 4: without --alias the id is the path as given."""
    listed = {"data": [{"id": "models/tiny.gguf", "aliases": ["models/tiny.gguf", "t"]}]}
    (model,) = LLAMACPP.models({"/v1/models": told(listed)})
    assert (model.id, model.aliases) == ("models/tiny.gguf", ("t", "tiny.gguf"))
    assert model.loaded is None


def test_the_childs_command_line_is_not_passed_on() -> None:
    """Sheet: llamacpp 4, router."""
    (model,) = ROUTER.models(ROUTER_SEEN)
    assert model.entry["status"] == {"value": "unloaded"}
    assert "--api-key" not in json.dumps(dict(model.entry))


@pytest.mark.parametrize(
    ("value", "loaded"),
    [("loaded", True), ("loading", False), ("unloaded", False), ("sleeping", False)],
)
def test_the_router_says_which_models_are_in_memory(value: str, loaded: bool) -> None:
    """Sheet: llamacpp 4, router."""
    entry = {**ROUTED, "status": {"value": value}, "meta": {"n_ctx": 2048}}
    (model,) = ROUTER.models({**ROUTER_SEEN, "/v1/models": told({"data": [entry]})})
    assert (model.loaded, model.aliases, model.context) == (loaded, ("chat",), 2048)
    assert model.capabilities == frozenset({"completion", "tools", "vision"})


@pytest.mark.parametrize(
    "page", [answer(DEV, "loading_models"), answer(DEV_KEY, "auth_none_models")]
)
def test_no_list_is_no_models(page: Answer) -> None:
    """Sheet: llamacpp 1, 2."""
    assert LLAMACPP.models({"/v1/models": page}) == ()


def test_the_models_of_llama_cpp_python() -> None:
    """Sheet: llamacpp A, Fingerprint."""
    (model,) = PYTHON.models({"/v1/models": answer(PY, "get_models")})
    assert (model.id, model.context, model.capabilities, model.loaded) == (
        "tiny-chat",
        None,
        None,
        None,
    )


# ---- surfaces


@pytest.mark.parametrize(
    ("wire", "op", "case"),
    [
        (Wire.OPENAI, Op.CHAT, "chat"),
        (Wire.OPENAI, Op.COMPLETIONS, "completion"),
        (Wire.OPENAI, Op.RESPONSES, "responses"),
        (Wire.OPENAI, Op.TOKENIZE, "tokenize_content"),
        (Wire.OPENAI, Op.DETOKENIZE, "detokenize"),
        (Wire.ANTHROPIC, Op.MESSAGES, "messages"),
        (Wire.ANTHROPIC, Op.COUNT_TOKENS, "messages_count_tokens"),
    ],
)
def test_what_llama_server_always_has(wire: Wire, op: Op, case: str) -> None:
    """Sheet: llamacpp 2."""
    cell = LLAMACPP.cell(wire, op)
    assert cell.support is Support.YES
    assert recording(ONE, case)["request"]["line"].split()[1] == cell.path
    assert answer(ONE, case).status == 200


@pytest.mark.parametrize(
    ("row", "op", "flag"),
    [
        (LLAMACPP, Op.EMBEDDINGS, "--embeddings"),
        (LLAMACPP, Op.RERANK, "--reranking"),
        (PYTHON, Op.EMBEDDINGS, "--embedding true"),
    ],
)
def test_what_needs_a_flag_names_it(row: Runtime, op: Op, flag: str) -> None:
    """Sheet: llamacpp 9, A."""
    cell = row.cell(Wire.OPENAI, op)
    assert cell.support is Support.FLAG
    assert flag in cell.remedy


@pytest.mark.parametrize(
    ("op", "path"), [(Op.TOKENIZE, "/extras/tokenize"), (Op.DETOKENIZE, "/extras/detokenize")]
)
def test_llama_cpp_python_has_its_tokenizer_elsewhere(op: Op, path: str) -> None:
    """Sheet: llamacpp A, Routes."""
    assert answer(PY, op.value).status == 404
    assert PYTHON.cell(Wire.OPENAI, op).path == path


@pytest.mark.parametrize(
    ("op", "case"),
    [(Op.MESSAGES, "messages"), (Op.COUNT_TOKENS, "messages_count_tokens")],
)
def test_llama_cpp_python_does_not_speak_anthropic(op: Op, case: str) -> None:
    """ENGINES, Fields."""
    assert answer(PY, case).status == 404
    assert PYTHON.cell(Wire.ANTHROPIC, op).support is Support.NO


@pytest.mark.parametrize("row", [LLAMACPP, ROUTER, PYTHON], ids=["one", "router", "python"])
def test_every_surface_is_declared_and_what_is_missing_has_a_remedy(row: Runtime) -> None:
    """INTERFACE 3, 4."""
    assert len(row.cells) == 24
    for cell in row.cells.values():
        assert cell.path if cell.support is not Support.NO else cell.note
        assert cell.support is Support.YES or cell.remedy


# ---- what a request must look like

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("get_weather", "get_time")
]
FLAT = [{"type": "function", "name": "get_weather"}, {"type": "function", "name": "get_time"}]
CLAUDE = [{"name": "get_weather", "input_schema": {}}, {"name": "get_time", "input_schema": {}}]


@pytest.mark.parametrize("field", ["id_slot", "lora", "sse_ping_interval"])
@pytest.mark.parametrize("op", [Op.CHAT, Op.COMPLETIONS, Op.RESPONSES, Op.MESSAGES])
def test_fields_that_reach_into_the_server_are_stripped(op: Op, field: str) -> None:
    """Sheet: llamacpp 0, Strip."""
    doc = {"model": "m", field: 1, "chat_template_kwargs": {"enable_thinking": False}}
    kept = {"model": "m", "chat_template_kwargs": {"enable_thinking": False}}
    assert LLAMACPP.rewrite(op, doc, None) == kept


def test_the_header_that_keeps_a_generation_alive_is_dropped() -> None:
    """Sheet: llamacpp 8, X-Conversation-Id."""
    assert "x-conversation-id" in LLAMACPP.drops
    assert "x-conversation-id" in ROUTER.drops


def test_a_named_tool_becomes_the_only_one_and_required() -> None:
    """Sheet: llamacpp 10, tool_choice: an object silently becomes auto."""
    choice = {"type": "function", "function": {"name": "get_time"}}
    assert LLAMACPP.rewrite(Op.CHAT, {"tools": TOOLS, "tool_choice": choice}, None) == {
        "tools": [TOOLS[1]],
        "tool_choice": "required",
    }


def test_the_recorded_named_choice_is_sent_as_required() -> None:
    """Sheet: llamacpp 10; recording chat_tools_named."""
    doc = request_doc(ONE, "chat_tools_named")
    assert isinstance(doc["tool_choice"], dict)
    changed = LLAMACPP.rewrite(Op.CHAT, doc, None)
    assert changed == {**doc, "tool_choice": "required"}


def test_a_named_tool_of_the_responses_api() -> None:
    """Sheet: llamacpp 2: responses are converted to chat; 10, tool_choice."""
    doc = {"tools": FLAT, "tool_choice": {"type": "function", "name": "get_weather"}}
    assert LLAMACPP.rewrite(Op.RESPONSES, doc, None) == {
        "tools": [FLAT[0]],
        "tool_choice": "required",
    }


@pytest.mark.parametrize("op", [Op.CHAT, Op.RESPONSES])
def test_a_tool_without_a_description_is_one(op: Op) -> None:
    """A null there is answered with 500."""
    nulls = [{"type": "function", "name": "f", "description": None, "strict": None}]
    bare = [{"type": "function", "name": "f"}]
    assert LLAMACPP.rewrite(op, {"tools": nulls}, None) == {"tools": bare}
    inside = [{"type": "function", "function": {"name": "f", "description": None}}]
    choice = {"type": "function", "function": {"name": "f"}}
    assert LLAMACPP.rewrite(op, {"tools": inside, "tool_choice": choice}, None) == {
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "required",
    }


@pytest.mark.parametrize("op", [Op.MESSAGES, Op.COUNT_TOKENS])
def test_instructions_in_the_middle_are_said_in_the_users_turn(op: Op) -> None:
    """llama.cpp issue 27367: a strict chat template fails on any 'system' that is not in front."""
    turns = [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]
    changed = LLAMACPP.rewrite(op, {"messages": turns}, None)
    assert changed is not None
    (message,) = changed["messages"]
    assert (message["role"], len(message["content"])) == ("user", 2)
    assert LLAMACPP.rewrite(op, {"messages": turns[:1]}, None) is None


def test_a_named_tool_on_messages_is_left_as_the_only_one() -> None:
    """Sheet: llamacpp 10: there {type: tool} means required, whichever tool."""
    choice = {"type": "tool", "name": "get_time"}
    assert LLAMACPP.rewrite(Op.MESSAGES, {"tools": CLAUDE, "tool_choice": choice}, None) == {
        "tools": [CLAUDE[1]],
        "tool_choice": choice,
    }


@pytest.mark.parametrize(
    "doc",
    [
        {"tools": TOOLS, "tool_choice": "required"},
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "unknown"}}},
        {"tools": TOOLS, "tool_choice": {"type": "function"}},
        {"tools": "none", "tool_choice": {"type": "function", "function": {"name": "f"}}},
        {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "name": "get_time"}},
        {"tools": [1, {}], "tool_choice": {"type": "tool", "name": None}},
    ],
    ids=["a word", "unknown name", "no name", "no list", "another type", "nonsense"],
)
def test_other_tool_choices_go_as_they_are(doc: Any) -> None:
    """Sheet: llamacpp 10."""
    assert LLAMACPP.rewrite(Op.CHAT, doc, None) is None


@pytest.mark.parametrize(
    "case", ["chat", "chat_json_schema", "chat_tools_required", "chat_unknown_field", "chat_n2"]
)
def test_what_llama_server_takes_is_not_touched(case: str) -> None:
    """INTERFACE 3: bytes are changed only where a field must be."""
    assert answer(ONE, case).status == 200
    assert LLAMACPP.rewrite(Op.CHAT, request_doc(ONE, case), None) is None


def test_tokenize_is_given_its_text_under_the_right_name() -> None:
    """Recordings tokenize (200, no tokens) and tokenize_content."""
    assert answer(ONE, "tokenize").doc == {"tokens": []}
    changed = LLAMACPP.rewrite(Op.TOKENIZE, request_doc(ONE, "tokenize"), None)
    assert changed == {"model": "tiny-chat", **request_doc(ONE, "tokenize_content")}
    assert LLAMACPP.rewrite(Op.TOKENIZE, {"content": "a", "prompt": "b"}, None) is None


def test_llama_cpp_python_gets_the_old_name_of_the_limit() -> None:
    """Sheet: llamacpp A: max_completion_tokens is not read (recording: 98 tokens instead of 3)."""
    doc = request_doc(PY, "chat_max_completion_tokens")
    changed = PYTHON.rewrite(Op.CHAT, doc, None)
    assert changed is not None
    assert changed["max_tokens"] == 3
    assert "max_completion_tokens" not in changed


def test_llama_cpp_python_is_not_asked_for_usage() -> None:
    """Sheet: llamacpp A, Not supported."""
    doc = {"stream": True, "stream_options": {"include_usage": True}}
    assert PYTHON.rewrite(Op.CHAT, doc, None) == {"stream": True}


def test_llama_cpp_python_gets_a_schema_the_way_it_takes_one() -> None:
    """ENGINES, Fields: json_schema is refused with 500."""
    assert answer(PY, "chat_json_schema").status == 500
    doc = request_doc(PY, "chat_json_schema")
    changed = PYTHON.rewrite(Op.CHAT, doc, None)
    assert changed is not None
    schema = doc["response_format"]["json_schema"]["schema"]
    assert changed["response_format"] == {"type": "json_object", "schema": schema}


@pytest.mark.parametrize("name", ["prompt", "content"])
def test_llama_cpp_python_tokenizes_its_input(name: str) -> None:
    """Sheet: llamacpp A, Routes."""
    assert PYTHON.rewrite(Op.TOKENIZE, {"model": "m", name: "a"}, None) == {
        "model": "m",
        "input": "a",
    }


@pytest.mark.parametrize("case", ["chat", "chat_json_object", "chat_stop_string"])
def test_what_llama_cpp_python_takes_is_not_touched(case: str) -> None:
    """INTERFACE 3."""
    assert PYTHON.rewrite(Op.CHAT, request_doc(PY, case), None) is None


def test_llama_cpp_python_is_not_sent_our_request_id() -> None:
    """Recording request_id: an X-Request-Id that is no UUID is 400 with an empty body."""
    refused = answer(PY, "request_id")
    assert (refused.status, refused.body) == (400, b"")
    assert "x-request-id" not in {name.lower() for name in PYTHON.request_ids}
    assert "x-request-id" in PYTHON.drops


# ---- what its answers mean


@pytest.mark.parametrize(
    ("folder", "case", "op", "wanted"),
    [
        (DEV, "loading_chat", Op.CHAT, Verdict.LOADING),
        (DEV, "loading_chat_stream", Op.CHAT, Verdict.LOADING),
        (DEV_KEY, "auth_wrong_chat", Op.CHAT, Verdict.AUTH),
        (ONE, "error_embeddings_on_chat", Op.EMBEDDINGS, Verdict.UNSUPPORTED),
        (ONE, "rerank", Op.RERANK, Verdict.UNSUPPORTED),
        (ONE, "error_post_unknown_path", Op.RESPONSES, Verdict.UNSUPPORTED),
        (ONE, "error_malformed_json", Op.CHAT, Verdict.CLIENT),
        (ONE, "error_tools_no_name", Op.CHAT, Verdict.CLIENT),
        (ONE, "chat_image", Op.CHAT, Verdict.CLIENT),
        (ONE, "error_too_long", Op.CHAT, Verdict.CLIENT),
        (ONE, "error_completion_no_prompt", Op.COMPLETIONS, Verdict.CLIENT),
        (ONE, "responses_previous", Op.RESPONSES, Verdict.CLIENT),
        (ONE, "chat", Op.CHAT, Verdict.OK),
    ],
)
def test_llama_servers_recorded_answers(folder: str, case: str, op: Op, wanted: Verdict) -> None:
    """Sheet: llamacpp 2, 6."""
    assert verdict(LLAMACPP, folder, case, op) is wanted
    assert verdict(ROUTER, folder, case, op) is wanted


@pytest.mark.parametrize(
    ("status", "message", "wanted"),
    [
        (500, "[json.exception.parse_error.101] parse error at line 1", Verdict.CLIENT),
        (500, "input (901 tokens) is too large to process. increase", Verdict.CLIENT),
        (500, "tools param requires --jinja flag", Verdict.CLIENT),
        (500, "audio input is not supported - hint: mmproj", Verdict.CLIENT),
        (500, "Context size has been exceeded.", Verdict.OVERLOADED),
        (500, "llama_decode failed", Verdict.ENGINE),
    ],
)
def test_which_500_is_whose_fault(status: int, message: str, wanted: Verdict) -> None:
    """Sheet: llamacpp 6, 10: a 500 here is often the client's."""
    body = json.dumps({"error": {"code": status, "message": message, "type": "server_error"}})
    assert judge(LLAMACPP, Op.CHAT, status, body) is wanted
    assert judge(LLAMACPP, Op.CHAT, status, message) is wanted, "as told by an error event"


@pytest.mark.parametrize(
    ("status", "message", "wanted"),
    [
        (400, "model 'zzz' not found", Verdict.UNKNOWN_MODEL),
        (400, "model is not loaded", Verdict.LOADING),
        (400, "[json.exception.out_of_range.403] key 'prompt' not found", Verdict.CLIENT),
        (500, "model name=x failed to load", Verdict.ENGINE),
        (500, "proxy error: Could not establish connection", Verdict.ENGINE),
    ],
)
def test_the_routers_own_answers(status: int, message: str, wanted: Verdict) -> None:
    """Sheet: llamacpp 6, router."""
    doc = {"error": {"code": status, "message": message, "type": "invalid_request_error"}}
    assert judge(ROUTER, Op.CHAT, status, told(doc).text) is wanted


@pytest.mark.parametrize(
    ("folder", "case", "op", "wanted"),
    [
        (PY, "error_embeddings_on_chat", Op.EMBEDDINGS, Verdict.UNSUPPORTED),
        (PY, "responses", Op.RESPONSES, Verdict.UNSUPPORTED),
        (PY, "error_malformed_json", Op.CHAT, Verdict.CLIENT),
        (PY, "error_bad_role", Op.CHAT, Verdict.CLIENT),
        (PY, "error_empty_messages", Op.CHAT, Verdict.CLIENT),
        (PY, "error_json_list", Op.CHAT, Verdict.CLIENT),
        (PY, "error_max_tokens_type", Op.CHAT, Verdict.CLIENT),
        (PY, "error_response_format", Op.CHAT, Verdict.CLIENT),
        (PY, "error_content_type", Op.CHAT, Verdict.CLIENT),
        (PY, "error_completion_no_prompt", Op.COMPLETIONS, Verdict.CLIENT),
        (PY, "completion_two_prompts", Op.COMPLETIONS, Verdict.CLIENT),
        (PY, "completion_token_ids", Op.COMPLETIONS, Verdict.CLIENT),
        (PY, "error_too_long", Op.CHAT, Verdict.CLIENT),
        (PY_EMBED, "embeddings_empty", Op.EMBEDDINGS, Verdict.CLIENT),
        (PY_EMBED, "embeddings_no_input", Op.EMBEDDINGS, Verdict.CLIENT),
        (PY_KEY, "auth_wrong_chat", Op.CHAT, Verdict.AUTH),
    ],
)
def test_llama_cpp_pythons_recorded_answers(
    folder: str, case: str, op: Op, wanted: Verdict
) -> None:
    """Sheet: llamacpp A, Errors, Embeddings; ENGINES, Errors."""
    assert verdict(PYTHON, folder, case, op) is wanted


def test_a_fault_of_llama_cpp_python_itself_stays_one() -> None:
    """Sheet: llamacpp A, Errors."""
    error = {"message": "llama_decode returned -3", "type": "internal_server_error"}
    assert judge(PYTHON, Op.CHAT, 500, told({"error": error}).text) is Verdict.ENGINE


def test_an_unknown_alias_of_llama_cpp_python_is_looked_up_again() -> None:
    """Sheet: llamacpp A, Errors: model_not_found."""
    error = {"message": "The model `x` does not exist", "code": "model_not_found"}
    assert judge(PYTHON, Op.CHAT, 400, told({"error": error}).text) is Verdict.UNKNOWN_MODEL


# ---- streams and connections


def test_an_interrupted_stream_of_llama_cpp_python_ends_as_if_whole() -> None:
    """Sheet: llamacpp A, Interruption: a bare [DONE], so a finish_reason must have come."""
    *chunks, last = events(PY, "interrupted_stream")
    assert last == "[DONE]"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
    assert PYTHON.needs_finish


def test_llama_cpp_python_gets_one_request_at_a_time() -> None:
    """Sheet: llamacpp A, Concurrency, Interruption."""
    assert PYTHON.slots == 1
    assert LLAMACPP.slots is None


def test_connections_are_given_up_before_the_server_does() -> None:
    """Sheet: llamacpp 8: 5 s and 100 requests, as the header says."""
    assert answer(ONE, "get_models").headers["keep-alive"] == "timeout=5, max=100"
    assert (LLAMACPP.idle, LLAMACPP.uses) == (4.0, 100)
    assert (PYTHON.idle, PYTHON.uses) == (4.0, None)


def test_its_key_is_a_bearer() -> None:
    """Sheet: llamacpp 1, A: accepted by all of them."""
    assert answer(DEV_KEY, "auth_right_chat").status == 200
    assert {row.auth for row in (LLAMACPP, ROUTER, PYTHON)} == {("Authorization", "Bearer {key}")}


def test_discovery_looks_at_the_default_port() -> None:
    """INTERFACE 1."""
    assert LLAMACPP.ports == (8080,)
