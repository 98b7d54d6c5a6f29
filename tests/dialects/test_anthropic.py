"""Anthropic's errors: our category, its name of the error, an SDK that finds its exception."""

import json

import anthropic as sdk
import httpx2
import pytest

from gateway.core.errors import KINDS, Refusal
from gateway.core.types import Op
from gateway.dialects import anthropic
from gateway.dialects.stream import first_fault


def error(kind: str, **fields: str) -> dict[str, str]:
    doc = json.loads(anthropic.refuse(Refusal(kind, "It failed.", **fields), "r1"))
    assert doc["type"] == "error"
    found: dict[str, str] = doc["error"]
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_type_is_our_category_and_the_code_is_anthropics_name(kind: str) -> None:
    found = error(kind)
    assert found["type"] == kind
    assert found.get("code") == anthropic.NAMES.get(kind)


def test_only_what_a_backend_cannot_do_has_no_name_there() -> None:
    assert KINDS.keys() - anthropic.NAMES.keys() == {"unsupported"}


def test_a_code_of_our_own_stays() -> None:
    assert error("unsupported", code="unsupported_parameter")["code"] == "unsupported_parameter"


@pytest.mark.parametrize(
    ("kind", "exception"),
    [
        ("invalid_request", sdk.BadRequestError),
        ("unauthorized", sdk.AuthenticationError),
        ("forbidden", sdk.PermissionDeniedError),
        ("model_not_found", sdk.NotFoundError),
        ("request_too_large", sdk.APIStatusError),
        ("rate_limit_exceeded", sdk.RateLimitError),
        ("unsupported", sdk.InternalServerError),
        ("overloaded", sdk.InternalServerError),
        ("backend_timeout", sdk.InternalServerError),
    ],
)
def test_the_official_sdk_raises_by_status(kind: str, exception: type[Exception]) -> None:
    refusal = Refusal(kind, "It failed.")

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(refusal.status, content=anthropic.refuse(refusal, "r1"))

    transport = httpx2.MockTransport(answer)
    client = sdk.Anthropic(
        api_key="k",
        base_url="http://gateway",
        max_retries=0,
        http_client=httpx2.Client(transport=transport),
    )
    with pytest.raises(exception, match="It failed"):
        client.messages.create(
            model="m", max_tokens=1, messages=[{"role": "user", "content": "hi"}]
        )


def test_a_cut_stream_tells_its_status_to_another_gateway() -> None:
    event = anthropic.cut(Op.MESSAGES, Refusal("overloaded", "Full."), "r1")
    assert first_fault(event) == (529, "Full.")
