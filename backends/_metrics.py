"""Reads single families out of a Prometheus text page, without parsing the rest."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

Sample = tuple[dict[str, str], float]

_REST = re.compile(
    r"""(?:\{(?P<labels>(?:[^"}\n]|"(?:[^"\\\n]|\\.)*")*)\})?[ \t]+(?P<value>[^\s]+)"""
)
_LABEL = re.compile(r"""([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)\"""")
_ESCAPE = re.compile(r"\\(.)")
_MEANING = {"n": "\n"}


def series(text: str, name: str) -> list[Sample]:
    """The samples of exactly ``name`` (colons and any ``_total`` included) in the order of the
    page, as (labels, value). Lines that cannot be read, and values that are not finite, are left
    out. The page is searched, not parsed: 100 kB cost some tens of microseconds."""
    return list(_samples("\n" + text, "\n" + name))


def total(text: str, name: str) -> float | None:
    """The sum over all label sets of ``name``; None when the page has no such sample."""
    values = [value for _, value in series(text, name)]
    return sum(values) if values else None


def _samples(page: str, start: str) -> Iterator[Sample]:
    at = page.find(start)
    while at >= 0:
        end = at + len(start)
        found = _REST.match(page, end)
        value = _number(found["value"]) if found else None
        if found and value is not None:
            yield _labels(found["labels"] or ""), value
        at = page.find(start, end)


def _number(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _labels(block: str) -> dict[str, str]:
    return {key: _ESCAPE.sub(_unescape, raw) for key, raw in _LABEL.findall(block)}


def _unescape(found: re.Match[str]) -> str:
    return _MEANING.get(found[1], found[1])
