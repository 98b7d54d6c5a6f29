"""Backends: addresses, names, runtimes, limits."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from backends import BY_NAME
from gateway.config import Gpus
from gateway.config.dump import dump
from gateway.core.gpu_gate import Mode
from gateway.core.runtime import Runtime
from gateway.core.types import Backend, Timeouts

from .helpers import fault, faults, loaded


def backend(folder: Path, settings: str) -> Backend:
    (found,) = loaded(folder, f"backends: [{{{settings}}}]").backends
    return found


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        ("http://h:8000", "http://h:8000"),
        ("http://h:8000/", "http://h:8000"),
        ("http://h:8000/v1", "http://h:8000"),
        ("http://h:8000/v1/", "http://h:8000"),
        ("HTTP://Host.LAN:8000", "http://host.lan:8000"),
        ("https://h", "https://h"),
        ("http://h/vllm", "http://h/vllm"),
        ("http://h/vllm/v1/", "http://h/vllm"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://h:8000/v1beta", "http://h:8000/v1beta"),
    ],
)
def test_an_address_is_brought_into_plain_form(tmp_path: Path, written: str, plain: str) -> None:
    assert backend(tmp_path, f"url: '{written}'").url == plain


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("10.0.0.1:8000", "has no scheme; write it as http://HOST:PORT"),
        ("localhost", "has no scheme; write it as http://HOST:PORT"),
        ("ftp://h", "must begin with http:// or https://"),
        ("unix:///run/x.sock", "must begin with http:// or https://"),
        ("http://", "has no host; write it as http://HOST:PORT"),
        ("http://:8000", "has no host; write it as http://HOST:PORT"),
        (
            "http://me:hush@h",
            "must not hold a user or password; put the key into api_key",
        ),
        ("http://h/?key=hush", "must end before any '?' or '#'"),
        ("http://h/#a", "must end before any '?' or '#'"),
        ("http://h:99999", "has a host or port that cannot be; ports are 1 to 65535"),
        ("http://h:0", "has a host or port that cannot be; ports are 1 to 65535"),
        ("http://h:port", "has a host or port that cannot be; ports are 1 to 65535"),
        ("http://[::1", "has a host or port that cannot be; ports are 1 to 65535"),
        ("http://a b", "has a space or another character that must not stand in a URL"),
        ("http://h\\x", "has a space or another character that must not stand in a URL"),
        ("http://hö", "has a space or another character that must not stand in a URL"),
        ("http://-h", "has a host name with characters that cannot be in one"),
        (
            "http://h/v1/chat/completions",
            "must be the engine's base address; leave out /v1 and what follows",
        ),
        ("", "is empty; write a value or remove the line"),
    ],
)
def test_an_address_that_cannot_be_is_refused(tmp_path: Path, url: str, reason: str) -> None:
    found = fault(tmp_path, f"backends: [{{url: '{url}'}}]")
    assert found == f"backends[0].url: {reason}"
    assert "hush" not in found


def test_an_address_is_required(tmp_path: Path) -> None:
    assert fault(tmp_path, "backends: [{name: a}]") == (
        "backends[0].url: is required: the engine's base address, such as http://10.0.0.11:8000"
    )


def test_hosted_providers_have_a_known_address(tmp_path: Path) -> None:
    assert backend(tmp_path, "runtime: openai").url == "https://api.openai.com"
    assert backend(tmp_path, "runtime: anthropic").url == "https://api.anthropic.com"
    assert backend(tmp_path, "runtime: openai, url: 'http://proxy:1'").url == "http://proxy:1"


@pytest.mark.parametrize("row", BY_NAME.values(), ids=lambda row: row.name)
def test_only_hosted_providers_have_one(row: Runtime) -> None:
    assert bool(row.url) == row.cloud


@pytest.mark.parametrize("runtime", ["auto", *BY_NAME])
def test_every_runtime_may_be_named_both_ways(tmp_path: Path, runtime: str) -> None:
    assert backend(tmp_path, f"url: 'http://h:1', runtime: {runtime}").runtime == runtime
    assert backend(tmp_path, f"url: '{runtime}+http://h:1'").runtime == runtime
    assert backend(tmp_path, f"url: '{runtime}+http://h:1', runtime: {runtime}").url == "http://h:1"


def test_an_unknown_runtime_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    known = ", ".join(("auto", *BY_NAME))
    assert fault(tmp_path, "backends: [{url: 'http://h:1', runtime: exllama}]") == (
        f"backends[0].runtime: must be one of {known}"
    )
    assert fault(tmp_path, "backends: [{url: 'exllama+http://h:1'}]") == (
        f"backends[0].url: begins with an unknown runtime; known: {known}"
    )


def test_two_different_runtimes_for_one_backend_are_refused(tmp_path: Path) -> None:
    assert fault(tmp_path, "backends: [{url: 'vllm+http://h:1', runtime: tgi}]") == (
        "backends[0].url: names another runtime than 'runtime' does; keep one of the two"
    )


def test_a_name_is_made_from_host_and_port(tmp_path: Path) -> None:
    text = "backends: [{url: 'http://127.0.0.1:8001'}, {url: 'https://h'}, {url: 'http://[::1]:2'}]"
    names = [one.name for one in loaded(tmp_path, text).backends]
    assert names == ["127.0.0.1-8001", "h", "1-2"]


def test_made_names_are_unique_and_leave_given_ones_alone(tmp_path: Path) -> None:
    text = """
