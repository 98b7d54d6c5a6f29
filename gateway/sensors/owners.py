"""Whose GPU is it: from what listens where and computes on what to the GPUs of a backend. Pure;
``proc.py`` does the looking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gateway.core.gpus import Gpu, Holding, Matched

ANYWHERE = frozenset({"0.0.0.0", "::"})

SET_DEVICES = "name them (gpus: {devices: [0]})"
OUTSIDE = f"run 'portico gpu-agent' on the host and name it (gpus: {{agent: …}}), or {SET_DEVICES}"
CONTAINED = (
    "this process has a PID namespace of its own (a container) and cannot see the GPUs' processes:"
    f" start the container with --pid=host, {OUTSIDE}"
)
IDLE = "no process computes on a GPU of this host: the engine is still loading, or runs on the CPU"


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that takes connections, in the network namespace ``net``, and who has it."""

    address: str
    port: int
    net: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """A process on a GPU, with those it descends from, parent first. ``born`` is when it was
    started (clock ticks since the host was); ``listens`` are the sockets of the whole line."""

    pid: int
    name: str = ""
    born: int = 0
    ancestors: tuple[int, ...] = ()
    listens: frozenset[Listener] = frozenset()
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Scene:
    """What is visible of the processes on the GPUs. ``lines`` is by the pid that NVML tells;
    ``unseen`` are those of no visible process; ``forwards`` says into which container a port of
    this host leads; ``addresses`` are those of each network namespace; ``taken`` are the ports of
    this host that somebody listens on; ``contained`` in a PID namespace of one's own."""

    lines: Mapping[int, Line] = field(default_factory=dict)
    unseen: frozenset[int] = frozenset()
    net: str = ""
    addresses: Mapping[str, frozenset[str]] = field(default_factory=dict)
    forwards: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    taken: frozenset[int] = frozenset()
    contained: bool = False


def find(scene: Scene, gpus: Iterable[Gpu], address: str, port: int) -> Holding:
    """The GPUs of whatever answers at ``address`` (an IP address of this host, or of a container
    on it) and ``port``; or why they cannot be told, and what to set."""
    gpus = list(gpus)
    users = [(gpu, pid) for gpu in gpus for pid in (one.pid for one in gpu.processes)]
    lines = {pid: line for pid, line in scene.lines.items() if _serves(scene, line, address, port)}
    uuids = tuple(dict.fromkeys(gpu.uuid for gpu, pid in users if pid in lines))
    if not uuids:
        return Holding(why=_why_not(scene, gpus, address, port))
    listens = [one for line in lines.values() for one in line.listens]
    pids = frozenset(lines) | {one.pid for one in listens if one.port == port}
    told = ", ".join(f"{pid} ({line.name})" for pid, line in sorted(lines.items()))
    why = f"the process behind port {port} computes there: {told}"
    return Holding(uuids, pids, Matched.PROCESS, why)


def ports(scene: Scene, gpus: Iterable[Gpu]) -> dict[int, Holding]:
    """The same for every port of this host behind which there is a process on a GPU."""
    gpus = list(gpus)
    listens = (one for line in scene.lines.values() for one in line.listens)
    own = {one.port for one in listens if one.net == scene.net}
    found = {port: find(scene, gpus, "", port) for port in sorted({*own, *scene.forwards})}
    return {port: holding for port, holding in found.items() if holding.gpus}


def local(scene: Scene, address: str) -> bool:
    """Whether an address is this host's, or that of a container seen on it."""
    return any(address in found for found in scene.addresses.values())


def _serves(scene: Scene, line: Line, address: str, port: int) -> bool:
    """``address`` empty: any of this host."""
    own = not address or address in scene.addresses.get(scene.net, ())
    if own and any(_is_at(one, scene.net, address, port) for one in line.listens):
        return True
    inside, inner = scene.forwards.get(port, ("", 0)) if own else (address, port)
    nets = {net for net, found in scene.addresses.items() if inside in found} - {scene.net}
    return any(_is_at(one, net, inside, inner) for one in line.listens for net in nets)


def _is_at(one: Listener, net: str, address: str, port: int) -> bool:
    there = not address or one.address == address or one.address in ANYWHERE
    return one.port == port and one.net == net and there


def obstacle(scene: Scene, gpus: Iterable[Gpu]) -> str:
    """What keeps from telling whose the GPUs are, whichever engine is meant; or nothing."""
    if not any(gpu.processes for gpu in gpus):
        return f"{IDLE}; or {CONTAINED}" if scene.contained else IDLE
    if scene.unseen and (scene.contained or not scene.lines):
        return CONTAINED
    denied = sorted(line.pid for line in scene.lines.values() if line.denied)
    if denied:
        return (
            f"no permission to look into the process{'es' * (len(denied) > 1)}"
            f" {', '.join(map(str, denied))} on the GPUs: run as their user or with CAP_SYS_PTRACE,"
            f" or {SET_DEVICES}"
        )
    return ""


def _why_not(scene: Scene, gpus: Iterable[Gpu], address: str, port: int) -> str:
    hindrance = obstacle(scene, gpus)
    if hindrance:
        return hindrance
    if port not in scene.taken and address in scene.addresses.get(scene.net, ()):
        return f"nobody listens on port {port} of this host, as far as can be seen"
    return (
        f"what listens on port {port} has no process on a GPU, or its port is forwarded from a"
        f" container in a way that cannot be followed; {SET_DEVICES} if it has"
    )
