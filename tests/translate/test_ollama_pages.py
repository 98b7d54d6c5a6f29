"""The lists of models that Ollama's clients read, made of any fleet."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import pytest
from ollama import ListResponse, ProcessResponse, ShowResponse

from backends import BY_NAME
from gateway.core.catalog import build, resolve
from gateway.core.runtime import Answer
from gateway.core.types import Backend, Caller, Fleet, Health, Model, Op, PublicModel, Sight, Target
from gateway.translate import ollama_pages as pages
from tests.backends.recorded import evidence

TAG = {
    "name": "llama3.2:latest",
    "model": "llama3.2:latest",
    "modified_at": "2026-05-04T17:37:44.706015396-07:00",
    "size": 3825819519,
    "digest": "fe938a131f40e6f6d40083c9f0f430a515233eb2edaa6d72eb85c50d64f2300e",
    "details": {"format": "gguf", "family": "llama", "parameter_size": "3.2B"},
    "capabilities": ["completion", "tools"],
}
PS = {**TAG, "size_vram": 1000, "expires_at": "2026-05-04T18:00:00Z", "context_length": 4096}


def found_by(runtime: str, **paths: object) -> tuple[Model, ...]:
    docs = {f"/{path.replace('_', '/')}": Answer(200, doc=doc) for path, doc in paths.items()}
    return BY_NAME[runtime].models(docs)


OLLAMAS = found_by(
    "ollama",
    v1_models={"data": [{"id": "llama3.2:latest", "created": 5, "owned_by": "library"}]},
    api_tags={"models": [TAG, {**TAG, "name": "asleep:1b", "model": "asleep:1b"}]},
    api_ps={"models": [PS]},
)
VLLMS = BY_NAME["vllm"].models(evidence("vllm-0.32.0", {"/v1/models": "get_models"}))
LLAMAS = BY_NAME["llamacpp"].models(
    evidence("xllamacpp-2026.10.11549", {"/v1/models": "get_models", "/props": "get_props"})
)


def catalog(*public: PublicModel, **backends: tuple[str, tuple[Model, ...]]):
    fleet = Fleet(
        1,
        0.0,
        {name: Backend(name, f"http://{name}:1", row) for name, (row, _) in backends.items()},
        {n: Sight(Health.UP, runtime=row, models=m) for n, (row, m) in backends.items()},
    )
    return build(fleet, public, lambda name, variant: BY_NAME[name].row(variant))


MIXED = catalog(
    PublicModel("chat", (Target("gpu1"),)),
    gpu1=("vllm", VLLMS),
    gpu2=("vllm", VLLMS),
    box=("ollama", OLLAMAS),
    edge=("llamacpp", (replace(LLAMAS[0], id="small", aliases=()),)),
    far=("openai", (Model("gpt-4o", entry={"created": 1715367049}),)),
)


def rows(doc) -> dict:
    return {row["name"]: row for row in doc["models"]}


def test_a_name_is_listed_once_however_many_backends_have_it() -> None:
    doc = pages.tags(MIXED, MIXED.listed)
    names = "asleep:1b chat gpt-4o llama3.2:latest small tiny-chat"
    assert sorted(rows(doc)) == names.split()
    assert len(doc["models"]) == 6
    assert len(ListResponse(**doc).models) == 6


def test_only_the_given_names_are_listed() -> None:
    assert list(rows(pages.tags(MIXED, ["tiny-chat"]))) == ["tiny-chat"]


def test_ollamas_own_row_is_kept() -> None:
    row = rows(pages.tags(MIXED, MIXED.listed))["llama3.2:latest"]
    for name in ("size", "digest", "modified_at", "capabilities"):
        assert row[name] == TAG[name]
    assert row["details"]["family"] == "llama"
    assert row["details"]["parent_model"] == ""


def test_other_rows_say_what_is_known_and_are_well_typed() -> None:
    found = rows(pages.tags(MIXED, MIXED.listed))
    small = found["small"]
    assert (small["size"], small["details"]["parameter_size"]) == (1839616, "918.66K")
    assert (small["details"]["format"], small["details"]["quantization_level"]) == ("gguf", "F16")
    assert found["gpt-4o"]["modified_at"] == "2024-05-10T18:50:49+00:00"
    for row in found.values():
        assert len(row["digest"]) == 64
        assert int(row["digest"], 16)
        assert datetime.fromisoformat(row["modified_at"])
    assert found["chat"]["digest"] == found["tiny-chat"]["digest"]


def test_a_digest_does_not_change_with_the_fleet() -> None:
    alone = catalog(gpu9=("vllm", VLLMS))
    before, after = pages.tags(MIXED, ["tiny-chat"]), pages.tags(alone, ["tiny-chat"])
    assert before["models"][0]["digest"] == after["models"][0]["digest"]


def test_what_is_in_memory_is_what_engines_hold() -> None:
    doc = pages.ps(MIXED, MIXED.listed)
    found = rows(doc)
    assert sorted(found) == ["chat", "llama3.2:latest", "small", "tiny-chat"]
    assert len(ProcessResponse(**doc).models) == 4
    assert found["tiny-chat"]["expires_at"] == pages.FOREVER
    assert datetime.fromisoformat(pages.FOREVER).timestamp() > 0
    assert found["tiny-chat"]["context_length"] == 4096
    assert "expires_at" not in found["llama3.2:latest"]
    assert found["llama3.2:latest"]["size_vram"] == 1000


def test_a_model_is_shown_with_what_clients_check() -> None:
    doc = pages.show("tiny-chat:latest", resolve(MIXED, "tiny-chat", "", Caller()))
    shown = ShowResponse(**doc)
    architecture = shown.modelinfo["general.architecture"]
    assert architecture
    assert shown.modelinfo[f"{architecture}.context_length"] == 4096
    assert shown.modelinfo["general.basename"] == "tiny-chat:latest"
    assert {"completion", "tools"} <= set(shown.capabilities)


def test_figures_stand_under_the_family_where_one_is_known() -> None:
    info = pages.show("llama3.2", resolve(MIXED, "llama3.2", "", Caller()))["model_info"]
    assert (info["general.architecture"], info["llama.context_length"]) == ("llama", 4096)
    small = pages.show("small", resolve(MIXED, "small", "", Caller()))["model_info"]
    assert small["general.parameter_count"] == 918656
    assert small["unknown.embedding_length"] == 128


def test_a_name_whose_backend_was_never_seen_is_shown_as_unknown() -> None:
    empty = catalog(gpu1=("vllm", ()))
    doc = pages.show("gpu1:later", resolve(catalog_with(empty), "gpu1:later", "", Caller()))
    assert doc["capabilities"] == ["completion", "tools"]
    assert "unknown.context_length" not in doc["model_info"]


def catalog_with(empty):
    """A catalog in which some other backend has told its models."""
    return replace(empty, entries={"other": MIXED.entries["small"]})


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        (None, ["completion", "tools"]),
        (frozenset({"chat", "embeddings", "tts"}), ["completion", "embedding"]),
        (frozenset({"embedding"}), ["embedding"]),
        (frozenset({"completion", "video", "vision"}), ["completion", "vision"]),
        (frozenset(), []),
    ],
)
def test_abilities_are_told_in_ollamas_words(told, shown) -> None:
    place = MIXED.entries["tiny-chat"].places[0]
    model = Model("m", capabilities=told)
    assert pages.capabilities(replace(place, model=model)) == shown


def test_a_model_that_has_refused_to_chat_embeds() -> None:
    place = MIXED.entries["tiny-chat"].places[0]
    sight = replace(place.sight, lacks=frozenset({("tiny-chat", Op.CHAT)}))
    assert pages.capabilities(replace(place, sight=sight)) == ["embedding"]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("tiny-chat", "tiny-chat"),
        ("tiny-chat:latest", "tiny-chat"),
        ("llama3.2", "llama3.2"),
        ("llama3.2:latest", "llama3.2:latest"),
        ("gpu1:tiny-chat:latest", "gpu1:tiny-chat"),
        ("unheard:7b", "unheard:7b"),
    ],
)
def test_latest_is_no_part_of_other_engines_names(name, plain) -> None:
    assert pages.plain_name(name, MIXED) == plain


def test_the_version_is_high_enough_for_clients_that_ask_for_one() -> None:
    numbers = tuple(map(int, pages.version()["version"].split(".")))
    assert numbers >= (0, 6, 4)


@pytest.mark.parametrize(
    ("number", "text"),
    [(8030261248, "8.0B"), (566703104, "566.70M"), (918656, "918.66K"), (7, "7")],
)
def test_numbers_of_parameters_read_as_ollamas_do(number, text) -> None:
    assert pages.human(number) == text
