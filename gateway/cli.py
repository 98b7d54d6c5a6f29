"""The command line: one sub-command a module under ``commands``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from gateway.build import version

COMMANDS = {
    "serve": "run the gateway",
    "check": "validate the configuration and print what it resolves to",
    "doctor": "probe every backend and explain each problem with its remedy",
    "gpu-agent": "publish this host's GPUs for gateways on other hosts",
    "keys": "make, list and revoke API keys",
}


def parser(named: str | None = None) -> argparse.ArgumentParser:
    """The argument parser of all commands. With one ``named``, only that one is imported, so that
    a gateway does not carry what the others need."""
    top = argparse.ArgumentParser(
        prog="portico", description="The front door for self-hosted inference."
    )
    top.add_argument("--version", action="version", version=f"portico {version()}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if named in (None, name):
            module = import_module(f"gateway.commands.{name.replace('-', '_')}")
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (0 done, 2 wrong usage or configuration, 1 else)."""
    words = sys.argv[1:] if argv is None else argv
    args = parser(next((word for word in words if word in COMMANDS), None)).parse_args(argv)
    try:
        status: int = args.run(args)
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    return status
