"""May an engine on this GPU be given requests, and how many: from reading to reading, pure.

What condemns is a table of rules; what a rule has found stays until the readings have been good
for a while, or, for the driver's error numbers (XIDs), until the engine was restarted. A reading
that the device does not give (None) condemns nobody, nor does a source that has stopped answering:
then what was found stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from gateway.core.gpus import Gpu, State, Throttle
from gateway.core.xids import RESET, Kind, xid


class Mode(StrEnum):
    """What becomes of a verdict: nothing, a word in the log, or what it says."""

    OFF = "off"
    WARN = "warn"
    ENFORCE = "enforce"


GOOD_FOR = 30.0
"""Seconds of good readings after which a GPU is trusted again, unless configured otherwise."""

LOADED = 0.05
"""Utilization from which the clock says something: an idle GPU lowers it by itself."""

SLOWING = frozenset(
    {Throttle.HW_SLOWDOWN, Throttle.HW_THERMAL, Throttle.HW_POWER_BRAKE, Throttle.SW_THERMAL}
)
"""Throttle reasons that take away speed. The power cap is none of them: large models run into it
whenever they are busy, on healthy GPUs too."""

FLOOR = 0.125
"""The smallest factor: slow is not sick."""

STEP = 0.125
"""Factors are told in steps of this, so that no change of a few MHz makes a new fleet."""

CREEP = 0.1
"""Share of the way that the factor takes up with each reading while the GPU is still throttled; it
goes down all the way at once."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What is known of the engine on the GPU: its processes (empty where nobody can tell), and
    whether it is away just now (nobody answers at its address)."""

    pids: frozenset[int] = frozenset()
    away: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """What a rule has found. ``since`` is when it was found first, ``good`` since when it was not
    found any more (0: it still is). ``pids`` are the engine's processes at that time, ``left``
    whether the engine has been away since."""

    said: str
    remedy: str
    since: float
    pids: frozenset[int] = frozenset()
    good: float = 0.0
    left: bool = False


@dataclass(frozen=True, slots=True)
class Memory:
    """All that the gate remembers of one GPU under one backend. ``faults`` is by reason code;
    ``factor`` is what throttling leaves of the speed, ``shown`` the same in steps, ``slow`` the
    sentence about it; ``best`` the highest clock seen under load (MHz)."""

    at: float = 0.0
    ecc: int | None = None
    xids: Mapping[int, int] = field(default_factory=dict)
    faults: Mapping[str, Fault] = field(default_factory=dict)
    factor: float = 1.0
    shown: float = 1.0
    slow: str = ""
    slow_good: float = 0.0
    best: float = 0.0


UNSEEN = Memory()


def _lost(_: Memory, gpu: Gpu) -> str:
    return gpu.detail or "the driver says that it is lost" if gpu.state is State.LOST else ""


def _recovery(_: Memory, gpu: Gpu) -> str:
    action = gpu.recovery.strip()
    wanted = action and action.lower() != "none"
    return f"the driver asks for a recovery action: {action}" if wanted else ""


def _ecc(before: Memory, gpu: Gpu) -> str:
    now, then = gpu.ecc_uncorrected, before.ecc
    rising = now is not None and then is not None and now > then
    return "uncorrectable memory errors are rising" if rising else ""


def _remap_failed(_: Memory, gpu: Gpu) -> str:
    return "a bad memory row could not be remapped" if gpu.remap_failed else ""


def _remap_pending(_: Memory, gpu: Gpu) -> str:
    return "a bad memory row waits to be remapped" if gpu.remap_pending else ""


def _retirement(_: Memory, gpu: Gpu) -> str:
    return "a bad memory page waits to be retired" if gpu.retired_pending else ""


def _fatal_xids(before: Memory, gpu: Gpu) -> list[int]:
    if not before.at:
        return []  # counted before we looked: whoever restarted the engine since is not blamed
    risen = (n for n, count in gpu.xids.items() if count > before.xids.get(n, 0))
    return [number for number in risen if xid(number).kind is Kind.FATAL]


def _xid(before: Memory, gpu: Gpu) -> str:
    return "; ".join(f"XID {n}: {xid(n).title}" for n in _fatal_xids(before, gpu))


def _xid_remedy(before: Memory, gpu: Gpu) -> str:
    return " ".join(dict.fromkeys(xid(n).remedy for n in _fatal_xids(before, gpu)))


class Until(StrEnum):
    """What ends a finding: good readings for a while, or a new engine."""

    GOOD = "good readings"
    RESTARTED = "the engine's restart"


@dataclass(frozen=True, slots=True)
class Rule:
    """``found`` gives a sentence, or '' when there is nothing; ``remedy`` is a text (``{gpu}``
    stands for the UUID) or makes one."""

    code: str
    found: Callable[[Memory, Gpu], str]
    remedy: str | Callable[[Memory, Gpu], str]
    until: Until = Until.GOOD

    def cure(self, before: Memory, gpu: Gpu) -> str:
        text = self.remedy if isinstance(self.remedy, str) else self.remedy(before, gpu)
        return text.replace("{gpu}", gpu.mig_of or gpu.uuid)


SHOW_ECC = "See nvidia-smi -q -d ECC,ROW_REMAPPER -i {gpu}. "

RULES: tuple[Rule, ...] = (
    Rule(
        "gpu_lost",
        _lost,
        "See dmesg for 'NVRM: Xid'. Stop the engine, then reset the GPU (nvidia-smi --gpu-reset -i"
        " {gpu}) or, if that fails, reboot the host; check seating and power if it comes back.",
    ),
    Rule(
        "recovery_action", _recovery, "See nvidia-smi -q -i {gpu}, 'GPU Recovery Action'. " + RESET
    ),
    Rule("row_remap_failed", _remap_failed, SHOW_ECC + "Have the GPU replaced."),
    Rule("ecc_uncorrected", _ecc, SHOW_ECC + RESET),
    Rule("row_remap_pending", _remap_pending, SHOW_ECC + RESET),
    Rule(
        "page_retirement_pending",
        _retirement,
        "See nvidia-smi -q -d PAGE_RETIREMENT -i {gpu}. " + RESET,
    ),
    Rule("xid", _xid, _xid_remedy, Until.RESTARTED),
)
"""In the order in which they are told; any of them is enough."""


TELLING = frozenset({State.OK, State.LOST})
"""States in which a reading says something of the device; the others only speak of our access."""


def follow(before: Memory, gpu: Gpu | None, engine: Engine, hold: float) -> Memory:
    """The memory after one more look. ``gpu`` None: nothing is known of the device any more; a
    reading that was seen already teaches nothing. ``hold`` is for how many seconds readings have
    to be good."""
    noted = {code: _accompanied(fault, engine) for code, fault in before.faults.items()}
    if gpu is None:
        kept = {code: fault for code, fault in noted.items() if not _restarted(fault, engine)}
        return replace(before, faults=kept)
    if gpu.at <= before.at or (gpu.state not in TELLING and not gpu.recovery):
        return replace(before, faults=noted)
    before = replace(before, faults=noted)
    faults = {
        rule.code: fault
        for rule in RULES
        if (fault := _found(rule, before, gpu, engine) or _kept(rule, before, gpu, engine, hold))
    }
    ecc = before.ecc if gpu.ecc_uncorrected is None else gpu.ecc_uncorrected
    xids = {**({} if gpu.state is State.OK else before.xids), **gpu.xids}
    clocked = _throttled(before, gpu, hold)
    return replace(clocked, at=gpu.at, faults=faults, ecc=ecc, xids=xids)


def _found(rule: Rule, before: Memory, gpu: Gpu, engine: Engine) -> Fault | None:
    said = rule.found(before, gpu)
    if not said:
        return None
    known = before.faults.get(rule.code)
    return Fault(said, rule.cure(before, gpu), known.since if known else gpu.at, engine.pids)


def _kept(rule: Rule, before: Memory, gpu: Gpu, engine: Engine, hold: float) -> Fault | None:
    """A finding of before that this reading does not repeat, while it is not over."""
    fault = before.faults.get(rule.code)
    if fault is None:
        return None
    if rule.until is Until.RESTARTED:
        return None if _restarted(fault, engine) else fault
    if not fault.good:
        return replace(fault, good=gpu.at)
    return None if gpu.at - fault.good >= hold else fault


def _accompanied(fault: Fault, engine: Engine) -> Fault:
    return replace(fault, left=True) if engine.away and not fault.left else fault


def _restarted(fault: Fault, engine: Engine) -> bool:
    """By its processes, where they were known then and are now; else by its having been away."""
    if fault.pids and engine.pids:
        return fault.pids.isdisjoint(engine.pids)
    return fault.left and not engine.away


def _throttled(before: Memory, gpu: Gpu, hold: float) -> Memory:
    """The factor: down at once to what throttling leaves of the clock, up again slowly."""
    reasons = gpu.throttle & SLOWING
    working = gpu.clock is not None and (gpu.busy is None or gpu.busy >= LOADED)
    best = max(before.best, gpu.clock or 0.0) if working and not reasons else before.best
    if not reasons:
        return _recovering(replace(before, best=best), gpu, hold)
    usual = gpu.clock_max or best
    if not working or gpu.clock is None or not usual:
        return replace(before, slow_good=0.0)
    left = min(1.0, max(FLOOR, gpu.clock / usual))
    factor = left if left < before.factor else before.factor + (left - before.factor) * CREEP
    named = ", ".join(sorted(reason.value for reason in reasons))
    return _told(replace(before, factor=factor, slow=f"throttled ({named})", slow_good=0.0))


def _recovering(memory: Memory, gpu: Gpu, hold: float) -> Memory:
    if not memory.slow:
        return memory
    if not memory.slow_good:
        return replace(memory, slow_good=gpu.at)
    if gpu.at - memory.slow_good < hold:
        return memory
    return replace(memory, factor=1.0, shown=1.0, slow="", slow_good=0.0)


def _told(memory: Memory) -> Memory:
    if abs(memory.factor - memory.shown) < STEP * 0.75:
        return memory
    return replace(memory, shown=max(FLOOR, round(memory.factor / STEP) * STEP))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says of a GPU, or of a backend by its worst one. ``code`` is '' unless it is
    sick; ``factor`` is what is left of the weight of one that is only slow, and ``slow`` why."""

    code: str = ""
    said: str = ""
    remedy: str = ""
    since: float = 0.0
    factor: float = 1.0
    slow: str = ""

    @property
    def sick(self) -> bool:
        return bool(self.code)

    @property
    def reason(self) -> str:
        """One sentence; '' when all is well."""
        return self.said or self.slow


