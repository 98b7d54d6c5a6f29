"""The page of a DCGM exporter, in the format that NVIDIA documents."""

from __future__ import annotations

import pytest

from gateway.core.gpus import Throttle
from gateway.sensors.dcgm import Page

MIB = 1 << 20

LABELS = (
    'gpu="{n}",UUID="GPU-{n}",pci_bus_id="00000000:0{n}:00.0",device="nvidia{n}",'
    'modelName="NVIDIA H100 80GB HBM3",Hostname="box",DCGM_FI_DRIVER_VERSION="580.95.05"'
)


def metric(name: str, *values: float, kind: str = "gauge", more: str = "") -> str:
    """A family with a value for each device."""
    lines = [f"# HELP {name} Words (in units).", f"# TYPE {name} {kind}"]
    lines += [f"{name}{{{LABELS.format(n=n)}{more}}} {value}" for n, value in enumerate(values)]
    return "\n".join(lines) + "\n"


PAGE = "".join(
    [
        metric("DCGM_FI_DEV_SM_CLOCK", 1500, 1980),
        metric("DCGM_FI_DEV_MEM_CLOCK", 2619, 2619),
        metric("DCGM_FI_DEV_GPU_TEMP", 70, 40),
        metric("DCGM_FI_DEV_POWER_USAGE", 650.5, 80.25),
        metric("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 5000, 6000, kind="counter"),
        metric("DCGM_FI_DEV_GPU_UTIL", 95, 0),
        metric("DCGM_FI_DEV_XID_ERRORS", 0, 31, more=',err_code="31",err_msg="a fault, \\"x\\""'),
        metric("DCGM_FI_DEV_FB_FREE", 1000, 80000),
        metric("DCGM_FI_DEV_FB_USED", 80000, 1000),
        metric("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", 2, 0, kind="counter"),
        metric("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", 2147483632, 4, kind="counter"),
        metric("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", 3, 0, kind="counter"),
        metric("DCGM_FI_DEV_ROW_REMAP_FAILURE", 1, 0),
        metric("DCGM_FI_DEV_CLOCKS_EVENT_REASONS", 0x48, 0x1),
        metric("DCGM_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_TOTAL", 1, 0, kind="counter"),
        metric("DCGM_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_TOTAL", 2, 0, kind="counter"),
        "# TYPE go_goroutines gauge\ngo_goroutines 12\n",
    ]
)


def test_a_page_is_read_into_our_units() -> None:
    hot, cool = Page().read(PAGE, 5.0)
    assert (hot.uuid, hot.index, hot.host, hot.at) == ("GPU-0", "0", "box", 5.0)
    assert (hot.name, hot.pci) == ("NVIDIA H100 80GB HBM3", "00000000:00:00.0")
    assert (hot.memory_used, hot.memory_total) == (80000 * MIB, 81000 * MIB)
    assert (hot.busy, hot.temperature, hot.power, hot.energy) == (0.95, 70.0, 650.5, 5.0)
    assert hot.throttle == {Throttle.HW_SLOWDOWN, Throttle.HW_THERMAL}
    assert (hot.ecc_uncorrected, hot.remapped_rows, hot.remap_failed) == (2, 3, True)
    assert hot.nvlink_errors == 3
    assert (cool.throttle, cool.remap_failed, cool.clock) == (frozenset(), False, 1980.0)


def test_what_the_exporter_leaves_out_or_blank_is_not_told() -> None:
    hot, cool = Page().read(PAGE, 5.0)
    assert (hot.ecc_corrected, cool.ecc_corrected) == (None, 4)
    assert (hot.slowdown_at, hot.remap_pending, hot.clock_max) == (None, None, None)


def test_an_xid_counts_from_when_it_changes() -> None:
    page = Page()
    assert [gpu.xids for gpu in page.read(PAGE, 1.0)] == [{}, {}]
    after = PAGE.replace(",err_code", ",err_code", 1)
    row = f'DCGM_FI_DEV_XID_ERRORS{{{LABELS.format(n=0)},err_code="31",err_msg="a fault, '
    changed = after.replace(f'{row}\\"x\\""}} 0', f'{row}\\"x\\""}} 79')
    assert [gpu.xids for gpu in page.read(changed, 2.0)] == [{79: 1}, {}]
    assert [gpu.xids for gpu in page.read(changed, 3.0)] == [{79: 1}, {}]


def test_a_mig_instance_is_a_device_of_its_own() -> None:
    part = metric("DCGM_FI_DEV_FB_USED", 500, more=',GPU_I_PROFILE="1g.10gb",GPU_I_ID="7"')
    (gpu,) = Page().read(part, 1.0)
    assert (gpu.uuid, gpu.index, gpu.mig_of) == ("GPU-0/7", "0:7", "GPU-0")
    assert gpu.name == "NVIDIA H100 80GB HBM3 MIG 1g.10gb"


@pytest.mark.parametrize("text", ["", "go_goroutines 12\n", "<html>no</html>", '{"a": 1}'])
def test_what_is_no_exporters_page_is_told(text: str) -> None:
    with pytest.raises(ValueError, match="the page there"):
        Page().read(text, 1.0)
