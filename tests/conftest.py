"""Fixtures for all tests: nothing of the machine's own configuration reaches them."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the shell configures what is tested."""
    for name in ("PORTICO_CONFIG", "PORTICO_HOST", "PORTICO_PORT", "PORTICO_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("PORTICO_BACKENDS", "API_KEYS", "ADMIN_KEYS"):
        monkeypatch.delenv(name, raising=False)
