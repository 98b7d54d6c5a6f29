"""Ollama's request fields as OpenAI's: options, format, think, logprobs (sheet: ollama 2, 12)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.core.types import Doc

from .fields import wrong

COMMON = frozenset(
    {"model", "stream", "format", "options", "think", "keep_alive", "truncate", "shift"}
    | {"logprobs", "top_logprobs"}
)
"""Fields that chat and generate share and that are looked at here."""

LIMIT = "max_tokens"


@dataclass(slots=True)
class Draft:
    """The document to send while it is being written. ``extras`` are the engine's own fields
    (``Runtime.extras``); ``lost`` collects what could not be said, or not in full."""

    extras: Mapping[str, str]
    doc: dict[str, Any] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    def own(self, word: str, value: Any, told: str) -> None:
        """Say ``value`` in the engine's own field for ``word``; ``told`` is lost without one."""
        name = self.extras.get(word)
        if name is None:
            self.lost.append(told)
        else:
            self.doc[name] = value


# ---- options --------------------------------------------------------------------------------


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return _is_number(value) and value == int(value)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


@dataclass(frozen=True, slots=True)
class Option:
    """``name`` is OpenAI's field, '' where only some engines have one (then the option's own name
    is the word in ``Runtime.extras``). ``fits`` and ``kind`` are its type; ``unset`` is true for
    values by which Ollama's clients mean 'not given'."""

    name: str
    fits: Callable[[Any], bool] = _is_number
    kind: str = "number"
    unset: Callable[[Any], bool] = lambda value: False


def _negative(value: Any) -> bool:
    return bool(value < 0)


_INTEGER = (_is_integer, "integer")

OPTIONS: Mapping[str, Option] = {
    "num_predict": Option(LIMIT, *_INTEGER, _negative),
    "temperature": Option("temperature"),
    "top_p": Option("top_p"),
    "presence_penalty": Option("presence_penalty"),
    "frequency_penalty": Option("frequency_penalty"),
    "seed": Option("seed", *_INTEGER, _negative),
    "stop": Option("stop", _are_texts, "list of strings", lambda value: not value),
    "top_k": Option("", *_INTEGER),
    "min_p": Option(""),
    "typical_p": Option(""),
    "repeat_penalty": Option(""),
    "repeat_last_n": Option("", *_INTEGER),
    "num_keep": Option("", *_INTEGER),
}
"""The others (num_ctx, num_batch, num_gpu, …) say how a model is loaded, which no request to a
running engine can change; they are named as lost. What the client leaves out stays out, so that
the engine's own defaults hold as the Modelfile's would."""


def add_options(draft: Draft, given: Any) -> None:
    """Raises Refusal ``invalid_request`` for a wrong type, in Ollama's words."""
    if given is None:
        return
    if not isinstance(given, dict):
        raise wrong("options", "'options' has to be an object.")
    for name, value in given.items():
        option = OPTIONS.get(name)
        if value is None:
            continue
        if option is None:
            draft.lost.append(f"options.{name}")
            continue
        if not option.fits(value):
            raise wrong(f"options.{name}", f'option "{name}" must be of type {option.kind}')
        if option.unset(value):
            continue
        whole = int(value) if option.fits is _is_integer else value
        if option.name:
            draft.doc[option.name] = whole
        else:
            draft.own(name, whole, f"options.{name}")


# ---- format, think, logprobs ----------------------------------------------------------------


def add_format(draft: Draft, given: Any) -> None:
    """``"json"`` or a JSON schema. Raises Refusal ``invalid_request``."""
    if given is None or given == "":
        return
    if given == "json":
        draft.doc["response_format"] = {"type": "json_object"}
    elif isinstance(given, dict):
        schema = {"name": "schema", "schema": given}
        draft.doc["response_format"] = {"type": "json_schema", "json_schema": schema}
    else:
        raise wrong("format", "'format' has to be \"json\" or a JSON Schema object.")


EFFORTS = {"low": "low", "medium": "medium", "high": "high", "max": "high"}
"""OpenAI has no level above high."""


def add_think(draft: Draft, given: Any) -> None:
    """A level is OpenAI's ``reasoning_effort``; on and off are said to the chat template, as
    Ollama itself does it. Raises Refusal ``invalid_request``."""
    if given is None:
        return
    if isinstance(given, bool):
        draft.own("chat_template_kwargs", {"enable_thinking": given}, "think")
        return
    effort = EFFORTS.get(given) if isinstance(given, str) else None
    if effort is None:
        levels = ", ".join(EFFORTS)
        raise wrong("think", f"'think' has to be true, false or one of {levels}.")
    draft.doc["reasoning_effort"] = effort
    if effort != given:
        draft.lost.append("think")


def top_logprobs(doc: Doc) -> int | None:
    """How many alternatives a token are asked for, None without log probabilities. Raises Refusal
    ``invalid_request``."""
    if not isinstance(doc.get("logprobs"), bool | None):
        raise wrong("logprobs", "'logprobs' has to be true or false.")
    most = doc.get("top_logprobs") or 0
    if not _is_integer(most) or not 0 <= most <= 20:
        raise wrong("top_logprobs", "top_logprobs must be between 0 and 20")
    return int(most) if doc.get("logprobs") else None


def text_field(doc: Doc, name: str) -> str:
    """A text field of the document, '' where it is missing. Raises Refusal ``invalid_request``."""
    value = doc.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise wrong(name, f"'{name}' has to be a string.")
    return value


def note_unsaid(draft: Draft, doc: Doc, known: Iterable[str]) -> None:
    """Name the given fields that have no place on the other side: ``keep_alive``, since an engine
    keeps its model anyway; ``truncate`` and ``shift`` where they ask for a cut, since engines
    refuse what is too long; and fields unknown here."""
    told = {*COMMON, *known}
    draft.lost += [name for name, value in doc.items() if name not in told and value is not None]
    draft.lost += ["keep_alive"] if doc.get("keep_alive") is not None else []
    draft.lost += [name for name in ("truncate", "shift") if doc.get(name)]
