"""What the gateway says while it runs: log records and one line per request, JSON or text."""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from functools import lru_cache
from types import TracebackType
from typing import Any

import orjson

from gateway.core.types import Outcome
from gateway.sink import Sink

LEVELS = ("debug", "info", "warning", "error", "critical")
FORMATS = ("json", "text")

FLUSH_AT = 64 * 1024
"""Bytes of access lines that go out without waiting for the timer."""

COUNTED_HERE = "the engine reported no usage: tokens_out is the number of content events"

LONGEST_USER = 256
"""Characters of a caller's user id that are logged; the header may hold kilobytes."""

access_logger = logging.getLogger("portico.access")

# Bytes with a meaning for terminals or for programs that split text into lines: C0, DEL, C1, the
# two Unicode line ends, and the marks that turn the direction of writing.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

# What a record has besides its ``extra``, and the names that extras may not take.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OURS = frozenset({"ts", "level", "logger", "exc"})

_COLOURS = {"DEBUG": "2", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}

Fields = dict[str, Any]


def setup(format: str, level: str, fd: int | None = None) -> Sink:
    """Send all logging to standard error (or ``fd``) in the given format, from the given level up.

    ``format`` is one of FORMATS, ``level`` one of LEVELS in any case; anything else raises
    ValueError. Uncaught exceptions of any thread become log records; aiohttp's own access log is
    off. Calling it again replaces what it set up before. Returns the sink that access lines go
    to; it is closed at a normal end of the process."""
    if format not in FORMATS:
        raise ValueError(f"the log format must be one of {', '.join(FORMATS)}, not {format!r}")
    if level.lower() not in LEVELS:
        raise ValueError(f"the log level must be one of {', '.join(LEVELS)}, not {level!r}")
    fd = standard_error() if fd is None else fd
    line = json_line if format == "json" else text_line(colour=_wants_colour(fd))
    sink = Sink(fd, report=_report(line))
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, Handler)]:
        root.removeHandler(old)
        old.sink.close()
        atexit.unregister(old.sink.close)
    root.addHandler(Handler(sink, line))
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    logging.getLogger("aiohttp.access").disabled = True
    _catch_uncaught()
    atexit.register(sink.close)
    return sink


def standard_error() -> int:
    """The descriptor to write to. When the process was started without a standard error, number
    2 may by now be somebody's connection, so the lines go nowhere instead."""
    if sys.__stderr__ is None:
        return os.open(os.devnull, os.O_WRONLY)
    return 2


def _wants_colour(fd: int) -> bool:
    """Colours are for terminals whose user has not set NO_COLOR."""
    return os.isatty(fd) and not os.environ.get("NO_COLOR")


Line = Callable[[Fields], bytes]
"""Turns fields (``ts`` and ``level`` first) into one line with its line end."""


class Handler(logging.Handler):
    """Sends each record as one line to a sink."""

    def __init__(self, sink: Sink, line: Line) -> None:
        super().__init__()
        self.sink = sink
        self.line = line

    def emit(self, record: logging.LogRecord) -> None:
        # Whatever a record's arguments raise on the way to text, its caller must not suffer.
        try:
            line = self.line(record_fields(record))
        except Exception as error:
            line = self.line(_unprintable(record, error))
        self.sink.put(line)


def record_fields(record: logging.LogRecord) -> Fields:
    """A record as fields: ts, level, logger, msg, what came as ``extra``, and ``exc`` with the
    traceback. Raises whatever the record's own formatting raises."""
    known = _STANDARD | _OURS
    fields: Fields = {
        "ts": stamp(record.created),
        "level": record.levelname,
        "logger": record.name,
        "msg": record.getMessage(),
        **{key: value for key, value in vars(record).items() if key not in known},
    }
    if record.exc_info and record.exc_info[0] is not None:
        fields["exc"] = "".join(traceback.format_exception(*record.exc_info)).rstrip()
    elif record.exc_text:
        fields["exc"] = record.exc_text
    if record.stack_info:
        fields["stack"] = record.stack_info
    return fields


