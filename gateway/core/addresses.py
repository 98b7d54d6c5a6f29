"""Which addresses a provider may have: from a host as it is written, and what its name leads to,
to a reason to refuse it. Whoever resolves names does so elsewhere."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

PRIVATE = (
    "127.0.0.0/8",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "::1/128",
    "fc00::/7",
)
"""What is allowed though it is not public, unless ``providers.allow`` says otherwise: engines run
on the gateway's host and in its private networks (RFC 1918, RFC 6598, RFC 4193)."""

METADATA = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",  # AWS, Google, Azure, Oracle and most others
            "169.254.170.2",  # AWS ECS, credentials of a task
            "169.254.170.23",  # AWS EKS, credentials of a pod
            "100.100.100.200",  # Alibaba
            "192.0.0.192",  # Oracle, classic
            "168.63.129.16",  # Azure, wire server
            "fd00:ec2::254",  # AWS
            "fd00:ec2::23",  # AWS EKS
            "fd20:ce::254",  # Google
        ),
    )
)
"""Where clouds tell a host its credentials (the vendors' manuals)."""

METADATA_NAMES = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2"}
)
"""Names of the same. They need not lead anywhere from here while they are checked."""

NEVER: Sequence[tuple[Network, str]] = (
    (ip_network("169.254.0.0/16"), "a link-local address"),
    (ip_network("fe80::/10"), "a link-local address"),
    (ip_network("0.0.0.0/8"), "no address of a host"),
    (ip_network("::/128"), "no address of a host"),
    (ip_network("224.0.0.0/4"), "a multicast address"),
    (ip_network("ff00::/8"), "a multicast address"),
    (ip_network("240.0.0.0/4"), "a reserved address"),
)

NAT64 = IPv6Network("64:ff9b::/96")
COMPATIBLE = IPv6Network("::/96")

_NUMBER = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")


def literal(host: str) -> Address | None:
    """The address that a host is, in any form that a resolver takes: dotted, one to four numbers in
    decimal, octal or hexadecimal (inet_aton), IPv6 with or without brackets. None for a name."""
    plain = host.removeprefix("[").removesuffix("]").partition("%")[0]
    try:
        return ip_address(plain)
    except ValueError:
        return _loose(plain.removesuffix("."))


def _loose(host: str) -> IPv4Address | None:
    parts = host.split(".")
    if len(parts) > 4 or not all(_NUMBER.fullmatch(part) for part in parts):
        return None
    try:
        *first, last = (_number(part) for part in parts)
    except ValueError:
        return None
    if any(part > 255 for part in first) or last >= 256 ** (4 - len(first)):
        return None
    return IPv4Address(sum(part << 8 * (3 - i) for i, part in enumerate(first)) + last)


def _number(text: str) -> int:
    if text[:2] in ("0x", "0X"):
        return int(text[2:] or "0", 16)
    return int(text, 8 if text.startswith("0") else 10)


def meant(address: Address) -> tuple[Address, ...]:
    """The address, and the IPv4 address that is written into an IPv6 one: mapped, compatible,
    translated (NAT64), 6to4 and Teredo."""
    if isinstance(address, IPv4Address):
        return (address,)
    inside = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in NAT64 or (address in COMPATIBLE and int(address) > 0xFFFF):
        inside.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return (address, *(one for one in inside if one is not None))


def forbidden(address: Address, allow: Iterable[Network]) -> str | None:
    """What is wrong with an address, None when a provider may have it. ``allow`` are the networks
    that may be used though they are not public."""
    allowed = tuple(allow)
    for one in meant(address):
        if one in METADATA:
            return "the address of a cloud's metadata service"
        for network, what in NEVER:
            if one in network:
                return what
        if not one.is_global and not any(one in network for network in allowed) and not _wraps(one):
            return "an address outside the public ones that providers.allow does not name"
    return None


def _wraps(address: Address) -> bool:
    """Whether an address only stands for the IPv4 one in it, which is judged by itself."""
    return isinstance(address, IPv6Address) and len(meant(address)) > 1


def forbidden_name(host: str) -> str | None:
    """What is wrong with a name, wherever it leads; None when that decides."""
    if host.rstrip(".").lower() in METADATA_NAMES:
        return "a name of a cloud's metadata service"
    return None


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    return tuple(map(ip_network, texts))


def is_own(address: Address, port: int, own_port: int, own: Collection[Address]) -> bool:
    """Whether this leads to the gateway itself: its port on this host. ``own`` are the addresses
    of this host's interfaces."""
    if port != own_port:
        return False
    return any(one.is_loopback or one.is_unspecified or one in own for one in meant(address))


def judge(
    found: Sequence[Address],
    port: int,
    *,
    own_port: int,
    own: Collection[Address],
    allow: Iterable[Network],
) -> str | None:
    """What is wrong with a place whose name leads to ``found``: one bad address is enough, since
    nobody knows which of them will be taken. None when a provider may be there."""
    allowed = tuple(allow)
    for address in found:
        if is_own(address, port, own_port, own):
            return "this gateway itself"
        what = forbidden(address, allowed)
        if what is not None:
            return what
    return None
