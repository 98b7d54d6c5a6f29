"""``portico keys``: make a key, list all, take one back: in the store where one is configured."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

import yaml

from gateway.commands.common import add_config_arguments, read_config
from gateway.config import Config, KeyEntry
from gateway.config.addresses import without_password
from gateway.config.dump import mask
from gateway.config.fields import key_name
from gateway.control.keys import caller, expired, keep, make_key, record
from gateway.core.keys import digest
from gateway.core.types import Caller, Doc
from gateway.state.store import KEY, Store, StoreError, store_at

T = TypeVar("T")

RELOAD = "send the gateway SIGHUP (under systemd: systemctl reload portico)"

_COLUMNS = ("NAME", "DIGEST", "WHERE", "MODELS", "LIMITS")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="new|list|revoke")
    new = actions.add_parser("new", help="make a key and print it once")
    new.add_argument("name", help="who will hold the key")
    add_config_arguments(new)
    listed = actions.add_parser("list", help="show all keys, never the keys themselves")
    add_config_arguments(listed)
    revoke = actions.add_parser("revoke", help="take a key back, or say which entry to remove")
    revoke.add_argument("name", help="the name of the key")
    add_config_arguments(revoke)


def run(args: argparse.Namespace) -> int:
    """The status: 0 done, 2 a name or configuration that cannot be, 1 nothing was changed."""
    config = read_config(args)
    if config is None:
        return 2
    try:
        match args.action:
            case "new":
                return _new(config, args.name)
            case "list":
                return _list(config)
            case _:
                return _revoke(config, args.name)
    except StoreError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def snippet(name: str, key: str) -> str:
    """The lines of YAML that let ``key`` in; they hold its digest only."""
    entry = {"auth": {"keys": [{"name": name, "key": digest(key)}]}}
    return yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=200)


def in_store(config: Config, work: Callable[[Store], Awaitable[T]]) -> T:
    """Do something with the store of the configuration. Raises StoreError."""

    async def done() -> T:
        store = store_at(config.store_url or "")
        try:
            await store.open()
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(done())


def _kept(config: Config) -> list[Doc]:
    """The keys of the store, none without one."""
    if config.store_url is None:
        return []
    found: list[Doc] = []
    found += in_store(config, lambda store: store.load(KEY))
    return found


def _new(config: Config, name: str) -> int:
    try:
        name = key_name(name)
    except ValueError as error:
        sys.stderr.write(f"NAME: {error}\n")
        return 2
    key = make_key()
    return _print_entry(name, key) if config.store_url is None else _keep(config, name, key)


def _keep(config: Config, name: str, key: str) -> int:
    """Keep a new key in the store; nobody has to be told, since gateways look there."""
    if any(entry.name == name and not entry.admin for entry in config.entries):
        sys.stderr.write(f"NAME: a configured key is named {name!r} already; take another name\n")
        return 2
    doc = record({"name": name}, key, time.time(), "portico keys")
    if not in_store(config, lambda store: keep(store, doc)):
        sys.stderr.write(
            f"NAME: a key of the store is named {name!r} already; revoke that one first, or take"
            " another name\n"
        )
        return 2
    sys.stdout.write(
        f"The key {name!r} is kept in {_place(config)}, as its hash only. Gateways on that store\n"
        "take it within a second. It is shown only now. Hand it to its user:\n\n"
        f"{key}\n"
    )
    return 0


def _place(config: Config) -> str:
    return without_password(config.store_url or "")


def _print_entry(name: str, key: str) -> int:
    sys.stdout.write(
        "Add this entry to the configuration file, then start the gateway or, if it runs,\n"
        f"{RELOAD}:\n\n"
        f"{snippet(name, key)}\n"
        "The key itself is stored nowhere and shown only now. Hand it to its user:\n\n"
        f"{key}\n"
    )
    return 0


def _list(config: Config) -> int:
    kept = _kept(config)
    if not config.entries and not kept:
        sys.stdout.write(
            "No key is configured: whoever reaches the gateway may use it."
            " 'portico keys new NAME' makes one.\n"
            if config.store_url is None
            else "There is no key. 'portico keys new NAME' makes one.\n"
        )
        return 0
    now = time.time()
    rows = [_row(entry, config.keyring.callers.get(entry.digest)) for entry in config.entries]
    rows += [_kept_row(doc, now) for doc in kept]
    sys.stdout.write("".join(f"{line}\n" for line in table([_COLUMNS, *rows])))
    return 0


def _row(entry: KeyEntry, caller: Caller | None) -> tuple[str, ...]:
    if entry.admin or caller is None:
        return (entry.name, mask(entry.digest), entry.path, "*", "administrator")
    return (entry.name, mask(entry.digest), entry.path, ", ".join(caller.models), limits(caller))


def _kept_row(doc: Doc, now: float) -> tuple[str, ...]:
    holder = caller(doc)
    where = "store (expired)" if expired(doc, now) else "store"
    return (
        holder.name,
        mask(doc["digest"]),
        where,
        ", ".join(holder.models),
        limits(holder),
    )


def limits(caller: Caller) -> str:
    """The limits of a key in a few words."""
    given = (
        (caller.requests_per_minute, "requests/min"),
        (caller.tokens_per_minute, "tokens/min"),
        (caller.tokens_per_day, "tokens/day"),
        (caller.tokens_per_month, "tokens/month"),
        (caller.max_concurrency, "at once"),
    )
    return ", ".join(f"{number} {unit}" for number, unit in given if number is not None) or "none"


def table(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """The rows as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _revoke(config: Config, name: str) -> int:
    if config.store_url is not None and in_store(config, lambda store: store.delete(KEY, name)):
        sys.stdout.write(
            f"The key {name!r} is revoked. Gateways on {_place(config)} refuse it within a"
            " second.\n"
        )
        return 0
    found = [entry for entry in config.entries if entry.name == name and not entry.admin]
    for entry in found:
        sys.stderr.write(f"{how_to_revoke(entry, config)}\n")
    if not found:
        known = [entry.name for entry in config.entries if not entry.admin]
        names = ", ".join(known + [doc["name"] for doc in _kept(config)]) or "none"
        sys.stderr.write(f"No key is named {name!r} here; there are: {names}.\n")
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
