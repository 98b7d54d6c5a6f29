"""Writes the generated parts of MODELS.md: what each runtime speaks, its flags, what fits where.

Run ``python tools/models_table.py`` to bring the file up to date; with ``--check`` nothing is
written and the exit status is 1 when it is stale.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from backends import RUNTIMES  # noqa: E402 - the checkout need not be installed
from gateway.core.fit import leads  # noqa: E402
from gateway.core.runtime import Runtime, Support  # noqa: E402
from gateway.core.types import Op, Wire  # noqa: E402
from gateway.dialects import ROUTES  # noqa: E402
from gateway.edge.made_here import LISTS  # noqa: E402
from gateway.translate import BRIDGES  # noqa: E402

PAGE = ROOT / "MODELS.md"

WORDS = {Support.YES: "native", Support.MODEL: "model", Support.FLAG: "flag", Support.NO: "no"}

LEGEND = (
    "**native**: relayed byte for byte. **model**: if a model of that kind is loaded."
    " **flag**: if the engine was started for it. **translated**: said to the engine on another"
    " surface. **gateway**: answered by the gateway itself. **no**: nobody can serve it."
)


@dataclass(frozen=True)
class Client:
    """One call of an official client. ``kinds`` are what the tests try it with."""

    package: str
    call: str
    wire: Wire
    op: Op
    kinds: tuple[str, ...]


TALK = ("whole", "stream", "tools", "error")

CLIENTS = (
    Client("openai", "chat.completions", Wire.OPENAI, Op.CHAT, TALK),
    Client("openai", "responses", Wire.OPENAI, Op.RESPONSES, TALK),
    Client("openai", "completions", Wire.OPENAI, Op.COMPLETIONS, ("whole", "stream", "error")),
    Client("openai", "embeddings", Wire.OPENAI, Op.EMBEDDINGS, ("embeddings", "error")),
    Client("anthropic", "messages", Wire.ANTHROPIC, Op.MESSAGES, TALK),
    Client("anthropic", "count_tokens", Wire.ANTHROPIC, Op.COUNT_TOKENS, ("count",)),
    Client("ollama", "chat", Wire.OLLAMA, Op.CHAT, TALK),
    Client("ollama", "generate", Wire.OLLAMA, Op.GENERATE, ("whole", "stream", "error")),
    Client("ollama", "embed", Wire.OLLAMA, Op.EMBED, ("embeddings", "error")),
    Client("ollama", "embeddings", Wire.OLLAMA, Op.EMBEDDINGS, ("embeddings", "error")),
)
"""tests/contract/test_matrix.py proves each cell of the table that is made of these."""


def target(row: Runtime, wire: Wire, op: Op) -> tuple[Wire, Op, str] | None:
    """The surface of a runtime on which a client's is served, and its path; None for none."""
    cell = row.cell(wire, op)
    if cell.support is not Support.NO:
        return wire, op, cell.path
    for bridge in BRIDGES.get((wire, op), ()):
        if leads(bridge, row):
            found = row.cell(bridge.to_wire, bridge.to_op)
            return bridge.to_wire, bridge.to_op, found.chat_path if bridge.chat else found.path
    return None


def client_table(rows: Sequence[Runtime]) -> list[str]:
    """Calls of the official clients down, runtimes across."""
    body = [
        [
            f"`{client.package}` `{client.call}`",
            ", ".join(client.kinds),
            *(_served(row, client) for row in rows),
        ]
        for client in CLIENTS
    ]
    return table(["client", "tried with", *(row.title for row in rows)], body)


def _served(row: Runtime, client: Client) -> str:
    found = target(row, client.wire, client.op)
    if found is None:
        return "no"
    wire, op, path = found
    return "native" if (wire, op) == (client.wire, client.op) else f"by `{path}`"


def word(row: Runtime, key: tuple[Wire, Op]) -> str:
    """What the table of surfaces says of a cell."""
    support = row.cell(*key).support
    if key[1] in LISTS or (key[1] is Op.SHOW and support is Support.NO):
        return "gateway"
    if support is not Support.NO:
        return WORDS[support]
    return "no" if target(row, *key) is None else "translated"


FEATURES = ("tools", "json_schema", "reasoning", "vision", "embeddings", "rerank")
"""The features people ask for first; the others follow in the order of the rows."""


def surfaces() -> dict[tuple[Wire, Op], str]:
    """Each surface and the path under which clients call it."""
    found: dict[tuple[Wire, Op], str] = {}
    for path, route in ROUTES.items():
        found.setdefault((route.wire, route.op), path)
    return found


class Footnotes:
    """Numbers texts in the order of their first mention."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def mark(self, text: str) -> str:
        number = self._numbers.setdefault(text, len(self._numbers) + 1)
        return f"<sup>{number}</sup>"

    def lines(self) -> list[str]:
        return [f"{number}. {code(text)}" for text, number in self._numbers.items()]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; ``|`` inside cells is escaped."""
    lines = [list(head), ["---"] * len(head), *map(list, rows)]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]


_LITERAL = re.compile(
    r"`[^`]*`|--[a-z][\w-]*(?: [A-Z]{2,}(?:=[A-Z]+)?| N\b)?|\b[A-Z]{3,}_[A-Z_]+(?:=[\w-]+)?"
)


def code(text: str) -> str:
    """Flags and environment variables set as code, where the text has not done so itself."""
    return _LITERAL.sub(lambda found: found[0] if found[0][0] == "`" else f"`{found[0]}`", text)


