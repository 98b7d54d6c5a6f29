"""The table of routers: how each is configured and started in front of the fleet.

What a router counts in wall seconds is scaled where it can be told, so that its own defaults keep
their meaning in engine time. Sizes in characters are the routers' own when a token is four.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from bench import ours
from bench.build import ROOT
from bench.peers import Peer, Site
from bench.processes import free_port
from gateway.policies import POLICIES

OURS = "portico"
ORACLE = "oracle"
VIRTUAL = "portico-virtual"
"""Our decisions in virtual time."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a router is put: its site, the addresses of the engines (host:port), the characters of
    a token, and wall seconds for an engine second. ``further`` is laid over Portico's
    configuration."""

    site: Site
    engines: Sequence[str]
    token_width: float
    scale: float
    further: Mapping[str, Any]

    def wall(self, seconds: float) -> int:
        return max(1, round(seconds * self.scale))

    def size(self, characters: int) -> int:
        """A size that is meant for four characters a token."""
        return max(1, int(characters * self.token_width / 4))


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Sections of the one with the settings of the other; anything but a mapping is replaced."""
    found = dict(below)
    for name, value in above.items():
        under = found.get(name)
        both = isinstance(value, Mapping) and isinstance(under, Mapping)
        found[name] = laid_over(under, value) if both and under is not None else value
    return found


def configuration(place: Place, policy: str) -> str:
    """Portico's file: a key, and the engines with their runtime left to be detected."""
    backends = [
        {"name": f"engine{number}", "url": f"http://{engine}"}
        for number, engine in enumerate(place.engines, 1)
    ]
    keys = [{"name": "bench", "key": "${BENCH_KEY}"}]
    usual = {"backends": backends, "auth": {"keys": keys}, "routing": {"policy": policy}}
    return yaml.safe_dump(laid_over(usual, place.further))


def portico(place: Place, name: str, policy: str, workers: int) -> Peer:
    port, file = free_port(), "fleet-portico.yaml"
    return Peer(
        name,
        port,
        f"policy {policy}, {workers} worker{'s' if workers > 1 else ''}",
        command=ours.command(place.site.run / file, port, workers),
        version=(sys.executable, "-c", "import gateway; print(gateway.__version__)"),
        files={file: configuration(place, policy)},
        headers=(f"authorization: Bearer {ours.KEY}",),
        folder=ROOT,
        workers=workers,
    )


def rust_router(
    place: Place, *, name: str, venv: str, policy: str, tree: int, eviction: float, log: str
) -> Peer:
    """The two Rust routers: their own defaults, times in engine seconds."""
    port, python = free_port(), place.site.python(venv)
    module = f"{venv}_router"
    options = {
        "host": "127.0.0.1",
        "port": port,
        "policy": policy,
        "log-level": log,
        "max-tree-size": place.size(tree),
        "eviction-interval-secs": place.wall(eviction),
        "worker-startup-check-interval": 1,
        "health-check-interval-secs": place.wall(60),
        "health-check-timeout-secs": place.wall(5),
        "cb-timeout-duration-secs": place.wall(60),
        "cb-window-duration-secs": place.wall(120),
        "prometheus-host": "127.0.0.1",
        "prometheus-port": free_port(),
    }
    words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    urls = [f"http://{engine}" for engine in place.engines]
    asked = f"from importlib.metadata import version; print(version('{module.replace('_', '-')}'))"
    return Peer(
        name,
        port,
        f"policy {policy}",
        command=(python, "-m", f"{module}.launch_router", *words, "--worker-urls", *urls),
        needs=python,
        version=(python, "-c", asked),
        patience=60.0,
    )


NGINX = "/usr/sbin/nginx"


def nginx(place: Place, name: str, method: str) -> Peer:
    run, port = place.site.run, free_port()
    rest = place.wall(10)
    servers = "\n".join(
        f"    server {engine} max_fails=3 fail_timeout={rest}s;" for engine in place.engines
    )
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    return Peer(
        name,
        port,
        f"{method or 'round robin'}, up to three tries",
        command=(NGINX, "-c", f"{run}/fleet-nginx.conf", "-e", "stderr"),
        needs=NGINX,
        remedy="apt-get install nginx-light",
        version=(NGINX, "-v"),
        files={
            "fleet-nginx.conf": f"""
daemon off; worker_processes 1; pid {run}/fleet-nginx.pid; error_log stderr error;
events {{ worker_connections 8192; }}
http {{
  access_log off; tcp_nodelay on;
  client_max_body_size 64m; client_body_buffer_size 2m;
  {" ".join(f"{part}_temp_path {run}/nginx_{part};" for part in temporary)}
  upstream engines {{
    {f"{method};" if method else ""}
{servers}
    keepalive 512;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffering off; proxy_read_timeout 600s;
      proxy_next_upstream error timeout http_500 http_502 http_503 non_idempotent;
      proxy_next_upstream_tries 3;
    }}
  }}
}}
"""
        },
    )


sglang = partial(rust_router, venv="sglang", tree=67_108_864, eviction=60, log="warn")
vllm = partial(rust_router, venv="vllm", tree=33_554_432, eviction=120, log="warning")

PEERS: Mapping[str, Callable[[Place], Peer]] = {
    "sglang-router": partial(sglang, name="sglang-router", policy="cache_aware"),
    "vllm-router": partial(vllm, name="vllm-router", policy="cache_aware"),
    "nginx": partial(nginx, name="nginx", method="least_conn"),
    "sglang-p2c": partial(sglang, name="sglang-p2c", policy="power_of_two"),
    "nginx-rr": partial(nginx, name="nginx-rr", method=""),
}

USUAL = ("sglang-router", "vllm-router", "nginx", OURS, ORACLE)


def in_virtual_time(name: str) -> bool:
    return name == ORACLE or name.partition("/")[0] == VIRTUAL


def policy_of(name: str) -> str:
    """The policy in a name of ours, ``auto`` where there is none. ValueError for one unknown."""
    policy = name.partition("@")[0].partition("/")[2] or "auto"
    if policy not in POLICIES:
        raise ValueError(f"{name}: the policies are {', '.join(sorted(POLICIES))}")
    return policy


def ours_in(name: str) -> bool:
    return name.partition("/")[0].partition("@")[0] == OURS


def router(name: str, place: Place) -> Peer:
    """By its name; ours is ``portico[/POLICY][@WORKERS]``. ValueError when there is none."""
    if not ours_in(name):
        if name not in PEERS:
            known = ", ".join([*PEERS, f"{OURS}[/POLICY][@WORKERS]", f"{VIRTUAL}[/POLICY]", ORACLE])
            raise ValueError(f"{name}: the routers are {known}")
        return PEERS[name](place)
    policy, workers = policy_of(name), name.partition("@")[2]
    if workers and not workers.isdecimal():
        raise ValueError(f"{name}: the number of workers comes after the @")
    return portico(place, name, policy, int(workers or 1))


def write_files(peer: Peer, run: Path) -> None:
    for name, text in peer.files.items():
        (run / name).write_text(text)
