"""Portico as a user starts it: a configuration file with keys and backends, everything on."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

KEY = "sk-bench-" + secrets.token_hex(24)
"""Of one run; it protects a port of the loopback interface."""

MODEL = "mock-model"


def configuration(engines: Sequence[str], weight: int = 1) -> str:
    """The file: a key and all engines (host:port) as vLLM backends. Metrics and the access log need
    no switch."""
    backends = [
        {"name": f"engine{number}", "url": f"vllm+http://{engine}", "weight": weight}
        for number, engine in enumerate(engines, 1)
    ]
    keys = [{"name": "bench", "key": "${BENCH_KEY}"}]
    return yaml.safe_dump({"backends": backends, "auth": {"keys": keys}})


def command(file: Path, port: int, workers: int = 1) -> tuple[str, ...]:
    """How it is started, from the root of a checkout."""
    start = (sys.executable, "-m", "gateway", "serve", "--no-discover", "--log-format", "json")
    where = ("--config", str(file), "--host", "127.0.0.1", "--port", str(port))
    return (*start, *where, *(("--workers", str(workers)) if workers > 1 else ()))


def environment() -> dict[str, str]:
    """This process's, without what would configure the gateway besides its file."""
    theirs = {"API_KEYS", "ADMIN_KEYS"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in theirs and not name.startswith("PORTICO_")
    }
    return {**kept, "BENCH_KEY": KEY}
