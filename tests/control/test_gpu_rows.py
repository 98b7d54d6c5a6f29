"""GPUs on the scrape page (INTERFACE section 6)."""

from __future__ import annotations

from dataclasses import replace

from gateway.control.exposition import Labels
from gateway.control.gpu_rows import rows
from gateway.core.gpus import Gpu, Holding, Panorama, State, Throttle

CARD = Gpu(
    "host1",
    "0",
    "A",
    busy=0.25,
    memory_used=10,
    memory_total=80,
    temperature=61.0,
    power=350.5,
    throttle=frozenset({Throttle.HW_THERMAL}),
    ecc_corrected=3,
    ecc_uncorrected=1,
    ecc_uncorrected_total=9,
    xids={79: 2, 13: 1},
)
LABELS = ("host1", "0", "A", "gpu1")
HELD = {"gpu1": Holding(("A",))}


def page(
    gpu: Gpu = CARD, holdings: dict[str, Holding] | None = None, *, stale: bool = False
) -> dict[str, dict[Labels, float]]:
    held = HELD if holdings is None else holdings
    seen = Panorama({gpu.uuid: gpu}, held, {gpu.uuid: 1.0} if stale else {})
    return rows(seen, frozenset(), {"A": 1234.5})


def test_every_reading_has_its_row_in_base_units() -> None:
    found = page()
    assert found["portico_gpu_utilization_ratio"] == {LABELS: 0.25}
    assert found["portico_gpu_memory_used_bytes"] == {LABELS: 10}
    assert found["portico_gpu_memory_total_bytes"] == {LABELS: 80}
    assert found["portico_gpu_temperature_celsius"] == {LABELS: 61.0}
    assert found["portico_gpu_power_watts"] == {LABELS: 350.5}
    assert found["portico_gpu_healthy"] == {LABELS: 1.0}
    assert found["portico_gpu_energy_joules_total"] == {LABELS: 1234.5}


def test_counters_have_a_row_for_each_kind_and_number() -> None:
    found = page()
    ecc = {(*LABELS, "corrected"): 3, (*LABELS, "uncorrected"): 1}
    assert found["portico_gpu_ecc_errors_total"] == ecc
    assert found["portico_gpu_xid_errors_total"] == {(*LABELS, "79"): 2, (*LABELS, "13"): 1}


def test_each_throttle_reason_is_told_whether_it_holds_or_not() -> None:
    found = page()["portico_gpu_throttled"]
    assert found == {
        (*LABELS, reason.value): float(reason is Throttle.HW_THERMAL) for reason in Throttle
    }


def test_what_the_device_does_not_say_has_no_row() -> None:
    found = page(Gpu("host1", "0", "A"))
    assert set(found) == {"portico_gpu_healthy", "portico_gpu_throttled"}
    lost = page(Gpu("host1", "0", "A", state=State.LOST))
    assert set(lost) == {"portico_gpu_healthy"}


def test_a_sick_gpu_is_not_healthy() -> None:
    seen = Panorama({"A": CARD}, HELD)
    assert rows(seen, frozenset({"A"}), {})["portico_gpu_healthy"] == {LABELS: 0.0}


def test_a_source_that_is_silent_leaves_counters_and_nothing_that_speaks_of_now() -> None:
    assert set(page(stale=True)) == {
        "portico_gpu_ecc_errors_total",
        "portico_gpu_xid_errors_total",
        "portico_gpu_energy_joules_total",
    }


def test_a_gpu_of_nobody_has_an_empty_backend_and_a_shared_one_all_names() -> None:
    assert list(page(holdings={})["portico_gpu_healthy"]) == [("host1", "0", "A", "")]
    both = {name: Holding(("A",)) for name in ("gpu2", "gpu1")}
    assert list(page(holdings=both)["portico_gpu_healthy"]) == [("host1", "0", "A", "gpu1,gpu2")]


def test_what_belongs_to_the_board_is_not_told_again_for_its_instances() -> None:
    instance = replace(CARD, uuid="MIG-1", index="0:1", mig_of="A")
    assert set(page(instance)) == {
        "portico_gpu_healthy",
        "portico_gpu_utilization_ratio",
        "portico_gpu_memory_used_bytes",
        "portico_gpu_memory_total_bytes",
    }
