"""Any provider that speaks OpenAI's API, by base URL and key; another Portico is one, too."""

from __future__ import annotations

from gateway.core.runtime import (
    NO_ANSWER,
    Answer,
    Cell,
    Evidence,
    Probe,
    Rule,
    Runtime,
    Support,
    Verdict,
    health_by_status,
)
from gateway.core.types import Health, Op, Wire

from ._instead import no_ollama
from ._portico import CLUE, is_portico


def _fingerprint(evidence: Evidence) -> str | None:
    """The last resort: a model list that no other row has claimed."""
    answer = evidence.get("/v1/models", NO_ANSWER)
    if answer.status != 200 or not isinstance(answer.doc, dict):
        return None
    if not isinstance(answer.doc.get("data"), list):
        return None
    if is_portico(evidence):
        return "is another Portico"
    return "lists models at /v1/models and shows no known engine's marks"


def cloud_health(answer: Answer) -> tuple[Health, str]:
    """Health of a provider from its model list: a limit reached is no outage, a key refused is
    one, and a provider without a list is up (its models are named in the configuration)."""
    if answer.status in (401, 403):
        return Health.SICK, f"refuses the configured api_key ({answer.status}): check the key"
    if answer.status == 429:
        return Health.BUSY, "limits the rate of requests of this key (429)"
    if answer.status == 404:
        return Health.UP, "has no /v1/models: name its models in the configuration"
    if answer.status == 503:
        return Health.SICK, "answers 503 to its health check"
    return health_by_status(answer)


def _where(
    path: str, note: str = "not at OpenAI itself; some compatible providers have it"
) -> Cell:
    return Cell(Support.MODEL, path, note, "use a provider and a model that have this surface")


def _no(note: str, remedy: str = "") -> Cell:
    return Cell(Support.NO, "", note, remedy)


_SUITED = "needs a model of that kind"

_CELLS: dict[tuple[Wire, Op], Cell] = {
    (Wire.OPENAI, Op.CHAT): Cell(Support.YES, "/v1/chat/completions"),
    (Wire.OPENAI, Op.COMPLETIONS): _where("/v1/completions", "few current models have it"),
    (Wire.OPENAI, Op.EMBEDDINGS): _where("/v1/embeddings", _SUITED),
    (Wire.OPENAI, Op.RESPONSES): _where(
        "/v1/responses", "OpenAI has it; many compatible providers do not"
    ),
    (Wire.OPENAI, Op.RESPONSES_BY_ID): _where(
        "", "OpenAI has it; many compatible providers do not"
    ),
    (Wire.OPENAI, Op.RERANK): _where("/v1/rerank"),
    (Wire.OPENAI, Op.SCORE): _where("/v1/score"),
    (Wire.OPENAI, Op.TRANSCRIBE): _where("/v1/audio/transcriptions", _SUITED),
    (Wire.OPENAI, Op.TRANSLATE): _where("/v1/audio/translations", _SUITED),
    (Wire.OPENAI, Op.SPEECH): _where("/v1/audio/speech", _SUITED),
    (Wire.OPENAI, Op.IMAGES): _where("/v1/images/generations", _SUITED),
    (Wire.OPENAI, Op.IMAGE_EDITS): _where("/v1/images/edits", _SUITED),
    (Wire.OPENAI, Op.TOKENIZE): _where("/tokenize"),
    (Wire.OPENAI, Op.DETOKENIZE): _where("/detokenize"),
    (Wire.ANTHROPIC, Op.MESSAGES): _no(
        "it does not speak Anthropic's API", "call POST /v1/chat/completions with this model"
    ),
    (Wire.ANTHROPIC, Op.COUNT_TOKENS): _no(
        "it does not count tokens ahead", "add a backend with 'runtime: anthropic', or a vLLM"
    ),
    **no_ollama("it does not speak Ollama's API"),
}

_NO_ROUTE = ("invalid url", "unknown_url", "page not found", '"detail":"not found"', '"not_found"')
"""How providers say that a path does not exist: OpenAI, Groq, Go and Python servers, Portico."""

_RULES: tuple[Rule, ...] = (
    Rule(
        Verdict.CLIENT,
        status=(404,),
        ops=frozenset({Op.RESPONSES_BY_ID}),
        why="an id that is gone is not a missing model",
    ),
    Rule(
        Verdict.UNSUPPORTED,
        status=(400, 404),
        text="not supported in the v1/",
        why="OpenAI: a chat model asked for completions, or the reverse",
    ),
    Rule(Verdict.UNKNOWN_MODEL, status=(400, 404), text="model_not_found", why="OpenAI's code"),
    *(
        Rule(Verdict.UNSUPPORTED, status=(404,), text=text, why="no such route at this provider")
        for text in _NO_ROUTE
    ),
    Rule(
        Verdict.UNKNOWN_MODEL,
        status=(404,),
        text="does not exist",
        why="OpenAI's words: the model does not exist, or the key has no access",
    ),
    Rule(
        Verdict.OVERLOADED,
        status=(429,),
        text="insufficient_quota",
        why="the account's money is spent: another backend may still take the request",
    ),
    Rule(Verdict.OVERLOADED, status=(429, 503, 529), why="rate limit, or no room"),
    Rule(Verdict.AUTH, status=(401, 402, 403), why="key, payment or region: for the operator"),
)

OPENAI_CLOUD = Runtime(
    name="openai",
    title="OpenAI-compatible provider",
    cells=_CELLS,
    fingerprint=_fingerprint,
    clues=("/v1/models", CLUE),
    rank=90,
    probe=Probe(("/v1/models",), timeout=10.0),
    health=cloud_health,
    drops=frozenset({"cookie", "origin", "openai-organization", "openai-project"}),
    rules=_RULES,
    idle=30.0,
    cloud=True,
    url="https://api.openai.com",
    flags={
        "tools": "none; depends on the model",
        "embeddings": "none; name an embedding model",
        "json_schema": "none; depends on the model",
        "reasoning": "none; depends on the model",
        "vision": "none; depends on the model",
    },
)
