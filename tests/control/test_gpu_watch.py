"""From panoramas to what the fleet says of each backend's GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from gateway.control.gpu_watch import About, Event, GpuWatch, tell
from gateway.core.energy import Work
from gateway.core.gpu_gate import Mode
from gateway.core.gpus import Gpu, Holding, Panorama, Process, State, Throttle
from gateway.core.health import GpuSight, gated
from gateway.core.types import Health, Sight

GIB = 1 << 30
CARD = Gpu("h", "0", "A", "H200", power=200.0, busy=0.5, clock=1900.0, clock_max=1980.0)
OWN = frozenset({7})


class World:
    """Two backends on two GPUs each of their own, looked at once a second."""

    def __init__(self, **abouts: About) -> None:
        self.watch = GpuWatch(hold=5.0)
        self.now = 0.0
        self.abouts: dict[str, About] = {"b": About(), "c": About(), **abouts}
        self.gpus = {uuid: replace(CARD, uuid=uuid, index=str(i)) for i, uuid in enumerate("ABC")}
        self.holdings = {"b": Holding(("A",), OWN), "c": Holding(("B",), frozenset({8}))}
        self.stale: dict[str, float] = {}
        self.events: list[Event] = []
        self.look()

    def look(self, times: int = 1, **changes: Mapping[str, Any]) -> Mapping[str, GpuSight]:
        """So many further readings, with fields of GPUs changed for good."""
        for uuid, fields in changes.items():
            self.gpus[uuid] = replace(self.gpus[uuid], **fields)
        for _ in range(times):
            self.now += 1.0
            for uuid, gpu in self.gpus.items():
                if uuid not in self.stale:
                    self.gpus[uuid] = replace(gpu, at=self.now)
            seen = Panorama(dict(self.gpus), dict(self.holdings), dict(self.stale), self.now)
            found, events = self.watch.look(seen, self.abouts, self.now)
            self.events += events
        return found

    @property
    def codes(self) -> list[tuple[str, str]]:
        return [(event.backend, event.code) for event in self.events]


def test_a_sick_gpu_condemns_its_backend_and_no_other() -> None:
    world = World()
    found = world.look(A={"state": State.LOST})
    assert found["b"].verdict.code == "gpu_lost" and found["b"].uuids == ("A",)
    assert not found["c"].verdict.sick
    assert world.watch.sick() == {"A"}
    assert world.codes == [("b", "gpu_lost")]


def test_it_is_told_once_and_once_more_when_it_is_over() -> None:
    world = World()
    world.look(3, A={"remap_pending": True})
    world.look(10, A={"remap_pending": False})
    assert world.codes == [("b", "row_remap_pending"), ("b", "")]


def test_a_gpu_of_nobody_is_told_of_as_well() -> None:
    world = World()
    found = world.look(C={"state": State.LOST})
    assert world.codes == [("", "gpu_lost")]
    assert not any(gpus.verdict.sick for gpus in found.values())


def test_a_stale_or_vanished_source_takes_nobody_out() -> None:
    world = World()
    world.stale = dict.fromkeys("ABC", world.now)
    assert not world.look(100)["b"].verdict.sick
    world.gpus.clear()
    world.holdings.clear()
    found = world.look(100)
    assert found["b"] == GpuSight()
    assert world.codes == []


def test_what_was_found_stays_while_nobody_looks_until_the_engine_was_restarted() -> None:
    world = World()
    world.look(A={"remap_failed": True})
    world.gpus.clear()
    world.holdings.clear()
    assert world.look(1000)["b"].verdict.code == "row_remap_failed"
    world.abouts["b"] = About(away=True)
    assert world.look()["b"].verdict.sick
    world.abouts["b"] = About()
    assert not world.look()["b"].verdict.sick


def test_a_backend_that_moves_to_another_gpu_leaves_its_trouble_behind() -> None:
    world = World()
    world.look(A={"remap_failed": True})
    world.holdings["b"] = Holding(("C",), frozenset({70}))
    found = world.look(2)
    assert not found["b"].verdict.sick
    assert world.codes[-2:] == [("b", ""), ("", "row_remap_failed")]


def test_two_backends_on_one_sick_gpu_both_go() -> None:
    world = World()
    world.holdings["c"] = Holding(("A", "B"), frozenset({8}))
    found = world.look(A={"state": State.LOST})
    assert found["b"].verdict.sick and found["c"].verdict.sick


def test_a_mig_instance_is_as_ill_as_its_board() -> None:
    world = World()
    world.gpus["MIG-1"] = replace(CARD, uuid="MIG-1", mig_of="A", power=None)
    world.holdings["b"] = Holding(("MIG-1",), OWN)
    assert world.look(A={"state": State.LOST})["b"].verdict.code == "gpu_lost"


def test_a_mig_instance_is_charged_with_the_power_of_its_board() -> None:
    world = World()
    world.gpus["MIG-1"] = replace(CARD, uuid="MIG-1", mig_of="A", power=None)
    world.holdings["b"] = Holding(("MIG-1",), OWN)
    world.look(10)
    world.watch.learn([Work("b", "m", ("chat", "k"), 3.0, 3.0, 5.0, 0, 10)])
    shares = world.watch.settle({}, 20.0)
    assert sum(share.joules for share in shares) == pytest.approx(400)


def test_a_backend_whose_processes_nobody_knows_is_judged_by_those_on_its_gpu() -> None:
    world = World()
    world.holdings["b"] = Holding(("A",))
    world.look(A={"processes": (Process(70),)})
    assert world.look(A={"xids": {79: 1}})["b"].verdict.code == "xid"
    assert world.look(50)["b"].verdict.code == "xid"
    assert not world.look(A={"processes": (Process(71),)})["b"].verdict.sick


def test_a_sample_of_what_others_take_changes_nothing_that_is_told() -> None:
    world, mine = World(), Process(7, 20 * GIB)
    shared = {"memory_total": 80 * GIB, "processes": (mine, Process(99, 20 * GIB)), "busy": 0.0}
    first = world.look(20, A=shared)
    assert first["b"].left == 0.75
    for step in range(20):
        other = Process(99, 20 * GIB + step * GIB // 10)
        assert world.look(A={"processes": (mine, other)}) == first


def test_a_sample_changes_nothing_that_is_told() -> None:
    """Readings move all the time; what the fleet says of them does not."""
    world = World()
    first = world.look(20)
    for step in range(60):
        wobble = {"busy": 0.5 + step % 3 / 50, "clock": 1900.0 - step % 7, "power": 200.0 + step}
        assert world.look(A=wobble, B=wobble) == first


def test_speeds_are_learned_by_backend_and_model_and_told_now_and_then() -> None:
    world = World()
    world.look(20)
    world.watch.learn([Work("b", "m", ("chat", "k"), 1.0, 2.0, 4.0, 10, 100)])
    assert world.look()["b"].speeds == {"m": 50.0}
    world.watch.learn([Work("b", "m", ("chat", "k"), 1.0, 2.0, 3.0, 10, 1000)] * 9)
    assert world.look(5)["b"].speeds == {"m": 50.0}
    assert world.look(6)["b"].speeds["m"] > 500


def test_another_process_on_the_gpu_leaves_less_room() -> None:
    world = World()
    both = (Process(7, 20 * GIB), Process(99, 40 * GIB))
    found = world.look(
        A={"memory_used": 60 * GIB, "memory_total": 80 * GIB, "processes": both, "busy": 0.0}
    )
    assert (found["b"].room, found["b"].left) == (0.5, 0.5)
    assert world.look(A={"processes": both[:1]})["b"].room > 0.8


def test_what_our_own_requests_fill_is_no_less_left() -> None:
    world = World(b=About(busy=True, kv_used=0.9))
    found = world.look(50, A={"processes": (Process(7, GIB),), "busy": 1.0})
    assert found["b"].room < 0.5
    assert found["b"].left == 1.0


def test_utilization_while_we_are_idle_is_the_others() -> None:
    world = World(c=About(busy=True))
    for uuid, pid in (("A", 7), ("B", 8)):
        both = (Process(pid, GIB), Process(99, GIB))
        world.gpus[uuid] = replace(
            world.gpus[uuid], processes=both, memory_total=80 * GIB, busy=0.8
        )
    found = world.look(50)
    assert found["b"].room < 0.2
    assert found["c"].room > 0.5


def test_a_backend_that_is_gone_is_forgotten() -> None:
    world = World()
    world.look(A={"state": State.LOST})
    del world.abouts["b"], world.holdings["b"]
    world.look()
    world.abouts["b"], world.holdings["b"] = About(), Holding(("A",), OWN)
    world.look()
    assert world.codes == [("b", "gpu_lost"), ("", "gpu_lost"), ("b", "gpu_lost"), ("", "")]


# --- what the fleet is told


def sight(mode: Mode, health: Health = Health.UP, **fields: Any) -> Sight:
    world = World(b=About(mode=mode))
    return gated(Sight(health), world.look(A=fields)["b"])


LOST = {"state": State.LOST}
HOT = {"throttle": frozenset({Throttle.HW_THERMAL}), "clock": 990.0}


def test_enforced_a_sick_gpu_makes_a_backend_sick_with_the_reason() -> None:
    found = sight(Mode.ENFORCE, **LOST)
    assert found.health is Health.SICK
    assert found.detail == found.gpu_reason == "GPU 0 on h (H200): the driver says that it is lost"


@pytest.mark.parametrize("health", [Health.DOWN, Health.LOADING, Health.WEDGED, Health.DRAINING])
def test_what_is_said_of_an_engine_that_takes_no_requests_anyway_stays(health: Health) -> None:
    assert sight(Mode.ENFORCE, health, **LOST).health is health


def test_enforced_throttling_lowers_the_weight() -> None:
    found = sight(Mode.ENFORCE, **HOT)
    assert (found.health, found.gpu_factor) == (Health.UP, 0.5)
    assert "throttled (hw_thermal)" in found.gpu_reason


def test_what_others_take_is_told() -> None:
    both = (Process(7, 20 * GIB), Process(99, 40 * GIB))
    found = sight(Mode.ENFORCE, memory_total=80 * GIB, processes=both, busy=0.0)
    assert found.left == 0.5


@pytest.mark.parametrize("fields", [LOST, HOT])
def test_a_warning_changes_nothing_but_says_so(fields: dict[str, Any]) -> None:
    found = sight(Mode.WARN, **fields)
    assert (found.health, found.gpu_factor) == (Health.UP, 1.0)
    assert found.gpu_reason


@pytest.mark.parametrize("fields", [LOST, HOT])
def test_off_says_and_does_nothing(fields: dict[str, Any]) -> None:
    world = World(b=About(mode=Mode.OFF))
    found = gated(Sight(Health.UP), world.look(A=fields)["b"])
    assert (found.health, found.gpu_factor, found.gpu_reason) == (Health.UP, 1.0, "")
    assert world.codes == []


# --- what the operator is told


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (Mode.ENFORCE, "it takes no new requests. See nvidia-smi"),
        (Mode.WARN, "it goes on taking requests (gpu_gate: warn). See nvidia-smi"),
    ],
)
def test_the_log_says_what_it_means_and_what_to_do(
    mode: Mode, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(b=About(mode=mode))
    world.look(A={"remap_pending": True})
    tell(world.events[0])
    assert caplog.records[0].levelname == "ERROR"
    assert "backend b: GPU 0 on h (H200): a bad memory row waits to be remapped" in caplog.text
    assert words in caplog.text


def test_the_log_tells_a_lower_weight_and_the_return(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world = World()
    world.look(A=HOT)
    world.look(10, A={"throttle": frozenset()})
    for event in world.events:
        tell(event)
    assert "about 50% of its clock is left; its weight falls to 50%" in caplog.text
    assert "backend b: its GPUs are well again" in caplog.text
