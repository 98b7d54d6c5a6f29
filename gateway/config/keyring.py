"""From keys in the file, ``API_KEYS`` and ``ADMIN_KEYS`` to the keyring of digests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import SecretStr

from gateway.core.keys import ADMIN, PREFIX, Keyring, digest
from gateway.core.priority import LEVELS
from gateway.core.types import Caller

from .faults import Faults, Path, where
from .fields import client_key
from .model import KeyDoc
from .overlay import items
from .values import KeyEntry

GOOD_KEY = 16
"""Characters of a plain key below which a warning is due."""


@dataclass(frozen=True, slots=True)
class Held:
    """A key before its name is settled. ``value`` is plain or ``sha256:…``."""

    path: Path
    caller: Caller
    value: str

    @property
    def digest(self) -> str:
        return self.value.lower() if self.value.startswith(PREFIX) else digest(self.value)


def of_file(docs: Sequence[KeyDoc | None], faults: Faults) -> list[Held]:
    """The keys under ``auth.keys``; the same name or the same key twice is a fault."""
    names: dict[str, int] = {}
    digests: dict[str, int] = {}
    found: list[Held] = []
    for i, doc in enumerate(docs):
        if doc is None:
            continue
        path: Path = ("auth", "keys", i)
        if names.setdefault(doc.name, i) != i:
            faults.add((*path, "name"), f"is the name of auth.keys[{names[doc.name]}] as well")
        if doc.key is None:
            continue
        held = Held(path, _caller(doc), doc.key.get_secret_value())
        if digests.setdefault(held.digest, i) != i:
            other = digests[held.digest]
            faults.add((*path, "key"), f"is the key of auth.keys[{other}] as well; make a new one")
        found.append(held)
    return found


def _caller(doc: KeyDoc) -> Caller:
    return Caller(
        name=doc.name,
        models=doc.models,
        requests_per_minute=doc.requests_per_minute,
        tokens_per_minute=doc.tokens_per_minute,
        max_concurrency=doc.max_concurrency,
        surfaces=doc.surfaces,
        tokens_per_day=doc.tokens_per_day,
        tokens_per_month=doc.tokens_per_month,
        expires=doc.expires,
        priority=LEVELS[doc.priority],
    )


def of_env(variable: str, env: Mapping[str, str], faults: Faults) -> list[Held]:
    """The keys of a variable, named ``key-1``, ``key-2`` and so on; faults name their place."""
    found = []
    for i, value in enumerate(items(env.get(variable, ""))):
        path: Path = (variable, i)
        try:
            found.append(Held(path, Caller(name=f"key-{i + 1}"), client_key(value)))
        except ValueError as error:
            faults.add(path, str(error))
    return found


def admins(keys: Sequence[SecretStr], env: Mapping[str, str], faults: Faults) -> list[Held]:
    """The keys of administrators: the file's ``keys``, then those of ``ADMIN_KEYS``."""
    held = [
        Held(("auth", "admin_keys", i), ADMIN, key.get_secret_value()) for i, key in enumerate(keys)
    ]
    return held + [replace(one, caller=ADMIN) for one in of_env("ADMIN_KEYS", env, faults)]


def merge(file: Sequence[Held], env: Sequence[Held], warnings: list[str]) -> list[Held]:
    """The callers' keys. Environment beats file where a name is in both. A key that stands in
    both under two names keeps the file's entry, since only that can say what it may do."""
    replaced = {held.caller.name for held in env} & {held.caller.name for held in file}
    kept = [held for held in file if held.caller.name not in replaced]
    places = {held.digest: where(held.path) for held in kept}
    found = list(kept)
    for held in env:
        if held.digest in places:
            place = places[held.digest]
            warnings.append(f"{where(held.path)}: is the key of {place} as well; that entry holds")
            continue
        places[held.digest] = where(held.path)
        found.append(held)
    warnings += [
        f"{where(held.path)}: '{held.caller.name}' is replaced by the key of that name in API_KEYS"
        for held in file
        if held.caller.name in replaced
    ]
    return found


def ring(callers: Sequence[Held], admins: Sequence[Held]) -> Keyring:
    return Keyring(
        {held.digest: held.caller for held in callers}, frozenset(held.digest for held in admins)
    )


def entries(callers: Sequence[Held], admins: Sequence[Held]) -> tuple[KeyEntry, ...]:
    """All keys with where each stands, for ``portico keys``."""
    return tuple(
        KeyEntry(where(held.path), held.caller.name, held.digest, admin)
        for group, admin in ((callers, False), (admins, True))
        for held in group
    )


def warn(callers: Sequence[Held], admins: Sequence[Held]) -> list[str]:
    """What is allowed but unwise: short keys, a caller's key that also is an admin's, names that
    the log uses for somebody else."""
    found = [
        f"{where(held.path)}: has fewer than {GOOD_KEY} characters; 'portico keys new' makes a"
        " better one"
        for held in (*callers, *admins)
        if not held.value.startswith(PREFIX) and len(held.value) < GOOD_KEY
    ]
    powerful = {held.digest for held in admins}
    found += [
        f"{where(held.path)}: is an admin key as well; everyone who holds it is an administrator"
        for held in callers
        if held.digest in powerful
    ]
    found += [
        f"{where(held.path)}.name: '{held.caller.name}' is what logs call"
        f" {'an admin key' if held.caller.name == 'admin' else 'a caller without a key'}"
        for held in callers
        if held.caller.name in ("admin", "anonymous")
    ]
    return found
