"""Where the files under test are, and how metric names are read out of PromQL."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from gateway.control.families import FAMILIES, Type

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text()))


def exposed() -> set[str]:
    """Every name of a sample that /metrics can show."""
    parts = ("_bucket", "_sum", "_count")
    return {
        family.name + part
        for family in FAMILIES
        for part in (parts if family.type is Type.HISTOGRAM else ("",))
    }


def names(expression: str) -> set[str]:
    """The metric names in a PromQL expression."""
    return set(re.findall(r"\bportico_\w+", expression))


def labels(expression: str) -> set[str]:
    """The labels that an expression selects by or groups by."""
    selected = re.findall(r"[{,]\s*(\w+)\s*(?:=|!=|=~|!~)\"", expression)
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    return set(selected) | {name.strip() for group in grouped for name in group.split(",")}


def known_labels(expression: str) -> set[str]:
    """The labels that the metrics of an expression have."""
    found = {"le"}
    for family in FAMILIES:
        if any(name.startswith(family.name) for name in names(expression)):
            found |= set(family.labels)
    return found
