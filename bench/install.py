"""Installs peers into the benchmark's folder: ``python -m bench.install``, ``make bench-peers``.

Nothing here is needed: a peer that cannot be installed is told and left out of the tables.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench.build import WORK
from bench.peers import LOOSER, PEERS, PORTKEY, VENVS, Site

PATIENCE = 900
"""Seconds one installation may take."""


def say(text: str) -> None:
    sys.stderr.write(f"bench-peers: {text}\n")


def done(command: Sequence[str], folder: Path) -> bool:
    """Run a command; what it complained about last is told when it fails."""
    try:
        ended = subprocess.run(  # noqa: S603 - from the table of peers
            command, cwd=folder, capture_output=True, text=True, check=False, timeout=PATIENCE
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        say(str(error))
        return False
    if ended.returncode:
        say((ended.stderr or ended.stdout).strip()[-600:])
    return ended.returncode == 0


def install_venv(name: str, wanted: Sequence[str], work: Path) -> bool:
    """An environment of its own for each, since their requirements contradict one another."""
    place = work / f"v-{name}"
    python = place / "bin" / "python"
    if not python.exists() and not done((sys.executable, "-m", "venv", str(place)), work):
        return False
    pip = (str(python), "-m", "pip", "install", "-q", "--no-input", "--disable-pip-version-check")
    return done((*pip, *wanted), work) or (
        name in LOOSER and install_looser(python, wanted, LOOSER[name], work)
    )


def install_looser(python: Path, wanted: Sequence[str], instead: Sequence[str], work: Path) -> bool:
    """The same with some pins overridden, which uv can and pip cannot."""
    uv, override = work / "v-uv", work / "override.txt"
    if not install_venv("uv", ("uv",), work):
        return False
    override.write_text("\n".join(instead) + "\n")
    pip = (str(uv / "bin" / "uv"), "pip", "install", "-q", "--python", str(python))
    return done((*pip, "--override", str(override), *wanted), work)


def install_portkey(work: Path) -> bool:
    npm = shutil.which("npm")
    if npm is None:
        say("portkey needs Node.js with npm")
        return False
    folder = work / "npm"
    folder.mkdir(exist_ok=True)
    return done((npm, "install", "--no-audit", "--no-fund", "--prefix", ".", PORTKEY), folder)


def results(chosen: set[str], work: Path) -> Iterator[tuple[str, bool]]:
    """Install one after another."""
    for name, wanted in VENVS.items():
        if not chosen or name in chosen:
            yield name, install_venv(name, wanted, work)
    if not chosen or "portkey" in chosen:
        yield "portkey", install_portkey(work)


def main() -> int:
    """Names on the command line pick some; status 2 for one that there is not."""
    chosen, known = set(sys.argv[1:]), {*VENVS, "portkey"}
    if not chosen <= known:
        say(f"usage: python -m bench.install [{'|'.join(sorted(known))}] …")
        return 2
    WORK.mkdir(exist_ok=True)
    for name, whole in results(chosen, WORK):
        say(f"{name}: {'installed' if whole else 'NOT installed'}")
    site = Site(WORK, 0)
    for make in PEERS.values():
        peer = make(site)
        if peer.missing:
            say(f"{peer.name}: {peer.missing}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
