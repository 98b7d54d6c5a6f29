"""The order of places: what fits, what is up, what is ranked (INTERFACE 4 and 7)."""

from collections import Counter
from dataclasses import dataclass, replace

import pytest

from gateway.core.capacity import trial_of
from gateway.core.catalog import build
from gateway.core.errors import Refusal
from gateway.core.fit import NO_DETOURS
from gateway.core.plan import LONGEST_PLAN, Means, favourite, plan, route
from gateway.core.types import (
    Caller,
    Circuit,
    Health,
    Model,
    Op,
    PublicModel,
    Target,
    Wire,
)
from gateway.policies import POLICIES
from tests.core.fleets import call, catalog, changed, fleet, rows


def planned(known, asked=None, busy=None, *, turn=0, policy="auto", dice=0.5, table=NO_DETOURS):
    wanted = asked or call()
    return plan(
        wanted,
        route(wanted, Caller(), known, table),
        Means(POLICIES, policy, busy or {}),
        turn=turn,
        dice=dice,
    )


def order(known, asked=None, busy=None, **more):
    return [place.backend.name for place in planned(known, asked, busy, **more).places]


def refusal_of(known, asked=None, busy=None, **more):
    with pytest.raises(Refusal) as caught:
        order(known, asked, busy, **more)
    return caught.value


def test_the_less_busy_backend_comes_first_and_a_down_one_not_at_all():
    known = catalog(a="vllm m1", b="vllm m1", c="-vllm m1")
    assert order(known, busy={"a": 2, "b": 1, "c": 0}) == ["b", "a"]


@pytest.mark.parametrize("policy", ["auto", "weighted"])
def test_idle_backends_share_in_proportion_to_their_weights(policy):
    public = PublicModel("chat", (Target("a", "m1", 3), Target("b", "m1", 1)))
    known = catalog(public, a="vllm m1", b="vllm m1")
    first = Counter(order(known, call("chat"), turn=t, policy=policy)[0] for t in range(400))
    assert abs(first["a"] - 300) <= 3


def test_round_robin_takes_turns():
    known = catalog(a="vllm m1", b="vllm m1", c="vllm m1")
    firsts = [order(known, turn=t, policy="round_robin")[0] for t in range(6)]
    assert firsts == ["a", "b", "c", "a", "b", "c"]


def test_power_of_two_never_takes_the_busiest_of_three():
    known = catalog(a="vllm m1", b="vllm m1", c="vllm m1")
    busy = {"a": 5, "b": 1, "c": 1}
    for step in range(100):
        assert order(known, busy=busy, policy="power_of_two", dice=step / 100)[0] != "a"


def test_a_session_stays_and_few_move_when_a_backend_leaves():
    full = catalog(a="vllm m1", b="vllm m1", c="vllm m1")
    less = catalog(a="vllm m1", b="vllm m1")
    sessions = [call(session=f"s{i}") for i in range(300)]
    before = [order(full, s, policy="session")[0] for s in sessions]
    after = [order(less, s, policy="session")[0] for s in sessions]
    assert before == [order(full, s, turn=9, policy="session")[0] for s in sessions]
    assert all(old == new for old, new in zip(before, after, strict=True) if old != "c")
    assert min(Counter(before).values()) > 60


def test_a_model_whose_only_backend_is_down_is_503_with_the_reason():
    refusal = refusal_of(catalog(a="-vllm m1"))
    assert (refusal.status, refusal.kind) == (503, "overloaded")
    assert "a is down" in refusal.message
    assert refusal.retry_after


def test_a_backend_at_its_limit_gets_no_more():
    base = fleet(a="vllm m1")
    limited = replace(base.backends["a"], max_concurrency=2)
    known = build(replace(base, backends={"a": limited}), (), rows)
    assert order(known, busy={"a": 1}) == ["a"]
    assert "is full (2 of 2 requests)" in refusal_of(known, busy={"a": 2}).message


