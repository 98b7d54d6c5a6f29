"""What one decision of the gateway costs, by the length of the prompt and the number of engines:
`python -m bench.decision`."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

from backends import BY_NAME
from gateway.core.catalog import build
from gateway.core.plan import Means, Plan, Route, plan, route
from gateway.core.prompt import prompt_of
from gateway.core.runtime import Runtime
from gateway.core.types import (
    Backend,
    Call,
    Caller,
    Fleet,
    Health,
    Model,
    Op,
    Sight,
    Usage,
    Wire,
)
from gateway.policies import POLICIES
from gateway.state.board import Board, Page

SIZES = (1_000, 10_000, 100_000, 200_000)
ENGINES = (2, 8, 64)
WORDS = "the engine that answers first and no request lost because of it "


def rows(name: str, variant: str) -> Runtime | None:
    return BY_NAME.get(name)


def town(engines: int) -> Fleet:
    """Engines that all serve one model."""
    names = [f"gpu{number}" for number in range(engines)]
    sight = Sight(Health.UP, runtime="vllm", models=(Model("m"),))
    return Fleet(
        1,
        0.0,
        {name: Backend(name, f"http://{name}:8000", "vllm") for name in names},
        dict.fromkeys(names, sight),
    )


def talk(size: int, number: int = 0) -> Call:
    """A conversation of about ``size`` bytes in turns of 2 kB; ``number`` tells it from others."""
    turns = max(1, size // 2000)
    text = (f"{number} " + WORDS * (size // turns // len(WORDS) + 1))[: size // turns]
    messages = [
        {"role": ("user", "assistant")[turn % 2], "content": f"{turn} {text}"}
        for turn in range(turns)
    ]
    doc = {"model": "m", "stream": True, "messages": messages}
    return Call("id", Wire.OPENAI, Op.CHAT, "/v1/chat/completions", "m", stream=True, doc=doc)


class Desk:
    """A board with ``engines``, each of which has answered some conversations."""

    def __init__(self, engines: int, workers: int) -> None:
        self.board = Board(Page(workers))
        self.catalog = build(town(engines), (), rows)
        self.way: Route = route(talk(1000), Caller(), self.catalog)

    def decide(self, call: Call, policy: str, turn: int) -> Plan:
        means = Means(POLICIES, policy, self.board.busy, self.board.lore)
        return plan(call, self.way, means, turn=turn, dice=0.5, now=time.monotonic())

    def carry(self, call: Call, found: Plan) -> None:
        """The bookkeeping of one request from its sending to its end."""
        lore, brief = self.board.lore, found.briefs[0]
        sent = lore.send(call, brief, found.places[0], time.monotonic())
        lore.first(sent, time.monotonic())
        lore.end(sent, time.monotonic(), Usage(round(brief.tokens), 200, 0))


def median_of(action: Callable[[int], object], times: int) -> float:
    """Microseconds."""
    took = []
    for number in range(times):
        before = time.perf_counter()
        action(number)
        took.append(time.perf_counter() - before)
    return statistics.median(took) * 1e6


def measured(size: int, engines: int, policy: str, workers: int) -> tuple[float, float, float]:
    """Microseconds to hash the prompt, to decide (with the hashing), to keep the books."""
    desk = Desk(engines, workers)
    calls = [talk(size, number) for number in range(10)]
    for turn in range(200):
        call = calls[turn % len(calls)]
        found = desk.decide(call, "auto", turn)
        desk.carry(call, found)
    hashing = median_of(lambda n: prompt_of(calls[n % len(calls)]), 100)
    deciding = median_of(lambda n: desk.decide(calls[n % len(calls)], policy, n), 300)
    plans = [desk.decide(call, "auto", 0) for call in calls]
    books = median_of(lambda n: desk.carry(calls[n % len(calls)], plans[n % len(calls)]), 100)
    return hashing, deciding, books


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=1, help="rows of the shared page")
    parser.add_argument("--policy", default="auto", choices=list(POLICIES))
    arguments = parser.parse_args()
    print("| prompt | engines | hashing µs | decision µs | bookkeeping µs |")  # noqa: T201
    print("| ---: | ---: | ---: | ---: | ---: |")  # noqa: T201
    for size in SIZES:
        for engines in ENGINES:
            cells = measured(size, engines, arguments.policy, arguments.workers)
            shown = " | ".join(f"{cell:.0f}" for cell in cells)
            print(f"| {size // 1000} kB | {engines} | {shown} |")  # noqa: T201


if __name__ == "__main__":
    main()
