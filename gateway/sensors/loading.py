"""Loads of models, owned by the gateway: one at a time for a model and engine, whoever asks, and
never given up because a client leaves."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from gateway.core.runtime import Runtime
from gateway.core.types import Backend, Model, Sight, Waking
from gateway.sensors.ask import Asker
from gateway.tasks import Tasks

log = logging.getLogger("portico.sensors")

LONGEST_LOAD = 1800.0
"""Seconds after which a load is taken for lost: the largest models come from a slow disk, or from
the network, in less."""

FIRST_GUESS = 30.0
"""Seconds that a load is expected to take where none was ever seen."""

LEARNING = 0.4
"""Weight of the newest load in what the next one is expected to take."""

LET_BE = 60.0
"""Seconds for which a model that could not be loaded is left to the requests themselves."""

LOOK_EVERY = 0.5
"""Seconds between looks for a load that the engine only took note of."""

Key = tuple[str, str]


class Loader:
    """Keyed by backend and model id. ``look(backend)`` asks the sensors to look now, and
    ``resident(backend, model)`` is what they saw last; ``done(backend, model)`` is told of a
    model that has become resident, ``changed`` of every other change."""

    def __init__(
        self,
        ask: Asker,
        tasks: Tasks,
        *,
        look: Callable[[str], None],
        resident: Callable[[str, str], bool],
        done: Callable[[str, str], None],
        changed: Callable[[], None],
    ) -> None:
        self._ask = ask
        self._tasks = tasks
        self._look = look
        self._resident = resident
        self._done = done
        self._changed = changed
        self._waking: dict[Key, Waking] = {}
        self._took: dict[Key, float] = {}
        self._failed: dict[Key, float] = {}

    def wake(self, backend: Backend, row: Runtime, model: str) -> None:
        """Begin to load a model, unless that is under way or has just failed."""
        key = (backend.name, model)
        if row.wake is None or key in self._waking or self._let_be(key):
            return
        expected = self._took.get(key) or self._usual(backend.name)
        self._waking[key] = Waking(model, time.monotonic(), expected, not self._knows(backend.name))
        log.info("backend %s: loading '%s'", backend.name, model)
        self._tasks.spawn(self._load(backend, row, model), f"sensors: load on {backend.name}")
        self._changed()

    def shown(self, name: str, sight: Sight) -> Sight:
        """The sight with what is known of loads. A model on its way is not resident, whatever the
        engine lists; whether one that could not be loaded is, nobody knows."""
        on_the_way = tuple(waking for key, waking in self._waking.items() if key[0] == name)
        failed = {key[1] for key in list(self._failed) if key[0] == name and self._let_be(key)}
        if not on_the_way and not failed:
            return sight
        ids = {waking.model for waking in on_the_way}
        models = tuple(_corrected(model, ids, failed) for model in sight.models)
        return replace(sight, models=models, waking=on_the_way)

    def _let_be(self, key: Key) -> bool:
        when = self._failed.get(key)
        if when is not None and time.monotonic() - when >= LET_BE:
            del self._failed[key]
            return False
        return when is not None

    def _knows(self, name: str) -> bool:
        return any(key[0] == name for key in self._took)

    def _usual(self, name: str) -> float:
        """What loads on this engine took, of whatever model."""
        known = [took for key, took in self._took.items() if key[0] == name]
        return sum(known) / len(known) if known else FIRST_GUESS

    async def _load(self, backend: Backend, row: Runtime, model: str) -> None:
        key, began = (backend.name, model), time.monotonic()
        try:
            fault = await self._loaded(backend, row, model)
        finally:
            self._waking.pop(key, None)
        took = time.monotonic() - began
        if fault:
            log.warning("backend %s: '%s' was not loaded: %s", backend.name, model, fault)
            self._failed[key] = time.monotonic()
            self._changed()
            return
        before = self._took.get(key, took)
        self._took[key] = before + LEARNING * (took - before)
        log.info("backend %s: '%s' was loaded in %.1f s", backend.name, model, took)
        self._done(backend.name, model)

    async def _loaded(self, backend: Backend, row: Runtime, model: str) -> str:
        """'' when the model is resident, else what went wrong."""
        assert row.wake is not None
        answer = await self._ask.post(
            backend, row, row.wake.path, {"model": model}, within=LONGEST_LOAD
        )
        taken = 200 <= answer.status < 300 or row.wake.already in answer.text
        if not taken:
            return answer.error or f"it answered {answer.status}"
        if row.wake.waits:
            return ""
        try:
            async with asyncio.timeout(LONGEST_LOAD):
                await self._until_resident(backend.name, model)
        except TimeoutError:
            return f"it was not ready within {LONGEST_LOAD:g} s"
        return ""

    async def _until_resident(self, name: str, model: str) -> None:
        while not self._resident(name, model):
            self._look(name)
            await asyncio.sleep(LOOK_EVERY)


def _corrected(model: Model, on_the_way: set[str], failed: set[str]) -> Model:
    if model.id in on_the_way:
        return replace(model, loaded=False)
    if model.id in failed and model.loaded is False:
        return replace(model, loaded=None)
    return model
