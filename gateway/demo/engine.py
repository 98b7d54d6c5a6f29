"""The process that holds the demo engine: ``python -m gateway.demo.engine --port 0``."""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from gateway.demo import ALIAS, MODEL, READY, available

SLOTS = 2
CONTEXT = 8192
"""Tokens, shared by the slots: each request may use 4096."""

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""


def params(model: Path, port: int) -> Any:
    """llama.cpp's settings for one model on 127.0.0.1; port 0 takes a free one."""
    import xllamacpp

    common = xllamacpp.CommonParams()
    common.model.path = str(model)
    common.model_alias = [ALIAS]
    common.hostnames = ["127.0.0.1"]
    common.port = port
    common.n_ctx = CONTEXT
    common.n_parallel = SLOTS
    # A second thread makes a model of this size slower, not faster: they wait for each other.
    common.cpuparams.n_threads = common.cpuparams_batch.n_threads = 1
    common.endpoint_metrics = common.endpoint_slots = common.endpoint_props = True
    common.ui = False
    return common


def die_with_parent() -> None:
    """Ask Linux to end this process with the thread that started it; elsewhere do nothing.

    Needed beside the watch on stdin: a forked worker of the parent holds the pipe open."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def leave_on_eof() -> None:
    """End this process when stdin ends, which it does when the parent closes it or dies."""
    while os.read(0, 4096):
        pass
    os._exit(0)


def hush() -> None:
    """Send further output to nowhere: llama.cpp logs every request, and nobody reads it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def main(argv: list[str] | None = None) -> int:
    """Serve until the parent goes or a signal comes. Exit status 1, with one line on stderr,
    when the engine cannot start."""
    parser = argparse.ArgumentParser(prog="python -m gateway.demo.engine", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1; 0: a free one")
    options = parser.parse_args(argv)
    reason = available()
    if reason is not None:
        print(reason, file=sys.stderr)  # noqa: T201 - the parent reads this stream
        return 1
    die_with_parent()
    threading.Thread(target=leave_on_eof, name="stdin-watch", daemon=True).start()

    import xllamacpp

    server = xllamacpp.Server(params(MODEL, options.port))  # returns when the model is loaded
    print(f"{READY}{server.listening_address}", flush=True)  # noqa: T201 - the parent reads it
    hush()
    threading.Event().wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
