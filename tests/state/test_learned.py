"""What traffic teaches: kept by each worker, known to all, left to those that follow."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from gateway.state.learned import ANSWER, BYTES_PER_TOKEN, MODELS, Learned, LearnedPage


def page_of(rows: int = 2) -> LearnedPage:
    return LearnedPage(rows, nullcontext())


def test_speed_is_learned_from_the_engine_s_own_times_by_all_workers_together() -> None:
    page = page_of()
    left, right = Learned(page, 0), Learned(page, 1)
    for _ in range(20):
        for worker in (left, right):
            worker.prefilled(5, 0.1, 0.3, 1.0)
            worker.decoded(5, 0.01, 0.04, 1.0)
            worker.prefilled(6, 0.1, 0.1, 1.0)
            worker.prefilled(7, 0.1, 0.1, 1.0)
    slow, fast, _ = left.speeds([5, 6, 7])
    assert slow.prefill == pytest.approx(3.0, rel=0.1)
    assert slow.decode == pytest.approx(4.0, rel=0.1)
    assert fast.prefill == pytest.approx(1.0)
    assert left.speeds([5]) == Learned(page, 1).speeds([5]), "a new worker begins with all of it"


def test_a_model_s_tokens_and_answers_are_learned() -> None:
    learned = Learned(page_of(), 0)
    place = learned.place("Qwen")
    assert learned.model(place) == (BYTES_PER_TOKEN, ANSWER)
    for _ in range(200):
        learned.answered(place, 3000, 2000, 50)
    per_token, out = learned.model(place)
    assert per_token == pytest.approx(1.5, rel=0.05)
    assert 50 < out < 60
    assert learned.model(learned.place("other")) == (BYTES_PER_TOKEN, ANSWER)


def test_answers_that_do_not_say_their_prompt_s_tokens_teach_their_length_only() -> None:
    learned = Learned(page_of(), 0)
    place = learned.place("m")
    for _ in range(50):
        learned.answered(place, 3000, 0, 1000)
    assert learned.model(place)[0] == BYTES_PER_TOKEN
    assert learned.model(place)[1] > 800


def test_models_have_the_same_place_in_all_processes_and_the_last_is_shared() -> None:
    page = page_of()
    names = [f"model {n}" for n in range(MODELS + 5)]
    left = [Learned(page, 0).place(name) for name in names]
    assert [Learned(page, 1).place(name) for name in reversed(names)] == left[::-1]
    assert left[: MODELS - 1] == list(range(MODELS - 1))
    assert set(left[MODELS - 1 :]) == {MODELS - 1}


def test_a_cache_that_breaks_promises_is_smaller_than_was_thought() -> None:
    learned = Learned(page_of(), 0)
    learned.cached(1, 10, 10, 0.1)
    for _ in range(20):
        learned.cached(1, 10, 0, 0.5)
    assert learned.cache_factor(1) < 0.2
    small = learned.cache_factor(1)
    for _ in range(20):
        learned.cached(1, 10, 10, 0.5)
    assert small < learned.cache_factor(1) <= 1.0
    assert learned.cache_factor(2) == 1.0


def test_one_that_keeps_more_than_was_thought_is_larger() -> None:
    learned = Learned(page_of(), 0)
    for _ in range(10):
        learned.cached(1, 2, 30, None)
    assert learned.cache_factor(1) == 1.0, "an answer is cached too, of which nothing was known"
    for _ in range(10):
        learned.cached(1, 2, 30, None, beyond=1.5)
    assert learned.cache_factor(1) > 1.3


def test_an_engine_that_never_says_what_it_had_cached_is_not_blamed() -> None:
    learned = Learned(page_of(), 0)
    for _ in range(50):
        learned.cached(1, 10, 0, 0.5)
    assert learned.cache_factor(1) == 1.0
