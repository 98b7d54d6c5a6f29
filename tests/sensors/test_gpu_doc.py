"""What the agent says: written and read again, by other versions too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.gpus import Gpu, Holding, Matched, Process, State, Throttle
from gateway.sensors.gpu_doc import Report, from_doc, to_doc

WHOLE = Gpu(
    host="box",
    index="0:1",
    uuid="MIG-1",
    name="NVIDIA H200",
    pci="00000000:1B:00.0",
    mig_of="GPU-1",
    state=State.DENIED,
    detail="no permission",
    at=98.0,
    memory_used=5,
    memory_total=10,
    memory_reserved=1,
    busy=0.5,
    temperature=40.0,
    slowdown_at=90.0,
    power=100.5,
    power_limit=700.0,
    energy=12.25,
    clock=1500.0,
    clock_max=1980.0,
    throttle=frozenset({Throttle.HW_THERMAL, Throttle.SW_POWER_CAP}),
    ecc_corrected=1,
    ecc_uncorrected=2,
    ecc_corrected_total=3,
    ecc_uncorrected_total=4,
    remap_pending=True,
    remap_failed=False,
    remapped_rows=6,
    retired_pages=7,
    retired_pending=False,
    nvlink_errors=8,
    recovery="gpu_reset",
    xids={31: 2, 79: 1},
    processes=(Process(7, 9), Process(8, None, True)),
    notes={"ECC": "not supported"},
)


def test_what_is_written_is_read_again() -> None:
    ports = {8000: Holding(("MIG-1",), frozenset({7}), Matched.AGENT, "it computes there")}
    report = Report("box", (WHOLE,), ports, 2.0, "a detail", "an obstacle")
    assert from_doc(json.loads(json.dumps(to_doc(report))), now=100.0) == report


def test_a_later_agent_may_say_more() -> None:
    doc = to_doc(Report("box", (WHOLE,)))
    doc["colour"] = "green"
    doc["gpus"][0] |= {"memory_bandwidth": 5, "throttle": ["sw_power_cap", "new_reason"]}
    doc["gpus"][0]["state"] = "a new state"
    found = from_doc(doc, now=98.0).gpus[0]
    assert (found.throttle, found.state) == ({Throttle.SW_POWER_CAP}, State.FAILED)
    assert found.memory_used == 5


def test_an_earlier_agent_may_say_less() -> None:
    doc = {"version": 1, "host": "box", "gpus": [{"uuid": "GPU-1"}]}
    assert from_doc(doc, now=5.0).gpus == (Gpu("box", "", "GPU-1", state=State.FAILED, at=5.0),)


@pytest.mark.parametrize("doc", [None, [], "x", {}, {"version": 1}, {"gpus": 5, "version": 1}])
def test_what_is_no_agent_is_told(doc: Any) -> None:
    with pytest.raises(ValueError, match="no gpu-agent"):
        from_doc(doc, now=0.0)


def test_another_version_is_told_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="version 2 and this gateway version 1: update the older"):
        from_doc({"version": 2, "gpus": []}, now=0.0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
FIELDS = st.sampled_from([*to_doc(Report(gpus=(WHOLE,)))["gpus"][0], "other"])


MORE = st.sampled_from(["ports", "age", "host", "detail"])


@given(gpu=st.dictionaries(FIELDS, JSON), more=st.dictionaries(MORE, JSON))
def test_nothing_that_stands_in_a_document_breaks_its_reader(
    gpu: dict[str, Any], more: dict[str, Any]
) -> None:
    report = from_doc({"version": 1, "gpus": [{"uuid": "GPU-1"} | gpu]} | more, now=1.0)
    assert len(report.gpus) <= 1