def test_a_runtime_that_can_do_one_thing_at_a_time_is_given_one():
    """sheet: llamacpp appendix A, one request at a time."""
    base = changed(fleet(a="llamacpp m1"), "a", variant="python")
    known = build(base, (), rows)
    assert refusal_of(known, busy={"a": 1}).kind == "overloaded"


def test_a_surface_that_the_runtime_has_not_is_501_naming_runtime_surface_and_remedy():
    asked = replace(call(op=Op.EMBEDDINGS), path="/v1/embeddings")
    refusal = refusal_of(catalog(a="tgi m1"), asked)
    assert (refusal.status, refusal.kind) == (501, "unsupported")
    for part in ("TGI", "/v1/embeddings", "To get this"):
        assert part in refusal.message


def test_a_backend_with_the_surface_is_found_beside_one_without():
    asked = call(op=Op.EMBEDDINGS)
    assert order(catalog(a="tgi m1", b="vllm m1"), asked) == ["b"]


def test_what_the_engine_once_refused_is_501_from_then_on():
    seen = changed(fleet(a="vllm m1"), "a", lacks=frozenset({("m1", Op.EMBEDDINGS)}))
    refusal = refusal_of(build(seen, (), rows), call(op=Op.EMBEDDINGS))
    assert refusal.kind == "unsupported"
    assert "for the model 'm1'" in refusal.message


@dataclass(frozen=True)
class By:
    """A translation, for those who only decide."""

    to_wire: Wire
    to_op: Op
    chat: bool = False


TO_CHAT, TO_MESSAGES = By(Wire.OPENAI, Op.CHAT), By(Wire.ANTHROPIC, Op.MESSAGES)
TABLE = {
    (Wire.OLLAMA, Op.CHAT): (TO_CHAT, TO_MESSAGES),
    (Wire.ANTHROPIC, Op.COUNT_TOKENS): (By(Wire.OPENAI, Op.TOKENIZE, chat=True),),
}


def test_a_backend_without_the_surface_is_reached_by_a_translation_and_one_with_it_is_not():
    known = catalog(a="tgi m1", b="ollama m1", c="anthropic m1")
    found = planned(known, call("m1", Op.CHAT, Wire.OLLAMA), table=TABLE)
    assert {place.backend.name for place in found.places} == {"a", "b", "c"}
    assert found.ways == {("a", "m1"): (TO_CHAT,), ("c", "m1"): (TO_MESSAGES,)}


def test_a_translation_to_a_surface_that_the_engine_refused_once_is_no_way():
    seen = changed(fleet(a="vllm m1"), "a", lacks=frozenset({("m1", Op.CHAT)}))
    asked = call("m1", Op.CHAT, Wire.OLLAMA)
    assert refusal_of(build(seen, (), rows), asked, table={asked_for(asked): (TO_CHAT,)}).kind == (
        "unsupported"
    )


def asked_for(asked):
    return asked.wire, asked.op


def test_a_surface_that_the_engine_refused_once_is_reached_by_a_translation():
    seen = changed(fleet(a="openai m1"), "a", lacks=frozenset({("m1", Op.RESPONSES)}))
    table = {(Wire.OPENAI, Op.RESPONSES): (TO_CHAT,)}
    found = planned(build(seen, (), rows), call("m1", Op.RESPONSES), table=table)
    assert found.ways == {("a", "m1"): (TO_CHAT,)}


@pytest.mark.parametrize(("runtime", "helped"), [("tgi", True), ("localai", False)])
def test_only_a_tokenizer_that_takes_a_chat_counts_one(runtime, helped):
    asked = call("m1", Op.COUNT_TOKENS, Wire.ANTHROPIC)
    known = catalog(a=f"{runtime} m1")
    if helped:
        assert order(known, asked, table=TABLE) == ["a"]
    else:
        assert refusal_of(known, asked, table=TABLE).kind == "unsupported"


