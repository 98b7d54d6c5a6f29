"""Public names: where they lead and where they may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Overrides
from gateway.config.dump import dump
from gateway.policies import POLICIES

from .helpers import fault, faults, loaded

FLEET = "backends: [{name: gpu1, url: 'http://h:1'}, {name: gpu2, url: 'http://h:2'}]\n"


def test_a_target_must_be_a_configured_backend(tmp_path: Path) -> None:
    text = FLEET + "models: [{name: m, targets: [{backend: gpu3}, {backend: other}]}]"
    assert faults(tmp_path, text) == (
        "models[0].targets[0].backend: is no backend; did you mean 'gpu2'?",
        "models[0].targets[1].backend: is no backend; configured: gpu1, gpu2",
    )


def test_with_discovery_a_target_may_yet_turn_up(tmp_path: Path) -> None:
    text = "models: [{name: m, targets: [{backend: later}]}]"
    assert loaded(tmp_path, text).models[0].targets[0].backend == "later"
    assert loaded(tmp_path, FLEET + text, cli=Overrides(discover=True)).models[0].name == "m"
    assert fault(tmp_path, text, cli=Overrides(discover=False)).endswith("configured: none")


def test_a_target_lost_to_the_command_line_is_explained(tmp_path: Path) -> None:
    text = FLEET + "models: [{name: m, targets: [{backend: gpu1}]}]"
    assert fault(tmp_path, text, cli=Overrides(backends=("x=http://h:9",))) == (
        "models[0].targets[0].backend: is no backend; configured: x"
        " (the backends come from --backend, not from the file)"
    )


def test_a_public_name_is_given_once(tmp_path: Path) -> None:
    text = (
        FLEET
        + "models: [{name: m, targets: [{backend: gpu1}]}, {name: m, targets: [{backend: gpu2}]}]"
    )
    assert fault(tmp_path, text) == "models[1].name: is the name of models[0] as well"


def test_a_public_name_may_hold_slashes_and_colons_but_not_be_auto(tmp_path: Path) -> None:
    text = FLEET + "models: [{name: 'a/b:c', targets: [{backend: gpu1}]}]"
    assert loaded(tmp_path, text).models[0].name == "a/b:c"
    assert fault(tmp_path, text.replace("a/b:c", "auto")) == (
        "models[0].name: cannot be 'auto', with which callers let the gateway choose"
    )


@pytest.mark.parametrize("name", ['"a\\nb"', '"a\\u001bb"', "x" * 256])
def test_a_public_name_is_one_printable_line(tmp_path: Path, name: str) -> None:
    found = fault(tmp_path, FLEET + f"models: [{{name: {name}, targets: [{{backend: gpu1}}]}}]")
    assert found == "models[0].name: must be one line of at most 255 printable characters"


def test_a_fallback_may_be_a_public_name_or_any_id(tmp_path: Path) -> None:
    text = (
        FLEET
        + """
models:
  - {name: big, targets: [{backend: gpu1}], fallbacks: [small, "gpu2:llama3.2:3b"]}
  - {name: mid, targets: [{backend: gpu1}], fallbacks: [small]}
  - {name: small, targets: [{backend: gpu2}]}
"""
    )
    assert loaded(tmp_path, text).models[0].fallbacks == ("small", "gpu2:llama3.2:3b")


def test_a_model_cannot_fall_back_to_itself(tmp_path: Path) -> None:
    text = FLEET + "models: [{name: m, targets: [{backend: gpu1}], fallbacks: [m]}]"
    assert fault(tmp_path, text) == "models[0].fallbacks: lead in a circle: m -> m"


def test_each_circle_of_fallbacks_is_told_once(tmp_path: Path) -> None:
    text = (
        FLEET
        + """
models:
  - {name: entry, targets: [{backend: gpu1}], fallbacks: [a]}
  - {name: a, targets: [{backend: gpu1}], fallbacks: [b]}
  - {name: b, targets: [{backend: gpu1}], fallbacks: [c]}
  - {name: c, targets: [{backend: gpu1}], fallbacks: [x, a]}
  - {name: p, targets: [{backend: gpu1}], fallbacks: [q]}
  - {name: q, targets: [{backend: gpu1}], fallbacks: [p]}
"""
    )
    assert faults(tmp_path, text) == (
        "models[1].fallbacks: lead in a circle: a -> b -> c -> a",
        "models[4].fallbacks: lead in a circle: p -> q -> p",
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_may_be_named_for_all_and_for_one_model(tmp_path: Path, policy: str) -> None:
    text = (
        f"{FLEET}models: [{{name: m, targets: [{{backend: gpu1}}], policy: {policy}}}]\n"
        f"routing: {{policy: {policy}}}"
    )
    config = loaded(tmp_path, text)
    assert (config.policy, config.models[0].policy) == (policy, policy)


def test_an_unknown_policy_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    text = (
        FLEET
        + "models: [{name: m, targets: [{backend: gpu1}], policy: luck}]\nrouting: {policy: luck}"
    )
    known = ", ".join(POLICIES)
    assert faults(tmp_path, text) == (
        f"models[0].policy: must be one of {known}",
        f"routing.policy: must be one of {known}",
    )


def test_policies_may_be_mixed_by_weight_for_all_and_for_one_model(tmp_path: Path) -> None:
    text = (
        f"{FLEET}models: [{{name: m, targets: [{{backend: gpu1}}],"
        " policy: {session: 3, auto: '1'}}]\n"
        "routing: {policy: {auto: 0.7, session: 0.3}}"
    )
    config = loaded(tmp_path, text)
    assert config.policy == "auto=0.7,session=0.3"
    assert config.models[0].policy == "auto=1,session=3"
    again = loaded(tmp_path, dump(config))
    assert (again.policy, again.models) == (config.policy, config.models)


def test_a_mix_of_one_is_that_policy(tmp_path: Path) -> None:
    assert loaded(tmp_path, f"{FLEET}routing: {{policy: {{Prefix: 5}}}}").policy == "prefix"


@pytest.mark.parametrize(
    ("mix", "told"),
    [
        ("{}", "is empty"),
        ("{luck: 1}", "must be one of auto"),
        ("{auto: 0}", "must be above 0"),
        ("{auto: often}", "must be a number above 0"),
        ("[auto, session]", "must be text"),
    ],
)
def test_a_mix_that_is_none_is_refused(tmp_path: Path, mix: str, told: str) -> None:
    found = fault(tmp_path, f"{FLEET}routing: {{policy: {mix}}}")
    assert found.startswith(f"routing.policy: {told}")
