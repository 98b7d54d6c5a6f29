"""Every configuration that we hand out is one that the gateway takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
import yaml

from backends import BY_NAME
from gateway.config.model import Document

from .common import DEPLOY, ROOT, documents

EXAMPLES = sorted((DEPLOY / "examples").glob("*.yaml"))

HASH = "sha256:" + "0f" * 32
KEYS = {
    **{f"{name}_KEY": f"key-of-{name.lower()}-0123456789" for name in ("TEAM_A", "ADMIN", "GPU1")},
    **{
        f"{name}_API_KEY": f"key-for-{name.lower()}-0123456789"
        for name in ("VLLM", "SGLANG", "TGI", "LLAMA", "LOCALAI", "OPENAI", "ANTHROPIC")
    },
    "TEAM_B_KEY_HASH": HASH,
}


def check(config: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """What ``portico check`` says, with every key and file that the examples ask for."""
    for name in ("gpu2", "team-a", "admin"):
        (tmp_path / name).write_text(f"content-of-{name}-0123456789\n")
    certificate = trustme.CA().issue_cert("gateway.example.com")
    certificate.private_key_pem.write_to_path(tmp_path / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    places = ("PORTICO_TLS", "PORTICO_SECRETS", "CREDENTIALS_DIRECTORY")
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", "gateway", "check", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        cwd=ROOT,
        env={**inherited, **KEYS, **dict.fromkeys(places, str(tmp_path))},
    )


def test_there_is_an_example_for_every_runtime() -> None:
    names = {path.stem for path in EXAMPLES}
    assert names == {*BY_NAME, "full", "compose"}
    for name in BY_NAME:
        (example,) = documents(DEPLOY / f"examples/{name}.yaml")
        assert name in {backend.get("runtime") for backend in example["backends"]}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_passes_the_check_and_shows_no_secret(path: Path, tmp_path: Path) -> None:
    done = check(path, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for secret in (*KEYS.values(), "content-of-gpu2"):
        if secret != HASH:
            assert secret not in done.stdout


def test_the_configuration_on_kubernetes_passes_the_check(tmp_path: Path) -> None:
    config = next(
        each["data"]["portico.yaml"]
        for each in documents(DEPLOY / "kubernetes/portico.yaml")
        if each["kind"] == "ConfigMap"
    )
    path = tmp_path / "portico.yaml"
    path.write_text(config)
    done = check(path, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_configuration_in_the_units_comment_passes_the_check(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd/portico.service").read_text()
    lines = text[text.index("#   auth:") :].split("\n\n")[0].splitlines()
    path = tmp_path / "portico.yaml"
    path.write_text("\n".join(line.removeprefix("#   ") for line in lines))
    assert "CREDENTIALS_DIRECTORY" in path.read_text()
    done = check(path, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_example_with_a_missing_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "portico.yaml"
    path.write_text((DEPLOY / "examples/vllm.yaml").read_text().replace("VLLM_", "NO_SUCH_"))
    assert check(path, tmp_path).returncode == 2


def test_the_full_example_uses_every_section_and_every_setting_of_the_contract() -> None:
    full = yaml.safe_load((DEPLOY / "examples/full.yaml").read_text())
    assert set(full) == set(Document.model_fields)
    server = {"host", "port", "workers", "drain_timeout", "max_body", "stream_usage", "tls"}
    assert set(full["server"]) == server
    backends = [set(backend) for backend in full["backends"]]
    assert {key for keys in backends for key in keys} == {
        *("name", "url", "runtime", "api_key", "api_key_file", "models", "weight"),
        *("max_concurrency", "gpus", "timeouts"),
    }
    assert set(full["backends"][0]["timeouts"]) == {"connect", "first_byte", "idle"}
    assert set(full["models"][0]) == {"name", "targets", "fallbacks"}
    assert set(full["models"][0]["targets"][0]) == {"backend", "model", "weight"}
    assert {name for key in full["auth"]["keys"] for name in key} == {
        *("name", "key", "models", "requests_per_minute", "tokens_per_minute", "max_concurrency"),
        *("priority", "surfaces", "tokens_per_day", "tokens_per_month", "expires"),
    }
    assert set(full["auth"]) == {"keys", "admin_keys"}
