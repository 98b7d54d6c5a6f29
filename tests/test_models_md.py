"""MODELS.md is generated where it can be: stale tables fail, and the figures follow the formula."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends import RUNTIMES
from gateway.core.runtime import Support
from tools import models_table
from tools.models_table import SHAPES, Shape, code, renewed, surfaces, tokens, weights_gib


def test_the_tables_in_models_md_are_fresh() -> None:
    page = models_table.PAGE.read_text(encoding="utf-8")
    assert renewed(page, models_table.parts()) == page, "run 'python tools/models_table.py'"


def test_check_tells_a_stale_page_by_its_exit_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "MODELS.md"
    markers = "".join(
        f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in models_table.parts()
    )
    page.write_text(markers)
    monkeypatch.setattr(models_table, "PAGE", page)
    assert models_table.main(["--check"]) == 1
    assert "stale" in capsys.readouterr().err
    assert page.read_text() == markers
    assert models_table.main([]) == 0
    assert models_table.main(["--check"]) == 0


def test_text_around_the_markers_stays() -> None:
    page = "above\n<!-- t:begin -->\nold\n<!-- t:end -->\nbelow\n"
    assert renewed(page, {"t": ["new"]}) == page.replace("old", "new")


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="t:begin"):
        renewed("nothing here", {"t": []})


def test_every_cell_of_every_runtime_stands_under_a_surface_that_clients_can_call() -> None:
    for row in RUNTIMES:
        assert set(row.cells) == set(surfaces()), row.name


def test_every_surface_that_may_be_missing_says_what_would_work() -> None:
    for row in RUNTIMES:
        for key, cell in row.cells.items():
            assert cell.support is Support.YES or cell.remedy, (row.name, key)


def test_flags_are_set_as_code_once() -> None:
    assert code("--jinja (on by default)") == "`--jinja` (on by default)"
    assert code("set `--a` and OLLAMA_KEEP_ALIVE=-1") == "set `--a` and `OLLAMA_KEEP_ALIVE=-1`"


def test_the_cache_of_a_token_follows_the_formula() -> None:
    llama = next(shape for shape in SHAPES if shape.label == "8B")
    assert llama.kv_bytes() == 2 * 32 * 8 * 128 * 2 == 128 * 1024
    assert llama.kv_bytes(1) == 64 * 1024


def test_the_room_beside_the_weights_follows_the_formula() -> None:
    shape = Shape("x", "x", 2**30 / 1e9, 1, 1, 128)
    assert weights_gib(shape, 2.0) == pytest.approx(2.0)
    assert tokens(shape, 2.0, 10) == pytest.approx((9 - 1 - 2) * 2**30 / 512)
    assert tokens(shape, 2.0, 2) < 0
