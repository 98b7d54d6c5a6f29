"""The clients: replay a load against one front door, and see what each request was given."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from bench.fleet.cells import Change, Load
from bench.fleet.model import Prompt
from bench.fleet.server import MODEL
from bench.fleet.summary import End, Result
from bench.fleet.text import Writing
from bench.fleet.workload import Session
from gateway.tasks import Tasks

PATIENCE = 600.0
"""Engine seconds after which a client gives up."""

CONNECT = 5.0
GONE = frozenset({429, 503})
LEAD = 0.3
"""Wall seconds before the first request, so that none is late because tasks are being made."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where requests go and with which headers; where faults are ordered."""

    url: str
    headers: Mapping[str, str]
    control: str


class Failed(Exception):
    """What went wrong, and whether it was a refusal."""

    def __init__(self, why: str, refused: bool = False) -> None:
        super().__init__(why)
        self.refused = refused


class Replay:
    """One run of a load."""

    def __init__(
        self,
        door: Door,
        load: Load,
        writing: Writing,
        scale: float,
        patience: float = PATIENCE,
    ) -> None:
        self._door, self._load, self._writing, self._scale = door, load, writing, scale
        self._patience = patience
        self.results: list[Result] = []
        self.engines: list[dict[str, Any]] = []
        self._begin = 0.0

    def _now(self) -> float:
        return (time.perf_counter() - self._begin) / self._scale

    async def _until(self, when: float) -> None:
        await asyncio.sleep(max(0.0, (when - self._now()) * self._scale))

    async def run(self, changes: tuple[Change, ...]) -> None:
        """All sessions to their ends; then what the engines counted is fetched."""
        limit = aiohttp.ClientTimeout(total=self._patience * self._scale, sock_connect=CONNECT)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=30)
        faults = Tasks()
        async with aiohttp.ClientSession(connector=connector, timeout=limit) as self._http:
            self._begin = time.perf_counter() + LEAD
            early = [change for change in changes if change.at == 0]
            await self._order(early)
            late = [change for change in changes if change.at > 0]
            faults.spawn(self._order(late), "faults")
            await asyncio.gather(*map(self._session, self._load.sessions))
            await faults.cancel_all()
            self.engines = await self._control("GET", "/stats")

    async def _order(self, changes: list[Change]) -> None:
        for change in changes:
            if change.at:
                await self._until(change.at * self._load.end)
            await self._control("POST", "/mode", {"engine": change.engine, "mode": change.mode})

    async def _control(self, method: str, path: str, asked: Any = None) -> Any:
        data = None if asked is None else orjson.dumps(asked)
        async with self._http.request(method, self._door.control + path, data=data) as answer:
            return orjson.loads(await answer.read())

    async def _session(self, session: Session) -> None:
        """Its turns one after the other; a failure ends it, and so does the end of the load."""
        await self._until(session.start)
        messages: list[dict[str, str]] = []
        known = 0
        for turn in session.turns:
            if known:
                await asyncio.sleep(turn.think * self._scale)
            if self._now() > self._load.end:
                return  # what comes later is not measured
            text = self._writing.prompt(turn.prompt, known)
            messages.append({"role": "user", "content": text})
            answer = await self._ask(turn.prompt, messages)
            if answer is None:
                return
            messages.append({"role": "assistant", "content": answer})
            known = len(turn.prompt.keys) + len(turn.prompt.answer_keys)

    async def _ask(self, prompt: Prompt, messages: list[dict[str, str]]) -> str | None:
        """One request. Returns its answer when it was whole."""
        body = request(prompt, messages)
        result = Result(prompt, self._now())
        self.results.append(result)
        try:
            text = await self._answer(body, result)
        except Failed as failed:
            result.end = End.REFUSED if failed.refused else End.LOST
            result.why = str(failed)[:80]
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            result.why = f"{type(error).__name__} {error}"[:80]
        else:
            result.ended, result.end = self._now(), End.WHOLE
            return text
        if result.first is not None:
            result.end = End.CUT
        return None

    async def _answer(self, body: bytes, result: Result) -> str:
        url = self._door.url + "/v1/chat/completions"
        async with self._http.post(url, data=body, headers=self._door.headers) as answer:
            if answer.status != 200:
                said = (await answer.text())[:60]
                raise Failed(f"HTTP {answer.status} {said}", answer.status in GONE)
            events = Events()
            async for data in answer.content.iter_any():
                events.feed(data)
                if result.first is None and events.text:
                    result.first = self._now()
        result.cached = events.cached
        if not events.done or result.first is None:
            raise Failed(events.error or "the stream ended early")
        return "".join(events.text)


class Events:
    """What a stream said so far."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.cached = 0
        self.done = False
        self.error = ""
        self._rest = b""

    def feed(self, data: bytes) -> None:
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            for line in event.split(b"\n"):
                if line.startswith(b"data:"):
                    self._take(line[5:].strip())

    def _take(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.done = True
            return
        said = orjson.loads(data)
        if "error" in said:
            self.error = f"an error in the stream: {said['error']}"
        for choice in said.get("choices") or ():
            if text := (choice.get("delta") or {}).get("content"):
                self.text.append(text)
        details = (said.get("usage") or {}).get("prompt_tokens_details") or {}
        self.cached = details.get("cached_tokens") or self.cached


def request(prompt: Prompt, messages: list[dict[str, str]]) -> bytes:
    """A chat completion as an ordinary client sends it."""
    return orjson.dumps(
        {
            "model": MODEL,
            "messages": messages,
            "max_tokens": prompt.answer,
            "stream": True,
            "ignore_eos": True,
            "temperature": 0,
            "user": f"s{prompt.session}",
            "stream_options": {"include_usage": True},
        }
    )
