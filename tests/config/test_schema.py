"""The JSON Schema for editors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends import BY_NAME
from gateway.config import schema
from gateway.config.schema import VARIABLE
from gateway.policies import POLICIES
from tools import config_schema


def test_the_schema_in_deploy_is_fresh() -> None:
    assert config_schema.main(["--check"]) == 0, "run python tools/config_schema.py"


def test_a_stale_schema_is_noticed_and_rewritten(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "deploy" / "portico.schema.json"
    monkeypatch.setattr(config_schema, "TARGET", target)
    assert config_schema.main(["--check"]) == 1
    assert "portico.schema.json is stale" in capsys.readouterr().err
    assert config_schema.main([]) == 0
    assert json.loads(target.read_text()) == schema.schema()
    assert config_schema.main(["--check"]) == 0


def definitions() -> dict[str, Any]:
    found: dict[str, Any] = schema.schema()["$defs"]
    return found


def test_unknown_keys_are_refused_everywhere() -> None:
    sections = [schema.schema(), *definitions().values()]
    assert all(section["additionalProperties"] is False for section in sections)


def test_every_setting_is_described() -> None:
    for section in definitions().values():
        for name, setting in section["properties"].items():
            assert setting.get("description"), name


def choices(section: str, name: str) -> list[str]:
    kind = definitions()[section]["properties"][name]["anyOf"][0]
    found: list[str] = kind.get("anyOf", [kind])[0]["enum"]
    return found


def test_runtimes_and_policies_are_those_of_their_tables() -> None:
    assert choices("BackendDoc", "runtime") == ["auto", *BY_NAME]
    assert choices("RoutingDoc", "policy") == list(POLICIES)


def test_a_variable_may_stand_in_for_a_number_or_a_word() -> None:
    for section, name in (("ServerDoc", "port"), ("BackendDoc", "runtime")):
        assert VARIABLE in definitions()[section]["properties"][name]["anyOf"]


def test_a_key_is_given_in_one_of_two_ways() -> None:
    assert definitions()["KeyDoc"]["oneOf"] == [{"required": ["key"]}, {"required": ["key_file"]}]
    assert definitions()["KeyDoc"]["required"] == ["name"]
