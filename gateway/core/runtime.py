"""What a runtime is: the shape of a row under ``backends/``. Data and pure functions only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from gateway.core.types import Doc, Health, Load, Model, Op, Sight, Wire


class Support(StrEnum):
    """Whether a runtime has a surface. MODEL: if the loaded model is of that kind.
    FLAG: if the engine was started so. NO: it has not."""

    YES = "yes"
    MODEL = "model"
    FLAG = "flag"
    NO = "no"


@dataclass(frozen=True, slots=True)
class Cell:
    """One surface of one runtime. ``path`` is where the engine has it; ``note`` is for people
    (the flag, the kind of model, the oddity); ``remedy`` completes 'To get this, …' in a 501.
    ``chat_path``, for a tokenizer, is where it takes the messages and tools of a chat and applies
    the model's own template to them; empty if it takes text only."""

    support: Support
    path: str = ""
    note: str = ""
    remedy: str = ""
    chat_path: str = ""


class Verdict(StrEnum):
    """What an engine's answer means for the gateway."""

    OK = "ok"
    CLIENT = "client"  # the request is at fault: pass it on, never retry, blame nobody
    UNSUPPORTED = "unsupported"  # this engine or model has no such surface: learn it, answer 501
    UNKNOWN_MODEL = "unknown_model"  # the engine no longer has the model: look again
    LOADING = "loading"  # not ready yet
    OVERLOADED = "overloaded"  # refuses for lack of room
    AUTH = "auth"  # the key we hold for the engine is wrong: an operator's fault
    ENGINE = "engine"  # the engine failed


