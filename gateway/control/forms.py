"""Bodies of administrators' requests: a table of fields in, checked values or a 400 out. The same
table says in JSON Schema what is taken."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import orjson

from gateway.core.errors import Refusal

Json = dict[str, Any]


class Wrong(ValueError):
    """A value that cannot be. ``text`` goes on from the field's name; ``inside`` is the way to the
    place that is meant, such as ``[0].modelId``."""

    def __init__(self, text: str, inside: str = "") -> None:
        super().__init__(text)
        self.text = text
        self.inside = inside


@dataclass(frozen=True, slots=True)
class Check:
    """From what was sent to what is kept, by ``run``, which raises Wrong. ``schema`` says the same
    as far as JSON Schema can."""

    run: Callable[[Any], Any]
    schema: Json

    def __call__(self, value: Any) -> Any:
        return self.run(value)


@dataclass(frozen=True, slots=True)
class Field:
    """One field. ``nullable``: null takes the value away."""

    check: Check
    required: bool = False
    nullable: bool = False


Fields = Mapping[str, Field]


def parse(body: bytes) -> dict[str, Any]:
    """The body as a JSON object. Raises Refusal ``invalid_request``."""
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError:
        raise Refusal("invalid_request", "The body is not JSON.") from None
    if not isinstance(doc, dict):
        raise Refusal("invalid_request", "The body has to be a JSON object.")
    return doc


def read(
    doc: Mapping[str, Any], fields: Fields, *, partial: bool = False, ignored: Collection[str] = ()
) -> dict[str, Any]:
    """The fields that were sent, checked; all that are required have to be there unless
    ``partial``. ``ignored`` are fields of an answer, which clients send back. Raises Refusal
    ``invalid_request``, which names the first faulty field and tells of all."""
    found: dict[str, Any] = {}
    faults = [
        (name[:100], f"is no field here{_near(name, fields)}")
        for name in doc
        if name not in fields and name not in ignored
    ]
    for name, field in fields.items():
        value = doc.get(name)
        if name not in doc or (value is None and not partial and not field.required):
            if field.required and not partial:
                faults.append((name, "is required"))
            continue
        try:
            found[name] = _checked(field, value)
        except Wrong as wrong:
            faults.append((name + wrong.inside, wrong.text))
    if faults:
        text = "; ".join(f"'{name}' {what}" for name, what in faults[:10])
        raise Refusal("invalid_request", f"{text}.", param=faults[0][0])
    return found


def _checked(field: Field, value: Any) -> Any:
    if value is None and field.nullable:
        return None
    return field.check(value)


def _near(name: str, fields: Fields) -> str:
    matches = get_close_matches(name, fields, 1)
    return f"; did you mean '{matches[0]}'?" if matches else f": {', '.join(fields)} are"


def text(low: int, high: int) -> Check:
    """Text of so many characters, all of them printable."""

    def check(value: Any) -> str:
        if not isinstance(value, str):
            raise Wrong("must be text")
        if not low <= len(value) <= high:
            raise Wrong(f"must have {low} to {high} characters")
        if not value.isprintable():
            raise Wrong("must not hold line breaks or control characters")
        if low and not value.strip():
            raise Wrong("must not be blank")
        return value

    return Check(check, {"type": "string", "minLength": low, "maxLength": high})


def whole(low: int, high: int = 10**12) -> Check:
    """A whole number within bounds; in JSON 5.0 is one, too."""

    def check(value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Wrong(f"must be a whole number, {low} to {high}")
        return value

    return Check(check, {"type": "integer", "minimum": low, "maximum": high})


def one_of(names: Collection[str]) -> Check:
    """One of some words."""

    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise Wrong(f"must be one of {', '.join(names)}")
        return value

    return Check(check, {"type": "string", "enum": list(names)})


def list_of(check: Check, most: int) -> Check:
    """A list of so many entries at most."""

    def checked(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise Wrong("must be a list")
        if len(value) > most:
            raise Wrong(f"must have at most {most} entries")
        return [_at(f"[{i}]", check, item) for i, item in enumerate(value)]

    return Check(checked, {"type": "array", "items": check.schema, "maxItems": most})


def object_of(fields: Fields, ignored: Collection[str] = ()) -> Check:
    """An object with these fields."""

    def checked(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Wrong(f"must be an object with {', '.join(fields)}")
        for name in value:
            if name not in fields and name not in ignored:
                raise Wrong(f"is no field here{_near(name, fields)}", f".{name[:100]}")
        for name, field in fields.items():
            if field.required and name not in value:
                raise Wrong("is required", f".{name}")
        return {
            name: _at(f".{name}", partial(_checked, field), value[name])
            for name, field in fields.items()
            if name in value
        }

    return Check(checked, schema(fields, ignored=ignored))


def schema(fields: Fields, *, partial: bool = False, ignored: Collection[str] = ()) -> Json:
    """What ``read`` takes, as a JSON Schema."""
    ours = {
        name: _or_null(field.check.schema) if field.nullable else field.check.schema
        for name, field in fields.items()
    }
    return {
        "type": "object",
        "required": [name for name, field in fields.items() if field.required and not partial],
        "properties": {**ours, **{name: {} for name in ignored}},
        "additionalProperties": False,
    }


def _or_null(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def _at(step: str, check: Callable[[Any], Any], value: Any) -> Any:
    try:
        return check(value)
    except Wrong as wrong:
        raise Wrong(wrong.text, step + wrong.inside) from None