def _unprintable(record: logging.LogRecord, error: Exception) -> Fields:
    return {
        "ts": stamp(record.created),
        "level": "ERROR",
        "logger": record.name,
        "msg": f"a log record could not be formatted: {type(error).__name__}",
        "template": record.msg if isinstance(record.msg, str) else type(record.msg).__name__,
        "where": f"{record.pathname}:{record.lineno}",
    }


def stamp(moment: float) -> str:
    """Unix seconds as RFC 3339 in UTC with milliseconds."""
    return _stamp(int(moment * 1000))


@lru_cache(maxsize=4)
def _stamp(moment: int) -> str:
    second, millis = divmod(moment, 1000)
    return f"{_second(second)}.{millis:03d}Z"


@lru_cache(maxsize=4)
def _second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def json_line(fields: Mapping[str, Any]) -> bytes:
    """One JSON object on one line. What JSON cannot hold is shown as text."""
    try:
        line = orjson.dumps(fields, default=str, option=orjson.OPT_APPEND_NEWLINE)
    except TypeError:
        clean = _plain(fields)
        line = orjson.dumps(clean, default=str, option=orjson.OPT_APPEND_NEWLINE)
    if line.isascii():
        return line
    # JSON lets the C1 controls and U+2028 stand as they are; terminals and line readers do not.
    text = line.decode()[:-1]
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode() + b"\n"


def _plain(value: Any) -> Any:
    """A copy that any JSON writer takes: half surrogate pairs, huge numbers, odd keys and
    circles become text."""
    if isinstance(value, Mapping):
        return {_sound(str(key)): _plain_inner(item) for key, item in value.items()}
    return _plain_inner(value)


def _plain_inner(value: Any) -> Any:
    if value is None or isinstance(value, bool | float):
        return value
    return _sound(value if isinstance(value, str) else str(value))


