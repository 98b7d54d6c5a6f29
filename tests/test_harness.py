"""The harness itself: what it keeps away from the gateway, and that its waits can fail."""

from __future__ import annotations

import socket

import pytest

from tests.harness import STEADY, environment, free_port, until


@pytest.mark.parametrize("name", ["PORTICO_PORT", "PORTICO_CONFIG", "API_KEYS", "ADMIN_KEYS"])
def test_nothing_in_the_shell_configures_the_gateway(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    assert name not in environment({})
    assert environment({name: "2"})[name] == "2"


def test_a_free_port_can_be_listened_on() -> None:
    port = free_port()
    assert STEADY[0] <= port < STEADY[1]
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", port))


async def test_waiting_in_vain_fails_and_says_for_what() -> None:
    async def never() -> bool:
        return False

    with pytest.raises(AssertionError, match="for rain"):
        await until(never, 0.05, "for rain")
