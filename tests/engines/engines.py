"""Real engines as processes: how each is started, asked for its load, killed and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from gateway.demo import MODEL
from tests.engines.install import vllm_python
from tests.harness import ROOT, free_port

HERE = Path(__file__).parent
MODELS = HERE / "models"
SHELF_KEY = "engine-side-key"
"""What the embedding engine wants to see, and what only the gateway knows."""

VLLM_ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_LOOPBACK_IP": "127.0.0.1",
    "GLOO_SOCKET_IFNAME": "lo",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
"""Keeps vLLM's cache at 1 GiB, off the machine's own address and off the network."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of engine. ``running`` and ``waiting`` are gauges of its /metrics; ``endless`` are
    body fields that make an answer last until it is broken off; ``patience`` bounds a start."""

    runtime: str
    running: str
    waiting: str
    endless: Mapping[str, object]
    patience: float
    env: Mapping[str, str] = field(default_factory=dict)


LLAMACPP = Kind(
    "llamacpp",
    "llamacpp:requests_processing",
    "llamacpp:requests_deferred",
    {"ignore_eos": True, "max_tokens": 200_000},
    30,
)
VLLM = Kind(
    "vllm",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    {"ignore_eos": True, "max_tokens": 3900},
    240,
    VLLM_ENV,
)


class Engine:
    """One engine on a port of its own, which it keeps over restarts. ``slots`` is how many requests
    it runs at once."""

    def __init__(
        self, name: str, kind: Kind, command: Sequence[str], *, slots: int = 2, key: str = ""
    ) -> None:
        self.name, self.kind, self.slots, self.key = name, kind, slots, key
        self.port = free_port()
        self.command = [*command, "--port", str(self.port)]
        self._folder = tempfile.TemporaryDirectory(prefix="portico-engine-")
        self.log = Path(self._folder.name) / "log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def model(self) -> str:
        """The id of its one model: the engine's name."""
        return self.name

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Start the process; ``settle`` waits for it."""
        leashed = [sys.executable, str(HERE / "leash.py"), *self.command]
        paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        env = {**os.environ, "PYTHONPATH": paths, **self.kind.env}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                leashed,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )

    def settle(self) -> None:
        """Return once it takes requests; AssertionError with the end of its log if it does not."""
        end = time.monotonic() + self.kind.patience
        while not self.healthy():
            assert self.process is not None
            gone = self.process.poll()
            assert gone is None, f"{self.name} ended with status {gone}:\n{self.tail()}"
            assert time.monotonic() < end, f"{self.name} is not ready:\n{self.tail()}"
            time.sleep(0.1)

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it with all its helper processes; returns when it is gone."""
        if self.process is None or self.process.poll() is not None:
            return
        os.killpg(self.process.pid, number)
        self.process.wait(30)

    def kill_core(self) -> None:
        """End only what computes: the helper processes, or the engine itself if it has none."""
        assert self.process is not None
        helpers = psutil.Process(self.process.pid).children(recursive=True)
        for process in helpers:
            process.kill()
        if not helpers:
            self.kill()

    def load(self) -> tuple[int, int]:
        """How many requests it runs and holds in its queue now."""
        request = urllib.request.Request(f"{self.url}/metrics")
        if self.key:
            request.add_header("Authorization", f"Bearer {self.key}")
        with urllib.request.urlopen(request, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return _gauge(lines, self.kind.running), _gauge(lines, self.kind.waiting)


def _gauge(lines: Sequence[str], name: str) -> int:
    """The sum of a gauge's series in Prometheus text."""
    found = [line.rsplit(" ", 1)[1] for line in lines if line.startswith((name + " ", name + "{"))]
    assert found, f"{name} is not among the metrics"
    return int(sum(map(float, found)))


def llama(name: str, model: Path = MODEL, *extra: str, key: str = "") -> Engine:
    """llama.cpp's server with two slots."""
    command = [sys.executable, str(HERE / "llama_server.py"), "--alias", name, "--model"]
    guard = ["--api-key", key] if key else []
    return Engine(name, LLAMACPP, [*command, str(model), *extra, *guard], key=key)


def llama_embed(name: str) -> Engine:
    """llama.cpp's server with the embedding model, behind a key of its own."""
    return llama(name, MODELS / "tiny-embed.gguf", "--embedding", key=SHELF_KEY)


def _vllm(name: str, model: str, *extra: str) -> Engine:
    python = vllm_python()
    assert python is not None, "vLLM is not installed: make test-engines does it"
    # The vllm command wants a package of that name, which the CPU build is not.
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1"]
    command += ["--model", str(MODELS / model), "--served-model-name", name]
    command += ["--enforce-eager", "--dtype", "float32", *extra]
    return Engine(name, VLLM, command)


def vllm(name: str) -> Engine:
    """vLLM with the chat model, two requests at once, tools on."""
    tools = ["--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    size = ["--max-model-len", "4096", "--max-num-seqs", "2", "--enable-server-load-tracking"]
    return _vllm(name, "tiny-chat", *size, *tools)


def vllm_embed(name: str) -> Engine:
    """vLLM with the embedding model."""
    return _vllm(name, "tiny-embed", "--runner", "pooling", "--max-model-len", "2048")
