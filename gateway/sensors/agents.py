"""Other hosts' GPUs: asks each gpu-agent and each DCGM exporter again and again."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import urlsplit

from gateway.core.runtime import Answer
from gateway.core.types import Backend

from .ask import Asker
from .dcgm import Page
from .gpu_doc import from_doc
from .panorama import Kind, Seen

log = logging.getLogger("portico.gpu")

AGENT_PATH = "/v1/gpus"
EXPORTER_EVERY = 5.0
"""Seconds between two readings of an exporter's page at least: it renews it every 30 s."""

WITHIN = 3.0
"""Seconds that an answer may take."""

chance = random.SystemRandom()


class Remote:
    """One source on another host. ``seen`` is what it said last."""

    def __init__(self, kind: Kind, url: str, key: str | None, interval: float) -> None:
        every = interval if kind is Kind.AGENT else max(interval, EXPORTER_EVERY)
        self.seen = Seen(url, kind, every)
        parts = urlsplit(url)
        page = url.removesuffix("/") + AGENT_PATH if kind is Kind.AGENT else url
        base = f"{parts.scheme}://{parts.netloc}"
        self.asked_with = (kind, key, interval)
        self._backend = Backend(f"{kind} {url}", base, secret=key)
        self._path = page.removeprefix(base) or "/"
        self._page = Page()

    def take(self, answer: Answer, now: float) -> Seen:
        """What an answer says; after a bad one, what was said before and the error."""
        try:
            self.seen = self._understood(answer, now)
        except ValueError as error:
            self.seen = replace(self.seen, error=str(error))
        return self.seen

    def _understood(self, answer: Answer, now: float) -> Seen:
        if answer.status in (401, 403):
            raise ValueError("it wants a key, or another one: set gpus.key of the backend")
        if answer.status != 200:
            raise ValueError(answer.error or f"it answers with status {answer.status}")
        if self.seen.kind is Kind.DCGM:
            gpus = self._page.read(answer.text, now)
            return replace(self.seen, gpus=gpus, at=now, error="")
        said = from_doc(answer.doc, now)
        return replace(
            self.seen,
            gpus=said.gpus,
            ports=said.ports,
            at=now - said.age,
            detail=said.detail,
            unmatched=said.unmatched,
            error="",
        )

    async def keep_asking(self, ask: Asker, changed: Callable[[], None]) -> None:
        """For ever. Says once that it stopped answering, and once that it is back."""
        while True:
            answer = await ask.get(self._backend, None, self._path, WITHIN)
            was = self.seen.error
            seen = self.take(answer, time.monotonic())
            if seen.error and seen.error != was:
                log.warning("the %s cannot be read: %s", seen.title, seen.error)
            elif was and not seen.error:
                log.info("the %s answers again", seen.title)
            changed()
            await asyncio.sleep(seen.every * chance.uniform(0.9, 1.0))
