"""Looks into /proc: which processes are on the GPUs, from whom they descend, where they listen.

Only the few processes that NVML names and their ancestors are looked at, so that the cost does not
grow with the host. A socket is seen in the network namespace of its own process: engines in
containers are found like any other. Layout of the files: proc(5)."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from .owners import Line, Listener, Scene

LISTENING = "0A"
INITIAL = "pid:[4026531836]"
"""The first PID namespace of a kernel has this number (include/linux/proc_ns.h)."""

INITS = frozenset({"systemd", "init", "launchd"})
"""They hold sockets for services and descend to everything: no engine's own process."""

FORWARDS_EVERY = 30.0
"""Seconds between two looks at all processes for Docker's proxies."""

Forwards = Mapping[int, tuple[str, int]]


class Stat(NamedTuple):
    """Of a process; ``born`` in clock ticks since the host was started."""

    pid: int
    name: str
    parent: int
    born: int


class Looker:
    """Remembers what is costly to find. ``root`` is where /proc is. Every method blocks, for
    milliseconds; none raises for what may not be read."""

    def __init__(
        self, root: Path = Path("/proc"), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._root = root
        self._clock = clock
        self._forwards: Forwards = {}
        self._forwards_at = float("-inf")
        self._tables: dict[str, dict[str, Listener]] = {}

    def look(self, pids: Iterable[int]) -> Scene:
        """The scene around the processes that NVML names."""
        self._tables = {}
        net = self._net("self")
        found = {pid: self._visible(pid) for pid in sorted(set(pids))}
        lines = {pid: line for pid, one in found.items() if one and (line := self._line(one))}
        nets = {place.net: line.pid for line in lines.values() for place in line.listens}
        addresses = {name: self._addresses(str(pid)) for name, pid in nets.items()}
        addresses[net] = self._addresses("self") | {"127.0.0.1", "::1"}
        return Scene(
            lines=lines,
            unseen=frozenset(found) - frozenset(lines),
            net=net,
            addresses=addresses,
            forwards=self._forwarded() if len(addresses) > 1 else {},
            taken=frozenset(place.port for place in self._sockets("self", net).values()),
            contained=_link(self._root / "self/ns/pid") not in (INITIAL, ""),
        )

    def _visible(self, pid: int) -> int | None:
        """The process of that number; or the only one that has it in a namespace inside ours."""
        if (self._root / str(pid)).exists():
            return pid
        inside = [own for own, names in self._inner_names() if pid in names]
        return inside[0] if len(inside) == 1 else None

    def _inner_names(self) -> Iterator[tuple[int, list[int]]]:
        for status in self._root.glob("[0-9]*/status"):
            text = _text(status)
            names = text.partition("NSpid:")[2].partition("\n")[0].split()
            if len(names) > 1:
                yield int(status.parent.name), [int(name) for name in names]

    def _line(self, pid: int) -> Line | None:
        family = list(self._family(pid))
        if not family:
            return None
        listens: set[Listener] = set()
        denied = False
        for one in family:
            try:
                listens |= self._listens(one.pid)
            except PermissionError:
                denied = denied or one.pid == pid
            except OSError:
                continue
        above = tuple(one.pid for one in family[1:])
        return Line(pid, family[0].name, family[0].born, above, frozenset(listens), denied)

    def _family(self, pid: int) -> Iterator[Stat]:
        """A process, its parent and so on, up to the system's own."""
        while pid and (stat := self._stat(pid)) and stat.name not in INITS:
            yield stat
            pid = stat.parent

    def _stat(self, pid: int) -> Stat | None:
        """The name stands in brackets and may hold any sign, brackets too."""
        head, _, rest = _text(self._root / str(pid) / "stat").rpartition(")")
        cells = rest.split()
        if len(cells) < 20:
            return None
        return Stat(pid, head.partition("(")[2], int(cells[1]), int(cells[19]))

    def _listens(self, pid: int) -> set[Listener]:
        """Raises OSError where the process may not be looked into, or is gone."""
        links = {_link(file) for file in (self._root / str(pid) / "fd").iterdir()}
        inodes = {link[8:-1] for link in links if link.startswith("socket:[")}
        there = self._sockets(str(pid), self._net(str(pid))) if inodes else {}
        return {replace(one, pid=pid) for inode, one in there.items() if inode in inodes}

    def _sockets(self, pid: str, net: str) -> dict[str, Listener]:
        """By inode, every listening socket of the namespace that a process is in; read once for
        each namespace, since the tables hold every connection of the host."""
        found = self._tables.setdefault(net, {})
        if found:
            return found
        for name in ("tcp", "tcp6"):
            for row in _text(self._root / pid / "net" / name).splitlines()[1:]:
                cells = row.split()
                if len(cells) > 9 and cells[3] == LISTENING:
                    address, port = cells[1].split(":")
                    found[cells[9]] = Listener(ip_of(address), int(port, 16), net)
        return found

    def _net(self, pid: str) -> str:
        return _link(self._root / pid / "ns/net")

    def _addresses(self, pid: str) -> frozenset[str]:
        """The addresses of the namespace that a process is in."""
        lines = _text(self._root / pid / "net/fib_trie").splitlines()
        four = {
            above.split("|--")[1].strip()
            for above, line in pairwise(lines)
            if "/32 host LOCAL" in line and "|--" in above
        }
        rows = (row.split() for row in _text(self._root / pid / "net/if_inet6").splitlines())
        return frozenset(four | {str(ipaddress.IPv6Address(bytes.fromhex(row[0]))) for row in rows})

    def _forwarded(self) -> Forwards:
        """What Docker's proxies forward: port of the host to address and port of a container."""
        now = self._clock()
        if now - self._forwards_at >= FORWARDS_EVERY:
            self._forwards_at = now
            lines = (_text(file).split("\0") for file in self._root.glob("[0-9]*/cmdline"))
            proxies = (words for words in lines if words[0].endswith("docker-proxy"))
            self._forwards = dict(filter(None, map(_forward, proxies)))
        return self._forwards


def _forward(words: list[str]) -> tuple[int, tuple[str, int]] | None:
    """From the command line of a docker-proxy (moby: cmd/docker-proxy/main_linux.go)."""
    said = dict(pairwise(words))
    try:
        if said.get("-proto") != "tcp":
            return None
        return int(said["-host-port"]), (said["-container-ip"], int(said["-container-port"]))
    except (KeyError, ValueError):
        return None


def ip_of(text: str) -> str:
    """The address that /proc/net/tcp writes as words in the byte order of the machine."""
    words = [int(text[i : i + 8], 16) for i in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    found = ipaddress.ip_address(packed)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def resolve(host: str) -> tuple[str, ...]:
    """The addresses of a host name, none when it has none. Blocks as long as the resolver does."""
    with contextlib.suppress(OSError, UnicodeError):
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        return tuple(dict.fromkeys(str(one[4][0]).partition("%")[0] for one in found))
    return ()


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""


def _link(file: Path) -> str:
    try:
        return str(file.readlink())
    except OSError:
        return ""
