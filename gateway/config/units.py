"""Durations and sizes as people write them, into seconds and bytes, and back."""

from __future__ import annotations

import re
from fractions import Fraction

LONGEST = 366 * 86400
"""Seconds. A longer time-out is a slip of the keyboard."""

LARGEST = 2**50
"""Bytes."""

SECONDS: dict[str, Fraction | int] = {
    "ms": Fraction(1, 1000),
    "s": 1,
    "m": 60,
    "h": 3600,
    "d": 86400,
}

BYTES: dict[str, Fraction | int] = {
    "b": 1,
    "k": 2**10,
    "m": 2**20,
    "g": 2**30,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
}
"""``KiB`` is binary and ``kB`` decimal as in IEC 80000-13; a bare letter is binary as in nginx."""

DURATION_PATTERN = r"^ *[0-9]+(\.[0-9]+)? *(ms|s|m|h|d)? *$"
SIZE_PATTERN = r"^ *[0-9]+(\.[0-9]+)? *([kKmMgG]?([iI]?[bB])?) *$"

_QUANTITY = re.compile(r" *([0-9]{1,18}(?:\.[0-9]{1,6})?) *([A-Za-z]*) *")

_DURATION_HELP = "must be a duration such as 500ms, 30s, 2m or 1h (a plain number is seconds)"
_SIZE_HELP = "must be a size such as 32MiB, 10MB, 64k or 1048576 (a plain number is bytes)"


def _quantity(value: object, units: dict[str, Fraction | int], plain: str, help_: str) -> Fraction:
    """``value`` (text or a number) in base units; raises ValueError with ``help_``."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(help_)  # noqa: TRY004 - pydantic collects only ValueError
    text = f"{value:f}" if isinstance(value, float) else str(value)
    if text.strip().startswith("-"):
        raise ValueError(f"must be more than zero; {help_}")
    match = _QUANTITY.fullmatch(text)
    unit = match[2].lower() or plain if match else ""
    if match is None or unit not in units:
        raise ValueError(help_)
    return Fraction(match[1]) * units[unit]


def seconds(value: object) -> float:
    """``30s``, ``500ms``, ``2m``, ``1h``, ``1d`` or a number of seconds, as seconds.

    Raises ValueError, with what to write, for anything else, zero, negative or over a year."""
    found = _quantity(value, SECONDS, "s", _DURATION_HELP)
    if found <= 0:
        raise ValueError(f"must be more than zero; {_DURATION_HELP}")
    if found > LONGEST:
        raise ValueError("is longer than a year; write 366d or less")
    return float(found)


def size(value: object) -> int:
    """``32MiB``, ``10MB``, ``64k`` or a number of bytes, as bytes.

    Raises ValueError, with what to write, for anything else, less than a byte or over 1 PiB."""
    found = int(_quantity(value, BYTES, "b", _SIZE_HELP))
    if found <= 0:
        raise ValueError(f"must be at least one byte; {_SIZE_HELP}")
    if found > LARGEST:
        raise ValueError("is more than 1 PiB; write a smaller size")
    return found


def show_seconds(value: float) -> str:
    """Seconds in the largest unit that needs no fraction: ``1.5`` is ``1500ms``, ``60`` ``1m``."""
    for unit in ("h", "m", "s"):
        if value % int(SECONDS[unit]) == 0:
            return f"{int(value // int(SECONDS[unit]))}{unit}"
    millis = round(value * 1000, 6)
    return f"{int(millis)}ms" if millis == int(millis) else f"{millis:f}".rstrip("0") + "ms"


def show_size(value: int) -> str:
    """Bytes in the largest binary unit that needs no fraction: ``33554432`` is ``32MiB``."""
    for unit in ("GiB", "MiB", "KiB"):
        if value % BYTES[unit.lower()] == 0:
            return f"{int(value // BYTES[unit.lower()])}{unit}"
    return str(value)
