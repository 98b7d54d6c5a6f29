"""``portico check``."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gateway.commands import check
from gateway.commands.common import overrides
from gateway.config import Overrides

from .helpers import Run, runner


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return runner(check, capsys)


def test_a_sound_configuration_is_printed_with_secrets_masked(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("backends: [{name: a, url: 'http://h:1/v1', api_key: hush}]")
    path.chmod(0o600)
    ran = run("--config", str(path))
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"# file: {path}\n")
    backend = yaml.safe_load(ran.out)["backends"][0]
    assert (backend["url"], backend["api_key"]) == ("http://h:1", "***")
    assert "hush" not in ran.out


def test_each_fault_is_one_line_on_stderr_and_the_status_is_2(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("backends: [{name: a, url: 'ftp://h'}, {name: b, url: x, wieght: 1}]")
    ran = run("--config", str(path), "--port", "none")
    assert (ran.status, ran.out) == (2, "")
    assert [line.split(": ")[0] for line in ran.err.splitlines()] == [
        "server.port",
        "backends[0].url",
        "backends[1].url",
        "backends[1].wieght",
    ]


def test_warnings_go_to_stderr_and_do_not_change_the_status(run: Run) -> None:
    ran = run("--no-discover")
    assert ran.status == 0
    assert ran.err.startswith("warning: backends: there is none and discovery is off")


def test_the_environment_configures_it_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTICO_BACKENDS", "env=http://h:1")
    monkeypatch.setenv("PORTICO_PORT", "9100")
    ran = run("--backend", "line=vllm+http://h:2")
    tree = yaml.safe_load(ran.out)
    assert tree["server"]["port"] == 9100
    assert [(one["name"], one["runtime"]) for one in tree["backends"]] == [("line", "vllm")]
    assert "# server.port: PORTICO_PORT\n# backends: --backend\n" in ran.out


def test_every_option_reaches_the_overrides() -> None:
    parser = argparse.ArgumentParser()
    check.add_arguments(parser)
    words = "--host h --port 1 --workers auto --backend a=http://x --backend http://y"
    words += " --no-discover --demo --log-format json --log-level error"
    assert overrides(parser.parse_args(words.split())) == Overrides(
        "h", "1", "auto", ("a=http://x", "http://y"), False, True, "json", "error"
    )
    assert overrides(parser.parse_args([])) == Overrides()


def test_a_file_that_is_not_there_is_a_fault(tmp_path: Path, run: Run) -> None:
    ran = run("--config", str(tmp_path / "none.yaml"))
    assert ran.status == 2
    assert ran.err == f"{tmp_path}/none.yaml: cannot be read: No such file or directory\n"


def test_it_runs_as_the_program_that_users_start(tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text("server: {prot: 1}")
    done = subprocess.run(
        [sys.executable, "-m", "gateway", "check", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "server.prot: is not a known key; did you mean 'port'?\n"
