"""``portico doctor``: every problem comes with its remedy."""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.build import version
from gateway.commands import doctor
from gateway.config import Config, Server
from gateway.core.types import Backend, PublicModel, Target
from gateway.sensors.ask import Asker
from gateway.sensors.discover import Discoverer
from tests.fakes.engine import FakeEngine
from tests.harness import free_port
from tests.sensors.stub import Page, Stub, at, hang, hang_up, models, page, raw


async def examined(*backends: Backend, **other: Any) -> tuple[list[doctor.Report], Config]:
    config = Config(backends=backends, **{"discover": False, **other})
    return doctor.diagnose(await doctor.examine(config), config), config


def told(report: doctor.Report) -> str:
    return " | ".join(f"{p.problem} -> {p.remedy}" for p in report.problems)


def engine_at(engine: FakeEngine, name: str = "b", **other: Any) -> Backend:
    return Backend(name, f"http://127.0.0.1:{engine.port}", **other)


async def command(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    doctor.add_arguments(parser)
    return await asyncio.to_thread(doctor.run, parser.parse_args(argv))


# -- the command ----------------------------------------------------------------------------------


async def test_a_healthy_backend_is_described_and_the_status_is_0(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with FakeEngine("vllm", models=("qwen",)) as engine:
        status = await command("--no-discover", "--backend", f"gpu1=http://127.0.0.1:{engine.port}")
    out = capsys.readouterr().out
    assert status == 0
    for words in (
        "gpu1",
        "vLLM",
        "recognised: ",
        "up: ",
        " ms)",
        "qwen  context 4096",
        "running 0",
    ):
        assert words in out
    assert "  GPUs      " in out and "GPUs: none was found" in out
    assert out.endswith("No problem found.\n")


async def test_json_is_one_object_and_a_problem_makes_the_status_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert await command("--json", "--no-discover", "--backend", f"gone={url}") == 1
    doc = json.loads(capsys.readouterr().out)
    (entry,) = doc["backends"]
    assert doc["problems"] == 1
    assert (entry["name"], entry["url"], entry["health"]) == ("gone", url, "down")
    assert set(entry["problems"][0]) == {"problem", "remedy"}
    assert {"runtime", "detail", "version", "models", "load"} <= set(entry)


async def test_a_faulty_configuration_is_told_a_line_a_fault_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "portico.yaml"
    file.write_text("backends:\n  - {name: a, url: 'ftp://x'}\nnonsense: 1\n")
    assert await command("--config", str(file)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 2
    assert "backends[0].url" in captured.err


async def test_both_forms_begin_with_the_version() -> None:
    reports, config = await examined()
    assert doctor.as_text(reports, config).startswith(f"Portico {version()}\n")
    assert json.loads(doctor.as_json(reports, config))["portico"] == version()


async def test_no_backend_at_all_says_how_to_name_one() -> None:
    reports, config = await examined()
    assert "portico serve --backend" in doctor.as_text(reports, config)


async def test_engines_on_well_known_ports_are_examined_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FakeEngine("ollama", models=("llama3.2:3b",)) as engine:
        monkeypatch.setattr(doctor, "PORTS", (engine.port,))
        reports, config = await examined(discover=True)
    assert [report.backend.name for report in reports] == ["ollama"]
    assert "(discovered)" in doctor.as_text(reports, config)


async def test_secrets_are_never_printed() -> None:
    async with FakeEngine("vllm", api_key="right") as engine:
        reports, config = await examined(engine_at(engine, secret="s3cret-wrong"))
    assert "key refused" in told(reports[0])
    assert "s3cret" not in doctor.as_text(reports, config) + doctor.as_json(reports, config)


# -- problems and remedies ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("otherwise", "problem", "remedy"),
    [
        (hang, "timed out", "look into its log"),
        (hang_up, "closed before", "crashing engine"),
        (raw(b"220 smtp\r\n"), "not HTTP", "Check the port"),
        (page("<html>"), "like no runtime known", "set its runtime, one of: vllm"),
        (page("", 302, "Location: /x"), "like no runtime known", "Check host, port and path"),
        (page("", 401), "asks for a key", "Set api_key"),
        (page("", 403), "refuses every question", "OLLAMA_HOST"),
        (page("", 503), "not ready yet", "Wait"),
    ],
)
async def test_each_way_of_not_being_an_engine_has_its_remedy(
    otherwise: Page, problem: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.sensors.probe.IDENTIFY_TIMEOUT", 0.2)
    async with Stub() as stub:
        stub.otherwise = otherwise
        (report,), _ = await examined(at(stub))
    assert len(report.problems) == 1
    assert problem in report.problems[0].problem
    assert remedy in report.problems[0].remedy


async def test_a_refused_connection_asks_whether_the_engine_runs() -> None:
    (report,), _ = await examined(Backend("b", f"http://127.0.0.1:{free_port()}"))
    assert "connection refused" in told(report)
    for words in ("Start the engine", "host and port", "loopback", "firewall"):
        assert words in report.problems[0].remedy


async def test_an_unknown_name_is_about_names() -> None:
    (report,), _ = await examined(Backend("b", "http://no-such-host.invalid"))
    assert "DNS" in told(report)


async def test_https_towards_a_plain_server_is_about_tls() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(page("", 400))
        await writer.drain()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        (report,), _ = await examined(Backend("b", f"https://127.0.0.1:{port}"))
    assert "write http:// in the url" in told(report)


@pytest.mark.parametrize(("secret", "remedy"), [(None, "Set api_key"), ("no", "Correct the api_k")])
async def test_a_key_problem_says_which_key(secret: str | None, remedy: str) -> None:
    async with FakeEngine("vllm", api_key="right") as engine:
        (report,), _ = await examined(engine_at(engine, secret=secret, runtime="vllm"))
    assert remedy in told(report)
    async with FakeEngine("vllm", api_key="right") as engine:
        (report,), _ = await examined(engine_at(engine, secret="right", runtime="vllm"))
    assert report.problems == ()


async def test_a_loading_engine_is_a_problem_that_passes() -> None:
    async with FakeEngine("llamacpp") as engine:
        engine.loading = True
        (report,), _ = await examined(engine_at(engine))
    assert "not ready yet" in told(report)


async def test_a_wrongly_named_runtime_is_noticed() -> None:
    async with FakeEngine("sglang") as engine:
        (report,), _ = await examined(engine_at(engine, runtime="vllm"))
    assert "configured as vllm, but it answers like SGLang" in told(report)


async def test_configured_models_and_targets_that_are_not_served_are_named() -> None:
    public = PublicModel("chat", (Target("b", "gone"), Target("b", "qwen"), Target("x", "other")))
    async with FakeEngine("vllm", models=("qwen",)) as engine:
        (report,), _ = await examined(engine_at(engine, models=("qwen", "lost")), models=(public,))
    assert len(report.problems) == 2
    assert "configured models it does not serve: lost" in told(report)
    assert "the public name 'chat' leads to 'gone'" in told(report)
    assert "It serves: qwen." in told(report)


async def test_an_engine_without_models_is_told_to_load_one() -> None:
    async with FakeEngine("ollama", models=()) as engine:
        (report,), _ = await examined(engine_at(engine))
    assert "it serves no model" in told(report)


async def test_two_backends_at_one_address_are_noticed_whatever_its_spelling() -> None:
    async with FakeEngine("vllm") as engine:
        one = engine_at(engine, "one")
        two = replace(one, name="two", url=f"http://localhost:{engine.port}")
        reports, _ = await examined(one, two)
    assert [told(report).split(" -> ")[0] for report in reports] == [
        "has the same url as two",
        "has the same url as one",
    ]


async def test_the_gateway_as_its_own_backend_is_noticed_and_another_one_is_none() -> None:
    version = page({"name": "portico", "version": "1", "instance": "x"})
    async with Stub({"/version": version, "/v1/models": models("m")}) as stub:
        (report,), _ = await examined(at(stub), server=Server(port=stub.port))
        assert "this address is the gateway itself" in told(report)
        (report,), _ = await examined(at(stub), server=Server(port=free_port()))
        assert report.problems == ()


def test_load_that_needs_a_flag_names_the_flag() -> None:
    row = doctor.book.BY_NAME["llamacpp"]
    assert "--metrics" in doctor._load(row, doctor.Load())
    assert "not published" in doctor._load(doctor.book.BY_NAME["ollama"], doctor.Load(slots=1))


async def test_discovery_by_the_doctor_never_takes_a_running_gateway_for_an_engine() -> None:
    async with Stub({"/v1/models": models("m")}) as stub:
        stub.otherwise = page("", 404, "Server: portico/1")
        async with Asker() as ask:
            assert await Discoverer([stub.port], ()).look(ask, []) == []
