"""What is asked of the fleet: sessions of turns, from a recorded trace or drawn at random.

A trace is an open load: every request comes at its time. Inside a session the next turn comes when
the answer is there and its time of thought is over. All times are engine seconds.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from bench.fleet.model import Prompt

TRACE_BLOCK = 512
SPREAD = 3.0
"""Seconds to which the trace rounds its times."""
LONGEST = 131_072
"""Tokens of the longest prompt that the model takes."""


@dataclass(frozen=True, slots=True)
class Turn:
    """``think`` seconds after the answer before it."""

    think: float
    prompt: Prompt


@dataclass(frozen=True, slots=True)
class Session:
    start: float
    turns: tuple[Turn, ...]


class Row(TypedDict):
    """A line of the trace (traces/README.md)."""

    timestamp: int
    input_length: int
    output_length: int
    hash_ids: list[int]


def read_trace(lines: Iterable[str]) -> list[Row]:
    rows: list[Row] = [json.loads(line) for line in lines]
    return [row for row in rows if row["hash_ids"] and row["input_length"] <= LONGEST]


def conversations(rows: Sequence[Row], rate: float, seed: int = 1) -> list[Session]:
    """A trace, ``rate`` times as fast. Requests are spread over the seconds to which their times
    were rounded, in the order of their session."""
    dice = random.Random(seed)  # noqa: S311 - of a simulation
    last: dict[int, float] = {}
    found: list[tuple[float, int, Prompt]] = []
    for number, (row, session) in enumerate(zip(rows, session_ids(rows), strict=True)):
        at = max(row["timestamp"] / 1000 + dice.random() * SPREAD, last.get(session, -1.0) + 0.01)
        last[session] = at
        found.append((at, number, trace_prompt(row, session)))
    found.sort(key=lambda item: item[:2])
    begin = found[0][0] if found else 0.0
    return [Session((at - begin) / rate, (Turn(0.0, prompt),)) for at, _, prompt in found]


def session_ids(rows: Sequence[Row]) -> list[int]:
    """The trace names no sessions: a request belongs to that of the latest one before it with which
    it shares its longest prefix beyond the first block, which all have."""
    owner: dict[int, int] = {}
    sessions: list[int] = []
    for number, row in enumerate(rows):
        own = row["hash_ids"][1:]
        session = next((owner[key] for key in reversed(own) if key in owner), number)
        owner.update(dict.fromkeys(own, session))
        sessions.append(session)
    return sessions


def trace_prompt(row: Row, session: int) -> Prompt:
    """The length is held to what its number of blocks allows."""
    keys = tuple(row["hash_ids"])
    most = len(keys) * TRACE_BLOCK
    tokens = min(max(row["input_length"], most - TRACE_BLOCK + 1), most)
    return Prompt(keys, tokens, max(1, row["output_length"]), session=session)


class Namer:
    """Gives out names of blocks that nobody has yet."""

    def __init__(self) -> None:
        self._next = 1

    def fresh(self, count: int) -> tuple[int, ...]:
        self._next += count
        return tuple(range(self._next - count, self._next))


def arrivals(rate: float, seconds: float, dice: random.Random) -> Iterable[float]:
    """Times of a Poisson process."""
    at = dice.expovariate(rate)
    while at < seconds:
        yield at
        at += dice.expovariate(rate)


def zipf(count: int, power: float) -> list[float]:
    return [1 / number**power for number in range(1, count + 1)]


TENANTS, DOCUMENTS = 120, 40
TENANT_BLOCK = 512


def tenants(rate: float, seconds: float, seed: int = 5) -> list[Session]:
    """Multi-tenant prompts, ``rate`` a second. 120 tenants (Zipf 0.8), each with instructions of 2
    to 8 k tokens and 40 documents of 2 to 16 k (Zipf 0.9), one of which three prompts in four
    carry; then a question (lognormal, median 600 tokens, sigma 0.9). Answers: lognormal, median
    120, sigma 0.8."""
    dice, namer = random.Random(seed), Namer()  # noqa: S311 - of a simulation
    instructions = [namer.fresh(dice.randint(4, 16)) for _ in range(TENANTS)]
    documents = [
        [namer.fresh(dice.randint(4, 32)) for _ in range(DOCUMENTS)] for _ in range(TENANTS)
    ]
    found = []
    for at in arrivals(rate, seconds, dice):
        tenant = dice.choices(range(TENANTS), zipf(TENANTS, 0.8))[0]
        keys = instructions[tenant]
        if dice.random() < 0.75:
            keys += dice.choices(documents[tenant], zipf(DOCUMENTS, 0.9))[0]
        question = _lognormal(dice, 600, 0.9, 8000)
        tokens = len(keys) * TENANT_BLOCK + question
        keys += namer.fresh(-(-question // TENANT_BLOCK))
        prompt = Prompt(keys, tokens, _lognormal(dice, 120, 0.8, 2000), session=tenant)
        found.append(Session(at, (Turn(0.0, prompt),)))
    return found


AGENT_TYPES, PROJECTS = 16, 200
AGENT_BLOCK = 128
AGENT_CONTEXT = 65_536


def agents(rate: float, seconds: float, seed: int = 7) -> list[Session]:
    """Sessions of tool-using programs, ``rate`` new ones a second. 16 types (Zipf 1.1) with
    instructions and tools of 3 to 10 k tokens; two sessions in five share one of 200 projects (2 to
    8 k) with others of their type. Turns: geometric, mean 9, at most 40."""
    dice, namer = random.Random(seed), Namer()  # noqa: S311 - of a simulation
    types = [_piece(dice, namer, 3000, 10_000) for _ in range(AGENT_TYPES)]
    projects: dict[tuple[int, int], tuple[int, ...]] = {}
    found = []
    for number, at in enumerate(arrivals(rate, seconds, dice)):
        kind = dice.choices(range(AGENT_TYPES), zipf(AGENT_TYPES, 1.1))[0]
        keys = types[kind]
        if dice.random() < 0.4:
            project = (kind, min(int(dice.expovariate(1 / 30)), PROJECTS - 1))
            if project not in projects:
                projects[project] = _piece(dice, namer, 2000, 8000)
            keys += projects[project]
        turns = agent_turns(keys, number, dice, namer)
        found.append(Session(at, turns))
    return [session for session in found if session.turns]


def agent_turns(
    keys: tuple[int, ...], session: int, dice: random.Random, namer: Namer
) -> tuple[Turn, ...]:
    """Each turn adds what a tool said (lognormal, median 400 tokens, sigma 1.1) and an answer
    (median 140, sigma 0.8). Before it lies the tool's time (median 2.5 s, sigma 1) or, one time in
    eight, that of a person (15 to 90 s)."""
    turns: list[Turn] = []
    for number in range(min(40, 1 + int(dice.expovariate(1 / 8)))):
        keys += namer.fresh(_blocks(_lognormal(dice, 400, 1.1, 12_000)))
        answered = namer.fresh(_blocks(_lognormal(dice, 140, 0.8, 2000)))
        tokens, answer = len(keys) * AGENT_BLOCK, len(answered) * AGENT_BLOCK
        if tokens + answer > AGENT_CONTEXT:
            break
        person = dice.random() < 0.125
        think = dice.uniform(15, 90) if person else min(60, dice.lognormvariate(math.log(2.5), 1))
        prompt = Prompt(keys, tokens, answer, answered, session)
        turns.append(Turn(think if number else 0.0, prompt))
        keys += answered
    return tuple(turns)


def _piece(dice: random.Random, namer: Namer, low: int, high: int) -> tuple[int, ...]:
    return namer.fresh(dice.randint(low // AGENT_BLOCK, high // AGENT_BLOCK))


def _blocks(tokens: int) -> int:
    return max(1, round(tokens / AGENT_BLOCK))


def _lognormal(dice: random.Random, median: float, sigma: float, most: int) -> int:
    return max(1, int(min(most, dice.lognormvariate(math.log(median), sigma))))


def reuse(sessions: Iterable[Session], block: int) -> float:
    """Share of all prompt tokens that one endless cache would have held, in the order of starts."""
    seen: set[int] = set()
    hit = total = 0
    for session in sorted(sessions, key=lambda item: item.start):
        for turn in session.turns:
            prompt = turn.prompt
            known = next((n for n, key in enumerate(prompt.keys) if key not in seen), None)
            hit += prompt.tokens if known is None else prompt.covered(known, block)
            seen.update(prompt.keys, prompt.answer_keys)
            total += prompt.tokens
    return hit / max(1, total)
