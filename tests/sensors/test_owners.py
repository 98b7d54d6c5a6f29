"""Whose GPU it is: decided on scenes, and looked for among real processes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.core.gpus import Gpu, Matched, Process
from gateway.sensors.owners import Line, Listener, Scene, find, local, obstacle, ports
from gateway.sensors.proc import Looker, ip_of, resolve

HOST, BOX = "net:[1]", "net:[2]"


def gpu(number: int, *pids: int) -> Gpu:
    return Gpu("h", str(number), f"GPU-{number}", processes=tuple(map(Process, pids)))


def scene(*lines: Line, **changes: object) -> Scene:
    told = {
        "lines": {line.pid: line for line in lines},
        "net": HOST,
        "addresses": {HOST: frozenset({"127.0.0.1", "10.0.0.5"}), BOX: frozenset({"172.17.0.2"})},
        "taken": frozenset({8000}),
    }
    return Scene(**(told | changes))  # type: ignore[arg-type]


def line(pid: int, *places: tuple[str, int, str], denied: bool = False) -> Line:
    listens = frozenset(Listener(address, port, net, 100) for address, port, net in places)
    return Line(pid, "worker", ancestors=(100,), listens=listens, denied=denied)


def test_the_process_behind_the_port_leads_to_its_gpus() -> None:
    there = scene(line(101, ("0.0.0.0", 8000, HOST)), line(102, ("0.0.0.0", 8000, HOST)))
    found = find(there, [gpu(0, 101), gpu(1, 102), gpu(2)], "127.0.0.1", 8000)
    assert (found.gpus, found.matched) == (("GPU-0", "GPU-1"), Matched.PROCESS)
    assert found.pids == {100, 101, 102}
    assert "101 (worker), 102 (worker)" in found.why


def test_a_neighbour_on_another_port_has_no_part_in_it() -> None:
    there = scene(line(101, ("0.0.0.0", 8000, HOST)), line(102, ("0.0.0.0", 8001, HOST)))
    assert find(there, [gpu(0, 101), gpu(1, 102)], "10.0.0.5", 8001).gpus == ("GPU-1",)


def test_a_socket_on_another_address_is_another_server() -> None:
    there = scene(line(101, ("127.0.0.1", 8000, HOST)))
    assert find(there, [gpu(0, 101)], "127.0.0.1", 8000).gpus == ("GPU-0",)
    assert not find(there, [gpu(0, 101)], "10.0.0.5", 8000).gpus


def test_a_container_is_found_by_its_own_address() -> None:
    there = scene(line(101, ("0.0.0.0", 8000, BOX)))
    assert local(there, "172.17.0.2")
    assert find(there, [gpu(0, 101)], "172.17.0.2", 8000).gpus == ("GPU-0",)
    assert not find(there, [gpu(0, 101)], "127.0.0.1", 8000).gpus


def test_a_published_port_leads_into_its_container() -> None:
    there = scene(line(101, ("0.0.0.0", 8000, BOX)), forwards={9000: ("172.17.0.2", 8000)})
    assert find(there, [gpu(0, 101)], "127.0.0.1", 9000).gpus == ("GPU-0",)
    assert ports(there, [gpu(0, 101)])[9000].gpus == ("GPU-0",)


def test_an_agent_tells_the_gpus_of_every_port() -> None:
    there = scene(line(101, ("0.0.0.0", 8000, HOST)), line(102, ("127.0.0.1", 8001, HOST)))
    told = ports(there, [gpu(0, 101), gpu(1, 102)])
    assert {port: one.gpus for port, one in told.items()} == {8000: ("GPU-0",), 8001: ("GPU-1",)}


def test_without_any_process_the_engine_is_said_to_be_loading_or_on_the_cpu() -> None:
    assert "still loading, or runs on the CPU" in find(scene(), [gpu(0)], "127.0.0.1", 8000).why


def test_a_container_that_cannot_see_the_processes_is_told_what_to_set() -> None:
    why = find(scene(unseen=frozenset({7})), [gpu(0, 7)], "127.0.0.1", 8000).why
    assert "--pid=host" in why
    assert "gpu-agent" in why
    assert "gpus: {devices: [0]}" in why
    assert "--pid=host" in obstacle(scene(contained=True), [gpu(0)])


def test_a_process_that_may_not_be_looked_into_is_told_with_what_to_set() -> None:
    there = scene(line(101, denied=True))
    why = find(there, [gpu(0, 101)], "127.0.0.1", 8000).why
    assert "101" in why
    assert "CAP_SYS_PTRACE" in why


def test_a_port_that_nobody_holds_is_told_apart_from_an_engine_without_a_gpu() -> None:
    there = scene(line(101, ("0.0.0.0", 8001, HOST)))
    assert "nobody listens on port 9" in find(there, [gpu(0, 101)], "127.0.0.1", 9).why
    assert "has no process on a GPU" in find(there, [gpu(0, 101)], "127.0.0.1", 8000).why


# -- real processes


@pytest.fixture
def engine() -> Iterator[tuple[int, int, int]]:
    """A listening parent and its child: port, and both pids."""
    code = (
        "import socket, subprocess, sys\n"
        "s = socket.create_server(('127.0.0.1', 0))\n"
        "c = subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], stdin=-1)\n"
        "print(s.getsockname()[1], c.pid, flush=True)\n"
        "sys.stdin.read()\n"
        "c.kill()\n"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as parent:
        assert parent.stdout and parent.stdin
        port, child = map(int, parent.stdout.readline().split())
        yield port, parent.pid, child
        parent.stdin.close()


linux = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked for in /proc")


@linux
def test_a_child_on_the_gpu_leads_to_its_listening_parent(engine: tuple[int, int, int]) -> None:
    port, parent, child = engine
    there = Looker().look([child])
    found = find(there, [gpu(0, child)], "127.0.0.1", port)
    assert (found.gpus, found.pids >= {parent, child}) == (("GPU-0",), True)
    assert port in there.taken


@linux
def test_a_process_that_has_ended_is_of_nobody(engine: tuple[int, int, int]) -> None:
    there = Looker().look([999_999_999])
    assert (there.lines, there.unseen) == ({}, {999_999_999})


@linux
def test_this_hosts_addresses_are_known() -> None:
    there = Looker().look([])
    assert local(there, "127.0.0.1")
    assert local(there, "::1")
    assert not local(there, "192.0.2.77")


# -- a /proc of files


class Proc:
    """As much of /proc as is looked at."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.process("self", "gateway", 1, net=HOST)

    def process(
        self,
        pid: int | str,
        name: str,
        parent: int,
        *,
        net: str,
        sockets: tuple[str, ...] = (),
        tcp: str = "",
        trie: str = "",
        names: str = "",
        command: tuple[str, ...] = (),
    ) -> None:
        own = self.root / str(pid)
        for folder in ("fd", "ns", "net"):
            (own / folder).mkdir(parents=True)
        cells = " ".join(["0"] * 17)
        (own / "stat").write_text(f"{pid} ({name}) S {parent} {cells} 4711 0")
        (own / "status").write_text(f"Name:\t{name}\nNSpid:\t{names or pid}\n")
        (own / "cmdline").write_text("\0".join(command))
        (own / "ns/net").symlink_to(net)
        (own / "ns/pid").symlink_to("pid:[4026531836]")
        (own / "net/tcp").write_text("head\n" + tcp)
        (own / "net/fib_trie").write_text(trie)
        for number, inode in enumerate(sockets):
            (own / "fd" / str(number)).symlink_to(f"socket:[{inode}]")


