"""What is kept of past requests is bounded in number and in memory."""

from __future__ import annotations

from gateway.core.explain import Story, explain
from gateway.state.recall import Recall
from tests.core.fleets import catalog

PLACES = catalog(a="vllm m1", b="vllm m1").entries["m1"].places


def story(rid: str, status: int = 200) -> Story:
    return Story(rid, "k", "chat-completions", "m1", status, seen=PLACES)


def test_the_oldest_go_first_and_of_two_with_one_id_the_later_stays() -> None:
    recall = Recall(most=3)
    for rid in ("a", "b", "a", "c", "d"):
        recall.keep(story(rid, 200 if rid != "a" or len(recall) == 0 else 503))
    assert [recall.of(rid) is not None for rid in "abcd"] == [True, False, True, True]
    kept = recall.of("a")
    assert kept is not None
    assert kept.status == 503


def test_all_together_hold_no_more_places_than_allowed() -> None:
    recall = Recall(most=100, most_places=7)
    for number in range(50):
        recall.keep(story(str(number)))
    assert len(recall) == 3


def test_a_story_without_a_plan_says_why_each_place_was_left_out() -> None:
    found = explain(story("x", 503))
    assert [one["backend"] for one in found["skipped"]] == ["a", "b"]
    assert all("full" in one["why"] for one in found["skipped"])
