"""``portico gpu-agent``: what it asks for before it listens, and how it answers."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme

from gateway.cli import main
from gateway.commands.gpu_agent import PORT, is_loopback
from tests.fakes import nvml
from tests.fakes.nvml import Stub

KEY = "an-agents-own-key"
BEARER = {"Authorization": f"Bearer {KEY}"}


@asynccontextmanager
async def running(
    tmp_path: Path, *options: str, key: str = ""
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """The agent as a process with one pretended GPU, and its address."""
    stub = Stub(tmp_path)
    env = {**os.environ, **stub.env(), "PORTICO_AGENT_KEY": key}
    command = (sys.executable, "-m", "gateway", "gpu-agent", "--port", "0", *options)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, env=env, stderr=pipe)
    assert process.stderr is not None
    try:
        line = b""
        while b"listens on" not in line:
            line = await process.stderr.readline()
            assert line, "the agent ended"
        yield line.split(b"listens on ")[1].split()[0].decode(), process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


needs_gcc = pytest.mark.skipif(not nvml.GCC, reason=nvml.NO_GCC)


@needs_gcc
async def test_it_answers_in_json_and_for_prometheus_and_ends_when_asked(tmp_path: Path) -> None:
    async with running(tmp_path) as (url, process), aiohttp.ClientSession(url) as http:
        async with asyncio.timeout(10):
            while not (doc := await (await http.get("/v1/gpus")).json())["gpus"]:
                await asyncio.sleep(0.05)
        assert (doc["version"], doc["gpus"][0]["name"]) == (1, "Stub H100")
        page = await (await http.get("/metrics")).text()
        assert 'portico_gpu_temperature_celsius{gpu="0",host=' in page
        assert 'portico_gpu_throttled{gpu="0",' in page
        assert (await http.get("/healthz")).status == 200
        assert (await http.get("/other")).status == 404
        assert (await http.post("/v1/gpus")).status == 405
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 5) == 0


@needs_gcc
async def test_with_a_key_nothing_but_healthz_is_open(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    async with (
        running(tmp_path, "--key-file", str(file)) as (url, _),
        aiohttp.ClientSession(url) as http,
    ):
        for path in ("/v1/gpus", "/metrics"):
            refused = await http.get(path)
            assert refused.status == 401
            assert (await refused.json())["error"]["type"] == "unauthorized"
            assert (await http.get(path, headers={"Authorization": "Bearer x"})).status == 401
            assert (await http.get(path, headers=BEARER)).status == 200
            assert (await http.get(path, headers={"x-api-key": KEY})).status == 200
        assert (await http.get("/healthz")).status == 200


@needs_gcc
async def test_it_speaks_tls_where_it_has_a_certificate(tmp_path: Path) -> None:
    ca = trustme.CA()
    own = ca.issue_cert("127.0.0.1")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    own.private_key_pem.write_to_path(key)
    for blob in own.cert_chain_pems:
        blob.write_to_path(cert, append=True)
    trust = ssl.create_default_context()
    ca.configure_trust(trust)
    options = ("--tls-cert", str(cert), "--tls-key", str(key))
    async with running(tmp_path, *options) as (url, _), aiohttp.ClientSession(url) as http:
        assert url.startswith("https://")
        assert (await http.get("/v1/gpus", ssl=trust)).status == 200


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (("--host", "0.0.0.0"), "--host: 0.0.0.0 can be reached from other hosts, so a key"),
        (("--host", "::"), "--host: :: can be reached"),
        (("--key-file", "/nowhere/key"), "--key-file: /nowhere/key cannot be read"),
        (("--port", "70000"), "--port: must be 0 to 65535"),
        (("--interval", "soon"), "--interval: "),
        (("--tls-cert", "/nowhere/cert"), "--tls-cert, --tls-key: give both or none"),
        (
            ("--tls-cert", "/nowhere/cert", "--tls-key", "/nowhere/key"),
            "--tls-cert, --tls-key: cannot be used",
        ),
    ],
)
def test_wrong_use_is_one_line_and_status_2(
    options: tuple[str, ...],
    fault: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PORTICO_AGENT_KEY", raising=False)
    assert main(["gpu-agent", *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith(fault)
    assert said.count("\n") == 1


def test_loopback_needs_no_key() -> None:
    assert PORT == 9835
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost", "127.8.8.8")))
    assert not any(map(is_loopback, ("10.0.0.1", "0.0.0.0", "box.example")))