def _sound(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def escape(text: str) -> str:
    """Text without anything that a terminal or a line reader would act on."""
    if text.isascii() and text.isprintable():
        return text
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", _sound(text))


def text_line(colour: bool) -> Line:
    """A formatter of lines for people: time, level, message, then key=value pairs. A traceback
    follows on lines of its own, indented, so that it cannot be taken for a record."""

    def line(fields: Fields) -> bytes:
        rest = dict(fields)
        ts, level, msg = rest.pop("ts"), rest.pop("level"), rest.pop("msg")
        logger, trace = rest.pop("logger", None), rest.pop("exc", None)
        parts = [ts, _level(level, colour), escape(str(msg))]
        parts += [_pair(key, value) for key, value in rest.items()]
        if logger and logger != "root":
            parts.append(f"({escape(str(logger))})")
        lines = [" ".join(parts)]
        if trace:
            lines += ["    " + escape(part) for part in str(trace).split("\n")]
        return ("\n".join(lines) + "\n").encode()

    return line


def _level(level: str, colour: bool) -> str:
    padded = f"{level:<8}"
    return f"\x1b[{_COLOURS.get(level, '0')}m{padded}\x1b[0m" if colour else padded


def _pair(key: str, value: Any) -> str:
    text = escape(",".join(map(str, value)) if isinstance(value, tuple | list) else str(value))
    if text == "" or any(mark in text for mark in ' "='):
        text = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f"{escape(key)}={text}"


def _report(line: Line) -> Callable[[int, str], bytes]:
    """Words the sink's report of lost lines in the format of the log."""

    def report(lost: int, reason: str) -> bytes:
        return line(
            {
                "ts": stamp(time.time()),
                "level": "WARNING",
                "logger": "portico.logs",
                "msg": f"{lost} log lines were lost: {reason}",
                "lost": lost,
            }
        )

    return report


def _catch_uncaught() -> None:
    """Turn what Python would print on standard error into log records."""
    log = logging.getLogger("portico")

    def main(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, at)
        else:
            log.critical("uncaught exception", exc_info=(kind, error, at))

    def thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and not issubclass(args.exc_type, SystemExit):
            found = (args.exc_type, args.exc_value, args.exc_traceback)
            log.critical("uncaught exception in a thread", exc_info=found)

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        if args.exc_value is not None:
            found = (args.exc_type, args.exc_value, args.exc_traceback)
            log.error(args.err_msg or "exception that nobody could catch", exc_info=found)

    sys.excepthook, threading.excepthook, sys.unraisablehook = main, thread, unraisable


class AccessLog:
    """One line per request, gathered and handed over in batches. Nothing is formatted while the
    level of ``portico.access`` is above INFO."""

    def __init__(self, sink: Sink, format: str, clock: Callable[[], float] = time.time) -> None:
        self._sink = sink
        self._line: Line = json_line if format == "json" else text_line(_wants_colour(sink.fd))
        self._shape = outcome_fields if format == "json" else outcome_words
        self._clock = clock
        self._lines: list[bytes] = []
        self._size = 0

    def write(self, outcome: Outcome) -> None:
        """Take one request's line. It leaves with the next flush, or at once when many wait."""
        if not access_logger.isEnabledFor(logging.INFO):
            return
        line = self._line(self._shape(outcome, stamp(self._clock())))
        self._lines.append(line)
        self._size += len(line)
        if self._size >= FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        """Hand over what has gathered; meant to be called every 100 ms and at the end."""
        if self._lines:
            self._sink.put(b"".join(self._lines))
            self._lines.clear()
            self._size = 0


def outcome_fields(outcome: Outcome, ts: str) -> Fields:
    """The fields of a request's line. Never the prompt, the answer or a key."""
    usage = outcome.usage
    first_byte, overhead, queued = outcome.first_byte, outcome.overhead, outcome.queued
    fields: Fields = {
        "ts": ts,
        "level": "INFO",
        "msg": "request",
        "request_id": outcome.id,
        "key": outcome.key,
        "surface": outcome.surface,
        "wire": outcome.wire,
        "model": outcome.model,
        "backend": outcome.backend,
        "upstream_model": outcome.upstream_model,
        "status": outcome.status,
        "attempts": outcome.attempts,
        "moves": outcome.moves,
        "stream": outcome.stream,
        "ttft_ms": None if first_byte is None else int(first_byte * 1e6 + 0.5) / 1e3,
        "duration_ms": int(outcome.duration * 1e6 + 0.5) / 1e3,
        "overhead_ms": None if overhead is None else int(overhead * 1e6 + 0.5) / 1e3,
        "queued_ms": None if queued is None else int(queued * 1e6 + 0.5) / 1e3,
        "tokens_in": usage.input,
        "tokens_out": usage.output,
        "tokens_cached": usage.cached,
        "tokens_counted": usage.counted,
        "cut_by": outcome.cut_by,
        "refusal": outcome.refusal,
        "bytes_out": outcome.bytes_out,
    }
    if outcome.user:
        fields["user"] = outcome.user[:LONGEST_USER]
    if outcome.hedged:
        fields["hedged"] = outcome.hedged
    if not usage.counted:
        fields["note"] = COUNTED_HERE
    return fields


def outcome_words(outcome: Outcome, ts: str) -> Fields:
    """The same for people: the status and the time where the eye looks first, and nothing that
    is empty or that goes without saying."""
    fields = outcome_fields(outcome, ts)
    status, duration = fields.pop("status"), fields.pop("duration_ms")
    fields["msg"] = f"{status:03d} {duration:>9.1f} ms {fields.pop('surface'):<16}"
    del fields["tokens_counted"]
    return {key: value for key, value in fields.items() if value not in (None, "", (), 0)}
