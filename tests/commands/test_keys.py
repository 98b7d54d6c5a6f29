"""``portico keys``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.commands import keys
from gateway.config import Overrides
from gateway.config.load import load
from gateway.core.keys import digest
from gateway.core.types import Caller

from .helpers import Run, runner, squeezed

TEXT = """
auth:
  keys:
    - {name: team-a, key: alpha-key-0123456789, models: ["qwen*", chat], requests_per_minute: 60,
       max_concurrency: 4}
    - {name: team-b, key: bravo-key-0123456789}
  admin_keys: [admin-key-0123456789]
"""


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(keys, capsys)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(TEXT)
    return path


def test_a_new_key_is_the_last_word_on_stdout_and_appears_once(run: Run) -> None:
    ran = run("new", "team-c")
    assert (ran.status, ran.err) == (0, "")
    key = ran.out.split()[-1]
    assert re.fullmatch(r"pk-[A-Za-z0-9_-]{43}", key)
    assert ran.out.count(key) == 1


def test_every_new_key_is_another() -> None:
    assert len({keys.make_key() for _ in range(50)}) == 50


@pytest.mark.parametrize("name", ["team-c", "Team C: 1", "ünï", "true", "123"])
def test_the_printed_entry_lets_the_printed_key_in(run: Run, tmp_path: Path, name: str) -> None:
    out = run("new", name).out
    entry = out[out.index("auth:") : out.index("The key itself")]
    path = tmp_path / "p.yaml"
    path.write_text(entry)
    ring = load(path, {}, Overrides()).keyring
    assert ring.callers == {digest(out.split()[-1]): Caller(name)}


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 65])
def test_a_name_that_cannot_be_is_wrong_usage(run: Run, name: str) -> None:
    ran = run("new", name)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("NAME: ")


def test_the_list_shows_names_masked_digests_models_and_limits(
    run: Run, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEYS", "charlie-key-0123456789")
    ran = run("list", "--config", str(file))
    assert ran.status == 0
    a, b, c = (
        digest(f"{name}-key-0123456789")[:15] + "…" for name in ("alpha", "bravo", "charlie")
    )
    admin = digest("admin-key-0123456789")[:15] + "…"
    assert [squeezed(line) for line in ran.out.splitlines()] == [
        "NAME DIGEST WHERE MODELS LIMITS",
        f"team-a {a} auth.keys[0] qwen*, chat 60 requests/min, 4 at once",
        f"team-b {b} auth.keys[1] * none",
        f"key-1 {c} API_KEYS[0] * none",
        f"admin {admin} auth.admin_keys[0] * administrator",
    ]
    assert "0123456789" not in ran.out


def test_the_list_without_keys_says_what_that_means(run: Run) -> None:
    ran = run("list")
    assert ran.status == 0
    assert ran.out.startswith("No key is configured: whoever reaches the gateway may use it.")


def test_revoking_names_the_entry_and_the_file_and_what_makes_it_effective(
    run: Run, file: Path
) -> None:
    ran = run("revoke", "team-b", "--config", str(file))
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == (
        f"Nothing was changed: the key 'team-b' is kept in {file}, which this command does not"
        " edit. Remove its entry auth.keys[1] from that file, then send the gateway SIGHUP (under"
        " systemd: systemctl reload portico).\n"
    )
    assert file.read_text() == TEXT


def test_revoking_a_key_of_the_environment_asks_for_a_restart(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEYS", "charlie-key-0123456789")
    ran = run("revoke", "key-1")
    assert ran.status == 1
    assert "Remove it from API_KEYS (API_KEYS[0], counted from 0), then restart" in ran.err


def test_revoking_an_unknown_name_lists_the_known_ones(run: Run, file: Path) -> None:
    ran = run("revoke", "team-z", "--config", str(file))
    assert ran.status == 1
    assert ran.err == "No key is named 'team-z' here; there are: team-a, team-b.\n"


def test_a_faulty_configuration_has_status_2(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("auth: {kees: []}")
    for words in (("list",), ("revoke", "x")):
        ran = run(*words, "--config", str(path))
        assert ran.status == 2
        assert ran.err.startswith("auth.kees: is not a known key; did you mean 'keys'?")


# --- with a store


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "s.yaml"
    path.write_text(f"store: {{url: 'sqlite://{tmp_path}/p.db'}}\n{TEXT}")
    return path


def test_a_key_of_the_store_is_made_listed_and_revoked(run: Run, stored: Path) -> None:
    ran = run("new", "team-c", "--config", str(stored))
    assert (ran.status, ran.err) == (0, "")
    key = ran.out.split()[-1]
    assert re.fullmatch(r"pk-[A-Za-z0-9_-]{43}", key) and ran.out.count(key) == 1
    assert key.encode() not in b"".join(f.read_bytes() for f in stored.parent.iterdir())
    line = squeezed(run("list", "--config", str(stored)).out.splitlines()[-1])
    assert line == f"team-c {digest(key)[:15]}… store * none"
    ran = run("revoke", "team-c", "--config", str(stored))
    assert (ran.status, ran.err) == (0, "")
    assert "team-c" not in run("list", "--config", str(stored)).out
    assert run("revoke", "team-c", "--config", str(stored)).status == 1


@pytest.mark.parametrize("name", ["team-a", "team-c"])
def test_a_name_that_is_taken_is_refused(run: Run, stored: Path, name: str) -> None:
    run("new", "team-c", "--config", str(stored))
    ran = run("new", name, "--config", str(stored))
    assert (ran.status, ran.out) == (2, "")
    assert f"named '{name}' already" in ran.err


def test_a_store_that_cannot_be_used_is_one_line_and_status_1(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"store: {{url: 'sqlite://{tmp_path}/none/p.db'}}\n")
    for words in (("new", "a"), ("list",), ("revoke", "a")):
        ran = run(*words, "--config", str(path))
        assert (ran.status, ran.out) == (1, "")
        assert ran.err.startswith(f"the folder {tmp_path}/none of store.url is not there")
