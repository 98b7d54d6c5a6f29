"""Where a provider's address leads: names resolved, every answer judged, the checked one taken."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

import psutil

from gateway.core.addresses import Address, Network, forbidden_name, judge, literal

WITHIN = 2.0
"""Seconds that a resolver has to answer."""

NOWHERE = IPv6Address("100::1")
"""Stands in for the address of a name that leads nowhere now: what is sent there is thrown away
(RFC 6666), so that no one but this guard ever asks a resolver for a provider's name."""

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
"""(host, port) -> all its addresses; none when the name is not known. Raises OSError."""


class ForbiddenError(ValueError):
    """A provider must not be there; the message goes on from the name of the field."""


@dataclass(frozen=True, slots=True)
class Spot:
    """Where to connect. ``url`` holds the checked address instead of a name where that is what
    protects; ``host`` is then what the Host header has to say. ``found``: the name was resolved.

    Over https the name stays: whatever it leads to then has to prove with a certificate that it is
    that name, which neither a metadata service nor this gateway can."""

    url: str
    host: str
    found: bool


async def lookup(host: str, port: int) -> Sequence[Address]:
    """All addresses of a name."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(WITHIN):
            rows = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, TimeoutError):
        return ()
    return [ip_address(str(row[4][0]).partition("%")[0]) for row in rows]


def interfaces() -> frozenset[Address]:
    """The addresses of this host."""
    found = set()
    for rows in psutil.net_if_addrs().values():
        for row in rows:
            with contextlib.suppress(ValueError):
                found.add(ip_address(row.address.partition("%")[0]))
    return frozenset(found)


async def spot(
    url: str,
    own_port: int,
    allow: Sequence[Network],
    *,
    used: str = "",
    resolve: Resolve = lookup,
) -> Spot:
    """Where a provider with this base URL (in plain form) is. ``used`` is where it was before: that
    is kept while the name leads there, or nowhere at all. Raises ForbiddenError."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    what = forbidden_name(host)
    one = literal(host)
    found = [one] if one is not None else await resolve(host, port)
    what = what or judge(found, port, own_port=own_port, own=interfaces(), allow=allow)
    if what is not None:
        leads = "is" if one is not None else "leads to"
        raise ForbiddenError(f"{leads} {what}, where no provider may be")
    if parts.scheme == "https":
        return Spot(url, "", bool(found))
    urls = [_direct(address, port, parts.path) for address in found]
    if used and (used in urls or not urls):
        return Spot(used, parts.netloc, bool(found))
    first = urls[0] if urls else _direct(NOWHERE, port, parts.path)
    return Spot(first, parts.netloc, bool(found))


def _direct(address: Address, port: int, path: str) -> str:
    shown = f"[{address}]" if isinstance(address, IPv6Address) else str(address)
    return f"http://{shown}:{port}{path}"
