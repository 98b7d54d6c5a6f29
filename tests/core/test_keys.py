"""Who may come in, and what for (INTERFACE 3 and 4)."""

import pytest

from gateway.core.errors import Refusal
from gateway.core.keys import (
    ANONYMOUS,
    Keyring,
    authenticate,
    digest,
    is_admin,
    may_call,
    may_use,
    unexpired,
)
from gateway.core.types import Caller, Op

TEAM = Caller("team-a")
RING = Keyring({digest("pk-right"): TEAM}, frozenset({digest("pk-admin")}))


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer pk-right"},
        {"authorization": "bearer  pk-right "},
        {"x-api-key": "pk-right"},
    ],
)
def test_both_ways_of_sending_a_key_are_taken(headers):
    assert authenticate(headers, RING) is TEAM


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": "Basic pk-right"},
        {"authorization": "Bearer pk-wrong"},
        {"authorization": "pk-right"},
        {"x-api-key": digest("pk-right")},
        {"x-api-key": "p\udcffk"},
    ],
)
def test_anything_else_is_401_with_a_challenge_and_without_the_key(headers):
    with pytest.raises(Refusal) as caught:
        authenticate(headers, RING)
    assert caught.value.status == 401
    assert caught.value.headers["WWW-Authenticate"] == "Bearer"
    assert "pk-" not in caught.value.message


def test_without_keys_everybody_is_anonymous():
    assert authenticate({}, Keyring()) is ANONYMOUS


def test_an_admin_key_opens_both_doors_and_a_plain_key_only_one():
    admin = {"authorization": "Bearer pk-admin"}
    assert authenticate(admin, RING).name == "admin"
    assert is_admin(admin, RING)
    assert not is_admin({"x-api-key": "pk-right"}, RING)
    assert not is_admin({}, RING)


def test_patterns_match_whole_names_with_case():
    caller = Caller(models=("Qwen/*", "chat"))
    assert may_use(caller, "other", "Qwen/x")
    assert not may_use(caller, "qwen/x")
    assert not may_use(Caller(models=()), "chat")


def test_a_key_is_good_until_the_moment_it_expires():
    caller = Caller("a", expires=100.0)
    unexpired(Caller("a"), 10.0**12)
    unexpired(caller, 99.9)
    with pytest.raises(Refusal, match="'a' expired on 1970-01-01 at 00:01 UTC") as caught:
        unexpired(caller, 100.0)
    assert caught.value.status == 401
    assert caught.value.headers == {"WWW-Authenticate": "Bearer"}


def test_a_key_without_surfaces_may_use_all():
    for op in Op:
        may_call(Caller("a"), op)


@pytest.mark.parametrize(
    ("surface", "implied"),
    [
        ("chat-completions", set()),
        ("responses", {Op.RESPONSES_BY_ID}),
        ("messages", {Op.COUNT_TOKENS}),
        ("tokenize", {Op.DETOKENIZE}),
    ],
)
def test_a_key_of_one_surface_may_use_that_what_belongs_to_it_and_lists(surface, implied):
    def allowed(op):
        try:
            may_call(Caller("a", surfaces=(surface,)), op)
        except Refusal as refusal:
            assert (refusal.status, refusal.kind) == (403, "forbidden")
            return False
        return True

    lists = {Op.TAGS, Op.SHOW, Op.PS, Op.VERSION}
    assert {op for op in Op if allowed(op)} == {Op(surface), *implied, *lists}


@pytest.mark.parametrize(
    ("fields", "bounded", "limited", "counts_tokens"),
    [
        ({}, False, False, False),
        ({"models": ("a",), "priority": 1}, False, False, False),
        ({"surfaces": ("messages",)}, True, False, False),
        ({"expires": 0.0}, True, False, False),
        ({"max_concurrency": 1}, True, True, False),
        ({"requests_per_minute": 1}, True, True, False),
        ({"tokens_per_minute": 1}, True, True, True),
        ({"tokens_per_day": 1}, True, True, True),
        ({"tokens_per_month": 1}, True, True, True),
    ],
)
def test_a_caller_knows_what_has_to_be_looked_at(fields, bounded, limited, counts_tokens):
    caller = Caller("a", **fields)
    assert (caller.bounded, caller.limited, caller.counts_tokens) == (
        bounded,
        limited,
        counts_tokens,
    )
