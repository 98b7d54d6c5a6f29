"""How urgent a request is: the key says what it may be, a header may ask for less."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.errors import Refusal
from gateway.core.types import Caller

HEADER = "X-Portico-Priority"

LEVELS: Mapping[str, int] = {"low": -1, "normal": 0, "high": 1}
"""Words, since engines do not agree on numbers: in vLLM the lower one goes first, in SGLang the
higher one."""

NAMES: Mapping[int, str] = {level: name for name, level in LEVELS.items()}


def asked(header: str | None) -> int | None:
    """The level that a request's header asks for, None when it says nothing. Raises Refusal
    ``invalid_request``."""
    if header is None:
        return None
    level = LEVELS.get(header.strip().lower())
    if level is None:
        raise Refusal(
            "invalid_request",
            f"The header {HEADER} must be one of {', '.join(LEVELS)}; leave it out to be served"
            " as your key is.",
        )
    return level


def granted(wanted: int | None, caller: Caller) -> int:
    """The level that a request gets: its key's, or less where it asks for less."""
    return caller.priority if wanted is None else min(wanted, caller.priority)