def surface_table(rows: Sequence[Runtime]) -> list[str]:
    """Surfaces down, runtimes across; notes of what is there become footnotes."""
    notes = Footnotes()
    body = [
        [f"`{path}`", *(_cell(row, key, notes) for row in rows)] for key, path in surfaces().items()
    ]
    head = ["surface", *(row.title for row in rows)]
    return [LEGEND, "", *table(head, body), "", *notes.lines()]


def _cell(row: Runtime, key: tuple[Wire, Op], notes: Footnotes) -> str:
    cell, said = row.cell(*key), word(row, key)
    return said if cell.support is Support.NO or not cell.note else said + notes.mark(cell.note)


def flavours(rows: Sequence[Runtime]) -> list[str]:
    """Where a flavour of a runtime differs from the runtime's own column."""
    told = [
        f"- {row.title}, flavour {name}: {', '.join(changes)}."
        for row in rows
        for name, variant in row.variants.items()
        if (changes := _differences(row, variant))
    ]
    return ["Flavours with a row of their own differ so:", "", *told] if told else []


def _differences(row: Runtime, variant: Runtime) -> list[str]:
    return [
        f"`{path}` {there}"
        for key, path in surfaces().items()
        if (there := word(variant, key)) != word(row, key)
    ]


def flag_table(rows: Sequence[Runtime]) -> list[str]:
    """What to set for a feature, one line a runtime."""
    named = dict.fromkeys([*FEATURES, *(name for row in rows for name in row.flags)])
    body = [
        [feature.replace("_", " "), row.title, code(row.flags[feature])]
        for feature in named
        for row in rows
        if feature in row.flags
    ]
    return table(["feature", "runtime", "what to set"], body)


@dataclass(frozen=True)
class Shape:
    """What memory depends on: ``params`` in billions, and the attention's dimensions."""

    label: str
    example: str
    params: float
    layers: int
    kv_heads: int
    head_dim: int

    def kv_bytes(self, each: float = 2.0) -> float:
        """Bytes of KV cache for one token: a key and a value in each layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * each


SHAPES = (
    Shape("1.5B", "Qwen2.5-1.5B", 1.54, 28, 2, 128),
    Shape("8B", "Llama-3.1-8B", 8.03, 32, 8, 128),
    Shape("14B", "Qwen2.5-14B", 14.8, 48, 8, 128),
    Shape("32B", "Qwen2.5-32B", 32.8, 64, 8, 128),
    Shape("70B", "Llama-3.1-70B", 70.6, 80, 8, 128),
)

BYTES_PER_WEIGHT: Mapping[str, float] = {"FP16": 2.0, "INT8": 1.06, "4-bit": 0.6}
"""With the scales that quantised formats store beside the weights."""

CARDS = (12, 24, 48, 80)
GIB = 2**30
SHARE = 0.9
RESERVE = 1.0
LEAST = 4096


def weights_gib(shape: Shape, each: float) -> float:
    return shape.params * 1e9 * each / GIB


def tokens(shape: Shape, each: float, card: float) -> int:
    """How many tokens of FP16 KV cache fit beside the weights on a card of ``card`` GiB, with
    SHARE of it used and RESERVE GiB kept for activations; negative when the weights do not."""
    free = card * SHARE - RESERVE - weights_gib(shape, each)
    return int(free * GIB / shape.kv_bytes())


def memory_table() -> list[str]:
    """Cards across; a cell is the room for KV cache in thousands of tokens, over all requests."""
    head = ["model", "weights as", "weights", "KV a token", *(f"{card} GiB" for card in CARDS)]
    body = [
        [
            f"{shape.label} ({shape.example})",
            name,
            f"{weights_gib(shape, each):.1f} GiB",
            f"{shape.kv_bytes() / 1024:.0f} KiB",
            *(_room(tokens(shape, each, card)) for card in CARDS),
        ]
        for shape in SHAPES
        for name, each in BYTES_PER_WEIGHT.items()
    ]
    return table(head, body)


def _room(count: int) -> str:
    return f"{count // 1000}k" if count >= LEAST else "no"


def parts() -> dict[str, list[str]]:
    """Marker -> lines of the generated part."""
    return {
        "table": [
            "### Surfaces",
            "",
            *surface_table(RUNTIMES),
            "",
            *flavours(RUNTIMES),
            "",
            "### Clients",
            "",
            *client_table(RUNTIMES),
            "",
            "### Flags",
            "",
            *flag_table(RUNTIMES),
        ],
        "memory": memory_table(),
    }


def renewed(page: str, generated: Mapping[str, Sequence[str]]) -> str:
    """The page with what stands between each pair of markers replaced. Raises ValueError when a
    marker is missing."""
    for name, lines in generated.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"MODELS.md lacks {begin} or {end}")
        page = "\n".join([before + begin, *lines, end + after])
    return page


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Renew the generated parts of MODELS.md.")
    parser.add_argument("--check", action="store_true", help="only say whether it is stale")
    arguments = parser.parse_args(argv)
    page = PAGE.read_text(encoding="utf-8")
    fresh = renewed(page, parts())
    if not arguments.check:
        PAGE.write_text(fresh, encoding="utf-8")
    elif fresh != page:
        sys.stderr.write("MODELS.md is stale: run 'python tools/models_table.py'.\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
