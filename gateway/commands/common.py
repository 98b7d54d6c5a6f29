"""What commands share: the options that say which configuration is meant, and reading it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from gateway.config import LOG_FORMATS, LOG_LEVELS, Config, ConfigError, Overrides, load_apart


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of INTERFACE section 1 that beat environment and file. Numbers stay text here:
    ``load`` checks them, so that every fault is reported in one go."""
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="configuration file (default: PORTICO_CONFIG)")
    add("--host", help="address to listen on (default: 127.0.0.1)")
    add("--port", help="port to listen on (default: 8000)")
    add("--workers", metavar="N|auto", help="processes that carry requests (default: 1)")
    add(
        "--backend",
        dest="backends",
        action="append",
        default=[],
        metavar="[NAME=]URL",
        help="an engine, instead of the file's (repeatable; RUNTIME+http://… names its runtime)",
    )
    add(
        "--no-discover",
        dest="discover",
        action="store_const",
        const=False,
        help="do not look for engines on this host's well-known ports",
    )
    add("--demo", action="store_true", help="start the built-in engine where none is found")
    add("--log-format", choices=LOG_FORMATS, help="how log lines are written (default: text)")
    add("--log-level", choices=LOG_LEVELS, help="the least important lines shown (default: info)")


def overrides(args: argparse.Namespace) -> Overrides:
    """What the options of ``add_config_arguments`` say."""
    return Overrides(
        host=args.host,
        port=args.port,
        workers=args.workers,
        backends=tuple(args.backends),
        discover=args.discover,
        demo=args.demo,
        log_format=args.log_format,
        log_level=args.log_level,
    )


def read_config(args: argparse.Namespace) -> Config | None:
    """The configuration that the options, the environment and the file give. None when it has
    faults, which are then on stderr, one a line; the exit status is 2."""
    try:
        return load_apart(args.config, os.environ, overrides(args))
    except ConfigError as error:
        sys.stderr.write("".join(f"{fault}\n" for fault in error.faults))
        return None
