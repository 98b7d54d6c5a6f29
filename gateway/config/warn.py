"""What is allowed but probably not meant: lines for the operator, beside a sound configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backends import BY_NAME
from gateway.core.keys import PREFIX
from gateway.core.types import PASSTHROUGH

from .faults import where
from .values import Config

GOOD_SECRET = 16
"""Characters of ``store.secret`` below which a warning is due."""

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
ANYWHERE = frozenset({"0.0.0.0", "::"})


def warnings(config: Config) -> list[str]:
    """The warnings that the finished configuration gives rise to."""
    return [
        *_names(config),
        *_own_address(config),
        *_same_engine(config),
        *_open_door(config),
        *_store(config),
    ]


def _store(config: Config) -> Iterator[str]:
    secret = config.store_secret
    if secret is not None and len(secret) < GOOD_SECRET:
        yield (
            f"store.secret: has fewer than {GOOD_SECRET} characters; 'openssl rand -hex 32' makes a"
            " better one"
        )


def _names(config: Config) -> Iterator[str]:
    for i, backend in enumerate(config.backends):
        if backend.name in BY_NAME:
            yield (
                f"backends[{i}].name: '{backend.name}' is a runtime's name as well;"
                f" '{backend.name}:MODEL' will always mean this backend"
            )


def _own_address(config: Config) -> Iterator[str]:
    own = LOOPBACK if config.server.host in LOOPBACK | ANYWHERE else frozenset({config.server.host})
    for i, backend in enumerate(config.backends):
        url = urlsplit(backend.url)
        port = url.port or (443 if url.scheme == "https" else 80)
        if url.hostname in own and port == config.server.port:
            yield (
                f"backends[{i}].url: is the address on which this gateway will listen; give the"
                " gateway another port with --port, or correct the URL"
            )


def _same_engine(config: Config) -> Iterator[str]:
    seen: dict[str, int] = {}
    for i, backend in enumerate(config.backends):
        first = seen.setdefault(backend.url, i)
        if first != i:
            yield (
                f"backends[{i}].url: is the address of backends[{first}] as well; their limits and"
                " counts do not know of each other"
            )


def _open_door(config: Config) -> Iterator[str]:
    if config.keyring.open and config.server.host not in LOOPBACK:
        yield (
            "auth.keys: there is no key, so everyone who reaches"
            f" {config.server.host}:{config.server.port} may use every model"
        )
    if not (config.backends or config.discover or config.demo):
        yield "backends: there is none and discovery is off, so there is nothing to serve yet"


PLACES = (("backends",), ("auth",), ("store",))
"""Sections in which secrets may stand."""


def plain_secrets(tree: Any) -> list[str]:
    """The key paths of secrets that stand in the file itself, readable, neither hashed nor taken
    from a variable."""
    return [where(path) for path in _plain(tree) if path[:1] in PLACES]


def _plain(tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from _plain(value, (*path, key))
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from _plain(value, (*path, i))
    elif isinstance(tree, str) and _is_secret(path) and _is_literal(tree):
        yield path


def _is_secret(path: tuple[str | int, ...]) -> bool:
    return path[-1] in ("key", "secret") or "api_key" in path or "admin_keys" in path


def _is_literal(text: str) -> bool:
    return text not in ("", PASSTHROUGH) and not text.startswith(PREFIX) and "${" not in text


def exposed(file: Path, tree: Any) -> list[str]:
    """A warning when the file shows secrets to every user of the host (mode o+r)."""
    try:
        readable = bool(file.stat().st_mode & 0o004)
    except OSError:
        return []
    places = plain_secrets(tree) if readable else []
    if not places:
        return []
    listed = ", ".join(places[:3]) + (" and others" if len(places) > 3 else "")
    return [
        f"{listed}: stands in plain text in {file}, which every user of this host can read;"
        f" chmod o-r {file}, or use ${{VAR}}, *_file or the sha256: form"
    ]
