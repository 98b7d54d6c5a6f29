"""The table of peers: who is measured, how each is installed, configured and started."""

from __future__ import annotations

import re
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from bench import ours
from bench.build import HERE, ROOT
from bench.processes import free_port
from bench.scenarios import SCENARIOS

BACKENDS = 8
"""Addresses under which the mock engine stands for as many backends of ours. The peers get one:
they have less to choose from, never more."""

VENVS: Mapping[str, tuple[str, ...]] = {
    "sglang": ("sglang-router==0.3.2",),
    "vllm": ("vllm-router==0.1.17",),
    "litellm": ("litellm[proxy]==1.109.1",),
}
"""Environments under the benchmark's folder and what pip installs into each."""

LOOSER: Mapping[str, tuple[str, ...]] = {
    "litellm": ("certifi>=2026.7", "litellm-proxy-extras>=0.4.0"),
}
"""Pins that an index which lags behind cannot meet, and what does as well for a measurement."""

PORTKEY = "@portkey-ai/gateway@1.15.2"

LITELLM_KEY = "sk-" + secrets.token_hex(24)
"""LiteLLM does not start without a strong key."""

HEAVY = frozenset({"a_1k", "c_500", "c_step", "c_2000"})
"""What one core does not carry with a gateway that needs milliseconds for a request."""

ONE_CORE = "more than one core carries with this peer"


@dataclass(frozen=True, slots=True)
class Site:
    """Where a run takes place. ``run`` is the folder of configurations, sockets and logs."""

    work: Path
    engine_port: int

    @property
    def run(self) -> Path:
        return self.work / "run"

    @property
    def engine(self) -> str:
        return f"127.0.0.1:{self.engine_port}"

    def engines(self, count: int) -> list[str]:
        return [f"127.0.0.{number}:{self.engine_port}" for number in range(1, count + 1)]

    def python(self, venv: str) -> str:
        return str(self.work / f"v-{venv}" / "bin" / "python")


@dataclass(frozen=True, slots=True)
class Peer:
    """One gateway. Without a ``command`` it is the engine itself. ``needs`` must exist, else
    ``remedy`` is said. ``files`` are written into the run folder before it starts. ``version`` is a
    command whose output contains the version. ``spared`` are scenarios it is not put through,
    with the reason."""

    name: str
    port: int
    note: str
    command: tuple[str, ...] = ()
    needs: str = sys.executable
    remedy: str = "make bench-peers"
    version: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    headers: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None
    patience: float = 20.0
    workers: int = 1
    spared: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> str | None:
        """Why it cannot be measured here, if so."""
        if Path(self.needs).exists() or shutil.which(self.needs):
            return None
        return f"not installed: {self.remedy}"

    def says(self) -> str:
        """Its version, as far as it tells."""
        if not self.version:
            return ""
        asked = subprocess.run(  # noqa: S603 - from this table
            self.version, capture_output=True, text=True, check=False, timeout=30, cwd=self.folder
        )
        found = re.search(r"\d+\.\d+[\w.]*", asked.stdout + asked.stderr)
        return found[0] if found else ""


def direct(site: Site) -> Peer:
    return Peer("direct", site.engine_port, "the engine without a gateway")


def portico(
    site: Site, name: str = "portico", root: Path = ROOT, workers: int = 1, only: str = ""
) -> Peer:
    port = free_port()
    spared = {scenario.name for scenario in SCENARIOS} - set(only.split()) if only else ()
    kind = "one worker" if workers == 1 else f"{workers} workers"
    return Peer(
        name,
        port,
        f"{kind}; keys, metrics, access log, routing over {BACKENDS} backends on",
        command=ours.command(site.run / f"{name}.yaml", port, workers),
        version=(sys.executable, "-c", "import gateway; print(gateway.__version__)"),
        files={f"{name}.yaml": ours.configuration(site.engines(BACKENDS))},
        headers=(f"authorization: Bearer {ours.KEY}",),
        folder=root,
        workers=workers,
        spared=dict.fromkeys(spared, "of no use for this variant"),
    )


TWO_WORKERS = "portico-2w"

COMPILED = ROOT / ".compiled"
"""Where `make compiled` leaves a checkout whose gateway is the compiled build."""


def compiled(site: Site) -> Peer:
    plain = portico(site, "portico-compiled", COMPILED)
    return replace(plain, needs=str(COMPILED / ".made"), remedy="make compiled")


