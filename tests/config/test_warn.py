"""Warnings: what works but is probably not meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Overrides
from gateway.config.load import load

from .helpers import loaded, written

KEYED = "\nauth: {keys: [{name: a, key_file: k}]}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "k").write_text("some-key-0123456789")
    return tmp_path


def test_a_backend_named_like_a_runtime_is_told_what_that_means(folder: Path) -> None:
    text = "backends: [{name: vllm, url: 'http://h:1'}]"
    assert loaded(folder, text).warnings == (
        "backends[0].name: 'vllm' is a runtime's name as well; 'vllm:MODEL' will always mean this"
        " backend",
    )


@pytest.mark.parametrize(
    ("host", "url", "warned"),
    [
        ("127.0.0.1", "http://localhost:8000", True),
        ("0.0.0.0", "http://127.0.0.1:8000", True),
        ("10.0.0.1", "http://10.0.0.1:8000", True),
        ("127.0.0.1", "http://127.0.0.1:8001", False),
        ("127.0.0.1", "http://10.0.0.1:8000", False),
        ("10.0.0.1", "http://127.0.0.1:8000", False),
    ],
)
def test_a_backend_at_our_own_address_is_pointed_out(
    folder: Path, host: str, url: str, warned: bool
) -> None:
    text = f"server: {{host: {host}}}\nbackends: [{{url: '{url}'}}]{KEYED}"
    found = loaded(folder, text).warnings
    assert [line.startswith("backends[0].url: is the address on which") for line in found] == [
        True
    ] * warned


def test_one_engine_behind_two_names_is_pointed_out(folder: Path) -> None:
    text = "backends: [{name: a, url: 'http://h:1'}, {name: b, url: 'http://h:1/v1'}]"
    assert loaded(folder, text).warnings == (
        "backends[1].url: is the address of backends[0] as well; their limits and counts do not"
        " know of each other",
    )


def test_a_gateway_open_to_the_network_is_pointed_out(folder: Path) -> None:
    assert loaded(folder, "server: {host: 0.0.0.0}").warnings == (
        "auth.keys: there is no key, so everyone who reaches 0.0.0.0:8000 may use every model",
    )
    assert loaded(folder, "server: {host: 0.0.0.0}" + KEYED).warnings == ()


def test_nothing_to_serve_is_pointed_out() -> None:
    assert load(None, {}, Overrides(discover=False)).warnings == (
        "backends: there is none and discovery is off, so there is nothing to serve yet",
    )
    assert load(None, {}, Overrides(discover=False, demo=True)).warnings == ()


SECRETS = """
backends:
  - {name: a, url: "http://h:1", api_key: literal}
  - {name: b, url: "http://h:2", api_key: passthrough}
  - {name: c, url: "http://h:3", api_key: "${UP}"}
auth:
  keys: [{name: k, key: literal-key-0123456789}, {name: h, key: "sha256:DIGEST"}]
  admin_keys: ["${ADMIN}"]
""".replace("DIGEST", "a" * 64)
ENV = {"UP": "upstream", "ADMIN": "admin-key-0123456789"}


def test_plain_secrets_in_a_file_that_everyone_reads_are_pointed_out(folder: Path) -> None:
    path = written(folder, SECRETS)
    path.chmod(0o644)
    (warning,) = load(path, ENV, Overrides()).warnings
    assert warning.startswith(
        f"backends[0].api_key, auth.keys[0].key: stands in plain text in {path}, which every user"
    )
    assert "literal" not in warning


def test_a_file_that_only_its_owner_reads_may_hold_secrets(folder: Path) -> None:
    assert loaded(folder, SECRETS, ENV).warnings == ()


def test_a_readable_file_without_secrets_is_fine(folder: Path) -> None:
    path = written(folder, "backends: [{url: 'http://h:1', api_key: '${UP}'}]")
    path.chmod(0o644)
    assert load(path, ENV, Overrides()).warnings == ()
