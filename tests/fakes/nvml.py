"""A host's GPUs for the real pynvml: a stub ``libnvidia-ml.so.1`` whose readings a test changes.

Needs gcc (``pytestmark = pytest.mark.skipif(not nvml.GCC, reason=nvml.NO_GCC)``). In a process of
its own, such as a gateway, the library is found by ``env()``; in the test's process by
``installed()``. What is changed here is what the next call of NVML answers, in any process:

    with Stub(tmp_path, gpus=2) as stub:
        gateway = await start(..., env=stub.env())
        stub[0].busy = 80                        # any field of Entry, in NVML's own units
        stub[0].ecc[UNCORRECTED][VOLATILE] += 1
        stub[1].reasons = HW_THERMAL
        stub.runs(0, pid, 4 << 30)               # a compute process; stub.runs(0) for none
        stub.xid(1, 79)
        stub.fail("nvmlDeviceGetPowerUsage", NO_PERMISSION, gpu=0)
        stub.lose(1)                             # every call about it says that it is lost
        stub.hang()                              # no call answers until stub.heal()
        stub.heal()                              # no faults, nothing hangs
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

import pynvml

SOURCE = Path(__file__).with_name("nvml_stub.c")
GCC = shutil.which("gcc") or shutil.which("cc")
NO_GCC = "there is no C compiler for the stub of libnvidia-ml.so.1"

CORRECTED, UNCORRECTED = 0, 1
VOLATILE, AGGREGATE = 0, 1

IDLE = 0x1
SW_POWER_CAP = 0x4
HW_SLOWDOWN = 0x8
SW_THERMAL = 0x20
HW_THERMAL = 0x40
HW_POWER_BRAKE = 0x80

NOT_SUPPORTED = 3
NO_PERMISSION = 4
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
RESET_REQUIRED = 16
VERSION_MISMATCH = 18

ANY = -1


class _Process(ctypes.Structure):
    _fields_ = (
        ("pid", ctypes.c_uint32),
        ("graphics", ctypes.c_uint32),
        ("memory", ctypes.c_uint64),
    )


class Entry(ctypes.Structure):
    """One device: memory in bytes, ``busy`` in percent, degrees Celsius, milliwatts, MHz,
    ``energy`` in millijoules, ``reasons`` a mask. ``ecc[kind][counter]``; ``retired`` holds single
    and double; ``mig_of`` the place of its parent or -1, ``mig_mode`` -1 where there is no MIG."""

    _fields_ = (
        ("name", ctypes.c_char * 96),
        ("uuid", ctypes.c_char * 96),
        ("pci", ctypes.c_char * 32),
        ("total", ctypes.c_uint64),
        ("reserved", ctypes.c_uint64),
        ("used", ctypes.c_uint64),
        ("busy", ctypes.c_uint32),
        ("temperature", ctypes.c_uint32),
        ("slowdown", ctypes.c_uint32),
        ("power", ctypes.c_uint32),
        ("limit", ctypes.c_uint32),
        ("clock", ctypes.c_uint32),
        ("clock_max", ctypes.c_uint32),
        ("processes", ctypes.c_uint32),
        ("energy", ctypes.c_uint64),
        ("reasons", ctypes.c_uint64),
        ("ecc", (ctypes.c_uint64 * 2) * 2),
        ("remapped_cor", ctypes.c_uint32),
        ("remapped_unc", ctypes.c_uint32),
        ("remap_pending", ctypes.c_uint32),
        ("remap_failed", ctypes.c_uint32),
        ("retired", ctypes.c_uint32 * 2),
        ("retired_pending", ctypes.c_uint32),
        ("recovery", ctypes.c_uint32),
        ("nvlink", ctypes.c_uint64 * 5),
        ("mig_of", ctypes.c_int32),
        ("mig_mode", ctypes.c_int32),
        ("gpu_instance", ctypes.c_int32),
        ("has_margin", ctypes.c_int32),
        ("margin", ctypes.c_int32),
        ("slowdown_margin", ctypes.c_int32),
        ("process", _Process * 32),
    )


class _Fault(ctypes.Structure):
    _fields_ = (
        ("function", ctypes.c_char * 64),
        ("gpu", ctypes.c_int32),
        ("code", ctypes.c_int32),
    )


class _Xid(ctypes.Structure):
    _fields_ = (("gpu", ctypes.c_int32), ("number", ctypes.c_uint32))


class _World(ctypes.Structure):
    _fields_ = (
        ("gpus", ctypes.c_uint32),
        ("init_error", ctypes.c_uint32),
        ("xids", ctypes.c_uint32),
        ("faults", ctypes.c_uint32),
        ("hang", ctypes.c_char * 64),
        ("calls", ctypes.c_uint64),
        ("delay", ctypes.c_uint64),
        ("fault", _Fault * 64),
        ("xid", _Xid * 256),
        ("gpu", Entry * 32),
    )


@cache
def library() -> Path:
    """The stub, built once a process. Its folder is for LD_LIBRARY_PATH."""
    assert GCC, NO_GCC
    folder = Path(tempfile.mkdtemp(prefix="portico-nvml-stub-"))
    target = folder / "libnvidia-ml.so.1"
    # Without a soname: a process that has it loaded would otherwise find it by that name again.
    flags = ["-shared", "-fPIC", "-O2"]
    subprocess.run([GCC, *flags, "-o", str(target), str(SOURCE)], check=True)
    return target


class Stub:
    """The devices of a pretended host. ``folder`` takes the file that the library reads."""

    def __init__(self, folder: Path, gpus: int = 1) -> None:
        self.file = folder / "nvml-world"
        self.file.write_bytes(bytes(ctypes.sizeof(_World)))
        with self.file.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), ctypes.sizeof(_World))
        self._world = _World.from_buffer(self._map)
        for number in range(gpus):
            self._begin(self._world.gpu[number], number)
        self._world.gpus = gpus

    def _begin(self, gpu: Entry, number: int) -> None:
        """A healthy device at work."""
        gpu.name = b"Stub H100"
        gpu.uuid = f"GPU-00000000-0000-0000-0000-{number:012d}".encode()
        gpu.pci = f"00000000:{number + 1:02X}:00.0".encode()
        gpu.total, gpu.reserved, gpu.used = 80 << 30, 1 << 30, 20 << 30
        gpu.busy, gpu.temperature, gpu.slowdown = 50, 45, 90
        gpu.power, gpu.limit, gpu.energy = 350_000, 700_000, 1_000_000
        gpu.clock, gpu.clock_max = 1980, 1980
        gpu.mig_of = -1

    def __getitem__(self, number: int) -> Entry:
        entry: Entry = self._world.gpu[number]
        return entry

    def uuid(self, number: int) -> str:
        return bytes(self[number].uuid).decode()

    def env(self) -> dict[str, str]:
        """What a process of its own needs to find these devices."""
        return {"LD_LIBRARY_PATH": str(library().parent), "NVML_STUB": str(self.file)}

    @contextmanager
    def installed(self) -> Iterator[Self]:
        """pynvml of this process speaks to these devices, as if the library had just been found."""
        lib = ctypes.CDLL(str(library()))
        assert lib.stub_size() == ctypes.sizeof(_World), "nvml_stub.c has another layout"
        assert lib.stub_open(os.fsencode(self.file)) == 0
        before = pynvml.nvmlLib
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml.nvmlLib = lib
        try:
            yield self
        finally:
            self.heal()
            pynvml.nvmlLib = before
            pynvml._nvmlGetFunctionPointer_cache.clear()

    # -- what may happen --------------------------------------------------------------------------

    def runs(self, number: int, *processes: int | tuple[int, int], graphics: bool = False) -> None:
        """These are the processes of a device from now on: pids, or pairs of pid and bytes."""
        gpu = self[number]
        gpu.processes = 0
        for place, one in enumerate(processes):
            pid, memory = one if isinstance(one, tuple) else (one, 1 << 30)
            gpu.process[place] = _Process(pid, graphics, memory)
        gpu.processes = len(processes)

    def xid(self, number: int, xid: int) -> None:
        """A critical event, as the driver would report it."""
        self._world.xid[self._world.xids % 256] = _Xid(number, xid)
        self._world.xids += 1

    def fail(self, function: str, code: int, gpu: int = ANY) -> None:
        """Calls of this NVML function ('*' for all) answer ``code`` from now on."""
        self._world.fault[self._world.faults] = _Fault(function.encode(), gpu, code)
        self._world.faults += 1

    def lose(self, number: int) -> None:
        """The device falls off the bus."""
        self.fail("*", GPU_IS_LOST, number)

    def no_driver(self, code: int = DRIVER_NOT_LOADED) -> None:
        """Initialising answers ``code``; 0 for a driver that is back."""
        self._world.init_error = code

    def hang(self, function: str = "*") -> None:
        """Calls of this function do not return."""
        self._world.hang = function.encode()

    def heal(self) -> None:
        """What hangs goes on, and no call fails any more. Readings stay as they were set."""
        self._world.hang = b""
        self._world.faults = 0
        self._world.init_error = 0

    def split(self, number: int, *instances: int) -> list[int]:
        """Turn MIG on with instances of so many bytes; returns their places among the entries."""
        places = []
        self[number].mig_mode = 1
        for instance, total in enumerate(instances):
            place = self._world.gpus
            self._begin(self[place], place)
            entry = self[place]
            entry.name = b"Stub H100 MIG"
            entry.uuid = f"MIG-00000000-0000-0000-0000-{place:012d}".encode()
            entry.mig_of, entry.gpu_instance = number, instance + 1
            entry.total, entry.reserved, entry.used = total, 0, total // 4
            self._world.gpus += 1
            places.append(place)
        return places

    @property
    def calls(self) -> int:
        """How many calls were made so far."""
        return int(self._world.calls)

    def close(self) -> None:
        self.heal()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
