"""A real Redis or Valkey of the tests' own, without a file."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.harness import free_port


@contextmanager
def redis_server(port: int = 0) -> Iterator[int]:
    """Its port, a free one unless it is given. Skips the test where there is no server, or no
    client."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("neither redis-server nor valkey-server is installed")
    pytest.importorskip("redis", reason="the package redis is not installed")
    port = port or free_port()
    words = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory(prefix="portico-redis-") as folder:
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen([program, *words, "--dir", folder], stdout=log, stderr=log)
        try:
            yield port
        finally:
            server.terminate()
            server.wait(5)


def server_at(port: int) -> psutil.Process:
    """The process of ours that listens there."""
    for child in psutil.Process().children():
        if any(one.laddr.port == port for one in child.net_connections("tcp")):
            return child
    raise AssertionError(port)