def test_a_translation_does_not_wake_a_backend_that_is_down():
    asked = call("m1", Op.CHAT, Wire.OLLAMA)
    assert refusal_of(catalog(a="-tgi m1"), asked, table=TABLE).kind == "overloaded"


def test_fallbacks_come_after_all_targets_and_stand_in_when_none_is_up():
    small = PublicModel("small", (Target("c", "m3"),))
    public = PublicModel("chat", (Target("a", "m1"), Target("b", "m2")), fallbacks=("small",))
    up = catalog(public, small, a="vllm m1", b="vllm m2", c="vllm m3")
    assert order(up, call("chat"), busy={"a": 9, "b": 8})[2] == "c"
    down = catalog(public, small, a="-vllm m1", b="-vllm m2", c="vllm m3")
    assert order(down, call("chat")) == ["c"]


def test_fallbacks_in_a_circle_end():
    one = PublicModel("one", (Target("a", "m1"),), fallbacks=("two",))
    two = PublicModel("two", (Target("a", "m1"),), fallbacks=("one",))
    assert order(catalog(one, two, a="vllm m1"), call("one")) == ["a"]


def test_a_plan_is_short_however_large_the_fleet():
    known = catalog(**{f"g{i}": "vllm m1" for i in range(64)})
    assert len(order(known)) == LONGEST_PLAN


def test_a_call_that_names_no_model_goes_to_a_backend_that_has_the_surface():
    known = catalog(a="tgi m1", b="ollama m2")
    tags = replace(call("", Op.TAGS, Wire.OLLAMA), path="/api/tags")
    assert order(known, tags) == ["b"]


@pytest.mark.parametrize("health", [h for h in Health if h not in (Health.UP, Health.BUSY)])
def test_only_up_and_busy_backends_take_requests(health):
    known = build(changed(fleet(a="vllm m1"), "a", health=health), (), rows)
    assert refusal_of(known).kind == "overloaded"


def circuits(until=0.0, **states):
    """Backends with the model m1, by what is known of their circuits."""
    found = fleet(**dict.fromkeys(states, "vllm m1"))
    for name, state in states.items():
        found = changed(found, name, circuit=state, until=until)
    return build(found, (), rows)


def test_a_backend_whose_circuit_is_open_is_not_tried():
    assert order(circuits(a=Circuit.OPEN, b=Circuit.CLOSED)) == ["b"]


def test_a_half_open_backend_gets_one_request_at_a_time():
    known = circuits(a=Circuit.HALF_OPEN)
    assert order(known, busy={"a": 3}) == ["a"]
    assert "on trial" in refusal_of(known, busy={"a": 4, trial_of("a"): 1}).message


def test_an_open_circuit_is_worth_waiting_for_until_its_cool_down_ends():
    refusal = refusal_of(circuits(a=Circuit.OPEN, until=4.5))
    assert (refusal.opens, refusal.retry_after) == (4.5, 5)
    assert "cool-down until 4.5 s" in refusal.message
    known = circuits(a=Circuit.OPEN, b=Circuit.HALF_OPEN, until=4.5)
    assert refusal_of(known, busy={trial_of("b"): 1}).opens == 0.0


def test_nothing_is_waited_for_where_all_are_away():
    assert refusal_of(catalog(a="-vllm m1")).opens is None


def test_engines_that_have_the_model_in_memory_go_first():
    cold = changed(fleet(a="ollama m1", b="ollama m1"), "a", models=(Model("m1", loaded=False),))
    assert order(build(cold, (), rows), busy={"b": 9}) == ["b", "a"]


def test_the_favourite_is_no_backend_whose_circuit_is_open():
    known, wanted = circuits(a=Circuit.OPEN, b=Circuit.CLOSED), call()
    for turn in range(4):
        found = favourite(
            wanted,
            route(wanted, Caller(), known),
            Means(POLICIES, "round_robin", {}),
            turn=turn,
            dice=0.5,
        )
        assert found == "b"
