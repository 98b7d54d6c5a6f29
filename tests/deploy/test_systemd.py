"""The service is confined, drains before it stops, and systemd understands it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .common import DEPLOY

UNIT = DEPLOY / "systemd/portico.service"


def directives() -> dict[str, list[str]]:
    """The unit's settings, each with its values in order; raises on a line that is none."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and not line.startswith("#") and not re.fullmatch(r"\[\w+\]", line):
            name, value = line.split("=", 1)
            assert re.fullmatch(r"[A-Z]\w+", name), line
            found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("DynamicUser", ["yes"]),
        ("StateDirectory", ["portico"]),
        ("ProtectSystem", ["strict"]),
        ("ProtectHome", ["yes"]),
        ("NoNewPrivileges", ["yes"]),
        ("MemoryDenyWriteExecute", ["yes"]),
        ("CapabilityBoundingSet", [""]),
        ("RestrictAddressFamilies", ["AF_INET AF_INET6 AF_UNIX AF_NETLINK"]),
        ("ExecReload", ["/bin/kill -HUP $MAINPID"]),
        ("KillSignal", ["SIGTERM"]),
        ("KillMode", ["mixed"]),
        ("RestartPreventExitStatus", ["2"]),
        (
            "LoadCredential",
            [
                "team-a:/etc/portico/credentials/team-a",
                "admin:/etc/portico/credentials/admin",
            ],
        ),
    ],
)
def test_the_unit_says(name: str, values: list[str]) -> None:
    assert directives()[name] == values


def test_stopping_takes_longer_than_draining() -> None:
    (stop,) = directives()["TimeoutStopSec"]
    assert int(stop.removesuffix("s")) > 30


def test_the_settings_are_in_the_sections_they_belong_to() -> None:
    assert re.findall(r"(?m)^\[(\w+)\]$", UNIT.read_text()) == ["Unit", "Service", "Install"]
    assert directives()["WantedBy"] == ["multi-user.target"]


def test_systemd_has_nothing_to_say_against_it(tmp_path: Path) -> None:
    """Where systemd is installed it judges; elsewhere the unit must at least be well-formed."""
    program = tmp_path / "portico"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / "portico.service"
    unit.write_text(UNIT.read_text().replace("/opt/portico/bin/portico", str(program)))
    assert f"ExecStart={program} serve" in unit.read_text()
    judge = shutil.which("systemd-analyze")
    if judge is None:
        assert len(directives()) > 30
        return
    done = subprocess.run(
        [judge, "verify", str(unit)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
