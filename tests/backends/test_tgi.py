"""TGI's row against its sheet; no recording of it exists, so answers are the sheet's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.tgi import TGI
from gateway.core.runtime import Answer, Support, Verdict, judge
from gateway.core.types import Health, Load, Model, Op, Sight, Wire
from gateway.dialects.stream import fault_in
from tests.backends.recorded import answer

INFO = {
    "model_id": "acme/llama",
    "max_concurrent_requests": 128,
    "max_input_tokens": 4095,
    "max_total_tokens": 4096,
    "router": "text-generation-router",
    "version": "3.3.7",
    "sha": "0",
    "docker_label": None,
}
LISTED = {"id": "acme/llama", "object": "model", "created": 0, "owned_by": "acme/llama"}
METRICS = """\
# TYPE tgi_queue_size gauge
tgi_queue_size 3
tgi_batch_current_size 2
tgi_batch_current_max_tokens 1500
tgi_batch_max_total_tokens 6000
tgi_batch_inference_count{method="prefill"} 5
tgi_batch_inference_count{method="decode"} 120
"""
TOOLS_CALL = {"id": "0", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def told(doc: Any = None, status: int = 200, body: str = "", **headers: str) -> Answer:
    raw = body.encode() if doc is None else json.dumps(doc).encode()
    return Answer(status, headers, raw, doc)


def sent(op: Op = Op.CHAT, **fields: Any) -> Any:
    """The body that leaves for TGI, without the model."""
    doc = {"model": "acme/llama", **fields}
    changed = TGI.rewrite(op, doc, None)
    return {k: v for k, v in (doc if changed is None else changed).items() if k != "model"}


# ---- which one it is


def test_info_names_the_router_and_the_version() -> None:
    """Sheet: tgi 3."""
    evidence = {"/info": told(INFO)}
    assert TGI.fingerprint(evidence)
    assert TGI.version(evidence) == "3.3.7"


def test_text_embeddings_inference_is_not_tgi() -> None:
    """Sheet: tgi 3: the sister project has /info without the router."""
    info = {"model_id": "acme/embed", "model_type": {"embedding": {}}, "version": "1.8"}
    assert TGI.fingerprint({"/info": told(info)}) is None


@pytest.mark.parametrize(
    "found",
    [
        {},
        {"/info": answer("xllamacpp-2026.10.11549", "get_info")},
        {"/info": told(INFO, server="portico/0.1")},
        {"/info": told(INFO), "/version": told({"name": "portico", "version": "0.1"})},
        {"/info": told(["text-generation-router"])},
    ],
    ids=["nothing asked", "llama-server's 404", "gateway by header", "gateway by name", "a list"],
)
def test_others_are_not_taken_for_tgi(found: dict[str, Answer]) -> None:
    """Sheet: tgi 3."""
    assert TGI.fingerprint(found) is None


# ---- how it is doing


def test_health_is_the_status() -> None:
    """Sheet: tgi 2."""
    assert TGI.probe.paths == ("/health",)
    assert TGI.health(told())[0] is Health.UP


def test_a_503_to_the_health_check_is_sick_and_not_loading() -> None:
    """Sheet: tgi 1, 2: while it loads the port refuses connections."""
    doc = {"error": "unhealthy", "error_type": "healthcheck"}
    assert TGI.health(told(doc, 503))[0] is Health.SICK
    assert TGI.health(Answer(0, error="refused")) == (Health.DOWN, "refused")


def test_load_comes_from_metrics() -> None:
    """Sheet: tgi 5: reserved tokens over capacity stand in for the KV cache's use."""
    assert TGI.load_paths == ("/metrics",)
    assert TGI.load({"/metrics": told(body=METRICS)}) == Load(
        running=2.0, waiting=3.0, kv_used=0.25, progress=125.0, cache=6000
    )


def test_reserved_tokens_over_the_capacity_count_as_full() -> None:
    """Sheet: tgi 5."""
    page = METRICS.replace("current_max_tokens 1500", "current_max_tokens 9000")
    assert TGI.load({"/metrics": told(body=page)}).kv_used == 1.0


@pytest.mark.parametrize("page", [told(status=404), told(body="")], ids=["absent", "empty"])
def test_no_metrics_is_an_unknown_load(page: Answer) -> None:
    """Sheet: tgi 5."""
    assert TGI.load({"/metrics": page}) == Load()


