"""Which backend made a stored response: calls by its id have to go back there."""

from __future__ import annotations

import re
from collections import OrderedDict

MOST = 10_000
"""Ids that are remembered, the latest used ones."""

_ID = re.compile(rb'"id": ?"(resp_[A-Za-z0-9_-]{1,200})"')


def id_in(head: bytes) -> str:
    """The id of the response whose answer begins with ``head``, '' if it has none."""
    match = _ID.search(head)
    return match.group(1).decode() if match else ""


class Makers:
    """Response id -> backend name, bounded."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        self._found: OrderedDict[str, str] = OrderedDict()

    def remember(self, response_id: str, backend: str) -> None:
        self._found[response_id] = backend
        if len(self._found) > MOST:
            self._found.popitem(last=False)

    def of(self, response_id: str) -> str:
        """The backend that made it, '' when that is not known."""
        name = self._found.get(response_id, "")
        if name:
            self._found.move_to_end(response_id)
        return name
