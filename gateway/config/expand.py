"""``${VAR}`` and ``${VAR:-default}`` in every text of the tree, replaced from the environment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .faults import Faults, Step

_VARIABLE = re.compile(
    r"\$\$\{"  # an escaped "${"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}"
    r"|(?P<broken>\$\{)"
)


class Unset(ValueError):
    """A text cannot be expanded; the message says why and what to do."""


def expand_text(text: str, env: Mapping[str, str]) -> str:
    """``text`` with its variables replaced, once: what a value brings in is taken as it is.

    A default stands in for a variable that is unset or empty, as in the shell. ``$${`` is a
    literal ``${``. Raises Unset for a variable without value or default, and for a ``${`` that
    begins nothing."""

    def replace(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match["broken"]:
            raise Unset("has a '${' that is no ${VAR} or ${VAR:-default}; write '$${' to mean '${'")
        if name is None:
            return "${"
        if default is not None and "${" in default:
            raise Unset(f"has a variable inside the default of {name}; defaults are plain text")
        value = env.get(name)
        if value or (value is not None and default is None):
            return value
        if default is None:
            raise Unset(f"needs {name}, which the environment lacks: set it, or write a default")
        return str(default)

    return _VARIABLE.sub(replace, text)


def expand(tree: Any, env: Mapping[str, str], faults: Faults, path: tuple[Step, ...] = ()) -> Any:
    """A copy of the tree with every text value (never a key) expanded; faults are noted."""
    if isinstance(tree, dict):
        return {key: expand(value, env, faults, (*path, key)) for key, value in tree.items()}
    if isinstance(tree, list):
        return [expand(value, env, faults, (*path, i)) for i, value in enumerate(tree)]
    if not isinstance(tree, str) or "${" not in tree:
        return tree
    try:
        return expand_text(tree, env)
    except Unset as error:
        faults.add(path, str(error))
        return tree
