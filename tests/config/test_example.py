"""A file that uses every key of INTERFACE section 2."""

from __future__ import annotations

from pathlib import Path

from gateway.config import Gpus
from gateway.config.load import load
from gateway.config.values import Overrides
from gateway.core.keys import digest
from gateway.core.types import Backend, PublicModel, Target, Timeouts

from .helpers import written

EXAMPLE = """
server:
  host: 0.0.0.0
  port: 8100
  workers: 1                 # or auto
  drain_timeout: 45s
  max_body: 16MiB
  stream_usage: limits
backends:
  - name: left
    url: http://10.0.0.21:8000
    runtime: auto
    api_key: ${LEFT_KEY}
    models: [Qwen/Qwen2.5-7B-Instruct]
    weight: 2
    max_concurrency: 128
    gpus: {agent: "http://10.0.0.21:9835", devices: [0, 1]}
    timeouts: {connect: 1s, first_byte: 90s, idle: 30s}
  - {name: right, url: "http://10.0.0.22:30000/v1/", runtime: sglang, api_key: passthrough}
models:
  - name: chat
    targets: [{backend: left, model: Qwen/Qwen2.5-7B-Instruct, weight: 3}, {backend: right}]
    fallbacks: [chat-small]
  - name: chat-small
    targets: [{backend: right, model: small}]
    policy: round_robin
auth:
  keys:
    - {name: team-b, key: "${TEAM_B_KEY}", models: ["chat*"], requests_per_minute: 300,
       tokens_per_minute: 90000, max_concurrency: 16}
  admin_keys: ["${ADMIN_KEY}"]
routing: {policy: least_loaded}
gpu: {interval: 500ms}
store: {url: "sqlite:///var/lib/portico/state.db"}
"""

ENV = {
    "LEFT_KEY": "upstream-secret",
    "TEAM_B_KEY": "team-b-key-0123456789",
    "ADMIN_KEY": "admin-key-0123456789",
}


def test_a_file_with_every_key_comes_to_the_values_it_says(tmp_path: Path) -> None:
    path = written(tmp_path, EXAMPLE)
    config = load(path, ENV, Overrides())
    server = config.server
    assert (server.host, server.port, server.workers) == ("0.0.0.0", 8100, 1)
    assert (server.drain_timeout, server.max_body, server.stream_usage) == (45, 16 << 20, "limits")
    assert config.backends == (
        Backend(
            name="left",
            url="http://10.0.0.21:8000",
            runtime="auto",
            weight=2,
            max_concurrency=128,
            secret="upstream-secret",
            models=("Qwen/Qwen2.5-7B-Instruct",),
            timeouts=Timeouts(1, 90, 30),
        ),
        Backend("right", "http://10.0.0.22:30000", "sglang", secret="passthrough"),
    )
    assert config.models == (
        PublicModel(
            "chat",
            (Target("left", "Qwen/Qwen2.5-7B-Instruct", 3), Target("right")),
            ("chat-small",),
        ),
        PublicModel("chat-small", (Target("right", "small"),), policy="round_robin"),
    )
    caller = config.keyring.callers[digest("team-b-key-0123456789")]
    assert (caller.name, caller.models) == ("team-b", ("chat*",))
    assert (caller.requests_per_minute, caller.tokens_per_minute) == (300, 90000)
    assert caller.max_concurrency == 16
    assert config.keyring.admins == {digest("admin-key-0123456789")}
    assert config.policy == "least_loaded"
    assert config.store_url == "sqlite:///var/lib/portico/state.db"
    assert config.gpus == {"left": Gpus(agent="http://10.0.0.21:9835", devices=(0, 1))}
    assert config.gpu_interval == 0.5
    assert not config.discover
    assert config.source == path
    assert not config.warnings