def listening(address: str, port: int, inode: str) -> str:
    words = socket.inet_aton(address)[::-1].hex().upper()
    return f" 0: {words}:{port:04X} 00000000:0000 0A 0:0 00:00000000 00000000 0 0 {inode} 1\n"


TRIE = "Main:\n  +-- 172.17.0.0/16\n     |-- 172.17.0.2\n        /32 host LOCAL\n"


def test_an_engine_in_a_container_is_seen_in_its_own_namespace(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    table = listening("0.0.0.0", 8000, "55")
    proc.process(10, "vllm", 1, net=BOX, sockets=("55",), tcp=table, trie=TRIE)
    proc.process(11, "VLLM::Worker (1)", 10, net=BOX, tcp=table, trie=TRIE)
    proxy = ("/usr/bin/docker-proxy", "-proto", "tcp", "-host-ip", "0.0.0.0", "-host-port", "9000")
    inner = ("-container-ip", "172.17.0.2", "-container-port", "8000")
    proc.process(20, "docker-proxy", 1, net=HOST, command=(*proxy, *inner))
    there = Looker(tmp_path).look([11])
    assert there.lines[11].name == "VLLM::Worker (1)"
    assert there.forwards == {9000: ("172.17.0.2", 8000)}
    for address, port in (("127.0.0.1", 9000), ("172.17.0.2", 8000)):
        assert find(there, [gpu(0, 11)], address, port).gpus == ("GPU-0",)


def test_a_number_of_an_inner_namespace_leads_to_the_process(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    table = listening("127.0.0.1", 8000, "55")
    proc.process(10, "engine", 1, net=HOST, sockets=("55",), tcp=table, names="10 7")
    there = Looker(tmp_path).look([7])
    assert find(there, [gpu(0, 7)], "127.0.0.1", 8000).gpus == ("GPU-0",)


def test_what_systemd_holds_is_not_an_engines(tmp_path: Path) -> None:
    proc = Proc(tmp_path)
    table = listening("0.0.0.0", 22, "1")
    proc.process(1, "systemd", 0, net=HOST, sockets=("1",), tcp=table)
    proc.process(10, "engine", 1, net=HOST, tcp=table)
    assert Looker(tmp_path).look([10]).lines[10].listens == frozenset()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look into everything")
def test_a_process_of_another_user_is_denied() -> None:
    assert Looker().look([1]).lines == {}


def test_addresses_are_read_as_the_kernel_writes_them() -> None:
    assert ip_of("0100007F") == "127.0.0.1"
    assert ip_of("00000000000000000000000001000000") == "::1"
    assert ip_of("0000000000000000FFFF00000100007F") == "127.0.0.1"


def test_a_name_without_an_address_resolves_to_none() -> None:
    assert resolve("") == () or "127.0.0.1" in resolve("")
    assert "127.0.0.1" in resolve("127.0.0.1")
