"""What an engine is taken to be: its speeds and sizes, and what a request is to it.

The defaults are an 8B model in bf16 on one GPU with 80 GB, of the class of an H100. All times are
seconds of the engine's own time; the fleet plays them faster or slower (``--scale``).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spec:
    """Seconds and tokens. ``slow`` multiplies the time of every step."""

    token: float = 28e-6
    """Of prefill for a token, linear layers: Vidur's profile of Llama-2-7B on an H100 is 20 us, the
    wider layers of an 8B and its losses end to end make it 28."""
    attention: float = 1.2e-9
    """Of prefill for a token and a token of its context: 4·4096·32 FLOP at 440 TFLOP/s."""
    weights: float = 5.7e-3
    """Reading 16 GB of weights at 85 % of 3.35 TB/s; a step takes no less."""
    fixed: float = 1.8e-3
    """Scheduler and launch, for every step."""
    sequence: float = 15e-6
    """Of a decode step for each sequence in it."""
    context: float = 56e-9
    """Of a decode step for each token of context: 128 KiB at 70 % of 3.35 TB/s."""
    load: float = 5e-6
    """Fetching a token's KV back from the host's memory."""
    kv_tokens: int = 400_000
    """KV room: (0.9 · 80 GB - 16 GB - activations) / 128 KiB."""
    host_tokens: int = 1_200_000
    """KV kept in the host's memory after eviction, as vLLM's offload or SGLang's HiCache do."""
    max_sequences: int = 256
    step_tokens: int = 8192
    """Tokens scheduled in one step; longer prompts are prefilled in chunks. Both: vLLM's own."""
    block: int = 512
    """Tokens of a block of the prefix cache."""
    slow: float = 1.0

    def cold(self, tokens: int, cached: int = 0) -> float:
        """Seconds to prefill a prompt of which so many tokens are cached, on an idle engine."""
        rest = max(1, tokens - cached)
        steps = -(-rest // self.step_tokens)
        linear = steps * self.fixed + max(self.weights, rest * self.token)
        return linear + rest * (cached + rest / 2) * self.attention

    def step(self, sequences: int, context: int) -> float:
        """Seconds of one step that only decodes."""
        each = sequences * self.sequence + context * self.context
        return (self.fixed + self.weights + each) * self.slow


Key = int | tuple[str, int]
"""Of a block: equal keys mean an equal prompt up to and including that block. Pairs are answers
that nobody can ask for again; they take room all the same."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request: its blocks, its length in tokens, how many tokens it will be answered with, and
    the blocks that the answer adds to the cache, where the next turn sends it back."""

    keys: tuple[int, ...]
    tokens: int
    answer: int
    answer_keys: tuple[int, ...] = ()
    session: int = 0

    def block_tokens(self, number: int, block: int) -> int:
        """Tokens in a block; the last may be partial."""
        last = len(self.keys) - 1
        return block if number < last else self.tokens - block * last

    def covered(self, blocks: int, block: int) -> int:
        """Tokens in the first so many blocks."""
        return blocks * block if blocks < len(self.keys) else self.tokens


class Job:
    """A request inside an engine. Times are the engine's; ``cached`` is what usage tells."""

    __slots__ = (
        "arrived",
        "cached",
        "dead",
        "ended",
        "filled",
        "first",
        "held",
        "number",
        "order",
        "preempted",
        "prompt",
        "written",
    )

    def __init__(self, number: int, prompt: Prompt) -> None:
        self.number, self.prompt = number, prompt
        self.arrived = 0.0
        self.first: float | None = None
        self.ended: float | None = None
        self.cached = self.filled = self.held = self.written = self.order = self.preempted = 0
        self.dead = False

    @property
    def to_fill(self) -> int:
        """Tokens to compute before the next one can be written; after a preemption the answer so
        far is computed again."""
        return self.prompt.tokens + self.written - self.filled