MOVE_ON = frozenset({Verdict.LOADING, Verdict.OVERLOADED, Verdict.ENGINE})
"""Before the first byte another backend may be tried after these (INTERFACE section 7)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of an engine's phrase book. It matches when every given part does: the HTTP
    ``status`` (or the code inside an error event), a piece of ``text`` anywhere in the body
    (case folded), the surface. The first match wins. ``why`` names the sheet's line."""

    verdict: Verdict
    status: tuple[int, ...] = ()
    text: str = ""
    ops: frozenset[Op] | None = None
    why: str = ""

    def matches(self, op: Op, status: int, folded: str) -> bool:
        return (
            (not self.status or status in self.status)
            and (self.ops is None or op in self.ops)
            and (not self.text or self.text in folded)
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """One GET as a sensor saw it. ``status`` 0: no answer, ``error`` says why. Header names are
    lower case; ``doc`` is the parsed JSON body, None if it is none."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    doc: Any = None
    error: str = ""

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")


Evidence = Mapping[str, Answer]
"""Path -> answer, for the paths that were asked; a path not asked is absent."""

NO_ANSWER = Answer(0, error="not asked")


@dataclass(frozen=True, slots=True)
class Probe:
    """A cheap GET. ``paths`` are asked in turn within ``timeout`` seconds each."""

    paths: tuple[str, ...]
    timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class Wake:
    """How an engine is made to load a model without generating: POST ``{"model": ID}`` to
    ``path``. ``waits``: it answers when the model is there, not before; ``already`` is a piece of
    the refusal that means that it is there, or on its way."""

    path: str
    waits: bool = True
    already: str = "\0"


def health_by_status(answer: Answer) -> tuple[Health, str]:
    """The plain rule: 200 is up, 503 is loading, no answer is down, anything else is sick."""
    if answer.status == 0:
        return Health.DOWN, answer.error
    if 200 <= answer.status < 300:
        return Health.UP, ""
    if answer.status == 503:
        return Health.LOADING, "answers 503 to its health check"
    return Health.SICK, f"answers {answer.status} to its health check"


def openai_models(answer: Answer) -> tuple[Model, ...]:
    """The entries of an OpenAI ``/v1/models`` list, every field kept. A null or absent ``data``
    is an empty list; entries without a string id are left out."""
    data = answer.doc.get("data") if isinstance(answer.doc, dict) else None
    return tuple(
        Model(entry["id"], entry=entry, context=_length(entry.get("max_model_len")))
        for entry in data or ()
        if isinstance(entry, dict) and isinstance(entry.get("id"), str) and entry["id"]
    )


def _length(told: Any) -> int | None:
    return told if isinstance(told, int) else None


def no_load(evidence: Evidence) -> Load:
    """For engines that publish nothing."""
    return Load()


def no_rewrite(op: Op, doc: Doc, model: Model | None) -> Doc | None:
    """For engines that take the OpenAI body as it is."""
    return None


def no_fault(wire: Wire, op: Op, event: Any) -> tuple[int, str] | None:
    """For engines whose errors in a stream all have an ``error`` member."""
    return None


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything the gateway knows of one kind of engine.

    - ``cells``: (wire, op) -> Cell; an absent pair is NO.
    - ``clues``: the GET paths that tell it from others; ``fingerprint(evidence)`` returns a short
      reason when it is this runtime, None otherwise. ``rank`` orders the rows in detection: lower
      is asked first (rows whose marks others imitate come last).
    - ``variant(evidence)`` names a flavour that has a row of its own in ``variants``.
    - ``version(evidence)``: the version string, '' if it does not say.
    - ``probe`` and ``health``: the GET asked all the time, and what its answer means.
      ``deep``, if set, is a costlier check used only on suspicion.
    - ``model_paths`` and ``models(evidence)``: the model list.
    - ``load_paths`` and ``load(evidence)``: load signals; a path that answers 404/501 is asked
      rarely from then on.
    - ``auth``: header name and value format for our key towards the engine.
    - ``drops``: request headers (lower case; a final ``*`` stands for any ending) of the caller
      that must not reach it, beyond those that never do. ``adds``: headers always sent.
    - ``rewrite(op, doc, model)``: the body as this engine wants it, or None if it may go as it is.
    - ``extras``: fields beyond OpenAI's that its chat and completions take: our word -> its name.
      The words: top_k, min_p, typical_p, repeat_penalty, repeat_last_n, num_keep (sampling),
      chat_template_kwargs, suffix, thinking (past reasoning in a message), truncate (embeddings).
    - ``upstream_model(model, sight)``: the name to put in ``model`` (LoRA syntax and the like).
    - ``rules``: the phrase book; ``judge`` reads it.
    - ``event_fault(wire, op, event)``: (status, message) if a parsed stream event is an error in
      a shape of this engine's own; the general shapes are known without it.
    - ``idle``: seconds an unused connection may be kept; ``uses``: requests per connection.
    - ``needs_finish``: a chat or completion stream whose [DONE] comes without any finish_reason
      was cut.
    - ``slots``: how many requests it can run at once whatever it is told (None: it batches).
    - ``wake``: how it is made to load a model, where it loads them on demand.
    - ``request_ids``: the headers that carry our request id upstream.
    - ``ports``: well-known ports for discovery. ``cloud``: a provider on the internet: no
      discovery, no load; ``url`` is its address, which a backend of it may leave out. ``flags``:
      feature -> flag an operator must set, for MODELS.md.
    """

    name: str
    title: str
    cells: Mapping[tuple[Wire, Op], Cell]
    fingerprint: Callable[[Evidence], str | None]
    clues: tuple[str, ...]
    probe: Probe
    health: Callable[[Answer], tuple[Health, str]] = health_by_status
    deep: Probe | None = None
    rank: int = 50
    variant: Callable[[Evidence], str] = lambda evidence: ""
    variants: Mapping[str, Runtime] = field(default_factory=dict)
    version: Callable[[Evidence], str] = lambda evidence: ""
    version_paths: tuple[str, ...] = ()
    model_paths: tuple[str, ...] = ("/v1/models",)
    models: Callable[[Evidence], tuple[Model, ...]] = lambda evidence: openai_models(
        evidence.get("/v1/models", NO_ANSWER)
    )
    load_paths: tuple[str, ...] = ()
    load: Callable[[Evidence], Load] = no_load
    auth: tuple[str, str] = ("Authorization", "Bearer {key}")
    drops: frozenset[str] = frozenset()
    adds: Mapping[str, str] = field(default_factory=dict)
    rewrite: Callable[[Op, Doc, Model | None], Doc | None] = no_rewrite
    extras: Mapping[str, str] = field(default_factory=dict)
    upstream_model: Callable[[Model, Sight], str] = lambda model, sight: model.id
    rules: tuple[Rule, ...] = ()
    event_fault: Callable[[Wire, Op, Any], tuple[int, str] | None] = no_fault
    idle: float = 4.0
    uses: int | None = None
    needs_finish: bool = False
    slots: int | None = None
    wake: Wake | None = None
    request_ids: tuple[str, ...] = ("X-Request-Id",)
    ports: tuple[int, ...] = ()
    cloud: bool = False
    url: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)

    def cell(self, wire: Wire, op: Op) -> Cell:
        return self.cells.get((wire, op), ABSENT)

    def row(self, variant: str) -> Runtime:
        """The row of a flavour; itself for an unknown or empty one."""
        return self.variants.get(variant, self)


ABSENT = Cell(Support.NO)

FALLBACK_RULES: tuple[Rule, ...] = (
    Rule(Verdict.OVERLOADED, status=(429,), why="INTERFACE 7: an engine's 429"),
    Rule(Verdict.ENGINE, status=(424,), why="INTERFACE 7: 424"),
    Rule(Verdict.OVERLOADED, status=(503, 529), why="no room, or not ready"),
    Rule(Verdict.OVERLOADED, status=(500,), text="overloaded", why="an error event with no number"),
    Rule(Verdict.UNSUPPORTED, status=(501,), why="RFC 9110 15.6.2"),
    Rule(Verdict.ENGINE, status=(500, 502, 504), why="a server error that no rule excuses"),
    Rule(Verdict.AUTH, status=(401, 403), why="our key for the engine"),
)


def judge(runtime: Runtime, op: Op, status: int, text: str) -> Verdict:
    """What an answer of status ``status`` with body ``text`` means. Under 400 it is OK; a 4xx or
    5xx that no rule knows is the client's (4xx) or the engine's (5xx)."""
    if status < 400:
        return Verdict.OK
    folded = text.casefold()
    for rule in (*runtime.rules, *FALLBACK_RULES):
        if rule.matches(op, status, folded):
            return rule.verdict
    return Verdict.CLIENT if status < 500 else Verdict.ENGINE
