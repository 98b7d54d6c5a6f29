"""The way to a server through a proxy: HTTP's CONNECT (RFC 9110 9.3.6)."""

from __future__ import annotations

import asyncio
import socket
from base64 import b64encode
from urllib.parse import unquote, urlsplit

LONGEST = 65536
"""Bytes of a proxy's answer; more is none."""


class TunnelError(OSError):
    """The proxy does not lead there."""


async def tunnel(
    loop: asyncio.AbstractEventLoop, proxy: str, host: str, port: int
) -> socket.socket:
    """A socket at whose other end is ``host``. ``proxy`` is an http URL. Raises OSError."""
    there = urlsplit(proxy)
    name, number = there.hostname or "", there.port or 80
    family, kind, proto, _, address = (
        await loop.getaddrinfo(name, number, type=socket.SOCK_STREAM)
    )[0]
    sock = socket.socket(family, kind, proto)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, address)
        await loop.sock_sendall(sock, request(host, port, there.username, there.password))
        status = _status(await _head(loop, sock))
    except OSError as error:
        sock.close()
        raise TunnelError(f"the proxy at {name}:{number}: {error}") from None
    except BaseException:
        sock.close()
        raise
    if not 200 <= status < 300:
        sock.close()
        raise TunnelError(f"the proxy at {name}:{number} answers {status} to CONNECT")
    return sock


def request(host: str, port: int, user: str | None, password: str | None) -> bytes:
    """What the proxy is asked, with the user and password of its URL."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {where} HTTP/1.1", f"Host: {where}"]
    if user is not None:
        plain = f"{unquote(user)}:{unquote(password or '')}".encode()
        lines.append(f"Proxy-Authorization: Basic {b64encode(plain).decode()}")
    return "\r\n".join([*lines, "", ""]).encode()


async def _head(loop: asyncio.AbstractEventLoop, sock: socket.socket) -> bytes:
    """The head of its answer; what follows comes from the server, which waits for us to begin."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = await loop.sock_recv(sock, 4096)
        if not data or len(head) > LONGEST:
            raise TunnelError("it closed the connection, or is none")
        head += data
    return head


def _status(head: bytes) -> int:
    version, _, rest = head.partition(b" ")
    if not version.startswith(b"HTTP/1.") or not rest[:3].isdigit():
        raise TunnelError("it does not speak HTTP")
    return int(rest[:3])
