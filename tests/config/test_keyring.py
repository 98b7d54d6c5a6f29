"""Keys of callers and administrators: from file, environment and files of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import KeyEntry, Overrides
from gateway.config.load import load
from gateway.core.keys import digest
from gateway.core.types import Caller

from .helpers import fault, faults, loaded

A, B, C = "alpha-key-0123456789", "bravo-key-0123456789", "charlie-key-0123456789"


def test_a_plain_key_is_kept_as_its_digest_only(tmp_path: Path) -> None:
    config = loaded(tmp_path, f"auth: {{keys: [{{name: a, key: {A}}}]}}")
    assert config.keyring.callers == {digest(A): Caller("a")}
    assert A not in repr(config)


def test_a_hashed_key_is_the_same_as_the_plain_one(tmp_path: Path) -> None:
    hashed = digest(A).upper().replace("SHA256", "sha256")
    config = loaded(tmp_path, f"auth: {{keys: [{{name: a, key: '{hashed}'}}]}}")
    assert config.keyring.callers == {digest(A): Caller("a")}


def test_a_key_may_have_models_and_limits(tmp_path: Path) -> None:
    text = f"""
auth:
  keys:
    - {{name: a, key: {A}, models: ["qwen*", chat], requests_per_minute: 1,
       tokens_per_minute: "2", max_concurrency: 3}}
"""
    (caller,) = loaded(tmp_path, text).keyring.callers.values()
    assert caller == Caller("a", ("qwen*", "chat"), 1, 2, 3)


def test_a_key_may_have_surfaces_budgets_and_an_end(tmp_path: Path) -> None:
    text = f"""
auth:
  keys:
    - {{name: a, key: {A}, surfaces: [Chat-Completions, messages], tokens_per_day: 5,
       tokens_per_month: 6, expires: 2027-01-31}}
"""
    (caller,) = loaded(tmp_path, text).keyring.callers.values()
    assert caller.surfaces == ("chat-completions", "messages")
    assert (caller.tokens_per_day, caller.tokens_per_month) == (5, 6)
    assert caller.expires == 1801353600


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1801353600", 1801353600),
        ("1801353600.5", 1801353600.5),
        ("'1801353600'", 1801353600),
        ("2027-01-31T00:00:00Z", 1801353600),
        ("'2027-01-31 01:00:00+01:00'", 1801353600),
    ],
)
def test_a_key_ends_at_a_moment_however_it_is_written(
    tmp_path: Path, written: str, seconds: float
) -> None:
    text = f"auth: {{keys: [{{name: a, key: {A}, expires: {written}}}]}}"
    (caller,) = loaded(tmp_path, text).keyring.callers.values()
    assert caller.expires == seconds


@pytest.mark.parametrize(
    "value", ["tomorrow", "0", "-1", "true", "2027-02-30", "1801353600000", "[]"]
)
def test_an_end_that_is_no_moment_is_a_fault(tmp_path: Path, value: str) -> None:
    text = f"auth: {{keys: [{{name: a, key: {A}, expires: {value}}}]}}"
    assert fault(tmp_path, text) == (
        "auth.keys[0].expires: must be Unix seconds or a date such as 2027-01-31 or"
        " 2027-01-31T12:00:00Z"
    )


def test_a_surface_has_to_be_one(tmp_path: Path) -> None:
    text = f"auth: {{keys: [{{name: a, key: {A}, surfaces: [chat]}}]}}"
    assert fault(tmp_path, text).startswith(
        "auth.keys[0].surfaces[0]: must be one of chat-completions, completions"
    )


@pytest.mark.parametrize("limit", ["requests_per_minute", "tokens_per_minute", "max_concurrency"])
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "true", "lots"])
def test_limits_are_whole_numbers_of_at_least_one(tmp_path: Path, limit: str, value: str) -> None:
    text = f"auth: {{keys: [{{name: a, key: {A}, {limit}: {value}}}]}}"
    assert fault(tmp_path, text) == f"auth.keys[0].{limit}: must be a whole number, 1 or more"


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("''", "is empty; write a value or remove the line"),
        (
            "'hush hush hush'",
            "has a space, line break or letter beyond ASCII; headers cannot carry",
        ),
        ("hüsh-hush-hush", "has a space, line break or letter beyond ASCII; headers cannot carry"),
        ("'sha256:hush'", "must have 64 hex digits after 'sha256:'"),
        ("12345678901", "must be text; put it into quotes"),
        ("[hush]", "must be text; put it into quotes"),
    ],
)
def test_a_key_that_cannot_be_is_refused_without_showing_it(
    tmp_path: Path, key: str, reason: str
) -> None:
    for text, place in (
        (f"auth: {{keys: [{{name: a, key: {key}}}]}}", "auth.keys[0].key"),
        (f"auth: {{admin_keys: [{key}]}}", "auth.admin_keys[0]"),
    ):
        found = fault(tmp_path, text)
        assert found.startswith(f"{place}: {reason}")
        assert "hush" not in found


def test_a_secret_in_the_wrong_place_is_not_shown_either(tmp_path: Path) -> None:
    for text in (
        "auth: {keys: {sk-hush1: a}}",
        "auth: {keys: [sk-hush1]}",
        "auth: {keys: [{name: a, key: 0123456789, sk-hush1: b}]}",
        "auth: {sk-hush1: sk-hush1}",
        "auth: {admin_keys: sk-hush1}",
        "auth: {keys: [{sk-hush1: a, sk-hush1: b}]}",
        "backends: [{url: 'http://h:1', api_key: {a: sk-hush1}}]",
        "backends: [{url: 'http://h:1', api_key: [a, sk hush1]}]",
        "backends: [{url: 'http://h:1', api_key: [sk-hush1, sk-hush1]}]",
        "backends: [{url: 'http://h:1', api_key: [sk-hush1, passthrough]}]",
        "backends: [{url: 'http://h:1', api_key: 'sk hush1'}]",
        "backends: [{url: 'sk-hush1'}]",
        "store: {url: 'redis://:hush1@h:x'}",
    ):
        assert "hush" not in " ".join(faults(tmp_path, text))


def test_a_key_needs_a_name_and_a_secret(tmp_path: Path) -> None:
    assert faults(tmp_path, "auth: {keys: [{models: [a]}]}") == (
        "auth.keys[0].name: is required",
        "auth.keys[0].key: is required: the key, its sha256:… form, or key_file",
    )


@pytest.mark.parametrize("name", ["''", '"a\\nb"', "x" * 65, "7"])
def test_the_name_of_a_key_is_a_short_printable_line(tmp_path: Path, name: str) -> None:
    found = fault(tmp_path, f"auth: {{keys: [{{name: {name}, key: {A}}}]}}")
    assert found.startswith("auth.keys[0].name: ")


def test_names_and_keys_are_given_once(tmp_path: Path) -> None:
    text = f"""
