"""Log lines as a log collector and as a person at a terminal get them."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway import logs
from gateway.core.types import Outcome, Usage
from gateway.sink import Sink

GOOD = Outcome(
    id="req-1",
    key="team-a",
    surface="chat-completions",
    model="chat",
    status=200,
    backend="gpu1",
    upstream_model="Qwen/Qwen2.5-7B-Instruct",
    stream=True,
    attempts=2,
    moves=("refused",),
    overhead=0.00042,
    first_byte=0.1234567,
    duration=1.5,
    usage=Usage(10, 20, 4),
    bytes_out=2048,
)


@pytest.fixture
def restored() -> Iterator[None]:
    """Puts back what setup changes for the whole process."""
    root = logging.getLogger()
    level = root.level
    hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook)
    yield
    logging.captureWarnings(False)
    logging.getLogger("aiohttp.access").disabled = False
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    for handler in [handler for handler in root.handlers if isinstance(handler, logs.Handler)]:
        root.removeHandler(handler)
        handler.sink.close()
    root.setLevel(level)


class Log:
    """A log set up on a file."""

    def __init__(self, path: Path, format: str, level: str = "info") -> None:
        self.path = path
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        self.sink = logs.setup(format, level, self.fd)

    def text(self) -> str:
        self.sink.close()
        return self.path.read_text()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def log(tmp_path: Path, restored: None) -> Iterator[Log]:
    made = Log(tmp_path / "log", "json")
    yield made
    os.close(made.fd)


@pytest.fixture
def text_log(tmp_path: Path, restored: None) -> Iterator[Log]:
    made = Log(tmp_path / "log", "text")
    yield made
    os.close(made.fd)


def test_a_record_is_one_json_object_with_its_extra_fields(log: Log) -> None:
    logging.getLogger("portico.sensors").warning("lost %s", "gpu1", extra={"backend": "gpu1"})
    (line,) = log.lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert line == {
        "level": "WARNING",
        "logger": "portico.sensors",
        "msg": "lost gpu1",
        "backend": "gpu1",
    }


def test_times_are_utc_with_milliseconds() -> None:
    assert logs.stamp(0.0) == "1970-01-01T00:00:00.000Z"
    assert logs.stamp(1_795_000_000.9999) == "2026-11-18T11:06:40.999Z"


def test_lines_below_the_level_are_not_written(tmp_path: Path, restored: None) -> None:
    made = Log(tmp_path / "log", "json", "ERROR")
    logging.getLogger("portico").warning("no")
    logging.getLogger("portico").error("yes")
    assert [line["msg"] for line in made.lines()] == ["yes"]
    os.close(made.fd)


def test_a_traceback_stays_inside_its_line(log: Log) -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logging.getLogger("portico").exception("failed")
    (line,) = log.lines()
    assert line["msg"] == "failed"
    assert line["exc"].startswith("Traceback (most recent call last):\n")
    assert line["exc"].endswith("ValueError: two\nlines")


def test_extras_cannot_pose_as_the_lines_own_fields(log: Log) -> None:
    logging.getLogger("portico").info("x", extra={"level": "DEBUG", "ts": "never", "logger": "y"})
    (line,) = log.lines()
    assert (line["level"], line["logger"]) == ("INFO", "portico")
    assert line["ts"] != "never"


class Nasty:
    def __str__(self) -> str:
        raise RuntimeError("no text here")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("message", "arguments", "extra"),
    [
        ("%d", ("no number",), {}),
        ("%s", (Nasty(),), {}),
        (Nasty(), (), {}),
        ("x", (), {"thing": Nasty()}),
    ],
)
def test_a_wrong_log_call_is_reported_and_hurts_nobody(
    log: Log, message: Any, arguments: tuple[Any, ...], extra: dict[str, Any]
) -> None:
    # pytest's own handler would raise, so this logger has ours alone.
    logger = logging.Logger("lonely")
    logger.addHandler(logs.Handler(log.sink, logs.json_line))
    logger.info(message, *arguments, extra=extra)
    (line,) = log.lines()
    assert line["msg"].startswith("a log record could not be formatted: ")
    assert "test_logs.py" in line["where"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("half a \ud800 pair", "half a \\ud800 pair"),
        (2**80, str(2**80)),
        ({1: {2: 3}}, {"1": "{2: 3}"}),
        (Path("/etc/portico"), "/etc/portico"),
        (float("nan"), None),
    ],
)
def test_what_json_cannot_hold_becomes_text(log: Log, value: Any, shown: Any) -> None:
    logging.getLogger("portico").info("x", extra={"value": value})
    (line,) = log.lines()
    assert line["value"] in (shown, str(value))


HOSTILE = "a\nb\r\x1b[2J\x00\x7f\x85\x9b31m\u2028\u202eend"
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x80-\x9f\u2028\u2029\u202a-\u202e]")


def test_hostile_text_neither_breaks_a_json_line_nor_reaches_a_terminal(log: Log) -> None:
    access = logs.AccessLog(log.sink, "json")
    access.write(replace(GOOD, id=HOSTILE, user=HOSTILE, model=HOSTILE))
    access.flush()
    logging.getLogger("portico").info(HOSTILE, extra={"value": HOSTILE})
    text = log.text()
    assert text.count("\n") == 2
    assert len(text.splitlines()) == 2
    assert not UNSAFE.search(text)
    first, second = map(json.loads, text.splitlines())
    assert first["request_id"] == first["user"] == first["model"] == HOSTILE
    assert second["msg"] == second["value"] == HOSTILE


def test_hostile_text_neither_breaks_a_text_line_nor_reaches_a_terminal(text_log: Log) -> None:
    access = logs.AccessLog(text_log.sink, "text")
    access.write(replace(GOOD, id=HOSTILE, user=HOSTILE, model=HOSTILE, moves=(HOSTILE,)))
    access.flush()
    logging.getLogger("portico").info(HOSTILE, extra={"value": HOSTILE, HOSTILE: 1})
    text = text_log.text()
    assert len(text.splitlines()) == text.count("\n") == 2
    assert not UNSAFE.search(text)
    assert "\x7f" not in text
    assert text.count("\\x1b[2J") == 4 + 3


def test_a_text_traceback_is_indented_so_that_it_cannot_pose_as_a_record(text_log: Log) -> None:
    try:
        raise ValueError("x\n2026-01-01T00:00:00.000Z INFO forged\x1b[2J")
    except ValueError:
        logging.getLogger("portico").exception("failed")
    first, *rest = text_log.text().splitlines()
    assert re.match(r"\S+Z ERROR    failed \(portico\)$", first)
    assert len(rest) > 2
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in "".join(rest)


def test_text_lines_quote_values_that_would_read_as_several(text_log: Log) -> None:
    logging.getLogger("portico").info("hello", extra={"a": 'x" b=1', "c": "", "d": 3})
    assert text_log.text().endswith('Z INFO     hello a="x\\" b=1" c="" d=3 (portico)\n')


def test_warnings_of_libraries_go_through_the_log(log: Log) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    (line,) = log.lines()
    assert "old thing" in line["msg"]
    assert line["logger"] == "py.warnings"


def test_aiohttps_own_access_log_is_off(log: Log) -> None:
    logging.getLogger("aiohttp.access").info("GET /")
    logging.getLogger("aiohttp.server").info("kept")
    assert [line["msg"] for line in log.lines()] == ["kept"]


def test_setting_up_again_replaces_the_first(log: Log, tmp_path: Path) -> None:
    second = Log(tmp_path / "second", "text", "debug")
    logging.getLogger("portico").debug("once")
    assert log.text() == ""
    assert second.text().count("once") == 1
    os.close(second.fd)


@pytest.mark.parametrize(("format", "level"), [("xml", "info"), ("json", "loud")])
def test_wrong_formats_and_levels_are_named(format: str, level: str) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        logs.setup(format, level)


def test_a_requests_line_tells_all_there_is_to_tell(log: Log) -> None:
    access = logs.AccessLog(log.sink, "json", clock=lambda: 1_795_000_000.5)
    access.write(GOOD)
    access.flush()
    assert log.lines() == [
        {
            "ts": "2026-11-18T11:06:40.500Z",
            "level": "INFO",
            "msg": "request",
            "request_id": "req-1",
            "key": "team-a",
            "surface": "chat-completions",
            "wire": "openai",
            "model": "chat",
            "backend": "gpu1",
            "upstream_model": "Qwen/Qwen2.5-7B-Instruct",
            "status": 200,
            "attempts": 2,
            "moves": ["refused"],
            "stream": True,
            "ttft_ms": 123.457,
            "duration_ms": 1500.0,
            "overhead_ms": 0.42,
            "queued_ms": None,
            "tokens_in": 10,
            "tokens_out": 20,
            "tokens_cached": 4,
            "tokens_counted": True,
            "cut_by": "",
            "refusal": "",
            "bytes_out": 2048,
        }
    ]


def test_tokens_counted_here_are_marked_in_both_formats(log: Log) -> None:
    counted_here = replace(GOOD, user="u1", usage=Usage(output=7, counted=False))
    for format in logs.FORMATS:
        access = logs.AccessLog(log.sink, format)
        access.write(counted_here)
        access.flush()
    first, second = log.text().splitlines()
    assert json.loads(first)["tokens_counted"] is False
    assert json.loads(first)["note"] == logs.COUNTED_HERE
    assert json.loads(first)["user"] == "u1"
    assert f'note="{logs.COUNTED_HERE}"' in second


def test_a_text_line_leads_with_status_and_time_and_leaves_out_what_is_empty(
    text_log: Log,
) -> None:
    access = logs.AccessLog(text_log.sink, "text", clock=lambda: 0.0)
    access.write(GOOD)
    access.write(Outcome("r2", "anonymous", "embeddings", "unknown", 404, refusal="not_found"))
    access.flush()
    first, second = text_log.text().splitlines()
    assert first.startswith(
        "1970-01-01T00:00:00.000Z INFO     200    1500.0 ms chat-completions request_id=req-1"
    )
    assert "moves=refused" in first
    assert second == (
        "1970-01-01T00:00:00.000Z INFO     404       0.0 ms embeddings       "
        "request_id=r2 key=anonymous wire=openai model=unknown refusal=not_found"
    )


def test_a_second_copy_is_told_where_one_was_sent(log: Log) -> None:
    access = logs.AccessLog(log.sink, "json")
    access.write(replace(GOOD, hedged="won"))
    access.flush()
    assert log.lines()[0]["hedged"] == "won"


def test_a_callers_endless_user_id_is_cut(log: Log) -> None:
    access = logs.AccessLog(log.sink, "json")
    access.write(replace(GOOD, user="u" * 8000))
    access.flush()
    assert len(log.lines()[0]["user"]) == logs.LONGEST_USER


def test_lines_wait_for_the_flush_unless_many_wait(log: Log) -> None:
    put: list[bytes] = []

    class Recorder(Sink):
        def put(self, lines: bytes) -> None:
            put.append(lines)

    access = logs.AccessLog(Recorder(log.fd), "json")
    access.flush()
    access.write(GOOD)
    assert put == []
    while not put:
        access.write(GOOD)
    assert len(put[0]) >= logs.FLUSH_AT
    access.write(GOOD)
    access.flush()
    access.flush()
    assert [lines.count(b"\n") for lines in put[1:]] == [1]


def test_nothing_is_formatted_when_nobody_would_read_it(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("formatted")

    monkeypatch.setattr(logs, "outcome_fields", never)
    logging.getLogger().setLevel("WARNING")
    access = logs.AccessLog(log.sink, "json")
    access.write(GOOD)
    access.flush()
    assert log.text() == ""


def run(script: str, *, shell: str = "", **options: Any) -> subprocess.CompletedProcess[str]:
    """A program that logs, run as a process; ``shell`` are its redirections."""
    command = f'exec "$0" -c "$1" {shell}'
    return subprocess.run(
        ["/bin/sh", "-c", command, sys.executable, script],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        **options,
    )


SETUP = 'from gateway import logs; import logging; logs.setup("json", "info");'


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("raise ValueError('boom')", "uncaught exception"),
        (
            "import threading\ndef f(): raise ValueError('boom')\n"
            "t = threading.Thread(target=f); t.start(); t.join()",
            "uncaught exception in a thread",
        ),
        (
            "class A:\n def __del__(self): raise ValueError('boom')\nA()",
            "nobody could catch",
        ),
        (
            "import asyncio\nasync def f():\n"
            " asyncio.get_running_loop().call_soon(lambda: 1 / 0); await asyncio.sleep(0.01)\n"
            "asyncio.run(f())",
            "Exception in callback",
        ),
    ],
)
def test_what_nobody_caught_is_one_line_with_its_traceback(script: str, message: str) -> None:
    done = run(f"{SETUP}\n{script}")
    (line,) = [json.loads(line) for line in done.stderr.splitlines()]
    assert message in line["msg"]
    assert "ValueError: boom" in line["exc"] or "ZeroDivisionError" in line["exc"]
    assert done.stdout == ""


def test_ctrl_c_is_no_failure_to_log() -> None:
    done = run(f"{SETUP}\nraise KeyboardInterrupt")
    assert "uncaught" not in done.stderr


@pytest.mark.parametrize("shell", ["2>&-", "2>/dev/full"])
def test_a_standard_error_that_takes_nothing_does_not_stop_the_program(shell: str) -> None:
    done = run(f"{SETUP}\nlogging.error('x' * 9000); print('went on')", shell=shell)
    assert (done.returncode, done.stdout) == (0, "went on\n")


def test_without_a_standard_error_a_connection_that_took_its_number_gets_no_lines() -> None:
    script = (
        "import os, socket; a, b = socket.socketpair(); os.dup2(a.fileno(), 2)\n"
        f"{SETUP}\nlogging.error('secret'); logging.getLogger().handlers[0].sink.close()\n"
        "b.setblocking(False)\n"
        "try: print(b.recv(100))\nexcept BlockingIOError: print('nothing')"
    )
    assert run(script, shell="2>&-").stdout == "nothing\n"


def test_a_full_pipe_does_not_stop_the_program() -> None:
    reader, writer = os.pipe()
    script = f"{SETUP}\nfor _ in range(2000): logging.error('x' * 900)\nprint('went on')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=writer,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"went on\n")
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours_are_for_terminals_only(
    environment: dict[str, str],
    coloured: bool,
    restored: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    master, terminal = pty.openpty()
    sink = logs.setup("text", "info", terminal)
    logging.getLogger("portico").warning("careful")
    sink.close()
    shown = os.read(master, 1000).decode()
    assert ("\x1b[33mWARNING \x1b[0m careful" in shown) is coloured
    assert ("WARNING  careful" in shown) is not coloured
    os.close(master)
    os.close(terminal)
