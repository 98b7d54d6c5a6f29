"""All sources in one picture: what is fresh, what is stale, whose GPUs are whose."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.core.gpus import Gpu, Gpus, Holding, Matched, Panorama, Process
from gateway.sensors.owners import Line, Listener, Scene
from gateway.sensors.panorama import LOCAL, Kind, Seen, Wanted, combine, remember

AGENT = "http://10.0.0.11:9835"
PAGE = "http://10.0.0.12:9400/metrics"


def gpu(number: int, host: str = "box", *pids: int) -> Gpu:
    return Gpu(host, str(number), f"GPU-{host}-{number}", processes=tuple(map(Process, pids)))


def own(*gpus: Gpu, at: float = 100.0, **changes: object) -> Seen:
    return replace(Seen(LOCAL, Kind.LOCAL, 1.0, gpus, at=at), **changes)  # type: ignore[arg-type]


def agent(*gpus: Gpu, at: float = 100.0, **changes: object) -> Seen:
    return replace(Seen(AGENT, Kind.AGENT, 1.0, gpus, at=at), **changes)  # type: ignore[arg-type]


SCENE = Scene(
    lines={7: Line(7, "worker", listens=frozenset({Listener("0.0.0.0", 8000, "n", 6)}))},
    net="n",
    addresses={"n": frozenset({"127.0.0.1"})},
    taken=frozenset({8000}),
)
NEAR = Wanted("near", "localhost", 8000, ("127.0.0.1",), here=True)
FAR = Wanted("far", "10.0.0.11", 8000, ("10.0.0.11",), gpus=Gpus(agent=AGENT), agent=AGENT)


def see(*sources: Seen, wanted: tuple[Wanted, ...] = (NEAR,), now: float = 100.0) -> Panorama:
    return combine(now, sources, wanted, SCENE, {})


def test_a_backend_on_this_host_is_found_by_its_process() -> None:
    found = see(own(gpu(0, "box", 7), gpu(1))).holdings["near"]
    assert (found.gpus, found.pids, found.matched) == (
        ("GPU-box-0",),
        {6, 7},
        Matched.PROCESS,
    )


def test_the_configuration_comes_before_what_was_found() -> None:
    wanted = replace(NEAR, gpus=Gpus(devices=(1, "GPU-box-2")))
    found = see(own(gpu(0, "box", 7), gpu(1), gpu(2)), wanted=(wanted,)).holdings["near"]
    assert (found.gpus, found.matched) == (("GPU-box-1", "GPU-box-2"), Matched.CONFIGURED)


def test_a_configured_device_that_is_not_there_is_told_with_those_that_are() -> None:
    found = see(own(gpu(0)), wanted=(replace(NEAR, gpus=Gpus(devices=(5,))),)).holdings["near"]
    assert (found.gpus, found.matched) == ((), Matched.UNKNOWN)
    assert "names 5, which the NVML of this host has not: 0 (GPU-box-0)" in found.why


def test_an_agent_tells_what_is_behind_a_port_of_its_host() -> None:
    ports = {8000: Holding(("GPU-far-1",), frozenset({9}), Matched.PROCESS, "there")}
    picture = see(own(gpu(0)), agent(gpu(1, "far"), ports=ports), wanted=(FAR,))
    assert picture.holdings["far"].gpus == ("GPU-far-1",)
    assert picture.holdings["far"].matched is Matched.AGENT
    assert set(picture.gpus) == {"GPU-box-0", "GPU-far-1"}


def test_an_agent_that_sees_no_process_passes_its_reason_on() -> None:
    why = see(agent(gpu(1, "far"), unmatched="no permission"), wanted=(FAR,)).holdings["far"].why
    assert "sees no process on a GPU behind port 8000: no permission" in why


def test_a_backend_of_the_same_host_uses_its_neighbours_agent() -> None:
    other = replace(FAR, name="other", port=8001, gpus=None)
    ports = {8001: Holding(("GPU-far-2",), frozenset({9}))}
    picture = see(agent(gpu(2, "far"), ports=ports), wanted=(other,))
    assert picture.holdings["other"].gpus == ("GPU-far-2",)


def test_a_host_of_which_nobody_tells_is_told_what_to_run() -> None:
    why = see(own(gpu(0)), wanted=(Wanted("x", "h", 80, ("10.9.9.9",)),)).holdings["x"].why
    assert "run 'portico gpu-agent' on it and set gpus: {agent: http://h:9835}" in why


def test_an_exporter_needs_devices_unless_it_has_only_one_gpu() -> None:
    wanted = Wanted("x", "10.0.0.12", 80, gpus=Gpus(dcgm=PAGE))
    page = Seen(PAGE, Kind.DCGM, 5.0, (gpu(0), gpu(1)), at=100.0)
    assert "name this backend's" in see(page, wanted=(wanted,)).holdings["x"].why
    named = replace(wanted, gpus=Gpus(dcgm=PAGE, devices=(1,)))
    assert see(page, wanted=(named,)).holdings["x"].gpus == ("GPU-box-1",)
    assert see(replace(page, gpus=(gpu(0),)), wanted=(wanted,)).holdings["x"].gpus


@pytest.mark.parametrize(
    ("age", "there", "stale"), [(0.0, True, False), (6.0, True, True), (70.0, False, False)]
)
def test_a_source_that_stops_answering_gets_stale_and_then_unknown(
    age: float, there: bool, stale: bool
) -> None:
    ports = {8000: Holding(("GPU-far-1",), frozenset({9}))}
    source = agent(gpu(1, "far"), ports=ports, error="nobody listens there")
    picture = see(source, wanted=(FAR,), now=100.0 + age)
    assert ("GPU-far-1" in picture.gpus, "GPU-far-1" in picture.stale) == (there, stale)
    assert bool(picture.holdings["far"].gpus) is there
    if stale:
        assert picture.stale["GPU-far-1"] == 100.0
    if not there:
        assert "has stopped answering: nobody listens there" in picture.holdings["far"].why


def test_a_gpu_that_two_sources_tell_is_taken_from_the_fresh_one() -> None:
    late = own(replace(gpu(0), busy=0.1), at=90.0)
    picture = see(late, agent(replace(gpu(0), busy=0.9)), now=100.0)
    assert picture.gpus["GPU-box-0"].busy == 0.9
    assert not picture.stale


def test_an_engine_that_is_away_keeps_its_gpus_for_a_while() -> None:
    here = see(own(gpu(0, "box", 7)))
    before = remember(here, {})
    gone = Scene(net="n", addresses=SCENE.addresses)
    soon = combine(110.0, [own(gpu(0), at=110.0)], [NEAR], gone, before).holdings["near"]
    assert (soon.gpus, soon.pids) == (("GPU-box-0",), frozenset())
    assert soon.why.startswith("last seen there; now: no process computes on a GPU")
    late = combine(300.0, [own(gpu(0), at=300.0)], [NEAR], gone, before).holdings["near"]
    assert late.gpus == ()


def test_a_host_without_a_gpu_says_why() -> None:
    picture = see(own(detail="the NVIDIA driver is not loaded"))
    assert picture.detail == "the NVIDIA driver is not loaded"
    assert picture.holdings["near"].why == "the NVIDIA driver is not loaded"