def nginx(site: Site) -> Peer:
    run, port = site.run, free_port()
    limits = "keepalive_requests 100000000; keepalive_timeout 300s;"
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return Peer(
        "nginx",
        port,
        "one worker process, proxy_buffering off, upstream keep-alive",
        command=("/usr/sbin/nginx", "-c", f"{run}/nginx.conf", "-e", "stderr"),
        needs="/usr/sbin/nginx",
        remedy="apt-get install nginx-light",
        version=("/usr/sbin/nginx", "-v"),
        files={
            "nginx.conf": f"""
daemon off; worker_processes 1; pid {run}/nginx.pid; error_log stderr error;
worker_rlimit_nofile 20000;
events {{ worker_connections 16384; }}
http {{
  access_log off; tcp_nodelay on; {limits}
  client_max_body_size 64m; client_body_buffer_size 2m;
  {" ".join(f"{place}_temp_path {run}/nginx_{place};" for place in temporary)}
  upstream engine {{ server {site.engine}; keepalive 2048; {limits} }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
"""
        },
    )


def haproxy(site: Site) -> Peer:
    port = free_port()
    return Peer(
        "haproxy",
        port,
        "one thread, http-reuse always, http-no-delay, abortonclose",
        command=("/usr/sbin/haproxy", "-q", "-db", "-f", f"{site.run}/haproxy.cfg"),
        needs="/usr/sbin/haproxy",
        remedy="apt-get install haproxy",
        version=("/usr/sbin/haproxy", "-v"),
        files={
            "haproxy.cfg": f"""
global
  nbthread 1
  maxconn 9000
defaults
  mode http
  option http-no-delay
  option abortonclose
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 300s
frontend clients
  bind 127.0.0.1:{port}
  default_backend engines
backend engines
  server engine {site.engine}
"""
        },
    )


def rust_router(site: Site, name: str, venv: str, module: str) -> Peer:
    """The two Rust routers have one ancestor and the same options."""
    port, python = free_port(), site.python(venv)
    options = {
        "host": "127.0.0.1",
        "port": port,
        "worker-urls": f"http://{site.engine}",
        "policy": "round_robin",
        "log-level": "error",
        "max-concurrent-requests": 8192,
        "queue-size": 8192,
        "prometheus-host": "127.0.0.1",
        "prometheus-port": free_port(),
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    asked = f"from importlib.metadata import version; print(version('{name}'))"
    return Peer(
        name,
        port,
        "Rust, round_robin, one tokio worker by affinity, no key, no access log",
        command=(python, "-m", f"{module}.launch_router", *words),
        needs=python,
        version=(python, "-c", asked),
    )


def litellm(site: Site) -> Peer:
    port, python = free_port(), site.python("litellm")
    asked = "from importlib.metadata import version; print(version('litellm'))"
    where = ("--host", "127.0.0.1", "--port", str(port))
    return Peer(
        "litellm",
        port,
        "Python, one uvicorn worker, master key only, no database, no callbacks, no retries",
        command=(
            *(str(Path(python).parent / "litellm"), "--config", f"{site.run}/litellm.yaml"),
            *(*where, "--num_workers", "1", "--telemetry", "False"),
        ),
        needs=str(Path(python).parent / "litellm"),
        version=(python, "-c", asked),
        headers=(f"authorization: Bearer {LITELLM_KEY}",),
        env={
            "LITELLM_MASTER_KEY": LITELLM_KEY,
            "LITELLM_LOG": "ERROR",
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "NO_DOCS": "True",
            "HOME": str(site.run),
        },
        patience=120.0,
        spared=dict.fromkeys(HEAVY, ONE_CORE),
        files={
            "litellm.yaml": f"""
model_list:
  - model_name: mock-model
    litellm_params:
      model: openai/mock-model
      api_base: http://{site.engine}/v1
      api_key: sk-none
litellm_settings: {{callbacks: [], num_retries: 0, request_timeout: 600, set_verbose: false}}
"""
        },
    )


def portkey(site: Site) -> Peer:
    port = free_port()
    package = site.work / "npm" / "node_modules" / "@portkey-ai" / "gateway"
    server = str(package / "build" / "start-server.js")
    return Peer(
        "portkey",
        port,
        "Node, one process, provider by header, with portkey_fix.mjs",
        command=(
            *("node", "--import", str(HERE / "portkey_fix.mjs"), server),
            *(f"--port={port}", "--headless"),
        ),
        needs=server,
        version=("node", "-p", f"require('{package}/package.json').version"),
        headers=(
            "x-portkey-provider: openai",
            f"x-portkey-custom-host: http://{site.engine}/v1",
            "authorization: Bearer sk-none",
        ),
        env={"NODE_ENV": "production"},
        spared=dict.fromkeys(HEAVY, ONE_CORE),
    )


PEERS: Mapping[str, Callable[[Site], Peer]] = {
    "direct": direct,
    "nginx": nginx,
    "haproxy": haproxy,
    "sglang-router": partial(
        rust_router, name="sglang-router", venv="sglang", module="sglang_router"
    ),
    "vllm-router": partial(rust_router, name="vllm-router", venv="vllm", module="vllm_router"),
    "litellm": litellm,
    "portkey": portkey,
    "portico": portico,
    "portico-compiled": compiled,
    TWO_WORKERS: partial(portico, name=TWO_WORKERS, workers=2, only="a_sat b_win c_2000"),
}
