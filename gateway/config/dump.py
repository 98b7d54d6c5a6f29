"""The resolved configuration as YAML, in the shape of the file, with every secret masked."""

from __future__ import annotations

from typing import Any

import yaml

from gateway.core.addresses import PRIVATE
from gateway.core.gpus import Gpus
from gateway.core.keys import PREFIX
from gateway.core.priority import NAMES
from gateway.core.types import PASSTHROUGH, Backend, Caller, PublicModel, Target
from gateway.policies import POLICIES, read

from .addresses import without_password
from .units import show_seconds, show_size
from .values import Config, KeyEntry, Server

MASK = "***"


def dump(config: Config) -> str:
    """What the gateway would run with, for people: comments on where it came from, then YAML.
    Digests are cut to 8 digits, the keys of backends and passwords are ``***``."""
    body = yaml.safe_dump(
        document(config), sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )
    return "".join(f"# {line}\n" for line in origins(config)) + body


def origins(config: Config) -> list[str]:
    """Where the settings came from: the file, then each one that did not come from it."""
    lines = [f"file: {config.source or 'none'}"]
    lines += [f"{setting}: {origin}" for setting, origin in config.origins]
    lines += [
        f"key {entry.name}: {entry.path}"
        for entry in config.entries
        if not entry.path.startswith("auth.")
    ]
    state = {True: "on", False: "off"}
    return [
        *lines,
        f"discovery: {state[config.discover]}, demo: {state[config.demo]},"
        f" log: {config.log_format}, {config.log_level}",
    ]


def document(config: Config) -> dict[str, Any]:
    """The tree that ``dump`` prints; settings that are not set are left out."""
    callers = config.keyring.callers
    keys = [_key(entry, callers[entry.digest]) for entry in config.entries if not entry.admin]
    admins = [mask(entry.digest) for entry in config.entries if entry.admin]
    return _given(
        {
            "server": _server(config.server),
            "backends": [_backend(one, config) for one in config.backends],
            "models": [_model(one) for one in config.models],
            "auth": _given({"keys": keys, "admin_keys": admins}),
            "routing": _routing(config),
            "gpu": {
                "interval": show_seconds(config.gpu_interval),
                "gate": config.gate.mode.value,
                "good_for": show_seconds(config.gate.good_for),
            },
            "store": _store(config),
            "providers": _providers(config),
        }
    )


def _routing(config: Config) -> dict[str, Any]:
    queue, tactics = config.queue, config.tactics
    after = "p95" if tactics.hedge_after is None else show_seconds(tactics.hedge_after)
    return _given(
        {
            "policy": _policy(config.policy),
            "retries": {"budget": tactics.retry_share, "per_second": tactics.retry_floor},
            "hedge": {"after": after} if tactics.hedge else {},
            "first_byte": "auto" if tactics.first_byte else "timeout",
            "load_wait": show_seconds(tactics.load_wait),
            "queue": {
                "max": queue.max,
                "timeout": show_seconds(queue.timeout),
                "limits": config.learn,
            },
            "keepalive": queue.keepalive and show_seconds(queue.keepalive),
        }
    )


def _store(config: Config) -> dict[str, Any]:
    if config.store_url is None:
        return {}
    return _given(
        {
            "url": without_password(config.store_url),
            "secret": config.store_secret and MASK,
            "retention": show_seconds(config.retention),
        }
    )


def _providers(config: Config) -> dict[str, Any]:
    return {} if config.allow == PRIVATE else {"allow": list(config.allow)}


def mask(digest: str) -> str:
    """A digest as people may see it: ``sha256:`` and its first 8 digits."""
    return f"{digest[: len(PREFIX) + 8]}…"


def _given(tree: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in tree.items() if value not in (None, "", [], {}, ())}


def _server(server: Server) -> dict[str, Any]:
    tls = {"cert": str(server.tls_cert), "key": str(server.tls_key)}
    return _given(
        {
            "host": server.host,
            "port": server.port,
            "workers": server.workers,
            "drain_timeout": show_seconds(server.drain_timeout),
            "max_body": show_size(server.max_body),
            "stream_usage": server.stream_usage,
            "tls": tls if server.tls_cert else None,
        }
    )


def _backend(backend: Backend, config: Config) -> dict[str, Any]:
    gpus, gate = config.gpus.get(backend.name), config.gate.modes.get(backend.name)
    secret: Any = backend.secret if backend.secret == PASSTHROUGH else backend.secret and MASK
    if backend.spares:
        secret = [MASK for _ in backend.keys]
    waits = backend.timeouts
    return _given(
        {
            "name": backend.name,
            "url": backend.url,
            "runtime": backend.runtime,
            "api_key": secret,
            "proxy": backend.proxy and without_password(backend.proxy),
            "models": list(backend.models),
            "weight": backend.weight,
            "max_concurrency": backend.max_concurrency,
            "gpus": gpus and _gpus(gpus),
            "gpu_gate": gate and gate.value,
            "timeouts": {
                "connect": show_seconds(waits.connect),
                "first_byte": show_seconds(waits.first_byte),
                "idle": show_seconds(waits.idle),
            },
        }
    )


def _gpus(gpus: Gpus) -> dict[str, Any]:
    return _given(
        {
            "agent": gpus.agent,
            "key": gpus.key and MASK,
            "dcgm": gpus.dcgm,
            "devices": list(gpus.devices),
        }
    )


def _model(model: PublicModel) -> dict[str, Any]:
    return _given(
        {
            "name": model.name,
            "targets": [_target(target) for target in model.targets],
            "fallbacks": list(model.fallbacks),
            "policy": model.policy and _policy(model.policy),
        }
    )


def _policy(name: str) -> str | dict[str, float]:
    return name if name in POLICIES else read(name)


def _target(target: Target) -> dict[str, Any]:
    return _given({"backend": target.backend, "model": target.model, "weight": target.weight})


def _key(entry: KeyEntry, caller: Caller) -> dict[str, Any]:
    return _given(
        {
            "name": entry.name,
            "key": mask(entry.digest),
            "models": list(caller.models),
            "surfaces": list(caller.surfaces),
            "requests_per_minute": caller.requests_per_minute,
            "tokens_per_minute": caller.tokens_per_minute,
            "tokens_per_day": caller.tokens_per_day,
            "tokens_per_month": caller.tokens_per_month,
            "max_concurrency": caller.max_concurrency,
            "expires": caller.expires,
            "priority": NAMES[caller.priority] if caller.priority else None,
        }
    )
