"""What a provider lists bounds what it is asked."""

from __future__ import annotations

from dataclasses import replace

from gateway.core.catalog import Place, resolve
from gateway.core.fit import unfit, unsupported
from gateway.core.types import Caller, Op, Wire
from tests.core.fleets import call, catalog


def place(*surfaces: tuple[Wire, Op]) -> Place:
    found = resolve(catalog(a="vllm m1"), "m1", "", Caller()).places[0]
    return replace(found, backend=replace(found.backend, surfaces=surfaces))


def test_a_surface_that_a_provider_does_not_list_is_not_asked_of_it() -> None:
    limited = place((Wire.OPENAI, Op.EMBEDDINGS))
    assert unfit(call(), limited)
    assert "supportedApiSurfaces" in unsupported(call(), [limited]).message
    assert unfit(call(op=Op.EMBEDDINGS), limited) is None


def test_a_provider_that_lists_nothing_has_what_its_runtime_has() -> None:
    assert unfit(call(), place()) is None


def test_responses_cover_the_calls_by_id() -> None:
    assert unfit(call(op=Op.RESPONSES_BY_ID), place((Wire.OPENAI, Op.RESPONSES))) is None
