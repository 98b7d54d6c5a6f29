"""One reading of the configuration: file, environment and command line in, ``Config`` out."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from . import build, keyring, warn
from .crosscheck import Names, backend_names, check_models
from .document import Unreadable, parse, read
from .expand import expand
from .faults import ConfigError, Faults, where
from .model import BackendDoc, Document, KeyDoc, ModelDoc, ServerDoc
from .overlay import overlay
from .proxies import proxies
from .secret_files import fetch
from .validate import sound, validate
from .values import LOG_FORMATS, LOG_LEVELS, Config, LogFormat, Overrides, Server


def load(path: Path | None, env: Mapping[str, str], cli: Overrides) -> Config:
    """The configuration of ``path`` (or, without one, of ``PORTICO_CONFIG``; or none at all) with
    ``env`` over it and ``cli`` over that.

    A list of backends replaces the one below it; the keys of ``API_KEYS`` (``key-1``, ``key-2``…)
    and ``ADMIN_KEYS`` are added to the file's, and a key of the file whose name is also one of
    these gives way. Discovery is on when no backend is configured, unless ``cli`` says otherwise.
    Relative paths begin in the file's folder. Reads the named files and nothing else.

    Raises ConfigError with every fault found, none with a secret in it."""
    if path is None and env.get("PORTICO_CONFIG"):
        path = Path(env["PORTICO_CONFIG"])
    faults = Faults()
    base = Path() if path is None else path.parent
    raw = _tree(path, faults)
    tree, faults.origins = overlay(raw, env, cli)
    tree = fetch(expand(tree, env, faults), base, faults)
    _check_logging(cli, faults)
    doc = validate(Document, tree, faults)
    found = _Sound(doc, tree)
    discover = cli.discover if cli.discover is not None else not tree.get("backends")
    names = backend_names(found.backends, tree.get("backends"), faults)
    check_models(found.models, names, discover, faults)
    warnings: list[str] = []
    file_keys = keyring.of_file(found.keys, faults)
    callers = keyring.merge(file_keys, keyring.of_env("API_KEYS", env, faults), warnings)
    admins = keyring.admins(() if doc is None else doc.auth.admin_keys, env, faults)
    server = Server() if found.server is None else build.server(found.server, base)
    _check_tls(server, faults)
    ways = proxies(() if doc is None else doc.backends, env, faults)
    if faults or doc is None:
        raise ConfigError(faults.lines())
    config = Config(
        server=server,
        backends=build.backends(doc.backends, _all(names), ways),
        models=build.models(doc.models),
        keyring=keyring.ring(callers, admins),
        policy=doc.routing.policy,
        queue=build.queue(doc.routing),
        learn=doc.routing.queue.limits,
        tactics=build.tactics(doc.routing),
        store_url=None if doc.store.url is None else doc.store.url.get_secret_value(),
        store_secret=None if doc.store.secret is None else doc.store.secret.get_secret_value(),
        retention=doc.store.retention,
        allow=doc.providers.allow,
        discover=discover,
        demo=cli.demo,
        log_format=cast(LogFormat, cli.log_format or "text"),
        log_level=cli.log_level or "info",
        source=path,
        origins=tuple((where(at), origin) for at, origin in faults.origins.items()),
        entries=keyring.entries(callers, admins),
        gpus=build.gpus(doc.backends, _all(names)),
        gate=build.gate(doc.gpu, doc.backends, _all(names)),
        gpu_interval=doc.gpu.interval,
    )
    warnings += keyring.warn(callers, admins) + warn.warnings(config)
    warnings += [] if path is None else warn.exposed(path, raw)
    return replace(config, warnings=tuple(warnings))


class _Sound:
    """The entries that can be held against each other: all, or those without a fault."""

    def __init__(self, doc: Document | None, tree: Mapping[str, Any]) -> None:
        auth = tree.get("auth")
        keys = auth.get("keys") if isinstance(auth, dict) else None
        self.server = doc.server if doc else sound(ServerDoc, [tree.get("server") or {}])[0]
        self.backends: Sequence[BackendDoc | None] = (
            doc.backends if doc else sound(BackendDoc, tree.get("backends"))
        )
        self.models: Sequence[ModelDoc | None] = (
            doc.models if doc else sound(ModelDoc, tree.get("models"))
        )
        self.keys: Sequence[KeyDoc | None] = doc.auth.keys if doc else sound(KeyDoc, keys)


def _tree(path: Path | None, faults: Faults) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return parse(read(path), str(path), faults)
    except Unreadable as error:
        faults.add_line(str(error))
        return {}


def _all(names: Names) -> list[str]:
    return [name for name in names if name is not None]


def _check_logging(cli: Overrides, faults: Faults) -> None:
    if cli.log_format not in (None, *LOG_FORMATS):
        faults.add(("--log-format",), f"must be one of {', '.join(LOG_FORMATS)}")
    if cli.log_level not in (None, *LOG_LEVELS):
        faults.add(("--log-level",), f"must be one of {', '.join(LOG_LEVELS)}")


def _check_tls(server: Server, faults: Faults) -> None:
    """Notes files that cannot be read and a pair that OpenSSL does not take."""
    if server.tls_cert is None or server.tls_key is None:
        return
    readable = [
        _readable(path, name, faults)
        for path, name in ((server.tls_cert, "cert"), (server.tls_key, "key"))
    ]
    if not all(readable):
        return
    try:
        # A passphrase is asked for on the terminal unless this answers: a daemon has none.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            server.tls_cert, server.tls_key, password=lambda: ""
        )
    except (ssl.SSLError, ValueError) as error:
        reason = (getattr(error, "reason", None) or "not PEM").replace("_", " ").lower()
        faults.add(
            ("server", "tls"),
            f"is no certificate with its key in PEM form and without a passphrase: {reason}",
        )


def _readable(path: Path, name: str, faults: Faults) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError as error:
        faults.add(("server", "tls", name), f"{path} cannot be read: {error.strerror}")
        return False
