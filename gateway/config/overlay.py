"""Command line over environment over file: the short forms laid onto the file's tree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .addresses import split_name
from .faults import Path
from .values import Overrides

SERVER = ("host", "port", "workers")
"""Settings of ``server`` that have an option and a variable."""

Origins = dict[Path, str]


def overlay(
    tree: Mapping[str, Any], env: Mapping[str, str], cli: Overrides
) -> tuple[dict[str, Any], Origins]:
    """The tree with the short forms in it, and which of them set what. An empty variable counts
    as unset. A list of backends replaces the one below it whole."""
    found = dict(tree)
    origins: Origins = {}
    server = found.get("server")
    if server is None or isinstance(server, dict):
        over = {name: _server(name, env, cli) for name in SERVER}
        chosen = {name: pair for name, pair in over.items() if pair is not None}
        origins |= {("server", name): origin for name, (_, origin) in chosen.items()}
        found["server"] = dict(server or {}) | {name: value for name, (value, _) in chosen.items()}
    backends = _backends(env, cli)
    if backends is not None:
        found["backends"], origins["backends",] = backends
    return found, origins


def _server(name: str, env: Mapping[str, str], cli: Overrides) -> tuple[Any, str] | None:
    option = getattr(cli, name)
    if option is not None:
        return option, f"--{name}"
    variable = f"PORTICO_{name.upper()}"
    return (env[variable], variable) if env.get(variable) else None


def _backends(env: Mapping[str, str], cli: Overrides) -> tuple[list[dict[str, str]], str] | None:
    if cli.backends:
        return _entries(cli.backends), "--backend"
    listed = items(env.get("PORTICO_BACKENDS", ""))
    return (_entries(listed), "PORTICO_BACKENDS") if listed else None


def _entries(texts: Sequence[str]) -> list[dict[str, str]]:
    pairs = [split_name(text) for text in texts]
    return [{"url": url} if name is None else {"name": name, "url": url} for name, url in pairs]


def items(text: str) -> tuple[str, ...]:
    """The parts of a comma separated variable, without blanks and empty ones."""
    return tuple(part.strip() for part in text.split(",") if part.strip())
