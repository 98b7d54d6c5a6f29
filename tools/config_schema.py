"""Writes the JSON Schema of the configuration file; ``--check`` only says whether it is stale."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from gateway.config import schema  # noqa: E402 - the checkout need not be installed

TARGET = ROOT / "deploy" / "portico.schema.json"


def main(argv: Sequence[str]) -> int:
    """Status 0: written, or fresh; 1: stale."""
    fresh = schema.text()
    if "--check" not in argv:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(fresh, encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == fresh:
        return 0
    sys.stderr.write(f"{TARGET.name} is stale: run python tools/config_schema.py\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
