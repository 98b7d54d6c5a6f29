"""What is told of a request's way."""

from __future__ import annotations

from dataclasses import replace

from gateway.core.cost import Brief, Known
from gateway.core.explain import Story, explain
from gateway.core.plan import Plan, Ranking
from gateway.core.prompt import NO_PROMPT, Prompt
from gateway.core.types import Tried
from tests.core.fleets import catalog

PLACES = catalog(a="vllm m1", b="vllm m1", c="-vllm m1").entries["m1"].places
A, B, C = PLACES
BRIEF = Brief(Prompt((1, 2, 3), 4096), 1000.0, 100.0, (A, B), (Known(cached=900.0), Known(queue=2)))
PLAN = Plan("m1", A, (Ranking((B, A), (2.5, 0.5)),), "auto", (BRIEF,))
DONE = Story("r", "k", "chat-completions", "m1", 200, backend="a", seen=PLACES, plan=PLAN)


def test_the_terms_of_the_cost_are_told_for_each_candidate():
    found = explain(DONE)
    first, second = found["candidates"]
    assert (first["backend"], first["score"], first["cached_tokens"]) == ("a", 0.5, 900)
    assert (second["cost_ms"]["queue"], second["prompt_tokens"]) == (2000.0, 1000)
    parts = [value for name, value in second["cost_ms"].items() if name != "total"]
    assert abs(second["cost_ms"]["total"] - sum(parts)) < 0.01


def test_who_was_skipped_and_how_each_attempt_ended_is_told():
    tried = Tried("a", "m1", 10.5, 10.75, "broken", "reset", "it broke off", 0, False)
    found = explain(replace(DONE, tries=(tried,), arrived=10.0, said="said"))
    assert [(one["backend"], one["why"]) for one in found["skipped"]] == [
        ("c", "down: not probed yet")
    ]
    (attempt,) = found["attempts"]
    assert (attempt["began_ms"], attempt["took_ms"], attempt["reason"]) == (500.0, 250.0, "reset")


def test_a_plan_that_is_kept_has_no_hashes_of_prompts():
    assert [brief.prompt for brief in PLAN.without_prompts().briefs] == [NO_PROMPT]
