"""What ``portico check`` prints."""

from __future__ import annotations

from pathlib import Path

import yaml

from gateway.config import Overrides
from gateway.config.addresses import without_password
from gateway.config.dump import dump
from gateway.config.load import load
from gateway.core.keys import digest

from .helpers import loaded, written
from .test_example import ENV, EXAMPLE


def test_every_secret_is_masked(tmp_path: Path) -> None:
    text = EXAMPLE.replace("sqlite:///var/lib/portico/state.db", "redis://me:hush@h:6379/0")
    shown = dump(loaded(tmp_path, text, ENV | {"API_KEYS": "key-of-the-environment"}))
    for secret in (*ENV.values(), "key-of-the-environment", "hush", digest(ENV["TEAM_B_KEY"])):
        assert secret not in shown
    tree = yaml.safe_load(shown)
    assert tree["backends"][0]["api_key"] == "***"
    assert tree["backends"][1]["api_key"] == "passthrough"
    assert tree["auth"]["keys"][0]["key"] == digest(ENV["TEAM_B_KEY"])[:15] + "…"
    assert tree["auth"]["admin_keys"] == [digest(ENV["ADMIN_KEY"])[:15] + "…"]
    assert tree["store"] == {"url": "redis://***@h:6379/0", "retention": "2160h"}


def test_what_is_shown_has_the_shape_of_the_file_and_means_the_same(tmp_path: Path) -> None:
    config = loaded(tmp_path, EXAMPLE, ENV)
    tree = yaml.safe_load(dump(config))
    del tree["auth"]
    again = loaded(tmp_path, yaml.safe_dump(tree))
    assert again.server == config.server
    assert again.models == config.models
    assert (again.gpus, again.gpu_interval) == (config.gpus, config.gpu_interval)
    assert (again.policy, again.store_url) == (config.policy, config.store_url)
    assert [one.timeouts for one in again.backends] == [one.timeouts for one in config.backends]


def test_the_head_says_where_settings_came_from(tmp_path: Path) -> None:
    path = written(tmp_path, "server: {port: 1}")
    env = {"PORTICO_HOST": "127.0.0.2", "API_KEYS": "key-of-the-environment"}
    cli = Overrides(port="2", backends=("a=http://h:1",), log_format="json")
    assert [line for line in dump(load(path, env, cli)).splitlines() if line[0] == "#"] == [
        f"# file: {path}",
        "# server.host: PORTICO_HOST",
        "# server.port: --port",
        "# backends: --backend",
        "# key key-1: API_KEYS[0]",
        "# discovery: off, demo: off, log: json, info",
    ]


def test_no_configuration_is_shown_as_such() -> None:
    shown = dump(load(None, {}, Overrides()))
    assert shown.startswith("# file: none\n# discovery: on, demo: off, log: text, info\n")
    assert yaml.safe_load(shown)["server"]["host"] == "127.0.0.1"


def test_a_password_is_masked_wherever_it_stands() -> None:
    assert without_password("redis://h:6379/0") == "redis://h:6379/0"
    assert without_password("redis://:p@ss@h/0") == "redis://***@h/0"
    assert without_password("sqlite:///a/b.db") == "sqlite:///a/b.db"
