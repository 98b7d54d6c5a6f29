"""The documents are true: their commands exist, links lead somewhere, tables are the code's own."""

from __future__ import annotations

import ast
import io
import json
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import yaml

from gateway.cli import parser
from gateway.config import ConfigError, Overrides
from gateway.config.load import load
from gateway.config.model import Document
from gateway.control.families import FAMILIES
from gateway.core.errors import KINDS
from gateway.core.gpu_gate import RULES as FINDINGS
from gateway.core.health import RULES
from tests.deploy.common import exposed, names
from tools import config_reference

ROOT = Path(__file__).parent.parent
README, ARCHITECTURE = ROOT / "README.md", ROOT / "ARCHITECTURE.md"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "tests/wire/README.md"])
GUIDES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/configuration.md")]
"""Pages whose commands people type."""

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`]+)`")


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page that are in one of the languages."""
    return [text for language, text in BLOCK.findall(page.read_text()) if language in languages]


def prose(page: Path) -> str:
    """A page without its fenced blocks, and with each of its paragraphs on one line."""
    return re.sub(r"(?<=\S)\n(?=[^\n|#-])", " ", BLOCK.sub("", page.read_text()))


def rows(page: Path, head: str) -> list[list[str]]:
    """The cells of the table that begins with the line ``head``."""
    lines = page.read_text().split(head, 1)[1].splitlines()[2:]
    table = lines[: next(i for i, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table]


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command line that a page shows, in a block of shell or in running text."""
    shell = "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    for text in [*shell, *INLINE.findall(prose(page))]:
        if re.match(r"(portico|make|python) [a-z-]", text):
            yield shlex.split(text, comments=True)


def all_commands(program: str) -> list[tuple[Path, list[str]]]:
    return [(page, line) for page in GUIDES for line in commands(page) if line[0] == program]


# --- generated


def test_the_configuration_reference_is_fresh() -> None:
    fresh = config_reference.page()
    assert config_reference.PAGE.read_text() == fresh, "run python tools/config_reference.py"


def test_the_reference_has_every_setting() -> None:
    page = config_reference.PAGE.read_text()
    headings = set(re.findall(r"^## `(.+)`$", page, re.MULTILINE))
    assert {"server", "server.tls", "backends[].timeouts", "models[].targets[]"} <= headings
    for section, doc in Document.model_json_schema()["$defs"].items():
        for name in doc["properties"]:
            assert f"| `{name}` |" in page, (section, name)


# --- commands


def test_every_portico_command_can_be_typed() -> None:
    found = all_commands("portico")
    assert {line[1] for _, line in found} == {"serve", "check", "doctor", "gpu-agent", "keys"}
    for page, line in found:
        complaint = io.StringIO()
        try:
            with redirect_stderr(complaint), redirect_stdout(io.StringIO()):
                parser().parse_args(line[1:])
        except SystemExit as ended:
            assert ended.code == 0, (page.name, line, complaint.getvalue())


def test_every_make_command_has_its_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    found = all_commands("make")
    assert {"run", "test"} <= {line[1] for page, line in found if page == README}
    for page, line in found:
        words = [word for word in line[1:] if "=" not in word]
        assert words and set(words) <= targets, (page.name, line)


def test_every_target_is_explained() -> None:
    phony = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    told = rows(ROOT / "CONTRIBUTING.md", "| command | what it does |")
    explained = {cells[0].strip("`").removeprefix("make ") for cells in told}
    assert explained == set(phony[1].split()) - {"help"}


def test_arguments_that_make_passes_on_are_options_of_serve() -> None:
    given = [
        word.removeprefix("ARGS=")
        for _, line in all_commands("make")
        for word in line
        if word.startswith("ARGS=") and line[1] == "run"
    ]
    assert given
    for text in given:
        parser().parse_args(["serve", *shlex.split(text)])


def test_every_python_command_runs_a_file_that_is_there() -> None:
    for page, line in all_commands("python"):
        if line[1] != "-m":
            assert (ROOT / line[1]).is_file(), (page.name, line)


