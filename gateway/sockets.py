"""The gateway's own sockets: binding them, and saying why that is not possible."""

from __future__ import annotations

import errno
import socket
import ssl
from typing import Any

import psutil

from gateway.config import Config, Server

BACKLOG = 2048


class CannotStart(Exception):
    """The gateway cannot serve; the text says why and which option would help."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address that ``host`` stands for. Raises CannotStart."""
    try:
        infos = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise CannotStart(
            f"server.host: '{host}' is no address of this host ({error.strerror or error});"
            " use --host with one that is, such as 127.0.0.1 or 0.0.0.0"
        ) from None
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(infos):
            sockets.append(_listening(family, address))
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise CannotStart(_why_not(host, port, error)) from None
    return sockets


def _listening(family: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # '::' means every address, as it does for most daemons, IPv4 included.
            only = 0 if address[0] == "::" else 1
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} on {host} is taken by {holder(port)};"
            " choose another with --port, or stop that program"
        )
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges; choose one above 1023 with --port"
    return f"cannot listen on {host}:{port}: {error.strerror}; see --host and --port"


def holder(port: int) -> str:
    """Which program listens on a port of this host, in words."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,):
                if connection.pid is None:
                    break
                words = " ".join(psutil.Process(connection.pid).cmdline()).split()
                command = " ".join(words)[:120]
                return f"process {connection.pid} ({command})"
    except (psutil.Error, OSError):
        return "another program (which one cannot be seen without more rights)"
    return "another program"


def tls_context(server: Server) -> ssl.SSLContext | None:
    """The server side's TLS, None where none is configured."""
    if server.tls_cert is None or server.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server.tls_cert, server.tls_key)
    return context


def address(config: Config, port: int) -> str:
    """The address to tell people."""
    scheme = "https" if config.server.tls_cert else "http"
    host = config.server.host
    host = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
