"""Keys of the store: what is kept of them and what comes of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.control import forms
from gateway.control.keys import CHANGEABLE, FIELDS, caller, merged, moment, record, shown
from gateway.core.errors import Refusal
from gateway.core.keys import Keyring, authenticate, digest, unexpired
from gateway.core.types import Caller, Doc

KEY = "pk-of-the-tests-0123456789"


def kept(name: str = "team-a", key: str = KEY, **given: object) -> Doc:
    return record({"name": name, **given}, key, 1000.0, "admin-1")


def refused(doc: dict[str, object], **options: object) -> Refusal:
    with pytest.raises(Refusal) as caught:
        forms.read(doc, FIELDS, **options)  # type: ignore[arg-type]
    assert caught.value.kind == "invalid_request"
    return caught.value


def test_the_key_itself_is_not_kept_nor_shown() -> None:
    assert KEY not in json.dumps(kept())
    assert kept()["digest"] == digest(KEY)
    assert digest(KEY)[20:] not in json.dumps(shown(kept(), 0))


def test_a_key_without_settings_may_do_all() -> None:
    assert caller(kept()) == Caller("team-a")


def test_every_setting_reaches_the_caller() -> None:
    doc = kept(
        models=["qwen*"],
        surfaces=["embeddings"],
        requests_per_minute=1,
        tokens_per_minute=2,
        tokens_per_day=3,
        tokens_per_month=4,
        max_concurrency=5,
        priority="high",
        expires=6.5,
    )
    assert caller(doc) == Caller(
        "team-a",
        ("qwen*",),
        1,
        2,
        5,
        priority=1,
        surfaces=("embeddings",),
        tokens_per_day=3,
        tokens_per_month=4,
        expires=6.5,
    )


def test_who_has_a_key_that_expired_is_told_so_and_when_and_nobody_else() -> None:
    ring = merged(Keyring(), [kept(expires=2000.0)], True)
    caller = authenticate({"x-api-key": KEY}, ring)
    unexpired(caller, 1999.9)
    with pytest.raises(Refusal, match="'team-a' expired on 1970-01-01 at 00:33 UTC"):
        unexpired(caller, 2000.0)
    with pytest.raises(Refusal, match="not known here"):
        authenticate({"x-api-key": f"{KEY}x"}, ring)


def test_a_configured_key_beats_one_of_the_same_name_in_the_store() -> None:
    ring = Keyring({digest("other"): Caller("team-a")}, frozenset({"x"}))
    found = merged(ring, [kept(), kept("team-b", "key-b")], True)
    assert [one.name for one in found.callers.values()] == ["team-b", "team-a"]
    assert digest(KEY) not in found.callers
    assert found.admins == {"x"}


def test_a_gateway_whose_last_key_was_revoked_stays_closed() -> None:
    assert merged(Keyring(), [], False).open
    assert not merged(Keyring(), [], True).open


def test_while_the_store_was_never_read_only_configured_keys_work() -> None:
    with pytest.raises(Refusal) as caught:
        authenticate({}, Keyring(unread=True))
    assert caught.value.kind == "overloaded"
    ring = Keyring({digest(KEY): Caller("a")}, unread=True)
    assert authenticate({"x-api-key": KEY}, ring).name == "a"
    for headers, kind in (({}, "unauthorized"), ({"x-api-key": "other"}, "overloaded")):
        with pytest.raises(Refusal) as caught:
            authenticate(headers, ring)
        assert caught.value.kind == kind


def test_a_date_begins_in_utc() -> None:
    assert moment("2027-01-15") == 1_800_000_000 - 8 * 3600


@pytest.mark.parametrize("value", ["2027-01-15T08:00:00Z", "2027-01-15T09:00:00+01:00", 1800000000])
def test_a_moment_is_a_number_or_a_time_with_its_zone(value: object) -> None:
    assert moment(value) == 1_800_000_000


def test_a_whole_number_may_be_written_with_a_point() -> None:
    given = forms.read({"name": "a", "max_concurrency": 5.0}, FIELDS)
    assert (given["max_concurrency"], type(given["max_concurrency"])) == (5, int)


FAULTS: list[tuple[str, object]] = [
    ("name", ""),
    ("name", "x" * 65),
    ("name", "a\nb"),
    ("name", 5),
    ("name", None),
    ("models", []),
    ("models", "qwen"),
    ("models[1]", ["a", 1]),
    ("surfaces[0]", ["chat"]),
    ("requests_per_minute", 0),
    ("tokens_per_day", True),
    ("tokens_per_month", 1.5),
    ("max_concurrency", "4"),
    ("priority", 1),
    ("expires", "tomorrow"),
    ("expires", "2027-01-15T08:00:00"),
    ("expires", -1),
    ("expires", True),
]


@pytest.mark.parametrize(("place", "value"), FAULTS)
def test_a_fault_names_its_field(place: str, value: object) -> None:
    name = place.partition("[")[0]
    found = refused({"name": "a", name: value})
    assert found.param == place
    assert found.message.startswith(f"'{place}' ")


def test_all_faults_are_told_at_once() -> None:
    found = refused({"models": [], "priorty": "high"})
    assert found.param == "priorty"
    assert "did you mean 'priority'?" in found.message
    assert "'name' is required" in found.message
    assert "'models' must name" in found.message


def test_a_change_needs_no_field_and_null_takes_a_limit_away() -> None:
    assert forms.read({}, CHANGEABLE, partial=True) == {}
    assert forms.read({"expires": None}, CHANGEABLE, partial=True) == {"expires": None}
    with pytest.raises(Refusal):
        forms.read({"models": None}, CHANGEABLE, partial=True)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_nothing_that_is_sent_makes_more_than_a_refusal(value: object) -> None:
    for name in FIELDS:
        try:
            forms.read({"name": "a", name: value}, FIELDS)
        except Refusal as refusal:
            assert refusal.param is not None and refusal.param.startswith(name)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"', b'{"name": NaN}', b"\xff"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal):
        forms.parse(body)
