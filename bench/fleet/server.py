"""One engine behind an address: the surfaces of vLLM that routers use, and its faults."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any, Protocol

import orjson

from bench.fleet.engine import Engine
from bench.fleet.metrics import page
from bench.fleet.model import Job, Spec
from bench.fleet.protocol import Connection
from bench.fleet.text import Writing

MODEL = "sim-8b"
VERSION = "0.33.0"
CONTEXT = 131_072


class Mode(StrEnum):
    """What ails an engine. A hung one accepts connections and never answers; a wedged one still
    answers ``/health``, as vLLM does; a crashed one refuses connections and has lost its cache."""

    OK = "ok"
    SLOW = "slow"
    FAIL = "fail"
    HANG = "hang"
    WEDGE = "wedge"
    CRASH = "crash"


STUCK = frozenset({Mode.HANG, Mode.WEDGE, Mode.CRASH})
"""Modes in which the engine's time stands still."""
SLOWNESS, FAILURES = 3.0, 0.5
"""How many times slower a slow engine is; the share of requests that a failing one refuses."""


class Clock(Protocol):
    """The fleet's time, in engine seconds."""

    def now(self) -> float: ...

    def call_at(self, when: float, act: Callback) -> asyncio.TimerHandle: ...


class Callback(Protocol):
    def __call__(self) -> None: ...


@dataclass(slots=True)
class Exchange:
    """A request under way: where its answer goes, and how much of it has gone."""

    connection: Connection
    stream: bool
    usage: bool
    model: str
    reply: str
    told: int = 0