# ---- what it serves


def test_context_comes_from_info() -> None:
    """Sheet: tgi 4: the list has no max_model_len."""
    evidence = {"/v1/models": told({"data": [LISTED]}), "/info": told(INFO)}
    (model,) = TGI.models(evidence)
    assert (model.id, model.context, model.entry) == ("acme/llama", 4096, LISTED)
    assert set(evidence) == set(TGI.model_paths)


def test_a_missing_info_leaves_the_context_open() -> None:
    """Sheet: tgi 4."""
    (model,) = TGI.models({"/v1/models": told({"data": [LISTED]})})
    assert model.context is None


def test_an_adapter_configured_by_the_operator_is_asked_for_by_its_own_name() -> None:
    """Sheet: tgi 10, LoRA: any other model name is taken as an adapter."""
    assert TGI.upstream_model(Model("my-adapter"), Sight()) == "my-adapter"


# ---- surfaces


@pytest.mark.parametrize(
    ("wire", "op", "path"),
    [
        (Wire.OPENAI, Op.CHAT, "/v1/chat/completions"),
        (Wire.OPENAI, Op.COMPLETIONS, "/v1/completions"),
        (Wire.OPENAI, Op.TOKENIZE, "/tokenize"),
    ],
)
def test_what_tgi_has(wire: Wire, op: Op, path: str) -> None:
    """Sheet: tgi 2."""
    cell = TGI.cell(wire, op)
    assert (cell.support, cell.path) == (Support.YES, path)


def test_everything_else_is_refused_with_a_remedy() -> None:
    """Sheet: tgi 2, 9."""
    refused = [cell for cell in TGI.cells.values() if cell.support is not Support.YES]
    assert len(refused) == 21
    assert all(cell.support is Support.NO and cell.note and cell.remedy for cell in refused)


def test_embeddings_are_refused_by_naming_what_would_work() -> None:
    """Sheet: tgi 9."""
    cell = TGI.cell(Wire.OPENAI, Op.EMBEDDINGS)
    assert "text-embeddings-inference" in cell.remedy


# ---- the strict types of sheet section 10

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize("op", [Op.CHAT, Op.COMPLETIONS])
@pytest.mark.parametrize(
    ("fields", "leaves"),
    [
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"stream_options": None}, {}),
        ({"stream_options": {}}, {}),
        ({"logit_bias": {"50": -100}}, {}),
        ({"logit_bias": None}, {}),
        ({"top_p": 1.0}, {}),
        ({"top_p": 1}, {}),
        ({"presence_penalty": 0}, {}),
        ({"presence_penalty": 0.0}, {}),
        ({"max_tokens": 9, "max_completion_tokens": 3}, {"max_completion_tokens": 3}),
        ({"max_tokens": 9, "max_completion_tokens": None}, {"max_tokens": 9}),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_fields_of_the_wrong_type_are_put_right(op: Op, fields: Any, leaves: Any) -> None:
    """Sheet: tgi 10, strict JSON."""
    assert sent(op, **fields) == leaves


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "json", "value": {"type": "object"}}),
        (
            {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}},
            {"type": "json_schema", "value": {"name": "n", "schema": SCHEMA}},
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "n"}},
            {"type": "json_schema", "value": {"name": "n", "schema": {"type": "object"}}},
        ),
    ],
    ids=["text", "json_object", "json_schema", "json_schema without a schema"],
)
def test_response_format_is_put_into_tgi_words(asked: Any, wanted: Any) -> None:
    """Sheet: tgi 10, response_format."""
    assert sent(response_format=asked).get("response_format") == wanted


@pytest.mark.parametrize("empty", ["", []], ids=["text", "parts"])
def test_empty_content_beside_tool_calls_is_left_out(empty: Any) -> None:
    """Sheet: tgi 10, tool history: the calls would be dropped."""
    user = {"role": "user", "content": ""}
    call = {"role": "assistant", "content": empty, "tool_calls": [TOOLS_CALL]}
    assert sent(messages=[user, call])["messages"] == [
        user,
        {"role": "assistant", "tool_calls": [TOOLS_CALL]},
    ]


