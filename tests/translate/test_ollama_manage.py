"""Routes that install and remove models are for admin keys, and for backends that are Ollama."""

from __future__ import annotations

import pytest

from gateway.core.errors import Refusal
from gateway.translate.ollama_manage import manager, methods
from tests.core.fleets import catalog

BOX = catalog(box="ollama m1", gpu1="vllm m1")
TWO = catalog(box="ollama m1", den="ollama m1")


def refused(*args) -> Refusal:
    with pytest.raises(Refusal) as caught:
        manager(*args)
    return caught.value


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/pull", ("POST",)),
        ("/api/delete", ("DELETE",)),
        ("/api/blobs/sha256:12", ("POST", "HEAD")),
        ("/api/blobs/", ()),
        ("/api/blobs", ()),
        ("/api/chat", ()),
        ("/api/pull/", ()),
    ],
)
def test_management_routes_are_known_with_their_methods(path, allowed) -> None:
    assert methods(path) == allowed


def test_the_only_ollama_takes_it() -> None:
    assert manager("/api/pull", True, "", BOX).backend.name == "box"
    assert manager("/api/pull", True, "box", BOX).backend.name == "box"


def test_the_named_one_of_several_takes_it() -> None:
    assert manager("/api/pull", True, "den", TWO).backend.name == "den"
    refusal = refused("/api/pull", True, "", TWO)
    assert refusal.status == 501
    assert "box, den" in refusal.message


def test_without_an_admin_key_it_is_refused() -> None:
    refusal = refused("/api/delete", False, "", BOX)
    assert (refusal.status, refusal.kind) == (501, "unsupported")
    assert "/api/delete" in refusal.message
    assert "auth.admin_keys" in refusal.message


def test_other_runtimes_have_nothing_to_manage() -> None:
    refusal = refused("/api/pull", True, "gpu1", BOX)
    assert refusal.status == 501
    assert "'gpu1' is no Ollama" in refusal.message
    assert "Name one that is: box." in refusal.message
    assert (
        "No backend here is an Ollama"
        in refused("/api/pull", True, "", catalog(gpu1="sglang m1")).message
    )


def test_unknown_and_absent_backends_are_told_apart() -> None:
    assert refused("/api/pull", True, "nobody", BOX).kind == "not_found"
    away = catalog(box="-ollama m1")
    assert refused("/api/pull", True, "", away).kind == "overloaded"
