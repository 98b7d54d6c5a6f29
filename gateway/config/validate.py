"""The tree against the model: every fault in our own words, none with a value in it."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from .faults import Faults, Step

Doc = TypeVar("Doc", bound=BaseModel)

MESSAGES = {
    "missing": "is required",
    "list_type": "must be a list, such as [one, two]",
    "tuple_type": "must be a list, such as [one, two]",
    "dict_type": "must be a mapping of 'key: value' lines",
    "model_type": "must be a mapping of 'key: value' lines",
    "model_attributes_type": "must be a mapping of 'key: value' lines",
}
"""pydantic's kinds of errors that the fields' own checks do not word."""


def validate(cls: type[Doc], value: Any, faults: Faults) -> Doc | None:
    """``value`` as a ``cls``, or None with its faults noted."""
    try:
        return cls.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            faults.add(detail["loc"], _message(cls, detail))
        return None


def sound(cls: type[Doc], items: Any) -> tuple[Doc | None, ...]:
    """The items of a list that hold, None in the place of each that does not. They can then be
    checked against each other in the same run in which the faulty ones are reported."""
    return tuple(_quiet(cls, item) for item in items) if isinstance(items, list) else ()


def _quiet(cls: type[Doc], value: Any) -> Doc | None:
    try:
        return cls.model_validate(value)
    except ValidationError:
        return None


def _message(cls: type[BaseModel], detail: ErrorDetails) -> str:
    kind = detail["type"]
    if kind == "value_error":
        return str(detail["ctx"]["error"])
    if kind == "extra_forbidden":
        return _unknown(cls, detail["loc"])
    return MESSAGES.get(kind, "is not what belongs here")


def _unknown(cls: type[BaseModel], loc: Sequence[Step]) -> str:
    known = sorted(_section(cls, loc[:-1]).model_fields)
    near = get_close_matches(str(loc[-1]), known, n=1)
    if near:
        return f"is not a known key; did you mean '{near[0]}'?"
    return f"is not a known key; known here: {', '.join(known)}"


def _section(cls: type[BaseModel], loc: Sequence[Step]) -> type[BaseModel]:
    """The class of the mapping at ``loc``."""
    for step in loc:
        if isinstance(step, str):
            cls = _inner(cls.model_fields[step].annotation) or cls
    return cls


def _inner(annotation: Any) -> type[BaseModel] | None:
    """The section inside ``Section``, ``Section | None`` or ``tuple[Section, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_inner, get_args(annotation))), None)
