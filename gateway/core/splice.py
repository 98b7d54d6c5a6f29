"""Changing one top-level field of a JSON text without touching any other byte of it."""

from __future__ import annotations

import re
from collections.abc import Iterator

import orjson

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\]:,]', re.DOTALL)
_WHITE = b" \t\r\n"


def spans(body: bytes, field: str) -> list[tuple[int, int]]:
    """Where the values of the top-level member ``field`` stand, as (start, end) without white
    space. ``body`` is known to be one valid JSON object. A key spelt with escapes is not found."""
    key = b'"' + field.encode() + b'"'
    members = list(re.finditer(re.escape(key) + rb"\s*:", body))
    if len(members) == 1 and _outermost(body, members[0].start()):
        return [_value_span(body, members[0].end())]
    return list(_scan(body, key)) if members else []


def _outermost(body: bytes, start: int) -> bool:
    """Whether nothing but the outer object opens before ``start``. (Inside a string the key's
    quotes would be escaped, so what stands there is a member of something.)"""
    return body.count(b"{", 0, start) == 1 and body.find(b"[", 0, start) < 0


def _scan(body: bytes, key: bytes) -> Iterator[tuple[int, int]]:
    depth, previous, before = 0, b"", b""
    for token in _TOKEN.finditer(body):
        text = token.group()
        if text in (b"{", b"["):
            depth += 1
        elif text in (b"}", b"]"):
            depth -= 1
        elif text == b":" and depth == 1 and previous == key and before in (b"{", b","):
            yield _value_span(body, token.end())
        before, previous = previous, text


def _value_span(body: bytes, start: int) -> tuple[int, int]:
    while body[start] in _WHITE:
        start += 1
    if body[start : start + 1] == b'"':
        token = _TOKEN.match(body, start)
        return start, token.end() if token else start
    if body[start : start + 1] in (b"{", b"["):
        return start, _matching(body, start)
    end = re.compile(rb"[,}\]\s]").search(body, start)
    return start, end.start() if end else len(body)


def _matching(body: bytes, start: int) -> int:
    depth = 0
    for token in _TOKEN.finditer(body, start):
        text = token.group()
        depth += (text in (b"{", b"[")) - (text in (b"}", b"]"))
        if depth == 0:
            return token.end()
    return len(body)


def replace(body: bytes, field: str, value: object) -> bytes | None:
    """``body`` with the member ``field`` set to ``value``; None when its place is not certain."""
    found = spans(body, field)
    if len(found) != 1:
        return None
    start, end = found[0]
    return body[:start] + orjson.dumps(value) + body[end:]


def insert(body: bytes, field: str, value: object) -> bytes:
    """``body`` with a new first member. ``body`` is a JSON object without that member."""
    start = body.index(b"{") + 1
    rest = body[start:]
    comma = b"" if rest.lstrip().startswith(b"}") else b","
    return body[:start] + orjson.dumps(field) + b":" + orjson.dumps(value) + comma + rest
