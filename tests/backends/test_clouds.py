"""The rows for providers on the internet: detection as a last resort, lists, phrase books."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.anthropic_cloud import ANTHROPIC_CLOUD, MODELS
from backends.openai_cloud import OPENAI_CLOUD
from gateway.core.runtime import Answer, Runtime, Support, Verdict, judge
from gateway.core.types import Health, Op, Wire


def answer(doc: Any, status: int = 200, **headers: str) -> Answer:
    return Answer(status, headers, json.dumps(doc).encode(), doc)


LIST = answer({"object": "list", "data": [{"id": "gpt-x", "object": "model"}]})
CLAUDE = {
    "type": "model",
    "id": "claude-x",
    "display_name": "Claude X",
    "created_at": "2026-02-04T00:00:00Z",
    "max_input_tokens": 200000,
}
CLAUDES = answer({"data": [CLAUDE], "has_more": False, "first_id": "a", "last_id": "a"})
NO_KEY = answer(
    {
        "type": "error",
        "error": {"type": "authentication_error", "message": "x-api-key header is required"},
    },
    401,
)
NO_VERSION = answer(
    {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "anthropic-version: required"},
    },
    400,
)


def test_any_model_list_is_a_provider_when_nobody_else_claims_it() -> None:
    assert OPENAI_CLOUD.fingerprint({"/v1/models": LIST}) is not None
    assert OPENAI_CLOUD.rank > ANTHROPIC_CLOUD.rank


@pytest.mark.parametrize(
    "seen",
    [Answer(404), answer({"data": []}, 401), answer([]), answer({"data": None}), Answer(0)],
)
def test_what_is_no_model_list_is_no_provider(seen: Answer) -> None:
    assert OPENAI_CLOUD.fingerprint({"/v1/models": seen}) is None


def test_another_portico_is_named_as_such() -> None:
    version = answer({"name": "portico", "version": "1.0.0"})
    told = OPENAI_CLOUD.fingerprint({"/v1/models": LIST, "/version": version})
    assert told == "is another Portico"


@pytest.mark.parametrize("seen", [CLAUDES, NO_KEY, NO_VERSION])
def test_anthropic_is_known_by_its_list_or_its_refusal(seen: Answer) -> None:
    assert ANTHROPIC_CLOUD.fingerprint({"/v1/models": seen}) is not None


@pytest.mark.parametrize("seen", [LIST, answer({"error": "Unauthorized"}, 401), Answer(0)])
def test_others_are_not_anthropic(seen: Answer) -> None:
    assert ANTHROPIC_CLOUD.fingerprint({"/v1/models": seen}) is None


def test_anthropic_gets_its_key_and_version_headers() -> None:
    name, form = ANTHROPIC_CLOUD.auth
    assert (name, form.format(key="k")) == ("x-api-key", "k")
    assert ANTHROPIC_CLOUD.adds["anthropic-version"] == "2023-06-01"
    assert "anthropic-version" in ANTHROPIC_CLOUD.drops, "the caller's would be a second one"


def test_anthropic_models_are_told_in_openai_terms_with_their_own_fields() -> None:
    (model,) = ANTHROPIC_CLOUD.models({MODELS: CLAUDES})
    assert model.id == "claude-x"
    assert model.context == 200000
    assert model.entry == {
        "object": "model",
        "created": 1770163200,
        "owned_by": "anthropic",
        **CLAUDE,
    }


@pytest.mark.parametrize(
    ("moment", "seconds"), [("2026-02-04T00:00:00", 1770163200), ("soon", 0), (None, 0)]
)
def test_odd_release_dates_do_not_hide_a_model(moment: Any, seconds: int) -> None:
    page = answer({"data": [{**CLAUDE, "created_at": moment}], "has_more": False})
    (model,) = ANTHROPIC_CLOUD.models({MODELS: page})
    assert model.entry["created"] == seconds


@pytest.mark.parametrize("row", [OPENAI_CLOUD, ANTHROPIC_CLOUD], ids=lambda row: row.name)
def test_a_provider_is_neither_discovered_nor_asked_for_load(row: Runtime) -> None:
    assert row.cloud
    assert row.ports == ()
    assert row.load_paths == ()
    assert len(row.cells) == 24


@pytest.mark.parametrize("row", [OPENAI_CLOUD, ANTHROPIC_CLOUD], ids=lambda row: row.name)
@pytest.mark.parametrize(
    ("status", "health"),
    [
        (200, Health.UP),
        (401, Health.SICK),
        (403, Health.SICK),
        (404, Health.UP),
        (429, Health.BUSY),
        (500, Health.SICK),
        (503, Health.SICK),
        (0, Health.DOWN),
    ],
)
def test_a_providers_health(row: Runtime, status: int, health: Health) -> None:
    assert row.health(Answer(status))[0] is health


def test_surfaces_that_only_some_providers_have_are_tried() -> None:
    for op in (Op.EMBEDDINGS, Op.RESPONSES, Op.RERANK, Op.IMAGE_EDITS):
        assert OPENAI_CLOUD.cell(Wire.OPENAI, op).support is Support.MODEL
    assert OPENAI_CLOUD.cell(Wire.OPENAI, Op.CHAT).support is Support.YES


def test_anthropic_speaks_only_its_own_dialect() -> None:
    native = {key for key, cell in ANTHROPIC_CLOUD.cells.items() if cell.support is Support.YES}
    assert native == {(Wire.ANTHROPIC, Op.MESSAGES), (Wire.ANTHROPIC, Op.COUNT_TOKENS)}


@pytest.mark.parametrize(
    ("kind", "status"),
    [("overloaded_error", 529), ("rate_limit_error", 429), ("api_error", 500)],
)
def test_an_anthropic_error_event_gets_its_true_status(kind: str, status: int) -> None:
    event = {"type": "error", "error": {"type": kind, "message": "Overloaded"}}
    assert ANTHROPIC_CLOUD.event_fault(Wire.ANTHROPIC, Op.MESSAGES, event) == (
        status,
        "Overloaded",
    )


@pytest.mark.parametrize("event", [{"type": "ping"}, {"error": {"type": "new_kind"}}, "x"])
def test_other_anthropic_events_keep_their_general_reading(event: Any) -> None:
    assert ANTHROPIC_CLOUD.event_fault(Wire.ANTHROPIC, Op.MESSAGES, event) is None


@pytest.mark.parametrize("header", ["openai-organization", "openai-project", "cookie"])
def test_the_callers_account_headers_do_not_go_with_our_key(header: str) -> None:
    assert header in OPENAI_CLOUD.drops


NO_MODEL = '{"error":{"message":"The model `x` does not exist","code":"model_not_found"}}'
NO_ACCESS = '{"error":{"message":"The model `x` does not exist or you lack access"}}'
CHAT_ONLY = "This is a chat model and not supported in the v1/completions endpoint."


@pytest.mark.parametrize(
    ("op", "status", "text", "verdict"),
    [
        (Op.CHAT, 429, '{"error":{"code":"rate_limit_exceeded"}}', Verdict.OVERLOADED),
        (Op.CHAT, 429, '{"error":{"code":"insufficient_quota"}}', Verdict.OVERLOADED),
        (Op.CHAT, 529, "", Verdict.OVERLOADED),
        (Op.CHAT, 503, "", Verdict.OVERLOADED),
        (Op.CHAT, 401, '{"error":{"code":"invalid_api_key"}}', Verdict.AUTH),
        (Op.CHAT, 402, "", Verdict.AUTH),
        (Op.CHAT, 403, "", Verdict.AUTH),
        (Op.CHAT, 404, NO_MODEL, Verdict.UNKNOWN_MODEL),
        (Op.CHAT, 404, NO_ACCESS, Verdict.UNKNOWN_MODEL),
        (Op.COMPLETIONS, 404, CHAT_ONLY, Verdict.UNSUPPORTED),
        (Op.RERANK, 404, "Invalid URL (POST /v1/rerank)", Verdict.UNSUPPORTED),
        (Op.SCORE, 404, '{"detail":"Not Found"}', Verdict.UNSUPPORTED),
        (Op.RERANK, 404, '{"error":{"type":"not_found"}}', Verdict.UNSUPPORTED),
        (Op.RESPONSES_BY_ID, 404, "Response with id 'r' not found.", Verdict.CLIENT),
        (Op.CHAT, 400, "bad temperature", Verdict.CLIENT),
        (Op.CHAT, 500, "", Verdict.ENGINE),
        (Op.CHAT, 520, "", Verdict.ENGINE),
    ],
)
def test_openai_phrase_book(op: Op, status: int, text: str, verdict: Verdict) -> None:
    assert judge(OPENAI_CLOUD, op, status, text) is verdict


@pytest.mark.parametrize(
    ("status", "text", "verdict"),
    [
        (529, '{"error":{"type":"overloaded_error"}}', Verdict.OVERLOADED),
        (429, '{"error":{"type":"rate_limit_error"}}', Verdict.OVERLOADED),
        (404, '{"error":{"type":"not_found_error","message":"model: x"}}', Verdict.UNKNOWN_MODEL),
        (404, '{"error":{"type":"not_found_error","message":"Not Found"}}', Verdict.UNSUPPORTED),
        (400, "Your credit balance is too low", Verdict.AUTH),
        (400, "max_tokens: required", Verdict.CLIENT),
        (401, "", Verdict.AUTH),
        (500, "", Verdict.ENGINE),
    ],
)
def test_anthropic_phrase_book(status: int, text: str, verdict: Verdict) -> None:
    assert judge(ANTHROPIC_CLOUD, Op.MESSAGES, status, text) is verdict
