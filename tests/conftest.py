"""Fixtures for all tests: nothing of the machine's own configuration reaches them."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the shell configures what is tested."""
    for name in ("PORTICO_CONFIG", "PORTICO_HOST", "PORTICO_PORT", "PORTICO_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("PORTICO_BACKENDS", "API_KEYS", "ADMIN_KEYS"):
        monkeypatch.delenv(name, raising=False)
