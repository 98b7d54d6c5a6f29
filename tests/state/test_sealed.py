"""Secrets as they are kept."""

from __future__ import annotations

import pytest

from gateway.state.sealed import Seal
from gateway.state.store import StoreError

pytest.importorskip("cryptography", reason="the package cryptography is not installed")

SECRET = "a-long-and-random-secret-of-the-tests"


def test_a_sealed_secret_opens_with_the_same_secret_alone() -> None:
    kept = Seal(SECRET).shut("sk-1", "provider")
    assert "sk-1" not in str(kept)
    assert Seal(SECRET).open(kept, "provider") == "sk-1"
    with pytest.raises(StoreError, match=r"another store\.secret"):
        Seal("another").open(kept, "provider")
    with pytest.raises(StoreError, match=r"store\.secret is not set"):
        Seal(None).open(kept, "provider")


def test_it_does_not_open_at_another_entry() -> None:
    with pytest.raises(StoreError):
        Seal(SECRET).open(Seal(SECRET).shut("sk-1", "a"), "b")


def test_no_two_are_alike() -> None:
    assert Seal(SECRET).shut("sk-1", "a") != Seal(SECRET).shut("sk-1", "a")


def test_without_a_secret_it_is_kept_as_it_is_and_stays_readable() -> None:
    kept = Seal(None).shut("sk-1", "a")
    assert kept == {"plain": "sk-1"}
    assert Seal(SECRET).open(kept, "a") == "sk-1"
