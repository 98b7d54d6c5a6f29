"""The command line: one sub-command a module under ``commands``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gateway import __version__
from gateway.commands import check, doctor, gpu_agent, keys, serve

COMMANDS = {
    "serve": (serve, "run the gateway"),
    "check": (check, "validate the configuration and print what it resolves to"),
    "doctor": (doctor, "probe every backend and explain each problem with its remedy"),
    "gpu-agent": (gpu_agent, "publish this host's GPUs for gateways on other hosts"),
    "keys": (keys, "make, list and revoke API keys"),
}


def parser() -> argparse.ArgumentParser:
    """The argument parser of all commands."""
    top = argparse.ArgumentParser(
        prog="portico", description="The front door for self-hosted inference."
    )
    top.add_argument("--version", action="version", version=f"portico {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (0 done, 2 wrong usage or configuration, 1 else)."""
    args = parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    return status