backends:
  - {url: "http://h:1"}
  - {url: "http://h:1/a"}
  - {url: "http://h:1/b"}
  - {url: "http://x:1", name: h-1}
"""
    names = [one.name for one in loaded(tmp_path, text).backends]
    assert names == ["h-1-2", "h-1-3", "h-1-4", "h-1"]


@pytest.mark.parametrize("name", ["a:b", "a b", "a/b", "x" * 65, "ä"])
def test_a_name_that_could_not_stand_before_a_colon_is_refused(tmp_path: Path, name: str) -> None:
    found = fault(tmp_path, f"backends: [{{name: '{name}', url: 'http://h:1'}}]")
    assert found.startswith("backends[0].name: must be 1 to 64 letters, digits, dots")


def test_two_backends_of_one_name_are_refused(tmp_path: Path) -> None:
    text = "backends: [{name: a, url: 'http://h:1'}, {name: a, url: 'http://h:2'}]"
    assert fault(tmp_path, text) == "backends[1].name: is the name of backends[0] as well"


def test_a_faulty_backend_still_holds_its_name(tmp_path: Path) -> None:
    text = """
backends: [{name: a, url: nonsense}, {name: a, url: "http://h:2"}]
models: [{name: m, targets: [{backend: a}]}]
"""
    assert [line.split(": ")[0] for line in faults(tmp_path, text)] == [
        "backends[0].url",
        "backends[1].name",
    ]


@pytest.mark.parametrize("weight", ["0", "-1", ".nan", ".inf", "2e6"])
def test_a_weight_is_above_zero_and_within_reason(tmp_path: Path, weight: str) -> None:
    found = fault(tmp_path, f"backends: [{{url: 'http://h:1', weight: {weight}}}]")
    assert found == "backends[0].weight: must be above 0 and at most 1000000"


@pytest.mark.parametrize("weight", ["heavy", "true", "[1]"])
def test_a_weight_is_a_number(tmp_path: Path, weight: str) -> None:
    found = fault(tmp_path, f"backends: [{{url: 'http://h:1', weight: {weight}}}]")
    assert found == "backends[0].weight: must be a number above 0, such as 1 or 2.5"


@pytest.mark.parametrize("limit", ["0", "-3", "1.5", "many", "true"])
def test_a_limit_is_a_whole_number_of_at_least_one(tmp_path: Path, limit: str) -> None:
    found = fault(tmp_path, f"backends: [{{url: 'http://h:1', max_concurrency: {limit}}}]")
    assert found == "backends[0].max_concurrency: must be a whole number, 1 or more"


def test_timeouts_have_defaults_one_by_one(tmp_path: Path) -> None:
    assert backend(tmp_path, "url: 'http://h:1'").timeouts == Timeouts(2, 120, 60)
    assert backend(tmp_path, "url: 'http://h:1', timeouts: {idle: 250ms}").timeouts == Timeouts(
        2, 120, 0.25
    )


def test_a_timeout_of_nothing_is_refused(tmp_path: Path) -> None:
    found = fault(tmp_path, "backends: [{url: 'http://h:1', timeouts: {connect: 0}}]")
    assert found.startswith("backends[0].timeouts.connect: must be more than zero")


def test_gpus_are_checked_and_kept(tmp_path: Path) -> None:
    text = """
