"""Which of the driver's error numbers mean a sick GPU, which a faulty program, and which neither.

Source: NVIDIA, "Xid Errors", chapter "Analyzing Xid Errors with the Xid Catalog"
(https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html, Ampere and newer). Its column
"Resolution Bucket (Immediate Action)" decides: a reset, a reboot or a look at the hardware make a
number FATAL, a restart of the program makes it APPLICATION, and what may be ignored, or has no
bucket, is INFORMATIONAL. Where a row departs from that, it says why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

SOURCE = "https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html"


class Kind(StrEnum):
    """FATAL: nothing that runs on the GPU can be trusted until the engine was started anew, most
    often after a reset. APPLICATION: the program that caused it has failed, the GPU has not.
    INFORMATIONAL: for the record."""

    FATAL = "fatal"
    APPLICATION = "application"
    INFORMATIONAL = "informational"


@dataclass(frozen=True, slots=True)
class Xid:
    """One number of the catalog and what an operator does about it."""

    number: int
    kind: Kind
    title: str
    remedy: str


RESET = (
    "Stop what runs on this GPU, reset it (nvidia-smi --gpu-reset -i {gpu}; GPUs joined by NVLink"
    " together), then start the engine again. If it comes back, the GPU needs service."
)
REBOOT = (
    "Reboot the host. If it comes back, check seating, power and the PCIe riser, and have the GPU"
    " replaced."
)
POWER = "Switch the host off and check the GPU's auxiliary power cables and its seating."
LINKS = (
    "Look at the links (nvidia-smi nvlink -s -i {gpu}; nvidia-smi nvlink -e -i {gpu}), stop the"
    " engine, reset the GPUs of the link together (nvidia-smi --gpu-reset), start it again. If it"
    " comes back, have the board or the bridge checked."
)
ENGINE = "Restart the engine; its log says what it did. The GPU itself is not blamed."
NOTHING = "Nothing to do."
RECORD = "Nothing to do now. If the number keeps coming, ask NVIDIA's support."
UNKNOWN = f"Look it up in NVIDIA's catalog: {SOURCE}"


def _rows(kind: Kind, remedy: str, titles: dict[int, str]) -> Iterable[tuple[int, Xid]]:
    return ((number, Xid(number, kind, title, remedy)) for number, title in titles.items())


XIDS: dict[int, Xid] = {
    **dict(
        _rows(
            Kind.FATAL,
            RESET,
            {
                46: "GPU stopped processing (time-out)",
                # The catalog sends 48 through a workflow that ends, on every branch, in a reset or
                # a restart of the program that was hit: no new work until then.
                48: "double bit ECC error",
                62: "internal micro-controller halted",
                64: "row remapping or page retirement failed",
                95: "uncontained memory error",
                # NVIDIA's device plugin for Kubernetes counts 109 among the applications' faults;
                # the newer catalog asks for a reset.
                109: "context switch time-out",
                110: "security fault",
                119: "the GPU's system processor did not answer (GSP RPC time-out)",
                120: "the GPU's system processor failed (GSP error)",
                136: "link training failed",
                140: "unrecovered ECC error",
                143: "GPU initialisation failed",
                155: "NVLink error defined by software",
                156: "resource retirement event",
                158: "fatal time-out of the GPU",
            },
        )
    ),
    # The catalog asks for a restart of the program only. For a gateway the program is the engine,
    # whose context is lost: it takes no request until it has been restarted.
    94: Xid(
        94,
        Kind.FATAL,
        "contained memory error",
        "Restart the engine. A row remapping may be pending: nvidia-smi -q -d ROW_REMAPPER -i"
        " {gpu}; a reset of the GPU between two starts carries it out.",
    ),
    79: Xid(79, Kind.FATAL, "the GPU has fallen off the bus", REBOOT),
    151: Xid(151, Kind.FATAL, "key rotation failed (confidential computing)", REBOOT),
    54: Xid(54, Kind.FATAL, "auxiliary power is not connected", POWER),
    # A workflow in the catalog. An engine over several GPUs hangs on a broken link, and the number
    # does not tell which engine uses it.
    74: Xid(74, Kind.FATAL, "NVLink error", LINKS),
    **dict(
        _rows(
            Kind.APPLICATION,
            ENGINE,
            {
                8: "GPU stopped processing (idle time-out)",
                11: "invalid or corrupted push buffer stream",
                13: "graphics engine exception",
                25: "invalid or illegal push buffer stream",
                31: "GPU memory page fault",
                32: "invalid or corrupted push buffer stream (DMA)",
                39: "copy engine 0 exception",
                40: "copy engine 1 exception",
                41: "copy engine 2 exception",
                # "Ignore" in the catalog; the program's channel was reset.
                43: "GPU stopped processing (channel reset)",
                # Follows another number, or the end of a program that was killed.
                45: "preemptive cleanup after an earlier error",
                60: "video processor exception",
                68: "video decoder 0 exception",
                69: "graphics engine class error",
                **{70 + i: f"copy engine {3 + i} error" for i in range(3)},
                **{75 + i: f"copy engine {6 + i} error" for i in range(3)},
                80: "corrupted data sent to the GPU",
                82: "JPEG engine 0 error",
                83: "video decoder 1 error",
                84: "video decoder 2 error",
                85: "copy engine 9 error",
                86: "optical flow exception",
                88: "video decoder 3 error",
                89: "video decoder 4 error",
                **{96 + i: f"video decoder {5 + i} error" for i in range(3)},
                **{99 + i: f"JPEG engine {1 + i} error" for i in range(7)},
                **{126 + i: f"copy engine {10 + i} error" for i in range(10)},
                139: "optical flow 1 error",
            },
        )
    ),
    **dict(
        _rows(
            Kind.INFORMATIONAL,
            RECORD,
            {
                37: "driver firmware error",
                38: "driver firmware error (watchdog)",
                44: "graphics engine fault during a context switch",
                66: "illegal access by the driver",
                67: "illegal access by the driver (verification)",
                78: "vGPU start error",
                92: "many single bit ECC errors",
                93: "InfoROM wear limit exceeded",
                108: "NVLink remote translation error",
                121: "C2C link error",
                137: "NVLink privilege error",
                141: "CUDA fast path error",
                # Fatal or not by details that the event does not carry; the driver's recovery
                # action, which has a rule of its own, tells.
                144: "NVLink SAW error",
                145: "NVLink RLW error",
                146: "NVLink TLW error",
                147: "NVLink TREX error",
                148: "NVLink control error",
                149: "NVLink NETIR error",
                150: "NVLink MSE error",
                157: "resource retirement failed",
                160: "channel retirement event",
                161: "channel retirement failed",
            },
        )
    ),
    # Each of these only says that something else, which has a rule or a number of its own, is so.
    **dict(
        _rows(
            Kind.INFORMATIONAL,
            NOTHING,
            {
                63: "a row remapping or page retirement was recorded",
                106: "test message",
                107: "silent test message",
                154: "the recovery action has changed",
                171: "details of a double bit error: in DRAM",
                172: "details of a double bit error: in SRAM",
            },
        )
    ),
}
"""By number."""


def xid(number: int) -> Xid:
    """The row of a number; one that the catalog does not have is informational."""
    found = XIDS.get(number)
    return found or Xid(number, Kind.INFORMATIONAL, "not in the catalog", UNKNOWN)
