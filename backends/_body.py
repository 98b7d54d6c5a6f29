"""Changing single fields of a request body, for rows whose engine is stricter than OpenAI."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from gateway.core.types import Doc

DROP: Final = object()
"""As a field's new value: leave the field out."""

Fix = Callable[[Doc], Mapping[str, Any]]
"""From a body to the fields that must change: name -> new value, or DROP. Empty: none."""


def patched(doc: Doc, fixes: Iterable[Fix]) -> Doc | None:
    """The body with every fix applied, in its old order; None when nothing has to change. Each
    fix reads the body as it came; of two that set one field the later wins."""
    changes: Mapping[str, Any] = {}
    for fix in fixes:
        if found := fix(doc):
            changes = {**changes, **found}
    if not changes:
        return None
    return {name: value for name, value in {**doc, **changes}.items() if value is not DROP}


def without(*names: str) -> Fix:
    """The fix that leaves out the named fields."""
    return lambda doc: {name: DROP for name in names if name in doc}


def renamed(new: str, *olds: str) -> Fix:
    """The fix that gives the first present of ``olds`` the name ``new``, unless that is there."""

    def fix(doc: Doc) -> Mapping[str, Any]:
        old = next((name for name in olds if doc.get(name) is not None), None)
        return {} if old is None or doc.get(new) is not None else {old: DROP, new: doc[old]}

    return fix
