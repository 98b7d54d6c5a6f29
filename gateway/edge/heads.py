"""Heads that a client repeats.

Most send the very same head with every request of a connection, but for Content-Length. What the
parser made of it once, it would make of it again: it need not look at each header anew."""

from __future__ import annotations

import re

from gateway.edge.request import Body, Request

LONGEST = 8192
"""Bytes of a head that is remembered."""

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})\r\n", re.IGNORECASE)

_END = b"\r\n\r\n"


class Known:
    """A head as it came, around the digits of its Content-Length, and what it meant."""

    __slots__ = ("_after", "_before", "head")

    def __init__(self, before: bytes, after: bytes, request: Request) -> None:
        self._before = before
        self._after = after
        self.head = request.head

    def body(self, data: bytes) -> bytes | None:
        """The body of a read that is this head and a whole body, None of any other."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return None
        start = len(before)
        end = data.find(b"\r", start, start + 16)
        digits = data[start:end]
        if not digits.isdigit() or not data.startswith(after, end):
            return None
        body = data[end + len(after) :]
        return body if len(body) == int(digits) else None


def learned(data: bytes, request: Request) -> Known | None:
    """What there is to remember of a read that was one whole request; None where the head says
    more of its body than how long it is."""
    end = data.find(_END, 0, LONGEST) + len(_END)
    found = _LENGTH.search(data, 0, end)
    plain = type(request.body) is Body and request.body.complete
    if found is None or not plain or int(found[1]) != len(data) - end:
        return None
    return Known(data[: found.start(1)], data[found.end(1) : end], request)