auth:
  keys: [{{name: a, key: {A}}}, {{name: a, key: {B}}}, {{name: c, key: "{digest(A)}"}}]
"""
    assert faults(tmp_path, text) == (
        "auth.keys[1].name: is the name of auth.keys[0] as well",
        "auth.keys[2].key: is the key of auth.keys[0] as well; make a new one",
    )


def test_keys_of_the_environment_are_added_to_those_of_the_file(tmp_path: Path) -> None:
    text = f"auth: {{keys: [{{name: a, key: {A}}}], admin_keys: [{C}]}}"
    env = {"API_KEYS": f"{B}, {digest('other')} ,", "ADMIN_KEYS": "admin-of-the-environment"}
    config = loaded(tmp_path, text, env)
    assert config.keyring.callers == {
        digest(A): Caller("a"),
        digest(B): Caller("key-1"),
        digest("other"): Caller("key-2"),
    }
    assert config.keyring.admins == {digest(C), digest("admin-of-the-environment")}
    assert config.entries == (
        KeyEntry("auth.keys[0]", "a", digest(A)),
        KeyEntry("API_KEYS[0]", "key-1", digest(B)),
        KeyEntry("API_KEYS[1]", "key-2", digest("other")),
        KeyEntry("auth.admin_keys[0]", "admin", digest(C), admin=True),
        KeyEntry("ADMIN_KEYS[0]", "admin", digest("admin-of-the-environment"), admin=True),
    )


def test_a_key_of_the_environment_replaces_the_files_key_of_that_name(tmp_path: Path) -> None:
    config = loaded(tmp_path, f"auth: {{keys: [{{name: key-1, key: {A}}}]}}", {"API_KEYS": B})
    assert config.keyring.callers == {digest(B): Caller("key-1")}
    assert config.warnings == (
        "auth.keys[0]: 'key-1' is replaced by the key of that name in API_KEYS",
    )


def test_the_same_key_in_both_keeps_the_limits_of_the_file(tmp_path: Path) -> None:
    text = f"auth: {{keys: [{{name: a, key: {A}, max_concurrency: 2}}]}}"
    config = loaded(tmp_path, text, {"API_KEYS": f"{A},{B},{B}"})
    assert [caller.name for caller in config.keyring.callers.values()] == ["a", "key-2"]
    assert config.warnings == (
        "API_KEYS[0]: is the key of auth.keys[0] as well; that entry holds",
        "API_KEYS[2]: is the key of API_KEYS[1] as well; that entry holds",
    )


def test_a_faulty_key_of_the_environment_is_named_by_its_place(tmp_path: Path) -> None:
    env = {"API_KEYS": f"{A},hu sh", "ADMIN_KEYS": "hu sh2"}
    found = faults(tmp_path, "", env)
    assert [line.split(":")[0] for line in found] == ["API_KEYS[1]", "ADMIN_KEYS[0]"]
    assert "hush" not in " ".join(found)


def test_short_keys_and_mixed_roles_are_warned_about(tmp_path: Path) -> None:
    text = f"""
auth:
  keys: [{{name: a, key: "0123456789"}}, {{name: admin, key: {A}}}, {{name: anonymous, key: {B}}}]
  admin_keys: [{A}]
"""
    assert loaded(tmp_path, text).warnings == (
        "auth.keys[0]: has fewer than 16 characters; 'portico keys new' makes a better one",
        "auth.keys[1]: is an admin key as well; everyone who holds it is an administrator",
        "auth.keys[1].name: 'admin' is what logs call an admin key",
        "auth.keys[2].name: 'anonymous' is what logs call a caller without a key",
    )


def test_admin_keys_alone_leave_the_gateway_open(tmp_path: Path) -> None:
    config = load(None, {"ADMIN_KEYS": A}, Overrides())
    assert config.keyring.open
    assert config.keyring.admins == {digest(A)}
