"""Reading a client's document field by field: what it may hold, and how a fault in it is told."""

from __future__ import annotations

from typing import Any

from gateway.core.errors import Refusal
from gateway.core.types import Doc


def wrong(param: str, message: str) -> Refusal:
    """The 400 for a fault of the caller's document. ``param`` is the field's path
    (``messages.0.content``)."""
    return Refusal("invalid_request", message, param=param)


def cannot(param: str, what: str, remedy: str) -> Refusal:
    """The 501 for a field that the other side has no words for. ``what`` completes "'param': …",
    ``remedy`` is a sentence."""
    return beyond(
        param, f"'{param}': {what}, which this model's backend cannot be asked for. {remedy}"
    )


def beyond(param: str, message: str) -> Refusal:
    """The same in words of one's own."""
    return Refusal("unsupported", message, param=param, code="unsupported_parameter")


def text(value: Any, param: str) -> str:
    """A string, or the 400 that says so."""
    if not isinstance(value, str):
        raise wrong(param, f"'{param}' has to be a string.")
    return value


def obj(value: Any, param: str) -> Doc:
    """An object, or the 400 that says so."""
    if not isinstance(value, dict):
        raise wrong(param, f"'{param}' has to be an object.")
    return value


def items(value: Any, param: str) -> list[tuple[Doc, str]]:
    """A list of objects as (object, its path), or the 400 that says so."""
    if not isinstance(value, list):
        raise wrong(param, f"'{param}' has to be a list.")
    return [(obj(item, f"{param}.{i}"), f"{param}.{i}") for i, item in enumerate(value)]


class Losses:
    """The names of the client's fields that were expressed with a loss, each once, in order."""

    __slots__ = ("_names",)

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def note(self, name: str) -> None:
        self._names[name] = None

    def cached(self, block: Doc, where: str) -> None:
        """A mark that asks for caching: engines cache prefixes by themselves or not at all."""
        if block.get("cache_control") is not None:
            self.note(f"{where}.cache_control" if where else "cache_control")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)
