"""Where settings come from, which of them wins, and what holds without any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.config import Config, ConfigError, Overrides, Server
from gateway.config.load import load
from gateway.core.types import Backend

from .helpers import fault, faults, loaded, written


def test_without_any_configuration_it_listens_locally_and_discovers() -> None:
    config = load(None, {}, Overrides())
    assert config == Config()
    assert config.server == Server(host="127.0.0.1", port=8000, workers=1, drain_timeout=30.0)
    assert config.server.max_body == 32 << 20
    assert (config.discover, config.demo, config.source) == (True, False, None)
    assert config.keyring.open


def test_a_file_without_a_host_listens_locally_too(tmp_path: Path) -> None:
    assert loaded(tmp_path, "server: {port: 9000}").server.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "written_as", "expected"),
    [
        ("host", ("10.1.1.1", "10.2.2.2", "10.3.3.3"), ("10.1.1.1", "10.2.2.2", "10.3.3.3")),
        ("port", ("1001", "1002", "1003"), (1001, 1002, 1003)),
        ("workers", ("2", "auto", "4"), (2, "auto", 4)),
    ],
)
def test_command_line_beats_environment_beats_file(
    tmp_path: Path, name: str, written_as: tuple[str, str, str], expected: tuple[object, ...]
) -> None:
    in_file, in_env, on_line = written_as
    path = written(tmp_path, f"server: {{{name}: {in_file}}}")
    env = {f"PORTICO_{name.upper()}": in_env}
    said: dict[str, Any] = {name: on_line}
    cli = Overrides(**said)
    found = (load(path, {}, Overrides()), load(path, env, Overrides()), load(path, env, cli))
    assert tuple(getattr(config.server, name) for config in found) == expected
    assert [dict(config.origins).get(f"server.{name}") for config in found] == [
        None,
        f"PORTICO_{name.upper()}",
        f"--{name}",
    ]


def test_an_empty_variable_counts_as_unset(tmp_path: Path) -> None:
    names = ("CONFIG", "HOST", "PORT", "WORKERS", "BACKENDS")
    env = {f"PORTICO_{name}": "" for name in names} | {"API_KEYS": "", "ADMIN_KEYS": " , "}
    assert loaded(tmp_path, "server: {port: 9}", env).server.port == 9
    assert load(None, env, Overrides()) == Config()


def test_portico_config_names_the_file_unless_the_command_line_does(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("server: {port: 1}")
    two.write_text("server: {port: 2}")
    env = {"PORTICO_CONFIG": str(one)}
    assert load(None, env, Overrides()).server.port == 1
    assert load(None, env, Overrides()).source == one
    assert load(two, env, Overrides()).server.port == 2


def test_a_list_of_backends_replaces_the_one_below_it(tmp_path: Path) -> None:
    text = "backends: [{name: file, url: 'http://a:1'}]"
    env = {"PORTICO_BACKENDS": "env=http://b:2, http://c:3 ,"}
    cli = Overrides(backends=("line=http://d:4", "vllm+http://e:5"))
    assert [one.name for one in loaded(tmp_path, text).backends] == ["file"]
    assert [one.name for one in loaded(tmp_path, text, env).backends] == ["env", "c-3"]
    assert loaded(tmp_path, text, env, cli).backends == (
        Backend("line", "http://d:4"),
        Backend("e-5", "http://e:5", "vllm"),
    )


def test_a_backend_of_the_command_line_may_have_a_name_and_a_runtime() -> None:
    (backend,) = load(None, {}, Overrides(backends=("big=SGLang+https://h:1/v1",))).backends
    assert backend == Backend("big", "https://h:1", "sglang")


def test_a_fault_of_an_option_or_variable_names_key_path_and_origin(tmp_path: Path) -> None:
    cli = Overrides(port="http", backends=("x=ftp://h",))
    assert faults(tmp_path, "", {"PORTICO_WORKERS": "0"}, cli) == (
        "server.port: must be a whole number, 0 to 65535 (given by --port)",
        "server.workers: must be 'auto' (one per core) or a whole number, 1 to 1024"
        " (given by PORTICO_WORKERS)",
        "backends[0].url: must begin with http:// or https:// (given by --backend)",
    )


def test_discovery_is_off_once_a_backend_is_configured(tmp_path: Path) -> None:
    text = "backends: [{url: 'http://a:1'}]"
    assert not loaded(tmp_path, text).discover
    assert loaded(tmp_path, text, cli=Overrides(discover=True)).discover
    assert not load(None, {}, Overrides(discover=False)).discover
    assert loaded(tmp_path, "backends: []").discover


def test_the_command_line_sets_demo_and_logging() -> None:
    config = load(None, {}, Overrides(demo=True, log_format="json", log_level="debug"))
    assert (config.demo, config.log_format, config.log_level) == (True, "json", "debug")


def test_unknown_logging_is_a_fault() -> None:
    with pytest.raises(ConfigError) as caught:
        load(None, {}, Overrides(log_format="xml", log_level="loud"))
    assert caught.value.faults == (
        "--log-format: must be one of json, text",
        "--log-level: must be one of debug, info, warning, error, critical",
    )


def test_faults_of_all_kinds_are_reported_in_one_go(tmp_path: Path) -> None:
    text = """