class Server:
    """``requests``, ``failed`` and ``aborted`` count what came over HTTP."""

    def __init__(self, spec: Spec, index: int, clock: Clock, writing: Writing) -> None:
        self.engine = Engine(spec, index, self._first, self._end)
        self.connections: set[Connection] = set()
        self.mode = Mode.OK
        self.requests = self.failed = self.aborted = 0
        self.waited, self.begun = 0.0, 0
        self._clock, self._writing = clock, writing
        self._live: dict[Job, Exchange] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._number = 0
        self._dice = random.Random(index)  # noqa: S311 - of a simulation

    def handle(self, connection: Connection, method: str, path: str, body: bytes) -> None:
        """Answer a request, now or when the engine is done with it."""
        if self.mode is Mode.HANG:
            return
        if method == "POST" and path in ("/v1/chat/completions", "/v1/completions"):
            self._complete(connection, body)
        elif method == "POST" and path in RENDERS:
            connection.reply(200, rendered(path, orjson.loads(body)))
        elif path in ("/health", "/ping"):
            connection.reply(200, b"")
        elif path == "/metrics":
            self._advance()
            connection.reply(200, self._metrics(), "text/plain; version=0.0.4")
        else:
            found = PAGES.get(path)
            connection.reply(200 if found else 404, found or {"detail": "Not Found"})

    def _complete(self, connection: Connection, body: bytes) -> None:
        self.requests += 1
        if self.mode is Mode.FAIL and self._dice.random() < FAILURES:
            self.failed += 1
            error = {"message": "simulated failure", "type": "InternalServerError", "code": 500}
            connection.reply(500, {"error": error})
            return
        asked = orjson.loads(body)
        answer = int(asked.get("max_completion_tokens") or asked.get("max_tokens") or 128)
        prompt, reply = self._writing.read(pieces(asked), answer)
        self._number += 1
        job = Job(self._number, prompt)
        options = asked.get("stream_options") or {}
        self._live[job] = Exchange(
            connection,
            stream=bool(asked.get("stream")),
            usage=bool(options.get("include_usage")),
            model=str(asked.get("model", MODEL)),
            reply=reply,
        )
        connection.on_lost = lambda: self._left(job)
        self._advance()
        if self.mode is not Mode.WEDGE:
            self.engine.submit(job, self._clock.now())
            self._arm()

    def _left(self, job: Job) -> None:
        """The client has closed the connection: the request is cancelled, as vLLM does."""
        if self._live.pop(job, None) is None:
            return
        self.aborted += 1
        if self.mode not in STUCK:
            self._advance()
            self.engine.cancel(job, self._clock.now())
            self._arm()

    def _first(self, job: Job, now: float) -> None:
        self.waited += now - job.arrived
        self.begun += 1
        exchange = self._live.get(job)
        if exchange and exchange.stream:
            exchange.connection.begin()
            if job.prompt.answer > 1:
                self._tell(job, exchange, 1)

    def _tell(self, job: Job, exchange: Exchange, written: int) -> None:
        """What is new of an answer of which so many tokens are written."""
        upto = max(1, len(exchange.reply) * written // job.prompt.answer)
        if upto > exchange.told:
            delta = {"role": "assistant"} if exchange.told == 0 else {}
            text = exchange.reply[exchange.told : upto]
            exchange.connection.event(chunk(job, exchange, {**delta, "content": text}))
            exchange.told = upto

    def _end(self, job: Job, _now: float) -> None:
        exchange = self._live.pop(job, None)
        if exchange is None:
            return
        if not exchange.stream:
            exchange.connection.reply(200, whole(job, exchange))
            return
        rest = {"content": exchange.reply[exchange.told :]}
        events = [chunk(job, exchange, rest, "length")]
        if exchange.usage:
            events.append(chunk(job, exchange))
        exchange.connection.event(*events, b"[DONE]", last=True)

    def flush(self) -> None:
        """Tell running streams how far they are."""
        if self.mode in STUCK:
            return
        self._advance()
        for job, written in self.engine.progress(self._clock.now()):
            exchange = self._live.get(job)
            if exchange and exchange.stream:
                self._tell(job, exchange, written)
        self._arm()

    def _metrics(self) -> bytes:
        return page(self.engine, self._clock.now(), self.waited, self.begun, MODEL).encode()

    def stats(self) -> dict[str, Any]:
        """For the control port."""
        self._advance()
        counted = asdict(self.engine.counters)
        over = {"requests": self.requests, "failed": self.failed, "aborted": self.aborted}
        state = {"running": self.engine.running, "waiting": len(self.engine.waiting)}
        return {**counted, **over, **state, "mode": self.mode}

    def _advance(self) -> None:
        if self.mode not in STUCK:
            self.engine.advance(self._clock.now())

    def _arm(self) -> None:
        """Wake up when the plan under way ends."""
        if self._timer:
            self._timer.cancel()
        self._timer = None
        if self.mode not in STUCK and self.engine.end is not None:
            self._timer = self._clock.call_at(self.engine.end, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._advance()
        self._arm()

    def set_mode(self, mode: Mode) -> None:
        """Fall ill or recover. Who was stuck comes back as a new process: cold, and without the
        requests it had."""
        self._advance()
        if mode is Mode.CRASH or self.mode in STUCK:
            self.restart()
        self.engine.set_slow(SLOWNESS if mode is Mode.SLOW else 1.0)
        self.mode = mode
        self._arm()

    def restart(self) -> None:
        """Every connection is reset and all state is gone."""
        self._live.clear()
        for connection in list(self.connections):
            connection.abort()
        self.engine.reset()
        self._arm()


def pieces(asked: dict[str, Any]) -> Iterable[str]:
    """The texts of a request, in order."""
    if "messages" not in asked:
        return [str(asked.get("prompt", ""))]
    contents = [message.get("content") or "" for message in asked["messages"]]
    return [
        content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        for content in contents
    ]


def usage(job: Job) -> dict[str, Any]:
    prompt = job.prompt
    return {
        "prompt_tokens": prompt.tokens,
        "completion_tokens": prompt.answer,
        "total_tokens": prompt.tokens + prompt.answer,
        "prompt_tokens_details": {"cached_tokens": job.cached},
    }


def chunk(
    job: Job, exchange: Exchange, delta: dict[str, str] | None = None, finish: str | None = None
) -> bytes:
    """An event of the stream; without a delta the one that holds usage."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    document = {
        "id": f"chatcmpl-{job.number}",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": exchange.model,
        "choices": [] if delta is None else [choice],
    }
    return orjson.dumps(document if delta is not None else {**document, "usage": usage(job)})


def whole(job: Job, exchange: Exchange) -> dict[str, Any]:
    message = {"role": "assistant", "content": exchange.reply}
    return {
        "id": f"chatcmpl-{job.number}",
        "object": "chat.completion",
        "created": 1,
        "model": exchange.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "length"}],
        "usage": usage(job),
    }


RENDERS = frozenset({"/v1/chat/completions/render", "/v1/completions/render", "/tokenize"})
"""vllm-router asks for a prompt's tokens here."""


def rendered(path: str, asked: dict[str, Any]) -> dict[str, Any]:
    """A token for every four characters."""
    text = "".join(pieces(asked)).encode()
    ids = [int.from_bytes(text[at : at + 4], "big") % 128_000 for at in range(0, len(text), 4)]
    if path == "/tokenize":
        return {"count": len(ids), "max_model_len": CONTEXT, "tokens": ids, "token_strs": None}
    sampling = {"max_tokens": asked.get("max_tokens", 128), "temperature": 0.0}
    return {
        "request_id": "chatcmpl-render",
        "token_ids": ids,
        "features": None,
        "model": asked.get("model", MODEL),
        "sampling_params": sampling,
        "stream": bool(asked.get("stream")),
        "stream_options": asked.get("stream_options"),
        "cache_salt": None,
        "priority": 0,
        "kv_transfer_params": None,
    }


PAGES: dict[str, dict[str, Any]] = {
    "/version": {"version": VERSION},
    "/v1/models": {
        "object": "list",
        "data": [
            {
                "id": MODEL,
                "object": "model",
                "created": 1,
                "owned_by": "vllm",
                "root": MODEL,
                "parent": None,
                "max_model_len": CONTEXT,
            }
        ],
    },
}
