"""Whose energy was it: what a GPU drew in a second, shared by the tokens in flight in that second.

The method is documented in docs/energy.md. A request's tokens are spread over the time it took:
prompt tokens that were not cached from its start to its first byte, answer tokens from there to its
end. A second of a GPU can be divided when every request that touched it has ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gateway.core.types import Outcome

Owner = tuple[str, str]
"""A model's name as in the metrics, and a key's name."""

UNTOLD = 1
"""Tokens that a request counts for when nobody said how many it had."""


class Work(NamedTuple):
    """One ended request, as far as energy and speed go. Moments are monotonic seconds; ``first``
    is when the first byte came, where the answer was streamed, else the start; ``model`` is the
    id that the backend was asked for."""

    backend: str
    model: str
    owner: Owner
    start: float
    first: float
    end: float
    prompt: int
    answer: int


def work(outcome: Outcome, now: float) -> Work | None:
    """What an Outcome that ended ``now`` has cost its backend; None when none was at work."""
    if not outcome.backend or outcome.refusal:
        return None
    usage, arrived = outcome.usage, now - outcome.duration
    start = arrived + (outcome.overhead or 0.0)
    told = outcome.stream and outcome.first_byte is not None
    return Work(
        outcome.backend,
        outcome.upstream_model,
        (outcome.model, outcome.key),
        start,
        max(start, arrived + (outcome.first_byte or 0.0)) if told else start,
        now,
        max(0, usage.input - usage.cached),
        usage.output,
    )


LEAST_TOKENS, LEAST_TIME = 8, 0.05
"""Tokens and seconds. A shorter answer says nothing of speed: it may have come in one read."""


def speed(done: Work) -> float | None:
    """Tokens per second of one answer while it was being written (for one that came whole, of the
    whole request); None when it was too short to tell."""
    took = done.end - done.first
    if done.answer < LEAST_TOKENS or took < LEAST_TIME:
        return None
    return done.answer / took


def spread(done: Work, slot: float) -> Iterator[tuple[int, float]]:
    """The tokens of a request by time slot of ``slot`` seconds: (number of the slot, tokens)."""
    prompt, answer = done.prompt, done.answer
    if not prompt and not answer:
        answer = UNTOLD
    if done.first > done.start:
        yield from _evenly(done.start, done.first, prompt, slot)
        yield from _evenly(done.first, done.end, answer, slot)
    else:
        yield from _evenly(done.start, done.end, prompt + answer, slot)


def _evenly(start: float, end: float, tokens: float, slot: float) -> Iterator[tuple[int, float]]:
    if tokens <= 0:
        return
    first, last = int(start // slot), int(end // slot)
    if first == last or end <= start:
        yield last, tokens
        return
    rate = tokens / (end - start)
    for number in range(first, last + 1):
        low, high = max(start, number * slot), min(end, (number + 1) * slot)
        if high > low:
            yield number, rate * (high - low)
