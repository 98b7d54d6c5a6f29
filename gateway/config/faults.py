"""How configuration faults are named, collected and raised: one line each, no values of secrets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

Step = str | int
Path = tuple[Step, ...]
"""The way to a setting: ``("backends", 1, "url")``."""

_WORD = re.compile(r"[A-Za-z_]{1,40}")


class ConfigError(Exception):
    """The configuration cannot be used. ``faults`` has one line for each thing to put right."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


def where(path: Sequence[Step]) -> str:
    """``("backends", 1, "url")`` as ``backends[1].url``; the empty path is the whole file.

    Under ``auth`` a key that is not a plain word is left out: it may be a misplaced secret."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            shown = step if path[0] != "auth" or _WORD.fullmatch(step) else "(a key not shown)"
            text += f".{one_line(shown)}"
    return text.lstrip(".") or "configuration"


def one_line(text: str, limit: int = 80) -> str:
    """``text`` without control characters or line breaks, at most ``limit`` characters."""
    shown = "".join(char if char.isprintable() else "?" for char in text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


class Faults:
    """Collects the faults of one reading in the order in which they are met.

    ``origins`` maps a path to the option or variable that set it, which is then named too."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}
        self._paths: set[Path] = set()
        self.origins: dict[Path, str] = {}

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, path: Path, text: str) -> None:
        """Notes a fault at ``path``. A second one at the same place would be a consequence of the
        first and is dropped."""
        if path in self._paths:
            return
        self._paths.add(path)
        origin = self._origin(path)
        self._lines[f"{where(path)}: {text}" + (f" (given by {origin})" if origin else "")] = None

    def add_line(self, line: str) -> None:
        """Notes a fault that has no key path, such as a file that cannot be read."""
        self._lines[line] = None

    def lines(self) -> tuple[str, ...]:
        return tuple(self._lines)

    def _origin(self, path: Path) -> str:
        lengths = range(len(path), 0, -1)
        return next((self.origins[path[:n]] for n in lengths if path[:n] in self.origins), "")
