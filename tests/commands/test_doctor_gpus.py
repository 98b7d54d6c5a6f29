"""The doctor on GPUs: what each says, whose it is, what is wrong and what to do."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.commands import doctor, doctor_gpus
from gateway.commands.doctor_gpus import Findings, Source
from gateway.config import Config
from gateway.core.gpu_gate import Verdict
from gateway.core.gpus import Gpu, Holding, Matched, Panorama, State, Throttle
from tests.fakes import nvml
from tests.fakes.engine import FakeEngine
from tests.harness import ROOT, environment

GIB = 1 << 30
CARD = Gpu(
    "host1",
    "0",
    "GPU-a",
    "NVIDIA H200",
    memory_used=40 * GIB,
    memory_total=80 * GIB,
    busy=0.5,
    temperature=61.0,
    slowdown_at=90.0,
    power=350.0,
    power_limit=700.0,
    clock=1755.0,
    clock_max=1980.0,
    ecc_corrected=2,
    ecc_uncorrected=0,
    notes={"NVLink errors": "not supported by this device"},
)
HELD = Holding(("GPU-a",), frozenset({7}), Matched.PROCESS, "port 8000 is process 7")


def findings(gpu: Gpu = CARD, verdict: Verdict | None = None, **more: Any) -> Findings:
    held = {"gpu1": HELD, "gpu2": Holding(why="it is another host; set gpus: {agent: …}")}
    seen = Panorama({gpu.uuid: gpu}, held, more.pop("stale", {}))
    return Findings(seen, {gpu.uuid: verdict or Verdict()}, **more)


def text(found: Findings) -> str:
    return "\n".join(doctor_gpus.lines(found))


def test_a_gpu_is_shown_with_its_readings_in_units_people_use() -> None:
    page = text(findings())
    for words in (
        "GPU 0 on host1 (NVIDIA H200)  GPU-a",
        "memory 40.0 of 80.0 GiB, busy 50%, 61 °C (slows down at 90)",
        "350 of 700 W, 1755 of 1980 MHz",
        "ECC corrected 2, ECC uncorrected 0",
        "not told  NVLink errors: not supported by this device",
        "used by   gpu1: its process was found on the GPU - port 8000 is process 7",
        "verdict   well",
    ):
        assert words in page
    assert doctor_gpus.problems(findings()) == []


def test_a_sick_gpu_is_a_problem_with_reason_and_remedy() -> None:
    verdict = Verdict("ecc_uncorrected", "GPU 0: errors are rising", "nvidia-smi --gpu-reset")
    page = text(findings(verdict=verdict))
    assert "verdict   sick (ecc_uncorrected): an engine on it gets no new requests" in page
    assert "PROBLEM   GPU 0: errors are rising" in page
    assert "remedy    nvidia-smi --gpu-reset" in page


def test_a_throttled_gpu_is_a_problem_of_cooling_or_power() -> None:
    hot = replace(CARD, throttle=frozenset({Throttle.HW_THERMAL}))
    verdict = Verdict(factor=0.5, slow="GPU 0: throttled (hw_thermal)")
    page = text(findings(hot, verdict))
    assert "verdict   slow: an engine on it gets 50% of its weight" in page
    assert "throttled: hw_thermal" in page
    assert "nvidia-smi -q -d PERFORMANCE,TEMPERATURE,POWER,CLOCK -i GPU-a" in page


def test_reported_numbers_are_explained_and_only_fatal_ones_are_a_problem() -> None:
    found = findings(replace(CARD, xids={13: 2, 79: 1}))
    assert "XID 13 2 times (graphics engine exception, application)" in text(found)
    ((uuid, problem, remedy),) = doctor_gpus.problems(found)
    assert (uuid, "XID 79 (the GPU has fallen off the bus)" in problem) == ("GPU-a", True)
    assert "no harm if the engine was restarted after it" in problem
    assert "Reboot the host" in remedy


def test_a_reading_that_is_not_allowed_says_how_to_allow_it() -> None:
    found = findings(replace(CARD, state=State.DENIED, detail="nvmlDeviceGetMemoryInfo"))
    ((_, problem, remedy),) = doctor_gpus.problems(found)
    assert "no permission: nvmlDeviceGetMemoryInfo" in problem
    assert "/dev/nvidia" in remedy


def test_a_stale_source_is_told() -> None:
    assert "its source has stopped answering" in text(findings(stale={"GPU-a": 1.0}))


def test_a_source_without_an_answer_says_why() -> None:
    found = Findings(sources=(Source("NVML of this host", "the driver is not loaded"),))
    assert text(found) == "GPUs: none was found\n  NVML of this host: the driver is not loaded"


def test_a_backend_says_which_gpus_it_has_and_how_or_why_not() -> None:
    found = findings()
    assert doctor_gpus.matched(found, "gpu1") == (
        "0 (GPU-a): its process was found on the GPU - port 8000 is process 7"
    )
    assert "set gpus: {agent: …}" in doctor_gpus.matched(found, "gpu2")
    assert doctor_gpus.matched(found, "gpu3") == "not looked for"


def test_machines_get_every_reading_and_the_verdict() -> None:
    verdict = Verdict("gpu_lost", "GPU 0: lost", "reboot", 1.0)
    (entry,) = json.loads(json.dumps(doctor_gpus.entries(findings(verdict=verdict))))
    assert (entry["uuid"], entry["memory_used"], entry["verdict"]) == (
        "GPU-a",
        40 * GIB,
        "gpu_lost",
    )
    assert entry["problems"] == [{"problem": "GPU 0: lost", "remedy": "reboot"}]
    assert list(entry["backends"]) == ["gpu1"]


def test_a_problem_of_a_gpu_counts_as_one() -> None:
    found = findings(verdict=Verdict("gpu_lost", "GPU 0: lost", "reboot", 1.0))
    assert json.loads(doctor.as_json([], Config(), found))["problems"] == 1
    assert doctor.as_text([], Config(), found).endswith("1 problem found.\n")


# --- the command, on a pretended host


async def doctored(stub: nvml.Stub, folder: Path, *args: str) -> tuple[int, str]:
    """``portico doctor`` as a process, with one engine on the stub's first GPU."""
    async with FakeEngine("vllm", ["m"]) as engine:
        one = {"name": "b0", "url": engine.url, "gpus": {"devices": [0]}}
        file = folder / "portico.yaml"
        file.write_text(yaml.safe_dump({"backends": [one]}))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "doctor", "--no-discover", "--config", str(file)),
            *args,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env=environment(stub.env()),
        )
        out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


@pytest.mark.skipif(not nvml.GCC, reason=nvml.NO_GCC)
async def test_the_doctor_looks_at_this_hosts_gpus(tmp_path: Path) -> None:
    with nvml.Stub(tmp_path, gpus=2) as stub:
        status, page = await doctored(stub, tmp_path)
        assert status == 0, page
        assert f"GPUs      0 ({stub.uuid(0)}): configured" in page
        assert "(Stub H100)" in page and "used by   no backend that is known" in page
        stub[0].remap_failed = 1
        status, out = await doctored(stub, tmp_path, "--json")
        doc = json.loads(out)
        assert (status, doc["problems"]) == (1, 1)
        verdicts = {gpu["index"]: gpu["verdict"] for gpu in doc["gpus"]}
        assert verdicts == {"0": "row_remap_failed", "1": "well"}
        assert doc["backends"][0]["gpus"].startswith(f"0 ({stub.uuid(0)})")
