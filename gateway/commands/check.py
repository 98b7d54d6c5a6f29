"""``portico check``: say what the configuration comes to, without starting anything."""

from __future__ import annotations

import argparse
import sys

from gateway.commands.common import add_config_arguments, read_config
from gateway.config.dump import dump


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """The resolved configuration on stdout, warnings on stderr, status 0; or the faults on
    stderr and status 2."""
    config = read_config(args)
    if config is None:
        return 2
    sys.stdout.write(dump(config))
    sys.stdout.flush()
    sys.stderr.write("".join(f"warning: {line}\n" for line in config.warnings))
    return 0
