"""Names lead where the contract says (INTERFACE 3, Choosing the model)."""

import pytest

from gateway.core.catalog import knows, narrowed, near, offered, resolve
from gateway.core.errors import Refusal
from gateway.core.types import Caller, Model, PublicModel, Target
from tests.core.fleets import catalog, changed, fleet, rows

ALL = Caller()


def places(found):
    return [(place.backend.name, place.asked) for place in found.places]


def test_an_id_leads_to_every_backend_that_has_it():
    known = catalog(gpu1="vllm m1", gpu2="sglang m1", gpu3="vllm other")
    assert places(resolve(known, "m1", "", ALL)) == [("gpu1", "m1"), ("gpu2", "m1")]


def test_an_id_with_a_colon_is_matched_whole_before_any_prefix():
    known = catalog(llama3="vllm 3.2", ollama="ollama llama3:3.2 vllm:x")
    assert places(resolve(known, "llama3:3.2", "", ALL)) == [("ollama", "llama3:3.2")]
    assert places(resolve(known, "vllm:x", "", ALL)) == [("ollama", "vllm:x")]


def test_prefixes_name_a_backend_or_a_runtime():
    known = catalog(gpu1="vllm org/m:1", gpu2="vllm org/m:1", tgi1="tgi org/m:1")
    assert places(resolve(known, "gpu2:org/m:1", "", ALL)) == [("gpu2", "org/m:1")]
    assert len(resolve(known, "vllm:org/m:1", "", ALL).places) == 2
    assert places(resolve(known, "tgi:org/m:1", "", ALL)) == [("tgi1", "org/m:1")]


def test_a_prefix_form_counts_under_the_models_own_name():
    known = catalog(gpu1="vllm m1")
    assert resolve(known, "gpu1:m1", "", ALL).label == "m1"


def test_the_pin_header_narrows_and_refuses_with_404():
    known = catalog(gpu1="vllm m1", gpu2="vllm m1 m2")
    assert places(resolve(known, "m1", "gpu2", ALL)) == [("gpu2", "m1")]
    with pytest.raises(Refusal) as unknown:
        resolve(known, "m1", "gpu9", ALL)
    assert (unknown.value.status, unknown.value.kind) == (404, "not_found")
    assert "'gpu1'" in unknown.value.message
    assert "'gpu2'" in unknown.value.message
    with pytest.raises(Refusal) as absent:
        resolve(known, "m2", "gpu1", ALL)
    assert absent.value.kind == "model_not_found"


def test_an_unknown_name_is_404_with_near_matches_the_caller_may_see():
    known = catalog(gpu1="vllm Qwen/Qwen2.5-7B-Instruct secret/Qwen2.5-7B")
    with pytest.raises(Refusal) as refusal:
        resolve(known, "qwen2.5-7b", "", Caller(models=("Qwen/*",)))
    assert refusal.value.kind == "model_not_found"
    assert "Qwen/Qwen2.5-7B-Instruct" in refusal.value.message
    assert "secret" not in refusal.value.message


def test_a_name_that_a_key_may_not_use_is_403_in_every_spelling():
    known = catalog(
        PublicModel("chat", (Target("gpu1", "m1"),)), gpu1="vllm m1 m2", gpu2="ollama m2"
    )
    narrow = Caller("team-a", models=("chat", "m2"))
    for name in ("m1", "gpu1:m1", "vllm:m1"):
        with pytest.raises(Refusal) as refusal:
            resolve(known, name, "", narrow)
        assert refusal.value.kind == "forbidden"
        assert "team-a" in refusal.value.message
    assert places(resolve(known, "chat", "", narrow)) == [("gpu1", "m1")]
    assert places(resolve(known, "gpu2:m2", "", narrow)) == [("gpu2", "m2")]
    assert {asked for _, asked in places(resolve(known, "auto", "", narrow))} == {"m2"}


def test_a_public_name_leads_to_its_targets_with_their_weights():
    public = PublicModel("chat", (Target("gpu1", "m1", 3), Target("gpu2")))
    known = catalog(public, gpu1="vllm m1", gpu2="ollama only")
    found = resolve(known, "chat", "", ALL)
    assert places(found) == [("gpu1", "m1"), ("gpu2", "only")]
    assert [place.weight for place in found.places] == [3, 1]
    assert known.listed["chat"]["id"] == "chat"


def test_a_backend_that_was_never_up_is_known_so_that_it_is_503_and_not_404():
    known = catalog(PublicModel("chat", (Target("gpu1", "m9"),)), gpu1="-auto")
    for name in ("chat", "gpu1:anything"):
        assert [p.backend.name for p in resolve(known, name, "", ALL).places] == ["gpu1"]


def test_while_no_backend_has_told_its_models_an_unknown_name_is_503():
    with pytest.raises(Refusal) as caught:
        resolve(catalog(gpu1="-auto"), "any", "", ALL)
    assert caught.value.kind == "overloaded"
    with pytest.raises(Refusal) as caught:
        resolve(catalog(gpu1="-auto", gpu2="vllm m1"), "any", "", ALL)
    assert caught.value.kind == "model_not_found"


def test_configured_models_are_the_only_ones_of_a_backend():
    from dataclasses import replace

    from gateway.core.catalog import build

    base = fleet(gpu1="tgi base")
    only = replace(base.backends["gpu1"], models=("base", "adapter"))
    known = build(replace(base, backends={"gpu1": only}), (), rows)
    assert set(known.entries) == {"base", "adapter"}


def test_aliases_lead_to_the_model_and_count_under_its_id():
    from gateway.core.catalog import build

    base = fleet(box="ollama")
    seen = changed(base, "box", models=(Model("foo:latest", aliases=("foo",)),))
    found = resolve(build(seen, (), rows), "foo", "", ALL)
    assert (found.label, places(found)) == ("foo:latest", [("box", "foo:latest")])


def test_listed_entries_keep_their_fields_and_gain_what_typed_clients_need():
    from gateway.core.catalog import build

    base = fleet(box="localai")
    seen = changed(base, "box", models=(Model("m", entry={"id": "m", "x": 1}),))
    doc = build(seen, (), rows).listed["m"]
    assert doc == {"id": "m", "x": 1, "object": "model", "created": 0, "owned_by": "portico"}


def test_near_matches_survive_hostile_names():
    assert near("x" * 10**6, ["model"]) == []
    assert near("Modle", ["model", "other"]) == ["model"]


def test_only_what_can_be_served_and_may_be_used_is_offered():
    known = catalog(a="vllm org/m1", b="-vllm m2", c="tgi m3")
    assert set(offered(known, Caller())) == {"org/m1", "m3"}
    assert set(offered(known, Caller(models=("org/*",)))) == {"org/m1"}


def test_a_narrowed_catalog_has_one_backend_and_all_names():
    known = narrowed(catalog(a="vllm m1 m2", b="vllm m1"), "b")
    assert [place.backend.name for place in known.entries["m1"].places] == ["b"]
    assert set(offered(known, Caller())) == {"m1"}
    with pytest.raises(Refusal) as caught:
        narrowed(known, "nobody")
    assert caught.value.kind == "not_found"


@pytest.mark.parametrize(
    ("name", "known"),
    [("m1", True), ("a:m1", True), ("vllm:m1", True), ("auto", True), ("m1:latest", False)],
)
def test_a_name_is_known_in_all_its_forms(name, known):
    assert knows(catalog(a="vllm m1"), name) is known