backends:
  - name: a
    url: http://h:1
    gpus: {agent: "http://h:9835/", devices: [0, GPU-12ab-34cd]}
  - name: b
    url: http://h:2
    gpus: {dcgm: "http://h:9400/metrics", devices: [MIG-9f]}
"""
    assert loaded(tmp_path, text).gpus == {
        "a": Gpus(agent="http://h:9835", devices=(0, "GPU-12ab-34cd")),
        "b": Gpus(dcgm="http://h:9400/metrics", devices=("MIG-9f",)),
    }


@pytest.mark.parametrize(
    ("gpus", "place"),
    [
        ("{agent: h}", "agent"),
        ("{dcgm: 'file:///x'}", "dcgm"),
        ("{devices: 0}", "devices"),
        ("{devices: [-1]}", "devices[0]"),
        ("{devices: [0, first]}", "devices[1]"),
        ("{cards: 1}", "cards"),
        ("{agent: 'http://h:1', dcgm: 'http://h:2/metrics'}", "dcgm"),
        ("{agent: 'http://h:1', key: 'with a space'}", "key"),
        ("{agent: 'http://h:1', key_file: nowhere}", "key_file"),
    ],
)
def test_gpus_of_another_shape_are_refused(tmp_path: Path, gpus: str, place: str) -> None:
    found = fault(tmp_path, f"backends: [{{url: 'http://h:1', gpus: {gpus}}}]")
    assert found.startswith(f"backends[0].gpus.{place}: ")


def test_the_gate_of_gpus_is_set_for_all_and_for_single_backends(tmp_path: Path) -> None:
    text = """
gpu: {gate: warn, good_for: 1m}
backends:
  - {name: a, url: "http://h:1"}
  - {name: b, url: "http://h:2", gpu_gate: off}
"""
    gate = loaded(tmp_path, text).gate
    assert (gate.of("a"), gate.of("b"), gate.good_for) == (Mode.WARN, Mode.OFF, 60.0)
    untold = loaded(tmp_path, "backends: [{url: 'http://h:1'}]").gate
    assert (untold.of("h-1"), untold.good_for) == (Mode.ENFORCE, 30.0)


def test_a_gate_of_another_kind_is_refused(tmp_path: Path) -> None:
    known = "must be one of off, warn, enforce"
    assert fault(tmp_path, "gpu: {gate: maybe}") == f"gpu.gate: {known}"
    one = "backends: [{url: 'http://h:1', gpu_gate: 3}]"
    assert fault(tmp_path, one).startswith("backends[0].gpu_gate: ")


def test_the_gate_is_shown_with_what_the_file_comes_to(tmp_path: Path) -> None:
    text = "gpu: {good_for: 90}\nbackends: [{url: 'http://h:1', gpu_gate: warn}]"
    shown = yaml.safe_load(dump(loaded(tmp_path, text)))
    assert shown["gpu"]["gate"] == "enforce"
    assert shown["gpu"]["good_for"] == "90s"
    assert shown["backends"][0]["gpu_gate"] == "warn"
