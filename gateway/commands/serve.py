"""``portico serve``: run the gateway."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

from gateway.commands.common import add_config_arguments, overrides
from gateway.config import Config, ConfigError, load_apart
from gateway.logs import setup
from gateway.supervisor import serve


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop. Status 2 with one line a fault when the configuration is bad."""
    # A reload asked for before there is anything to reload must not end the program.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    path = Path(args.config) if args.config else None

    def read() -> Config:
        return load_apart(path, os.environ, overrides(args))

    try:
        config = read()
    except ConfigError as error:
        for fault in error.faults:
            print(fault, file=sys.stderr)  # noqa: T201 - the terminal is the reader
        return 2
    return serve(config, read, setup(config.log_format, config.log_level))