# --- links and names of files


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = BLOCK.sub("", page.read_text())
    return {slug(line) for line in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", page.read_text())):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


TO_BE_WRITTEN = {"backends/acme.py", "tests/backends/test_acme.py", "deploy/examples/acme.yaml"}
"""Files of the example in ARCHITECTURE.md."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_is_named_is_there(page: Path) -> None:
    for text in INLINE.findall(prose(page)):
        if re.fullmatch(r"(gateway|backends|tests|tools|deploy|docs)/[\w./-]*", text):
            assert text in TO_BE_WRITTEN or has_something(ROOT / text), text


def has_something(path: Path) -> bool:
    """A file, or a folder with more in it than what Python left there."""
    inside = path.rglob("*") if path.is_dir() else [path]
    return any(file.is_file() and "__pycache__" not in file.parts for file in inside)


def test_the_tree_has_every_module_once() -> None:
    tree = next(text for text in blocks(ARCHITECTURE, "text") if text.startswith("gateway/"))
    shown: list[str] = []
    room = ""
    for line in tree.splitlines():
        if folder := re.match(r" *(\w+/)", line):
            inside = line.startswith(" ")
            room = ("gateway/" if inside else "") + folder[1]
            continue
        depth = 4 if room.count("/") == 2 else 2
        if not line.startswith(" " * depth) and line.strip():
            room, depth = "gateway/", 2
        named = re.match(r"((?:\w+\.py(?:  )?)+)", line[depth:])
        shown += [room + name for name in named[1].split()] if named else []
    there = [*(ROOT / "gateway").rglob("*.py"), *(ROOT / "backends").glob("*.py")]
    assert sorted(shown) == sorted(str(path.relative_to(ROOT)) for path in there)


# --- tables that repeat the code's own


def test_every_metric_that_is_named_exists() -> None:
    known = {family.name for family in FAMILIES} | exposed()
    for page in PAGES:
        assert names(page.read_text()) <= known, page.name


def test_the_table_of_metrics_is_that_of_the_families() -> None:
    told = [tuple(cells) for cells in rows(README, "| metric | type | labels |")]
    assert told == [
        (f"`{family.name}`", family.type.value, ", ".join(family.labels)) for family in FAMILIES
    ]


def test_the_table_of_refusals_is_that_of_the_kinds() -> None:
    told = rows(ARCHITECTURE, "| kind | status | whose fault |")
    assert told == [[f"`{name}`", str(kind.status), kind.fault] for name, kind in KINDS.items()]


def test_the_table_of_health_rules_is_in_their_order() -> None:
    told = [cells[0] for cells in rows(ARCHITECTURE, "| rule | when | belief |")]
    assert told == [f"`{rule.__name__}`" for rule in RULES]


def test_the_table_of_gpu_findings_is_that_of_the_gate() -> None:
    told = rows(ARCHITECTURE, "| finding | when | ends |")
    assert [(cells[0], cells[2]) for cells in told] == [
        (f"`{rule.code}`", rule.until.value) for rule in FINDINGS
    ]


def texts() -> set[str]:
    """Every piece of text that the sources can say."""
    found: set[str] = set()
    for path in [*(ROOT / "gateway").rglob("*.py"), *(ROOT / "backends").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_messages_that_are_explained_can_be_seen() -> None:
    known = texts()
    quoted = [
        piece.strip()
        for cells in rows(README, "| you see | it means |")
        for text in INLINE.findall(cells[0])
        for piece in text.split("…")
        if piece.strip()
    ]
    assert len(quoted) > 10
    for piece in quoted:
        assert any(piece in text for text in known), piece


# --- blocks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_of_json_yaml_and_python_parses(page: Path) -> None:
    for text in blocks(page, "json"):
        json.loads(text)
    for text in blocks(page, "yaml"):
        yaml.safe_load(text)
    for text in blocks(page, "python"):
        ast.parse(text)


def test_the_configurations_in_the_readme_are_taken(tmp_path: Path) -> None:
    found = [text for text in blocks(README, "yaml") if set(yaml.safe_load(text)) <= SECTIONS]
    assert found
    for text in found:
        path = tmp_path / "portico.yaml"
        path.write_text(text)
        env = {name: f"a-key-for-{name.lower()}" for name in re.findall(r"\$\{(\w+)", text)}
        config = load(path, env, Overrides())
        assert config.warnings == ()


SECTIONS = set(Document.model_fields)


def test_the_faults_in_the_readme_are_what_is_said(tmp_path: Path) -> None:
    path = tmp_path / "portico.yaml"
    path.write_text(
        "server: {prot: 9000}\n"
        "backends: [{url: '10.0.0.11:8000'}]\n"
        "auth: {keys: [{name: a, key: '${TEAM_A_KEY}'}]}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(path, {}, Overrides())
    assert "\n".join(caught.value.faults) + "\n" in blocks(README, "text")
