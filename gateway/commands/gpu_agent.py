"""``portico gpu-agent``: publish this host's GPUs for gateways on other hosts."""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl
import sys
from ipaddress import ip_address
from pathlib import Path

from gateway import logs
from gateway.config import LOG_FORMATS, LOG_LEVELS
from gateway.config.secret_files import Unusable, read_secret
from gateway.config.units import seconds
from gateway.gpu_agent import Setting, serve

PORT = 9835
KEY = "PORTICO_AGENT_KEY"


class Wrong(ValueError):
    """The command was used wrongly; the text says how to do better."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on; others than loopback need a key")
    add("--port", type=int, default=PORT, help=f"port to listen on (default: {PORT})")
    add(
        "--key-file",
        type=Path,
        metavar="FILE",
        help=f"file with the key that gateways send ({KEY})",
    )
    add("--tls-cert", type=Path, metavar="FILE", help="PEM file with the certificate, for HTTPS")
    add("--tls-key", type=Path, metavar="FILE", help="PEM file with the certificate's private key")
    add("--interval", default="1s", help="how often the GPUs are read (default: 1s)")
    add("--log-format", choices=LOG_FORMATS, default="text", help="how log lines are written")
    add("--log-level", choices=LOG_LEVELS, default="info", help="the least important lines shown")


def run(args: argparse.Namespace) -> int:
    """Status 0 after SIGTERM or SIGINT, 2 for wrong options, 1 when the port cannot be had."""
    try:
        setting = settle(args, os.environ.get(KEY))
    except Wrong as error:
        sys.stderr.write(f"{error}\n")
        return 2
    logs.setup(args.log_format, args.log_level)
    try:
        asyncio.run(serve(setting))
    except OSError as error:
        where = f"{setting.host}:{setting.port}"
        sys.stderr.write(
            f"--port: {where} cannot be listened on: {error.strerror or error}; choose another with"
            " --port, or end what uses it\n"
        )
        return 1
    return 0


def settle(args: argparse.Namespace, key: str | None) -> Setting:
    """What the options come to; ``key`` is the environment's. Raises Wrong."""
    if args.key_file is not None:
        try:
            key = read_secret(args.key_file)
        except Unusable as error:
            raise Wrong(f"--key-file: {error}") from None
    if not key and not is_loopback(args.host):
        raise Wrong(
            f"--host: {args.host} can be reached from other hosts, so a key is needed: --key-file"
            f" FILE or {KEY}; 'openssl rand -hex 32' makes one"
        )
    if not 0 <= args.port <= 65535:
        raise Wrong("--port: must be 0 to 65535")
    try:
        interval = seconds(args.interval)
    except ValueError as error:
        raise Wrong(f"--interval: {error}") from None
    return Setting(args.host, args.port, key or None, _tls(args), interval)


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(args: argparse.Namespace) -> ssl.SSLContext | None:
    if args.tls_cert is None and args.tls_key is None:
        return None
    if args.tls_cert is None or args.tls_key is None:
        raise Wrong("--tls-cert, --tls-key: give both or none")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(args.tls_cert, args.tls_key)
    except (OSError, ValueError) as error:
        raise Wrong(f"--tls-cert, --tls-key: cannot be used: {error}") from None
    return context
