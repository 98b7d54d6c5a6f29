"""Figures and their table: what counts as good, as lost, and beside whom."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.fleet.model import Prompt, Spec
from bench.fleet.routers import PEERS, USUAL, Place, laid_over, ours_in, router
from bench.fleet.run import arguments, check, listing, wanted
from bench.fleet.summary import End, Result, good, quantile, summary, ttft_goal, uneven
from bench.fleet.table import report
from bench.peers import Site

SPEC = Spec()
PROMPT = Prompt((1, 2), 1024, 101)


def result(first: float, each: float = 0.01, sent: float = 0.0, cached: int = 0) -> Result:
    """One that was answered: seconds to the first token, and for each after it."""
    return Result(PROMPT, sent, sent + first, sent + first + 100 * each, cached, End.WHOLE)


ENGINES = [{"prefilled": 300, "finished": 3}, {"prefilled": 100, "finished": 1}]


def summed(*results: Result, begin: float = 0.0, end: float = 10.0) -> dict[str, Any]:
    return summary(results, begin, end, SPEC, ENGINES)


# --- figures


def test_a_request_is_in_time_when_its_first_token_and_its_pace_are() -> None:
    goal = ttft_goal(PROMPT, SPEC)
    assert goal == pytest.approx(1 + 2 * SPEC.cold(1024))
    assert good(result(goal), SPEC)
    assert not good(result(goal + 0.01), SPEC)
    assert not good(result(0.1, each=0.051), SPEC)
    assert not good(Result(PROMPT, 0.0), SPEC)


def test_a_short_answer_has_no_pace() -> None:
    short = replace(result(0.1, each=1.0), prompt=replace(PROMPT, answer=8))
    assert short.tpot is None and good(short, SPEC)


def test_quantiles_lie_between_their_neighbours() -> None:
    assert quantile([], 0.5) is None
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([0.0, 1.0], 0.9) == pytest.approx(0.9)


def test_engines_that_had_the_same_are_even() -> None:
    assert uneven([2.0, 2.0]) == 1.0
    assert uneven([3.0, 1.0]) == 1.5
    assert uneven([0.0, 0.0]) is None


def test_figures_are_of_the_time_that_counts_and_failures_of_the_whole() -> None:
    lost = Result(PROMPT, 0.5, why="HTTP 500")
    cut = Result(PROMPT, 1.5, 2.0, end=End.CUT)
    told = summed(lost, cut, result(0.2, sent=2.0, cached=512), result(9, sent=11), begin=1.0)
    assert (told["requests"], told["all"]) == (2, 4)
    assert (told["lost"], told["cut"], told["refused"]) == (1, 1, 0)
    assert told["ttft"]["mean"] == pytest.approx(0.2)
    assert (told["good"], told["cached"], told["imbalance"]) == (0.5, 0.5, 1.5)
    assert told["why"] == {"HTTP 500": 1}


def test_a_load_that_was_lost_entirely_has_no_times() -> None:
    told = summed(Result(PROMPT, 0.5))
    assert told["ttft"]["mean"] is None and told["good"] == 0.0


# --- the table


def rows(**means: float) -> str:
    """A run of one load with these mean times to the first token."""
    lines = [
        {"cell": "conv:4:1", "router": name, "others_pct": 20.0 if name == "nginx" else 1.0}
        | summed(result(mean))
        for name, mean in means.items()
    ]
    return "\n".join(map(json.dumps, lines))


def cells(text: str, name: str) -> list[str]:
    return next(line for line in text.splitlines() if f" {name} " in line).split()


def test_ratios_are_to_the_best_peer_of_the_run() -> None:
    told = report(rows(nginx=0.8, **{"sglang-router": 0.4}, portico=0.2, oracle=0.1))
    assert cells(told, "portico")[-4:-2] == ["0.50", "0.50"]
    assert cells(told, "oracle")[-4] == "0.25"
    assert cells(told, "sglang-router")[-4] == "1.00"
    assert cells(told, "nginx")[-4] == "2.00"


def test_ours_in_virtual_time_is_compared_with_the_oracle_alone() -> None:
    told = report(rows(nginx=0.8, **{"portico-virtual": 0.2}, oracle=0.1, portico=0.4))
    assert cells(told, "portico-virtual")[-4:-2] == ["2.00", "2.00"]
    assert cells(told, "portico")[-4] == "0.50"
    assert cells(report(rows(nginx=0.8, **{"portico-virtual": 0.2})), "portico-virtual")[-4] == "-"


def test_without_a_peer_there_is_no_ratio() -> None:
    assert cells(report(rows(portico=0.2, oracle=0.1)), "portico")[-4:] == ["-"] * 4


def test_a_crowded_machine_is_told() -> None:
    told = report(rows(nginx=0.8, portico=0.2))
    assert "nginx *" in told and "portico *" not in told
    assert "measure again" in told


def test_what_was_skipped_and_why_requests_failed_is_told() -> None:
    skipped = {"cell": "conv:4:1", "router": "vllm-router", "skipped": "not installed"}
    failed = {
        "cell": "conv:4:1",
        "router": "portico",
        **summed(Result(PROMPT, 0.5, why="HTTP 502")),
    }
    told = report("\n".join(map(json.dumps, (skipped, failed))))
    assert "vllm-router: not installed" in told
    assert "1 times HTTP 502" in told


# --- routers and options


@pytest.fixture
def place(tmp_path: Path) -> Place:
    engines = ["127.0.0.1:9000", "127.0.0.2:9000"]
    return Place(Site(tmp_path, 0), engines, 4.0, 0.1, {"routing": {"policy": "session"}})


@pytest.mark.parametrize("name", [*PEERS, "portico", "portico/least_loaded@2"])
def test_every_router_is_told_of_every_engine(name: str, place: Place) -> None:
    peer = router(name, place)
    said = " ".join([*peer.command, *peer.files.values()])
    assert all(engine in said for engine in place.engines)
    assert str(peer.port) in said


def test_a_name_of_ours_says_policy_and_workers(place: Place) -> None:
    bare = replace(place, further={})
    peer = router("portico/round_robin@2", bare)
    assert peer.workers == 2 and peer.command[-2:] == ("--workers", "2")
    [file] = peer.files.values()
    assert yaml.safe_load(file)["routing"] == {"policy": "round_robin"}
    assert ours_in("portico@2") and not ours_in("nginx")


def test_further_settings_lie_over_the_configuration(place: Place) -> None:
    [file] = router("portico", place).files.values()
    written = yaml.safe_load(file)
    assert written["routing"] == {"policy": "session"} and len(written["backends"]) == 2
    assert laid_over({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}, "d": 4}) == {
        "a": {"b": 1, "c": 3},
        "d": 4,
    }


def test_what_runs_in_virtual_time_is_no_program_and_its_policy_is_checked() -> None:
    args = arguments().parse_args(["--routers", "portico-virtual/least_loaded,oracle"])
    check(args, wanted(args))
    wrong = arguments().parse_args(["--routers", "portico-virtual/best"])
    with pytest.raises(ValueError, match="policies"):
        check(wrong, wanted(wrong))


@pytest.mark.parametrize("name", ["envoy", "portico/best", "portico@many", ""])
def test_a_router_that_is_none_is_refused(name: str, place: Place) -> None:
    with pytest.raises(ValueError, match=r"routers|policies|workers"):
        router(name, place)


def test_a_quick_run_is_short_and_has_every_router() -> None:
    args = arguments().parse_args(["--quick"])
    what = wanted(args)
    assert what.seconds is not None and what.seconds <= 120
    assert what.routers == USUAL
    check(args, what)


def test_what_there_is_to_choose_from_is_listed() -> None:
    told = listing()
    assert all(name in told for name in (*PEERS, "conv", "synth", "agents", "wedge", "oracle"))
