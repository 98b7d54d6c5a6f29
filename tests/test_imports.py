"""Who may import whom, and what the pure parts never contain (ARCHITECTURE.md, Imports)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY: dict[str, set[str]] = {
    "gateway.core": set(),
    "gateway.dialects": {"gateway.core"},
    "gateway.policies": {"gateway.core"},
    "gateway.translate": {"gateway.core", "gateway.dialects"},
    "gateway.state": {"gateway.core"},
    "gateway.sensors": {"gateway.core", "gateway.tasks", "gateway.tasks.Tasks", "backends"},
    "gateway.control": {"gateway.core", "gateway.state"},
    "gateway.edge": {
        "gateway.core",
        "gateway.dialects",
        "gateway.state",
        "gateway.translate",
        "gateway.tasks",
        "gateway.tasks.Tasks",
    },
    "gateway.config": {"gateway.core", "gateway.policies", "backends"},
    "gateway.demo": set(),
    "backends": {"gateway.core"},
}
PURE = ("gateway.core", "gateway.dialects", "gateway.translate", "gateway.policies", "backends")
FORBIDDEN = {"aiohttp", "asyncio", "time", "random", "os", "socket", "threading"}

FILES = sorted([*(ROOT / "gateway").rglob("*.py"), *(ROOT / "backends").rglob("*.py")])


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def package_of(module: str) -> str | None:
    return next((p for p in MAY if module == p or module.startswith(p + ".")), None)


def imports(path: Path) -> set[str]:
    found = set()
    module = module_of(path)
    base = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                parts = base.split(".")[: len(base.split(".")) - node.level + 1]
                found.add(".".join([*parts, *([node.module] if node.module else [])]))
            elif node.module:
                found.add(node.module)
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path):
    own = package_of(module_of(path))
    if own is None:
        return  # a composition root or a command: anything goes, and nobody may import it
    for name in imports(path):
        if not name.startswith(("gateway", "backends")) or name in (
            "gateway",
            "gateway.__version__",
        ):
            continue
        target = package_of(name)
        assert target == own or target in MAY[own] or name in MAY[own], name


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if package_of(module_of(p)) in PURE],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_the_pure_parts_neither_wait_nor_look_at_the_world(path):
    assert not {name.partition(".")[0] for name in imports(path)} & FORBIDDEN
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(
            node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith | ast.Global
        )


RUNTIMES = ("vllm", "sglang", "tgi", "llamacpp", "localai", "ollama")


WIRES = ROOT / "gateway" / "core" / "types.py"
"""Where one name is a dialect's as well as a runtime's."""


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if p.is_relative_to(ROOT / "gateway") and p != WIRES],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_nobody_but_its_own_row_names_a_runtime(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.Constant) and node.value in RUNTIMES), node.lineno


UNUSED = ("pydantic", "sqlite3", "redis", "cryptography", "csv")
"""What a gateway carries only when it is asked for something that needs it."""


def test_an_idle_gateway_carries_nothing_that_only_some_need() -> None:
    code = (
        "import sys, gateway.commands.serve, gateway.supervisor;"
        f"print([name for name in {UNUSED!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
