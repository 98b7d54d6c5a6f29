"""``portico keys``: make a key, list the configured ones, say how to take one back."""

from __future__ import annotations

import argparse
import secrets
import sys
from collections.abc import Iterable, Sequence

import yaml

from gateway.commands.common import add_config_arguments, read_config
from gateway.config import Config, KeyEntry
from gateway.config.dump import mask
from gateway.config.fields import key_name
from gateway.core.keys import digest
from gateway.core.types import Caller

RELOAD = "send the gateway SIGHUP (under systemd: systemctl reload portico)"

_COLUMNS = ("NAME", "DIGEST", "WHERE", "MODELS", "LIMITS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="new|list|revoke")
    new = actions.add_parser("new", help="make a key and print it once, with its entry to store")
    new.add_argument("name", help="who will hold the key")
    listed = actions.add_parser("list", help="show the configured keys, never the keys themselves")
    add_config_arguments(listed)
    revoke = actions.add_parser("revoke", help="say which entry to remove to take a key back")
    revoke.add_argument("name", help="the name of the key")
    add_config_arguments(revoke)


def run(args: argparse.Namespace) -> int:
    """The status: 0 done, 2 a name or configuration that cannot be, 1 nothing was revoked."""
    if args.action == "new":
        return _new(args.name)
    config = read_config(args)
    if config is None:
        return 2
    return _list(config) if args.action == "list" else _revoke(config, args.name)


def make_key() -> str:
    """A new key: ``pk-`` and 43 characters that carry 256 random bits."""
    return f"pk-{secrets.token_urlsafe(32)}"


def snippet(name: str, key: str) -> str:
    """The lines of YAML that let ``key`` in; they hold its digest only."""
    entry = {"auth": {"keys": [{"name": name, "key": digest(key)}]}}
    return yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=200)


def _new(name: str) -> int:
    try:
        name = key_name(name)
    except ValueError as error:
        sys.stderr.write(f"NAME: {error}\n")
        return 2
    key = make_key()
    sys.stdout.write(
        "Add this entry to the configuration file, then start the gateway or, if it runs,\n"
        f"{RELOAD}:\n\n"
        f"{snippet(name, key)}\n"
        "The key itself is stored nowhere and shown only now. Hand it to its user:\n\n"
        f"{key}\n"
    )
    return 0


def _list(config: Config) -> int:
    if not config.entries:
        sys.stdout.write(
            "No key is configured: whoever reaches the gateway may use it."
            " 'portico keys new NAME' makes one.\n"
        )
        return 0
    rows = [_row(entry, config.keyring.callers.get(entry.digest)) for entry in config.entries]
    sys.stdout.write("".join(f"{line}\n" for line in table([_COLUMNS, *rows])))
    return 0


def _row(entry: KeyEntry, caller: Caller | None) -> tuple[str, ...]:
    if entry.admin or caller is None:
        return (entry.name, mask(entry.digest), entry.path, "*", "administrator")
    return (entry.name, mask(entry.digest), entry.path, ", ".join(caller.models), limits(caller))


def limits(caller: Caller) -> str:
    """The limits of a key in a few words."""
    given = (
        (caller.requests_per_minute, "requests/min"),
        (caller.tokens_per_minute, "tokens/min"),
        (caller.max_concurrency, "at once"),
    )
    return ", ".join(f"{number} {unit}" for number, unit in given if number is not None) or "none"


def table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """The rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _revoke(config: Config, name: str) -> int:
    found = [entry for entry in config.entries if entry.name == name and not entry.admin]
    for entry in found:
        sys.stderr.write(f"{how_to_revoke(entry, config)}\n")
    if not found:
        names = ", ".join(entry.name for entry in config.entries if not entry.admin) or "none"
        sys.stderr.write(f"No key is named {name!r} here; configured: {names}.\n")
    return 1


def how_to_revoke(entry: KeyEntry, config: Config) -> str:
    """What an operator does to take a key back: this command changes no file."""
    kept = (
        f"Nothing was changed: the key {entry.name!r} is kept in"
        f" {config.source if entry.path.startswith('auth.') else 'the environment'}, which this"
        " command does not edit."
    )
    if entry.path.startswith("auth."):
        return f"{kept} Remove its entry {entry.path} from that file, then {RELOAD}."
    variable = entry.path.partition("[")[0]
    return (
        f"{kept} Remove it from {variable} ({entry.path}, counted from 0), then restart the"
        " gateway: a reload does not change the environment of a running process."
    )
