"""``*_file`` and TLS files."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from gateway.config.dump import dump
from gateway.core.keys import digest

from .helpers import fault, faults, loaded

KEY = "file-key-0123456789"
UP = "backends: [{name: a, url: 'http://h:1', api_key_file: up.key}]"


def test_each_secret_may_stand_in_a_file_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "up.key").write_text("upstream\r\n")
    (tmp_path / "team.key").write_text(f"{KEY}\n")
    (tmp_path / "admins").write_text("\nadmin-one-0123456789\n\nadmin-two-0123456789\n")
    (tmp_path / "store").write_text("redis://:pw@h:6379/0\n")
    text = f"""
{UP}
auth:
  keys: [{{name: t, key_file: team.key}}]
  admin_keys: [admin-zero-0123456789]
  admin_keys_file: {tmp_path}/admins
store: {{url_file: store}}
"""
    config = loaded(tmp_path, text)
    assert config.backends[0].secret == "upstream"
    assert list(config.keyring.callers) == [digest(KEY)]
    assert config.keyring.admins == {
        digest(f"admin-{number}-0123456789") for number in ("zero", "one", "two")
    }
    assert config.store_url == "redis://:pw@h:6379/0"


def test_the_name_of_the_file_may_come_from_a_variable(tmp_path: Path) -> None:
    (tmp_path / "up.key").write_text("upstream")
    config = loaded(tmp_path, UP.replace("up.key", "'${DIR}/up.key'"), {"DIR": str(tmp_path)})
    assert config.backends[0].secret == "upstream"


def test_what_a_file_holds_is_not_expanded(tmp_path: Path) -> None:
    (tmp_path / "up.key").write_text("a${HOME}b")
    assert loaded(tmp_path, UP, {"HOME": "x"}).backends[0].secret == "a${HOME}b"


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    text = """
backends: [{name: a, url: "http://h:1", api_key_file: none}]
auth: {keys: [{name: k, key_file: none}], admin_keys_file: none}
store: {url_file: none}
"""
    assert faults(tmp_path, text) == tuple(
        f"{place}: {tmp_path}/none cannot be read: No such file or directory"
        for place in (
            "backends[0].api_key_file",
            "store.url_file",
            "auth.keys[0].key_file",
            "auth.admin_keys_file",
        )
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\n", "is empty; put the secret into it"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"x" * 70000, "is over 64 KiB; that is no secret"),
    ],
)
def test_a_file_without_a_secret_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "up.key").write_bytes(content)
    assert fault(tmp_path, UP) == f"backends[0].api_key_file: {tmp_path}/up.key {reason}"


def test_a_secret_and_its_file_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_text(KEY)
    text = f"""
backends: [{{name: a, url: "http://h:1", api_key: x, api_key_file: f}}]
auth: {{keys: [{{name: k, key: {KEY}, key_file: f}}]}}
"""
    assert faults(tmp_path, text) == (
        "backends[0].api_key_file: stands beside 'api_key'; keep one of the two",
        "auth.keys[0].key_file: stands beside 'key'; keep one of the two",
    )


def test_a_faulty_secret_of_a_file_is_not_shown(tmp_path: Path) -> None:
    for text, where in (("two hush", ""), ("one\ntwo hush", "entry 2 ")):
        (tmp_path / "up.key").write_text(text)
        found = fault(tmp_path, UP)
        assert found.startswith(f"backends[0].api_key: {where}has a space, line break")
        assert "hush" not in found


def test_a_file_may_hold_several_keys_for_an_engine(tmp_path: Path) -> None:
    (tmp_path / "up.key").write_text("one\n\ntwo\nthree\n")
    assert loaded(tmp_path, UP).backends[0].keys == ("one", "two", "three")


def test_a_faulty_line_of_admin_keys_is_named_by_its_number(tmp_path: Path) -> None:
    (tmp_path / "admins").write_text("admin-one-0123456789\n\nhush hush\n")
    found = fault(tmp_path, "auth: {admin_keys_file: admins}")
    assert found.startswith("auth.admin_keys[1]: has a space")
    assert found.endswith(f"(given by line 3 of {tmp_path}/admins)")


def test_the_name_of_a_file_is_text_that_can_be_one(tmp_path: Path) -> None:
    for name in ('"a\\0b"', "''", "7"):
        for setting, place in (
            (UP.replace("up.key", name), "backends[0].api_key_file"),
            (f"auth: {{admin_keys_file: {name}}}", "auth.admin_keys_file"),
            (f"server: {{tls: {{cert: {name}, key: /dev/null}}}}", "server.tls.cert"),
        ):
            assert fault(tmp_path, setting).startswith(f"{place}: ")


def pair(folder: Path, name: str) -> None:
    leaf = trustme.CA().issue_cert("localhost")
    leaf.cert_chain_pems[0].write_to_path(str(folder / f"{name}.crt"))
    leaf.private_key_pem.write_to_path(str(folder / f"{name}.key"))


def test_tls_takes_a_certificate_and_its_key(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    server = loaded(tmp_path, "server: {tls: {cert: a.crt, key: a.key}}").server
    assert (server.tls_cert, server.tls_key) == (tmp_path / "a.crt", tmp_path / "a.key")


def test_tls_needs_both_files(tmp_path: Path) -> None:
    assert fault(tmp_path, "server: {tls: {cert: a.crt}}") == "server.tls.key: is required"
    assert fault(tmp_path, "server: {tls: {key: a.key}}") == "server.tls.cert: is required"


def test_tls_files_must_be_readable(tmp_path: Path) -> None:
    assert faults(tmp_path, "server: {tls: {cert: a.crt, key: a.key}}") == (
        f"server.tls.cert: {tmp_path}/a.crt cannot be read: No such file or directory",
        f"server.tls.key: {tmp_path}/a.key cannot be read: No such file or directory",
    )


def test_tls_files_are_looked_at_even_when_something_else_is_wrong(tmp_path: Path) -> None:
    found = faults(tmp_path, "server: {tls: {cert: a.crt, key: a.key}}\nrouting: {policy: x}")
    assert [line.split(":")[0] for line in found] == [
        "routing.policy",
        "server.tls.cert",
        "server.tls.key",
    ]


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    pair(tmp_path, "b")
    found = fault(tmp_path, "server: {tls: {cert: a.crt, key: b.key}}")
    assert found.startswith("server.tls: is no certificate with its key in PEM form")
    assert found.endswith("mismatch")


def test_a_key_with_a_passphrase_is_refused_without_asking_for_it(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    path = tmp_path / "a.key"
    key = load_pem_private_key(path.read_bytes(), None)
    locked = BestAvailableEncryption(b"hush")
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, locked))
    found = fault(tmp_path, "server: {tls: {cert: a.crt, key: a.key}}")
    assert "and without a passphrase" in found


def test_tls_files_that_are_no_pem_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.crt").write_text("hello")
    (tmp_path / "a.key").write_text("hello")
    assert fault(tmp_path, "server: {tls: {cert: a.crt, key: a.key}}").startswith("server.tls: is")


def test_the_key_of_a_gpu_agent_may_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "agent.key").write_text("agents-own\n")
    gpus = "{agent: 'http://h:9835', key_file: agent.key}"
    config = loaded(tmp_path, f"backends: [{{name: a, url: 'http://h:1', gpus: {gpus}}}]")
    assert config.gpus["a"].key == "agents-own"
    assert "agents-own" not in dump(config)
    assert "agents-own" not in repr(config)
