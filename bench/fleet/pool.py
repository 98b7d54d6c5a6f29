"""An engine's KV memory: blocks in use, blocks kept for their prefix, and the host's tier below."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from bench.fleet.model import Job, Key, Prompt, Spec


@dataclass(slots=True)
class Block:
    users: int
    tokens: int


class Pool:
    """``used`` tokens belong to requests inside; ``idle`` ones are cached and may be evicted, those
    of the longest unused first. Evicted blocks of prompts go to the host's tier."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.used = self.idle = self.host_used = 0
        self.blocks: dict[Key, Block] = {}
        self._unused: OrderedDict[Key, None] = OrderedDict()
        self._host: OrderedDict[Key, int] = OrderedDict()

    def match(self, prompt: Prompt) -> tuple[int, int]:
        """Blocks of the longest known prefix: so many here, then so many with the host."""
        here = _leading(key in self.blocks for key in prompt.keys)
        if not self._host:
            return here, 0
        return here, _leading(key in self._host or key in self.blocks for key in prompt.keys[here:])

    def hit(self, prompt: Prompt) -> int:
        """Tokens that need no prefill; the last one always does."""
        return self._hit(prompt, sum(self.match(prompt)))

    def _hit(self, prompt: Prompt, blocks: int) -> int:
        return min(prompt.covered(blocks, self.spec.block), prompt.tokens - 1)

    def admit(self, job: Job, room: int) -> int | None:
        """Take a request in, when what it needs leaves ``room`` (negative: whatever it takes).
        Returns the tokens fetched from the host, None when there is no space."""
        prompt = job.prompt
        here, host = self.match(prompt)
        for key in prompt.keys[:here]:
            self._pin(key)
        need = prompt.tokens - prompt.covered(here, self.spec.block) + job.written
        if room >= 0 and self.used + need + room > self.spec.kv_tokens:
            self._unpin(prompt.keys[:here])
            return None
        self.used += need
        self.evict()
        fetched = sum(self._promote(prompt, number) for number in range(here, here + host))
        job.held = here + host
        job.filled = self._hit(prompt, job.held)
        return fetched

    def _promote(self, prompt: Prompt, number: int) -> int:
        """A block of the host's tier becomes one of ours; its tokens count as used already."""
        key, tokens = prompt.keys[number], prompt.block_tokens(number, self.spec.block)
        fetched = self._host.pop(key, 0)
        self.host_used -= fetched
        if key in self.blocks:
            self._pin(key)
            self.used -= tokens
        else:
            self.blocks[key] = Block(1, tokens)
        return fetched

    def keep(self, job: Job) -> None:
        """What was prefilled becomes blocks that others can use."""
        prompt, block = job.prompt, self.spec.block
        whole = job.filled >= prompt.tokens
        upto = len(prompt.keys) if whole else job.filled // block
        for number in range(job.held, upto):
            self._promote(prompt, number)
        job.held = max(job.held, upto)

    def release(self, job: Job, whole: bool) -> None:
        """A request leaves; of a ``whole`` one the answer stays cached for a while."""
        prompt, block = job.prompt, self.spec.block
        self.used -= prompt.tokens - prompt.covered(job.held, block) + job.written
        if whole and job.written:
            sizes: dict[Key, int] = dict.fromkeys(prompt.answer_keys, block)
            for key, tokens in (sizes or {("answer", job.order): job.written}).items():
                if key not in self.blocks:
                    self.blocks[key] = Block(0, tokens)
                    self._unused[key] = None
                    self.idle += tokens
        self._unpin(prompt.keys[: job.held])
        job.held = 0
        self.evict()

    def evict(self) -> None:
        """Let go of idle blocks until all fits."""
        while self.used + self.idle > self.spec.kv_tokens and self._unused:
            key, _ = self._unused.popitem(last=False)
            tokens = self.blocks.pop(key).tokens
            self.idle -= tokens
            if self.spec.host_tokens and not isinstance(key, tuple):
                self._to_host(key, tokens)

    def _to_host(self, key: Key, tokens: int) -> None:
        self.host_used += tokens - self._host.pop(key, 0)
        self._host[key] = tokens
        while self.host_used > self.spec.host_tokens:
            _, gone = self._host.popitem(last=False)
            self.host_used -= gone

    def _pin(self, key: Key) -> None:
        block = self.blocks[key]
        if block.users == 0:
            del self._unused[key]
            self.idle -= block.tokens
            self.used += block.tokens
        block.users += 1

    def _unpin(self, keys: tuple[int, ...]) -> None:
        """The tail first, so that it is evicted before what leads to it."""
        for key in reversed(keys):
            block = self.blocks[key]
            block.users -= 1
            if block.users == 0:
                self._unused[key] = None
                self.used -= block.tokens
                self.idle += block.tokens


def _leading(flags: Iterable[bool]) -> int:
    """How many are true before the first that is not."""
    count = 0
    for flag in flags:
        if not flag:
            break
        count += 1
    return count
