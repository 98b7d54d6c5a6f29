"""Configuration written into a file and loaded, in one line of a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gateway.config import Config, ConfigError, Overrides
from gateway.config.load import load

NO_ENV: Mapping[str, str] = {}


def written(folder: Path, text: str) -> Path:
    """A configuration file with ``text``, which only its owner can read."""
    path = folder / "portico.yaml"
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def loaded(
    folder: Path, text: str, env: Mapping[str, str] = NO_ENV, cli: Overrides | None = None
) -> Config:
    return load(written(folder, text), env, cli or Overrides())


def faults(
    folder: Path, text: str, env: Mapping[str, str] = NO_ENV, cli: Overrides | None = None
) -> tuple[str, ...]:
    """The faults of a configuration that must have some."""
    try:
        loaded(folder, text, env, cli)
    except ConfigError as error:
        assert error.faults
        assert all("\n" not in fault for fault in error.faults)
        return error.faults
    raise AssertionError("this configuration should be refused")


def fault(
    folder: Path, text: str, env: Mapping[str, str] = NO_ENV, cli: Overrides | None = None
) -> str:
    """The one fault of a configuration that must have exactly one."""
    found = faults(folder, text, env, cli)
    assert len(found) == 1, found
    return found[0]
