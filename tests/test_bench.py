"""The benchmark's own parts: they build, run and compare. What it measures is not tested here."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.build import HERE, CannotBuild, programs
from bench.client import Answer
from bench.crowd import Crowd, Errand
from bench.peers import PEERS, Site
from bench.profile import samples
from bench.report import report
from bench.scenarios import SCENARIOS, chosen
from bench.soak import compared
from bench.town import State

ROOT = HERE.parent
COMPILER = shutil.which("cc")
STREAM = Errand(stream=True, events=2, pace_us=0, prefill_us=0)
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT, DONE = b'data: {"content":"@1"}\n\n', b"data: [DONE]\n\n"
CALM = State(resident=60, descriptors=18, connections=4, in_flight=0, at_work=0, up=2)


@pytest.fixture
def work() -> Iterator[Path]:
    """A short path: a socket lies in it."""
    with tempfile.TemporaryDirectory(prefix="portico-bench-") as folder:
        yield Path(folder)


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.run", *args],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def rows(**by_peer: list[float]) -> str:
    """A run of one scenario: CPU seconds of each peer in each round, for a thousand requests."""
    lines = [
        {"peer": peer, "scenario": "a_sat", "round": number, "ok": 1000, "rps": 250.0, "secs": 4.0}
        | {"cpu": {"gateway": used}, "foreign_pct": 0.0}
        for peer, rounds in by_peer.items()
        for number, used in enumerate(rounds)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines).replace("sglang", "sglang-router")


def line(text: str, start: str) -> list[str]:
    """The cells of the table line that begins with a label."""
    found = next(one for one in text.splitlines() if one.startswith(f"| {start}"))
    return [cell.strip() for cell in found.strip("| ").split(" | ")]


def test_the_programs_compile_without_a_warning_or_say_what_is_missing(work: Path) -> None:
    if COMPILER is None:
        with pytest.raises(CannotBuild, match="install gcc or clang"):
            programs(work)
        return
    for source in ("mock_engine.c", "loadgen.c"):
        strict = ("-O2", "-Wall", "-Wextra", "-Werror", str(HERE / source), "-lm")
        done = subprocess.run(
            [COMPILER, *strict, "-o", str(work / "made")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_the_list_names_every_peer_and_scenario() -> None:
    listed = bench("--list")
    assert listed.returncode == 0
    names = {text.split()[0] for text in listed.stdout.replace("*", " ").splitlines() if text}
    assert names >= {*PEERS, *(scenario.name for scenario in SCENARIOS)}


def test_a_name_that_there_is_not_is_a_wrong_usage() -> None:
    ran = bench("--scenarios", "z_none")
    assert ran.returncode == 2
    assert "there is no 'z_none'" in ran.stderr


def test_a_run_prints_a_table_and_says_what_it_skipped(work: Path) -> None:
    short = ("--rounds", "1", "--scale", "0.1", "--work", str(work))
    ran = bench("--scenarios", "a_sat,g_wait", "--peers", "direct,sglang-router,portico", *short)
    if COMPILER is None:
        assert ran.returncode == 1
        assert "there is no C compiler" in ran.stderr
        return
    assert ran.returncode == 0, ran.stderr
    assert "skipped: sglang-router (all): not installed: make bench-peers" in ran.stdout
    assert line(ran.stdout, "median") == ["median ± half the range", "direct", "portico"]
    rates = [float(cell.replace(",", "")) for cell in line(ran.stdout, "requests/s")[1:]]
    assert all(rate > 0 for rate in rates)
    assert re.fullmatch(r"\d\.\d{4}", line(ran.stdout, "CPU ms per request")[2])
    assert all(re.fullmatch(r"\d\.\d\d|never", c) for c in line(ran.stdout, "left whole")[1:])
    assert "errors:" not in ran.stdout


def test_a_report_gives_medians_spread_ratios_and_goals() -> None:
    text = report(rows(direct=[0, 0, 0], sglang=[0.04, 0.05, 0.06], portico=[0.06, 0.06, 0.09]))
    cells = line(text, "CPU ms per request ")
    assert cells == ["CPU ms per request", "0.0000 ±0.0000", "0.0500 ±0.0100", "0.0600 ±0.0150"]
    ours = line(text[text.index("÷") :], "CPU ms per request")
    assert ours[2:] == ["1.50 ±0.15", "-", "≤ 1.5 x sglang-router: yes"]


def test_a_report_says_when_a_goal_is_missed() -> None:
    text = report(rows(sglang=[0.04], portico=[0.07]))
    assert "≤ 1.5 x sglang-router: NO" in text


def test_disturbed_rounds_are_left_out_once_there_are_enough_others() -> None:
    calm = rows(portico=[0.05, 0.05, 0.05, 0.05]).splitlines()
    wild = json.loads(calm[3]) | {"foreign_pct": 40.0, "cpu": {"gateway": 9.0}}
    text = report("\n".join([*calm[:3], json.dumps(wild)]))
    assert line(text, "CPU ms per request")[1] == "0.0500 ±0.0000"
    assert "1 measurements disturbed by other processes are left out" in text


def test_a_stream_that_hangs_is_an_error_where_none_may_be() -> None:
    row = {"peer": "portico", "scenario": "c_2000", "round": 0, "err_status": 1, "unfinished": 2}
    assert line(report(json.dumps(row)), "errors with 2,000 streams")[1] == "3"


@pytest.mark.parametrize(("left", "seen", "cell"), [(0, 50, "0.25"), (3, 47, "never")])
def test_an_engine_that_runs_on_is_said_never_to_be_free(left: int, seen: int, cell: str) -> None:
    row = {"took_s": 0.25, "left": left, "closed_early": seen}
    text = report(json.dumps({"peer": "nginx", "scenario": "g_mid", "round": 0, **row}))
    assert line(text, "left in mid-stream")[1] == cell


def test_scenarios_can_be_chosen_by_name_and_in_bulk() -> None:
    assert [s.name for s in chosen("a_25,a_sat")] == ["a_25", "a_sat"]
    assert chosen("all") == list(SCENARIOS)
    assert chosen("usual,a_25")[:-1] == chosen("usual")


def test_every_peer_has_a_port_of_its_own(work: Path) -> None:
    made = [make(Site(work, 19999)) for make in PEERS.values()]
    assert [peer.name for peer in made] == list(PEERS)
    assert len({peer.port for peer in made}) == len(made)


def answer(*payloads: bytes, whole: bool) -> Answer:
    got = Answer()
    got.feed(HEAD + b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in payloads))
    if whole:
        got.feed(b"0\r\n\r\n")
    return got


@pytest.mark.parametrize(
    ("got", "seen", "bad"),
    [
        (answer(EVENT, EVENT, DONE, whole=True), {"whole streams": 1}, {}),
        (answer(EVENT, DONE, whole=True), {}, {"streams with events missing": 1}),
        (
            answer(EVENT, b'data: {"error":{}}\n\n', whole=False),
            {"streams cut, and the client told": 1},
            {},
        ),
        (answer(EVENT, EVENT, whole=False), {}, {"streams cut, and the client not told": 1}),
        (answer(EVENT, EVENT, whole=True), {}, {"streams cut, and the client not told": 1}),
    ],
)
def test_the_soak_tells_a_whole_stream_from_a_cut_one(
    got: Answer, seen: dict[str, int], bad: dict[str, int]
) -> None:
    crowd = Crowd(1, 1)
    crowd.judge(got, STREAM)
    assert (crowd.tally.seen, crowd.tally.faults + crowd.tally.lost) == (seen, bad)


@pytest.mark.parametrize(
    ("ended", "broken"),
    [
        (CALM, []),
        (replace(CALM, resident=67.9, descriptors=17), []),
        (replace(CALM, resident=68.1), ["resident memory, MB"]),
        (replace(CALM, descriptors=19), ["file descriptors"]),
        (replace(CALM, connections=5), ["connections"]),
        (replace(CALM, in_flight=-1), ["requests in flight (gauge)"]),
        (replace(CALM, at_work=1, up=1), ["requests at work on the engines", "backends up"]),
    ],
)
def test_the_soak_fails_for_whatever_does_not_come_back(ended: State, broken: list[str]) -> None:
    assert [check.what for check in compared(CALM, ended) if not check.holds] == broken


def test_samples_are_counted_for_the_innermost_module() -> None:
    raw = (
        "main (a/gateway/cli.py:3);run (/usr/lib/python3/asyncio/runners.py:118) 5\n"
        "main (a/gateway/cli.py:3);write (/srv/x/gateway/edge/exchange.py:40) 3\n"
        "main (a/gateway/cli.py:3);pause (/srv/x/gateway/edge/exchange.py:60) 2\n"
        "main (a/gateway/cli.py:3);f (/v/lib/python3.11/site-packages/aiohttp/web.py:1) 1\n"
        "bootstrap (/usr/lib/threading.py:1);Condition.wait (/usr/lib/threading.py:327) 9\n"
    )
    found = samples(raw, by_function=False)
    assert found.pop("gateway/edge/exchange.py") == 5
    assert found.pop("aiohttp/web.py") == 1
    assert [(name.split(" (")[0], count) for name, count in found.items()] == [("event loop", 5)]
    assert samples(raw, by_function=True)["gateway/edge/exchange.py: write"] == 3
