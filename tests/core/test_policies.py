"""What each policy makes of what is known."""

from dataclasses import replace

import pytest

from gateway.core.catalog import build
from gateway.core.cost import Brief, Known
from gateway.core.plan import Means, View, plan, route
from gateway.core.prompt import BLOCK, Prompt
from gateway.core.types import Caller, Health
from gateway.policies import POLICIES, policies_for, read, spelt
from gateway.policies.mixed import regrets
from gateway.policies.session import session_of
from tests.core.fleets import call, catalog, changed, fleet, rows


class Told:
    """A lore that says of each backend what it is told to, and counts how often it is asked."""

    def __init__(self, tokens=4000.0, **known):
        self.known, self.tokens, self.asked = known, tokens, 0

    def brief(self, call, places, now):
        self.asked += 1
        known = [self.known.get(place.backend.name, Known()) for place in places]
        return Brief(Prompt((), int(self.tokens * 4)), self.tokens, 200.0, places, known)


def planned(known, lore, policy="auto", asked=None, *, busy=None, turn=0):
    wanted = asked or call()
    return plan(
        wanted,
        route(wanted, Caller(), known),
        Means(policies_for([policy]), policy, busy or {}, lore),
        turn=turn,
        dice=0.3,
    )


def order(*args, **more):
    return [place.backend.name for place in planned(*args, **more).places]


TWO = catalog(a="vllm m1", b="vllm m1")
THREE = catalog(a="vllm m1", b="vllm m1", c="vllm m1")


def test_auto_goes_where_the_prompt_is_cached():
    assert order(TWO, Told(b=Known(cached=3500))) == ["b", "a"]


def test_auto_leaves_an_engine_that_has_too_much_ahead():
    assert order(TWO, Told(b=Known(cached=3500, queue=5.0))) == ["a", "b"]


def test_auto_knows_a_slow_gpu():
    assert order(TWO, Told(a=Known(prefill=3.0, decode=3.0))) == ["b", "a"]


def test_auto_shares_by_weight_among_equals():
    base = fleet(a="vllm m1", b="vllm m1")
    heavy = replace(base.backends["a"], weight=3.0)
    known = build(replace(base, backends={**base.backends, "a": heavy}), (), rows)
    assert order(known, Told(b=Known(queue=0.1))) == ["a", "b"]
    same = [order(TWO, Told(), turn=turn)[0] for turn in range(100)]
    assert abs(same.count("a") - 50) <= 2


def sighted(**fields):
    """Two equal engines, of which ``a`` looks so."""
    base = fleet(a="vllm m1", b="vllm m1")
    return build(
        replace(base, sights={**base.sights, "a": replace(base.sights["a"], **fields)}), (), rows
    )


@pytest.mark.parametrize("less", [{"left": 0.5}, {"gpu_factor": 0.5}])
def test_auto_counts_what_is_left_of_an_engines_gpus(less):
    a_little_ahead = Told(b=Known(queue=0.1))
    assert order(TWO, a_little_ahead) == ["a", "b"]
    assert order(sighted(**less), a_little_ahead) == ["b", "a"]


def test_auto_does_not_count_our_own_requests_twice():
    assert order(sighted(room=0.5), Told(b=Known(queue=0.1))) == ["a", "b"]


@pytest.mark.parametrize("less", [{"left": 0.5}, {"gpu_factor": 0.5}])
def test_a_gpu_that_is_slowed_down_keeps_the_prompts_that_it_has_cached(less):
    known, lore = sighted(**less), Told(tokens=3000.0, a=Known(cached=2900))
    assert {order(known, lore, turn=turn)[0] for turn in range(20)} == {"a"}


def weighted(**weights):
    base = fleet(**dict.fromkeys(weights, "vllm m1"))
    return build(
        replace(
            base,
            backends={n: replace(b, weight=weights[n]) for n, b in base.backends.items()},
        ),
        (),
        rows,
    )


def test_unequal_weights_are_shares_until_an_engine_is_clearly_worse():
    known = weighted(a=3.0, b=1.0)
    somewhat, clearly = Told(a=Known(queue=0.3)), Told(a=Known(queue=3.0))
    shared = [order(known, somewhat, turn=turn)[0] for turn in range(100)]
    assert abs(shared.count("a") - 75) <= 2
    assert {order(known, clearly, turn=turn)[0] for turn in range(100)} == {"b"}


def test_prompts_that_nobody_has_cached_go_by_load_among_equals():
    barely = Told(a=Known(queue=0.01))
    assert order(TWO, barely, busy={"a": 0, "b": 1}) == ["a", "b"]
    assert order(TWO, barely, busy={"a": 1, "b": 0}) == ["b", "a"]


def test_what_is_alike_depends_on_how_fast_the_engines_are():
    def apart(seconds, factor):
        known = {name: Known(prefill=factor, decode=factor) for name in "ab"}
        return Told(**known | {"a": known["a"]._replace(queue=seconds)})

    busy = {"a": 0, "b": 1}
    assert order(TWO, apart(0.01, 1.0), busy=busy) == ["a", "b"]
    assert order(TWO, apart(0.01, 0.1), busy=busy) == ["b", "a"]
    assert order(TWO, apart(0.05, 1.0), busy=busy) == ["b", "a"]
    assert order(TWO, apart(0.05, 5.0), busy=busy) == ["a", "b"]


def test_a_prompt_of_less_than_a_block_goes_by_load_and_nobody_is_asked_of_caches():
    lore, short = Told(a=Known(queue=9.0)), call(body=b"x" * (BLOCK - 1))
    assert order(TWO, lore, asked=short, busy={"a": 0, "b": 1}) == ["a", "b"]
    assert lore.asked == 0
    assert order(TWO, lore, asked=call(body=b"x" * BLOCK), busy={"a": 0, "b": 1}) == ["b", "a"]