server: {port: 70000, drain_timeout: 0s, workrs: 2}
backends:
  - {name: a, url: ftp://x}
  - {name: a, url: "http://b:1", api_key: "${NOPE}"}
  - {name: c, url: "http://c:1", api_key_file: nowhere.key}
models:
  - {name: m, targets: [{backend: gone}], fallbacks: [m]}
auth: {keys: [{name: k, key: "sha256:short"}, {name: k, key: "0123456789abcdef"}]}
routing: {policy: best}
store: {url: "mysql://x"}
"""
    found = faults(tmp_path, text, {"API_KEYS": "ti ny"}, Overrides(host="a/b"))
    assert {line.split(": ")[0] for line in found} == {
        "server.port",
        "server.drain_timeout",
        "server.workrs",
        "server.host",
        "backends[0].url",
        "backends[1].name",
        "backends[1].api_key",
        "backends[2].api_key_file",
        "models[0].targets[0].backend",
        "models[0].fallbacks",
        "auth.keys[0].key",
        "routing.policy",
        "store.url",
        "API_KEYS[0]",
    }
    assert len(found) == 14


def test_a_file_that_cannot_be_read_does_not_hide_other_faults(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none.yaml", {"PORTICO_PORT": "x"}, Overrides())
    assert len(caught.value.faults) == 2


def test_a_configuration_compares_by_value(tmp_path: Path) -> None:
    text = "backends: [{url: 'http://a:1'}]\nauth: {keys: [{name: a, key: 0123456789abcdefg}]}"
    assert loaded(tmp_path, text) == loaded(tmp_path, text)


def test_unknown_keys_are_faults_with_a_near_match_or_a_list(tmp_path: Path) -> None:
    assert fault(tmp_path, "sever: {}") == "sever: is not a known key; did you mean 'server'?"
    assert fault(tmp_path, "backends: [{url: 'http://a:1', timeouts: {total: 1s}}]") == (
        "backends[0].timeouts.total: is not a known key; known here: connect, first_byte, idle"
    )
    assert fault(tmp_path, "zzz:").startswith("zzz: is not a known key; known here: auth, back")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("server: 7", "server: must be a mapping of 'key: value' lines"),
        ("backends: {a: b}", "backends: must be a list, such as [one, two]"),
        ("backends: [http]", "backends[0]: must be a mapping of 'key: value' lines"),
        ("auth: [a]", "auth: must be a mapping of 'key: value' lines"),
        ("auth: {keys: abc}", "auth.keys: must be a list, such as [one, two]"),
        ("auth: {keys: [abc]}", "auth.keys[0]: must be a mapping of 'key: value' lines"),
        ("store: sqlite", "store: must be a mapping of 'key: value' lines"),
        ("models: [{name: m}]", "models[0].targets: is required"),
        (
            "models: [{name: m, targets: []}]",
            "models[0].targets: is empty; name at least one backend, such as [{backend: gpu1}]",
        ),
        ("models: [{targets: [{backend: a}]}]", "models[0].name: is required"),
    ],
)
def test_wrong_shapes_are_said_in_words(tmp_path: Path, text: str, expected: str) -> None:
    assert fault(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("port: true", "server.port: must be a whole number, 0 to 65535"),
        ("port: 1.5", "server.port: must be a whole number, 0 to 65535"),
        ("port: -1", "server.port: must be a whole number, 0 to 65535"),
        ("host: 7", "server.host: must be text; put it into quotes"),
        ("host: ''", "server.host: is empty; write a value or remove the line"),
        (
            "host: 127.0.0.1:80",
            "server.host: must be an address alone, such as 0.0.0.0; the port has its own setting",
        ),
        ("host: '1::2::3'", "server.host: is not an IPv6 address"),
        (
            "host: 'a b'",
            "server.host: must be an address or host name, such as 127.0.0.1, 0.0.0.0 or ::",
        ),
        ("stream_usage: often", "server.stream_usage: must be one of limits, always, never"),
        (
            "max_body: lots",
            "server.max_body: must be a size such as 32MiB, 10MB, 64k or 1048576"
            " (a plain number is bytes)",
        ),
        (
            "workers: 0",
            "server.workers: must be 'auto' (one per core) or a whole number, 1 to 1024",
        ),
    ],
)
def test_settings_of_the_server_are_checked(tmp_path: Path, setting: str, expected: str) -> None:
    assert fault(tmp_path, f"server: {{{setting}}}") == expected


def test_an_ipv6_host_may_be_written_with_or_without_brackets(tmp_path: Path) -> None:
    for text in ("'::1'", "'[::1]'"):
        assert loaded(tmp_path, f"server: {{host: {text}}}").server.host == "::1"


@pytest.mark.parametrize(
    "url",
    ["sqlite:///var/lib/p.db", "redis://h", "redis://u:pw@h:6379/3", "rediss://:pw@h:6380/0"],
)
def test_the_stores_that_there_are_may_be_named(tmp_path: Path, url: str) -> None:
    assert loaded(tmp_path, f"store: {{url: '{url}'}}").store_url == url


@pytest.mark.parametrize(
    "url", ["/var/p.db", "mysql://h", "sqlite:///", "sqlite://p.db", "redis://", "redis://h/x"]
)
def test_other_stores_are_refused(tmp_path: Path, url: str) -> None:
    assert fault(tmp_path, f"store: {{url: '{url}'}}").startswith("store.url: ")