GOOD = Verdict()


def verdict(memory: Memory, gpu: str = "the GPU") -> Verdict:
    """What ``memory`` comes to; ``gpu`` is how the device is called for people."""
    slow = ""
    if memory.slow and memory.shown < 1:
        slow = f"{gpu}: {memory.slow}, about {memory.shown:.0%} of its clock is left"
    for rule in RULES:
        fault = memory.faults.get(rule.code)
        if fault is not None:
            said = f"{gpu}: {fault.said}"
            return Verdict(rule.code, said, fault.remedy, fault.since, memory.shown, slow)
    return Verdict(factor=memory.shown, slow=slow)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """A backend over several GPUs is as good as its worst one: the first sick one by the order of
    the rules, with the smallest factor of all."""
    found = list(verdicts)
    if not found:
        return GOOD
    order = {rule.code: place for place, rule in enumerate(RULES)}
    first = min(found, key=lambda one: order.get(one.code, len(order)))
    slowest = min(found, key=lambda one: one.factor)
    return replace(first, factor=slowest.factor, slow=slowest.slow)


def called(gpu: Gpu) -> str:
    """How a device is named for people."""
    kind = f" ({gpu.name})" if gpu.name else ""
    return f"GPU {gpu.index} on {gpu.host}{kind}"