@pytest.mark.parametrize("policy", ["auto", "prefix", "lowest_latency"])
def test_without_a_prompt_they_are_what_least_loaded_is(policy):
    lore = Told(tokens=0.0, a=Known(cached=100, queue=9.0))
    for turn in range(20):
        busy = {"a": turn % 3, "b": turn % 5, "c": turn % 2}
        assert order(THREE, lore, policy, busy=busy, turn=turn) == order(
            THREE, lore, "least_loaded", busy=busy, turn=turn
        )


def test_prefix_goes_by_the_cache_alone_until_an_engine_is_much_busier():
    lore = Told(a=Known(cached=2000), b=Known(cached=3000, queue=9.0))
    assert order(THREE, lore, "prefix") == ["b", "a", "c"]
    assert order(THREE, lore, "prefix", busy={"b": 12}) == ["a", "c", "b"]


def test_lowest_latency_looks_at_this_request_only():
    lore = Told(a=Known(queue=0.3), b=Known(decoding=60, context=300_000))
    assert order(TWO, lore, "lowest_latency") == ["b", "a"]
    assert order(TWO, lore, "auto") == ["a", "b"]


CLOUDY = catalog(a="vllm m1", b="openai m1", c="vllm m1")


def test_local_first_takes_a_provider_only_when_its_own_engines_have_no_room():
    assert order(CLOUDY, Told(a=Known(queue=2.0)), "local_first") == ["c", "a", "b"]
    slow = Known(queue=20.0)
    assert order(CLOUDY, Told(a=slow), "local_first") == ["c", "b", "a"]
    assert order(CLOUDY, Told(a=slow, c=slow), "local_first")[0] == "b"


def test_local_first_takes_a_busy_engine_for_overloaded():
    base = changed(fleet(a="vllm m1", b="openai m1"), "a", health=Health.BUSY)
    assert order(build(base, (), rows), Told(), "local_first") == ["b", "a"]


@pytest.mark.parametrize(
    "more",
    [
        {"session": "s"},
        {"doc": {"prompt_cache_key": "s"}},
        {"doc": {"user": "s"}},
        {"doc": {"metadata": {"user_id": "s"}}},
        {"session": "s", "doc": {"prompt_cache_key": "other"}},
        {"doc": {"prompt_cache_key": "s", "user": "other"}},
    ],
    ids=str,
)
def test_a_session_is_told_by_what_clients_send(more):
    assert session_of(call(**more)) == "s"
    assert order(THREE, Told(), "session", call(**more)) == order(
        THREE, Told(), "session", call(session="s")
    )


@pytest.mark.parametrize(
    "doc", [{"user": 5}, {"metadata": "x"}, {"metadata": None}, {"user": ["a"]}]
)
def test_what_is_no_text_is_no_session(doc):
    assert session_of(call(doc=doc)) == ""


# --- mixes


def test_a_mix_has_one_name():
    assert spelt({"session": 0.3, "auto": 0.7}) == "auto=0.7,session=0.3"
    assert read("auto=0.7,session=0.3") == {"auto": 0.7, "session": 0.3}
    assert read("auto") == {"auto": 1.0}


def test_a_score_counts_by_how_much_worse_than_the_best_it_is():
    assert regrets([2.0, 4.0, 2.0]) == pytest.approx([0.0, 0.5, 0.0], abs=0.01)
    assert regrets([0.0, 0.0]) == [0.0, 0.0]
    assert all(0 <= share < 1 for share in regrets([0.0, 1e6, 3.0]))
    small = regrets([10.0, 10.1])
    assert small[1] < 0.02, "a small difference stays small"


def test_in_a_mix_a_great_difference_of_one_outweighs_a_small_one_of_another():
    home = order(TWO, Told(), "session", call(session="s"))[0]
    away = "b" if home == "a" else "a"
    near, far = Known(queue=0.05), Known(queue=30.0)
    mix = "auto=0.6,session=0.4"
    assert order(TWO, Told(**{home: near}), mix, call(session="s"))[0] == home
    assert order(TWO, Told(**{home: far}), mix, call(session="s"))[0] == away


def test_a_mix_asks_for_its_brief_once():
    lore = Told()
    planned(TWO, lore, "auto=1,lowest_latency=1,prefix=1")
    assert lore.asked == 1


@pytest.mark.parametrize("policy", ["round_robin", "least_loaded", "power_of_two", "weighted"])
def test_cheap_policies_ask_for_nothing(policy):
    lore = Told()
    assert planned(TWO, lore, policy).briefs == ()
    assert lore.asked == 0


def test_no_choice_is_made_where_there_is_none():
    lore = Told()
    found = planned(catalog(a="vllm m1"), lore)
    assert (len(found.places), found.scores[0][0], lore.asked) == (1, None, 0)


@pytest.mark.parametrize("policy", POLICIES)
def test_scores_are_never_negative_and_kept_with_the_plan(policy):
    lore = Told(a=Known(cached=100), b=Known(queue=2.0))
    for turn in range(10):
        found = planned(THREE, lore, policy, turn=turn, busy={"a": turn})
        scores = [score for score, _ in found.scores]
        assert scores == sorted(scores)
        assert min(scores) >= 0
        assert found.first is found.places[0]
        view = View(call(), found.places, {}, turn, 0.5, lore)
        assert len(POLICIES[policy](view)) == 3


def test_the_plan_keeps_what_was_known_of_each_place():
    lore = Told(b=Known(cached=3500))
    found = planned(TWO, lore)
    brief = found.brief_of(found.places[0])
    assert brief is not None
    assert brief.known[brief.places.index(found.places[0])].cached == 3500
    assert found.brief_of(replace(found.places[0])) is None