def test_an_empty_suffix_is_left_out_and_a_real_one_is_the_engines_to_refuse() -> None:
    """Sheet: tgi 10: suffix is 422."""
    assert sent(Op.COMPLETIONS, suffix="") == {}
    assert sent(Op.COMPLETIONS, suffix="end") == {"suffix": "end"}


def test_tokenize_takes_the_text_under_the_name_inputs() -> None:
    """Sheet: tgi 2."""
    assert sent(Op.TOKENIZE, prompt="Hello") == {"inputs": "Hello"}
    assert TGI.rewrite(Op.TOKENIZE, {"inputs": "Hello"}, None) is None


@pytest.mark.parametrize(
    "doc",
    [
        {"messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "stop": ["a", "b"]},
        {"top_p": 0.9, "presence_penalty": 0.5, "stream_options": {"include_usage": True}},
        {"max_completion_tokens": 3, "response_format": {"type": "json", "value": SCHEMA}},
        {"messages": [{"role": "assistant", "content": "So:", "tool_calls": [TOOLS_CALL]}]},
        {"messages": "not a list", "response_format": "no object", "top_p": True, "unknown": 1},
    ],
    ids=["plain", "in range", "native", "text beside calls", "faulty"],
)
def test_a_body_that_tgi_reads_rightly_goes_as_it_is(doc: Any) -> None:
    """Sheet: tgi 10; INTERFACE 3: bytes are changed only where a field must be."""
    assert TGI.rewrite(Op.CHAT, doc, None) is None


def test_the_body_as_parsed_is_never_written_to() -> None:
    """DESIGN, convention 5."""
    doc = {"stop": "x", "top_p": 1, "messages": [{"content": "", "tool_calls": [TOOLS_CALL]}]}
    before = json.dumps(doc)
    assert TGI.rewrite(Op.CHAT, doc, None) is not None
    assert json.dumps(doc) == before


# ---- what its answers mean


@pytest.mark.parametrize(
    ("status", "error", "verdict"),
    [
        (400, None, Verdict.CLIENT),
        (401, None, Verdict.AUTH),
        (404, None, Verdict.UNSUPPORTED),
        (413, None, Verdict.CLIENT),
        (415, None, Verdict.CLIENT),
        (422, ("Input validation error: `inputs` is too long", "validation"), Verdict.CLIENT),
        (422, ("Template error: x", "template_error"), Verdict.CLIENT),
        (422, ("Tool error: Model is overloaded", "tool_error"), Verdict.CLIENT),
        (422, None, Verdict.CLIENT),
        (424, ("Request failed during generation: x", "generation"), Verdict.ENGINE),
        (429, ("Model is overloaded", "overloaded"), Verdict.OVERLOADED),
        (500, ("Incomplete generation", "incomplete_generation"), Verdict.ENGINE),
    ],
)
def test_whole_answers(status: int, error: Any, verdict: Verdict) -> None:
    """Sheet: tgi 6."""
    body = json.dumps({"error": error[0], "error_type": error[1]}) if error else ""
    assert judge(TGI, Op.CHAT, status, body) is verdict


@pytest.mark.parametrize(
    ("message", "verdict"),
    [
        ("Model is overloaded", Verdict.OVERLOADED),
        ("Request failed during generation: CUDA out of memory", Verdict.ENGINE),
        ("Incomplete generation stream", Verdict.ENGINE),
        ("Input validation error: `inputs` tokens + `max_new_tokens` > 4096", Verdict.CLIENT),
    ],
)
def test_error_events_always_say_422_so_the_message_decides(message: str, verdict: Verdict) -> None:
    """Sheet: tgi 6, streams; 12.2."""
    event = {"error": {"message": message, "http_status_code": 422}}
    assert fault_in(event) == (422, message)
    assert judge(TGI, Op.CHAT, 422, message) is verdict


def test_a_stream_without_a_finish_reason_was_cut() -> None:
    """Sheet: tgi 12.4."""
    assert TGI.needs_finish


def test_connections_and_ports() -> None:
    """Sheet: tgi 1, 8: no idle time-out of the server's; 3000 by launcher, 8080 by discovery."""
    assert TGI.idle == 30.0
    assert TGI.uses is None
    assert TGI.ports == (3000, 8080)


def test_its_key_is_a_bearer() -> None:
    """Sheet: tgi 1: x-api-key is not accepted."""
    assert TGI.auth == ("Authorization", "Bearer {key}")
