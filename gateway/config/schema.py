"""The JSON Schema of the configuration file, for editors."""

from __future__ import annotations

import json
from typing import Any

from .model import Document

VARIABLE = {"type": "string", "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}"}
"""Any value may come from the environment."""

_NARROW = ("integer", "number", "boolean")
_NAMED = ("properties", "$defs")


def schema() -> dict[str, Any]:
    """The schema as a tree, made from the model: draft 2020-12."""
    found = Document.model_json_schema()
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}
    tree: dict[str, Any] = _open_to_variables(found)
    return tree


def text() -> str:
    """The schema as the file ``deploy/portico.schema.json`` holds it."""
    return json.dumps(schema(), indent=2, ensure_ascii=False) + "\n"


def _open_to_variables(node: Any) -> Any:
    """``node`` with ``${VAR}`` allowed wherever it asks for a number or one of a few words."""
    if isinstance(node, list):
        return [_open_to_variables(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") in _NARROW or "enum" in node or "const" in node or "pattern" in node:
        notes = {key: node[key] for key in ("title", "description", "default") if key in node}
        rest = {key: value for key, value in node.items() if key not in notes}
        return {**notes, "anyOf": [rest, VARIABLE]}
    return {
        key: {name: _open_to_variables(item) for name, item in value.items()}
        if key in _NAMED
        else _open_to_variables(value)
        for key, value in node.items()
    }
