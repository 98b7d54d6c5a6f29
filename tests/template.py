"""A process that has everything imported and forks a gateway when it is asked for one.

Importing is two thirds of what starting a gateway costs, and the tests start hundreds. What runs
in the fork is the command itself, from its arguments on. What only the start of a program reads,
such as LD_LIBRARY_PATH, needs a program of its own."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
FIRST, MOST = 3, 4096
"""File descriptors that a gateway does not inherit."""

_running: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
"""The template of this process, by its pid: a fork of ours has none."""


class Forked:
    """A gateway that the template forked: what of asyncio's Process the tests use."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.pid = pid
        self.returncode: int | None = None
        self._writer = writer
        self._end = asyncio.ensure_future(self._watch(reader))

    async def _watch(self, reader: asyncio.StreamReader) -> int:
        told = await reader.readline()
        assert told, "the template has died"
        self.returncode = os.waitstatus_to_exitcode(int(told))
        self._writer.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    async def wait(self) -> int:
        return await asyncio.shield(self._end)


async def fork(args: Sequence[str], env: Mapping[str, str], out: Path, err: Path) -> Forked:
    """``portico`` with these arguments, printing into two files."""
    reader, writer = await asyncio.open_unix_connection(_template())
    asked = {"args": [*args], "env": {**env}, "out": str(out), "err": str(err)}
    writer.write(json.dumps(asked).encode() + b"\n")
    return Forked(int(await reader.readline()), reader, writer)


def _template() -> str:
    """Where the template listens; it is started when it is needed first."""
    mine = os.getpid()
    if mine not in _running:
        folder = tempfile.TemporaryDirectory(prefix="portico-template-")
        path = f"{folder.name}/socket"
        command = [sys.executable, "-m", "tests.template", path]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, cwd=ROOT)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        _running[mine] = path, process
        atexit.register(folder.cleanup)
        atexit.register(process.stdin.close)
    return _running[mine][0]


class _Template:
    """The loop of the process that forks. It ends with whoever started it."""

    def __init__(self, path: str) -> None:
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(path)
        self._door.listen()
        self._children: dict[int, tuple[int, socket.socket]] = {}
        self._poll = select.poll()
        for number in (0, self._door.fileno()):
            self._poll.register(number, select.POLLIN | select.POLLHUP)

    def run(self) -> None:
        os.write(1, b"ready\n")
        while True:
            for ready, _ in self._poll.poll():
                if ready == 0:
                    return
                if ready == self._door.fileno():
                    self._begin()
                else:
                    self._ended(ready)

    def _begin(self) -> None:
        asker, _ = self._door.accept()
        with asker.makefile("rb") as lines:
            asked = json.loads(lines.readline())
        pid = os.fork()
        if pid == 0:
            asker.detach()
            self._become(asked)
        handle = os.pidfd_open(pid)
        self._children[handle] = pid, asker
        self._poll.register(handle, select.POLLIN)
        asker.sendall(b"%d\n" % pid)

    def _ended(self, handle: int) -> None:
        pid, asker = self._children.pop(handle)
        self._poll.unregister(handle)
        os.close(handle)
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(OSError):  # the test that asked may have given up
            asker.sendall(b"%d\n" % status)
        asker.close()

    def _become(self, asked: Mapping[str, object]) -> NoReturn:
        """What a process begun anew would be."""
        from gateway.cli import main

        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._door.detach()
        for _, asker in self._children.values():
            asker.detach()
        os.closerange(FIRST, MOST)
        for number, name in ((0, os.devnull), (1, str(asked["out"])), (2, str(asked["err"]))):
            handle = os.open(name, os.O_RDWR)
            os.dup2(handle, number)
            os.close(handle)
        env = asked["env"]
        assert isinstance(env, dict)
        os.environ.clear()
        os.environ.update(env)
        args = asked["args"]
        assert isinstance(args, list)
        sys.argv = ["portico", *args]
        status = 1
        try:
            status = main()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(status)


def _import_all() -> None:
    """What every gateway will need, and what reads its configuration."""
    import gateway.cli
    import gateway.config.load
    import gateway.supervisor

    gateway.cli.parser("serve")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _import_all()
    _Template(sys.argv[1]).run()
