"""Values as bytes for another process of the same gateway; ``pickle.loads`` reads them.

A frozen dataclass with slots carries methods of its own for pickle. Its compiled form has none, so
the fields are taken and set here, which both forms bear."""

from __future__ import annotations

import io
import pickle
from dataclasses import fields
from typing import Any


def pack(value: Any) -> bytes:
    """Anything that can be pickled. Raises what pickle does for the rest."""
    out = io.BytesIO()
    _Packer(out, pickle.HIGHEST_PROTOCOL).dump(value)
    return out.getvalue()


def made(kind: Any, values: tuple[Any, ...]) -> Any:
    """A frozen dataclass with these values of its fields, as it was packed."""
    value = kind.__new__(kind)
    for field, content in zip(fields(kind), values, strict=True):
        object.__setattr__(value, field.name, content)
    return value


class _Packer(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        """A function and its arguments, or what pickle takes for "as usual"."""
        kind: Any = type(value)
        traits = getattr(kind, "__dataclass_params__", None)
        if traits is None or not traits.frozen:
            return NotImplemented
        return made, (kind, tuple(getattr(value, field.name) for field in fields(kind)))
