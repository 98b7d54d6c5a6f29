"""What ``portico gpu-agent`` says at /v1/gpus: a document with a version, written and read here.

A reader takes what it knows and has the right kind; fields that it does not know are for later
versions. Times travel as ages, since clocks differ."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_type_hints

from gateway.core.gpus import Gpu, Holding, Matched, Process, State, Throttle

VERSION = 1
"""Grows when an old reader would misread a document."""


@dataclass(frozen=True, slots=True)
class Report:
    """What one host says. ``ports`` are the GPUs behind each of its listening ports; ``age`` is
    how old the readings were (seconds) when it was said; ``detail`` says why there are none."""

    host: str = ""
    gpus: tuple[Gpu, ...] = ()
    ports: Mapping[int, Holding] = field(default_factory=dict)
    age: float = 0.0
    detail: str = ""
    unmatched: str = ""


def to_doc(report: Report) -> dict[str, Any]:
    return {
        "version": VERSION,
        "host": report.host,
        "age": round(report.age, 3),
        "detail": report.detail,
        "unmatched": report.unmatched,
        "gpus": [_gpu_doc(gpu) for gpu in report.gpus],
        "ports": [
            {"port": port, "gpus": list(one.gpus), "pids": sorted(one.pids), "why": one.why}
            for port, one in report.ports.items()
        ],
    }


def _gpu_doc(gpu: Gpu) -> dict[str, Any]:
    plain = {one.name: getattr(gpu, one.name) for one in fields(gpu)}
    del plain["at"]
    return plain | {
        "throttle": sorted(gpu.throttle),
        "xids": {str(xid): count for xid, count in gpu.xids.items()},
        "processes": [
            {"pid": one.pid, "memory": one.memory, "graphics": one.graphics}
            for one in gpu.processes
        ],
        "notes": dict(gpu.notes),
    }


def from_doc(doc: Any, now: float) -> Report:
    """``now`` is the reader's clock (monotonic seconds). Raises ValueError, written for people,
    for what is no such document."""
    if not isinstance(doc, dict) or not isinstance(doc.get("gpus"), list):
        raise ValueError("what answers there is no gpu-agent")  # noqa: TRY004 - a fault of the text
    if doc.get("version") != VERSION:
        raise ValueError(
            f"the agent speaks version {doc.get('version')} and this gateway version {VERSION}:"
            " update the older of the two"
        )
    age = _number(doc.get("age"))
    host = str(doc.get("host") or "")
    found = [one for one in doc["gpus"] if isinstance(one, dict) and _text(one.get("uuid"))]
    return Report(
        host,
        tuple(_gpu(one, host, now - age) for one in found),
        dict(_ports(doc.get("ports"))),
        age,
        _text(doc.get("detail")),
        _text(doc.get("unmatched")),
    )


def _gpu(doc: Mapping[str, Any], host: str, at: float) -> Gpu:
    plain = {
        name: doc[name]
        for name, kinds in PLAIN.items()
        if name in doc and isinstance(doc[name], kinds)
    }
    return Gpu(
        **{"host": host, "index": "", "uuid": ""} | plain,
        at=at,
        state=_one_of(State, doc.get("state"), State.FAILED),
        throttle=frozenset(what for what in Throttle if what in _list(doc.get("throttle"))),
        xids={
            int(xid): count
            for xid, count in _dict(doc.get("xids")).items()
            if str(xid).isdecimal() and isinstance(count, int)
        },
        processes=tuple(_processes(doc.get("processes"))),
        notes={str(name): str(note) for name, note in _dict(doc.get("notes")).items()},
    )


def _processes(found: Any) -> Iterable[Process]:
    for one in _list(found):
        if isinstance(one, dict) and isinstance(one.get("pid"), int):
            memory = one.get("memory")
            graphics = one.get("graphics") is True
            yield Process(one["pid"], memory if isinstance(memory, int) else None, graphics)


def _ports(found: Any) -> Iterable[tuple[int, Holding]]:
    for one in _list(found):
        if isinstance(one, dict) and isinstance(one.get("port"), int):
            pids = frozenset(pid for pid in _list(one.get("pids")) if isinstance(pid, int))
            gpus = tuple(uuid for uuid in _list(one.get("gpus")) if isinstance(uuid, str))
            yield one["port"], Holding(gpus, pids, Matched.AGENT, _text(one.get("why")))


def _kinds(hint: Any) -> tuple[type, ...]:
    """What JSON may hold for a field: a float is also written as a whole number."""
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return (*kinds, int) if float in kinds else tuple(kinds)


COMPOSED = frozenset({"at", "state", "throttle", "xids", "processes", "notes"})
PLAIN: dict[str, tuple[type, ...]] = {
    name: _kinds(hint) for name, hint in get_type_hints(Gpu).items() if name not in COMPOSED
}
"""The fields of a Gpu that JSON holds as they are, and their kinds."""


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and value >= 0 else 0.0


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {}


def _one_of(kind: type[State], value: Any, otherwise: State) -> State:
    try:
        return kind(value)
    except ValueError:
        return otherwise
