"""Who answers an administrator, and what a route is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gateway.core.keys import Keyring
from gateway.core.spending import Slot, Spent
from gateway.core.types import Ask, Doc, Fleet

Answered = tuple[int, Doc | str | None]
"""The status and the document of an answer, or its text where it is a table (CSV)."""


class Records(Protocol):
    """The store, as routes see it. Documents are as they were kept, oldest first. Every method may
    raise Refusal: ``unsupported`` without a store, ``overloaded`` when it cannot be used now."""

    async def all(self, kind: str) -> Sequence[Doc]: ...
    async def insert(self, kind: str, name: str, doc: Doc) -> bool: ...
    async def update(self, kind: str, name: str, doc: Doc) -> bool: ...
    async def delete(self, kind: str, name: str) -> bool: ...
    async def used(self, since: int, until: int) -> Iterable[tuple[Slot, Spent]]: ...


class Desk(Protocol):
    """What the control side offers."""

    @property
    def fleet(self) -> Fleet: ...
    def drain(self, name: str) -> bool: ...
    def undrain(self, name: str) -> bool: ...
    def in_flight(self, name: str) -> int: ...
    @property
    def records(self) -> Records: ...
    @property
    def keyring(self) -> Keyring:
        """The configured keys, without those of the store."""
        ...

    @property
    def administrators(self) -> Collection[str]:
        """By what administrators are known in records."""
        ...

    def taken(self, name: str) -> str | None:
        """Why no provider may be called so, None when one may."""
        ...

    async def check_address(self, url: str) -> None:
        """Raises ValueError for a base URL where no provider may be."""
        ...

    def seal(self, secret: str, about: str) -> dict[str, str]:
        """A secret as it is kept. Raises Refusal when it cannot be encrypted."""
        ...

    def now(self) -> float:
        """Unix seconds."""
        ...

    def explain(self, request_id: str, /) -> Awaitable[Doc | None]: ...


@dataclass(frozen=True, slots=True)
class AdminRoute:
    """One route. ``path`` may hold ``{name}`` for one segment; ``about`` is its summary in the
    OpenAPI document; ``handle`` answers or raises Refusal. ``takes`` and ``gives`` are the schemas
    of its body and its answer by their names there ('': none), ``status`` is that of an answer,
    ``query`` are its parameters (name -> schema), ``table``: it may be asked for as CSV."""

    method: str
    path: str
    about: str
    handle: Callable[[Desk, Ask], Awaitable[Answered]]
    takes: str = ""
    gives: str = ""
    status: int = 200
    query: Mapping[str, Doc] = field(default_factory=dict)
    table: bool = False


def ref(schema: str) -> dict[str, str]:
    """A reference to a schema of the OpenAPI document."""
    return {"$ref": f"#/components/schemas/{schema}"}
