"""Who asks: from request headers and a keyring to a Caller, without ever comparing plain keys."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from gateway.core.errors import Refusal
from gateway.core.types import Caller, Op

PREFIX = "sha256:"


def digest(key: str) -> str:
    """The form in which a key is stored: ``sha256:`` and 64 hex digits. Keys are long and random
    (``portico keys new`` makes 256 bits), so a fast hash without salt cannot be searched."""
    return PREFIX + hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True, slots=True)
class Keyring:
    """Digests of all valid keys. An empty ring lets everybody in as ``anonymous``, unless keys are
    kept in a store: ``closed`` when some were made there (should they all be revoked by now),
    ``unread`` while the store could not be read yet, so that nobody knows."""

    callers: Mapping[str, Caller] = field(default_factory=dict)
    admins: frozenset[str] = frozenset()
    closed: bool = False
    unread: bool = False

    @property
    def open(self) -> bool:
        return not (self.callers or self.closed or self.unread)


ANONYMOUS = Caller()
ADMIN = Caller(name="admin")


def presented(headers: Mapping[str, str]) -> str | None:
    """The key in ``authorization: Bearer`` (scheme in any case) or ``x-api-key``, else None.
    ``headers`` go by their names in lower case, or whatever the case."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key") or None


def authenticate(headers: Mapping[str, str], ring: Keyring) -> Caller:
    """The caller that the headers prove. Raises Refusal ``unauthorized``."""
    if ring.open:
        return ANONYMOUS
    key = presented(headers)
    if key is None and ring.unread and not ring.callers:
        raise _unread()
    if key is None:
        raise Refusal(
            "unauthorized",
            "No API key came with this request. Send it as 'Authorization: Bearer KEY' or"
            " 'x-api-key: KEY'; whoever runs this gateway hands out keys.",
            headers={"WWW-Authenticate": "Bearer"},
        )
    found = digest(key)
    # The look-up is by digest: its timing tells about a hash, never about a key.
    caller = ring.callers.get(found)
    if caller is not None:
        return caller
    if is_admin(headers, ring):
        return ADMIN
    if ring.unread:
        raise _unread()
    raise Refusal(
        "unauthorized",
        "This API key is not known here. Check for a missing character, or ask whoever runs this"
        " gateway for a new one.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _unread() -> Refusal:
    return Refusal(
        "overloaded",
        "This gateway cannot read its store, so it does not know all its keys yet. Whoever runs it"
        " finds the reason in its log; keys of its configuration work meanwhile.",
    )


def administrator(headers: Mapping[str, str]) -> str:
    """By what an administrator is known in records: the first digits of the key's digest."""
    return known_as(digest(presented(headers) or ""))


def known_as(found: str) -> str:
    """The administrator whose key has this digest."""
    return f"admin-{found[len(PREFIX) :][:12]}"


def is_admin(headers: Mapping[str, str], ring: Keyring) -> bool:
    """True when the headers carry an admin key."""
    key = presented(headers)
    if key is None:
        return False
    found = digest(key)
    return any(hmac.compare_digest(known, found) for known in ring.admins)


def unexpired(caller: Caller, wall: float) -> None:
    """Raises Refusal ``unauthorized`` when the caller's key has expired; ``wall`` is Unix
    seconds."""
    if caller.expires is not None and wall >= caller.expires:
        raise Refusal(
            "unauthorized",
            f"The API key '{caller.name}' expired on {_date(caller.expires)}. Ask whoever runs this"
            " gateway for a new one.",
            headers={"WWW-Authenticate": "Bearer"},
        )


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d at %H:%M UTC")


IMPLIED: Mapping[Op, Op] = {
    Op.RESPONSES_BY_ID: Op.RESPONSES,
    Op.COUNT_TOKENS: Op.MESSAGES,
    Op.DETOKENIZE: Op.TOKENIZE,
}
"""Surfaces that whoever may use another one may use as well."""

LISTS = frozenset({Op.TAGS, Op.SHOW, Op.PS, Op.VERSION})
"""Surfaces that only tell what is there, as ``/v1/models`` does; every key may use them."""


def may_call(caller: Caller, op: Op) -> None:
    """Raises Refusal ``forbidden`` when the surface is not among those the caller may use."""
    allowed = caller.surfaces
    if not allowed or op in LISTS or op.value in allowed or IMPLIED.get(op, op).value in allowed:
        return
    raise Refusal(
        "forbidden",
        f"The key '{caller.name}' may not use {op.value}; it may use {', '.join(allowed)}. Use"
        " one of these, or ask whoever runs this gateway.",
    )


def authorize_admin(headers: Mapping[str, str], ring: Keyring) -> None:
    """Let administrators pass. Raises Refusal: ``forbidden`` without any admin key configured and
    for keys of callers, ``unauthorized`` without a key and for unknown ones."""
    if not ring.admins:
        raise Refusal(
            "forbidden",
            "This route is for administrators, and this gateway has no admin key. To enable it, set"
            " ADMIN_KEYS in its environment or auth.admin_keys in its configuration, and send that"
            " key as 'Authorization: Bearer KEY'.",
        )
    if is_admin(headers, ring):
        return
    key = presented(headers)
    if key is not None and digest(key) in ring.callers:
        raise Refusal(
            "forbidden",
            "This route is for administrators; the key that came with the request is a caller's."
            " Send one of auth.admin_keys.",
        )
    raise Refusal(
        "unauthorized",
        "This route needs an admin key, and none that is known here came with the request. Send it"
        " as 'Authorization: Bearer KEY'; whoever runs this gateway has it.",
        headers={"WWW-Authenticate": "Bearer"},
    )


def may_use(caller: Caller, *names: str) -> bool:
    """True when one of a model's names matches one of the caller's patterns."""
    return any(fnmatchcase(name, pattern) for pattern in caller.models for name in names)
