"""Who may come in, and what for (INTERFACE 3 and 4)."""

import pytest

from gateway.core.errors import Refusal
from gateway.core.keys import ANONYMOUS, Keyring, authenticate, digest, is_admin, may_use
from gateway.core.types import Caller

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
