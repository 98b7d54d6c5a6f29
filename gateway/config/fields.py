"""The kinds of values in the configuration: how each is checked and what a fault tells to write.

No message repeats the value: any text may come from a variable that holds a secret."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Annotated, Any

from pydantic import BeforeValidator, SecretStr, WithJsonSchema

from backends import BY_NAME
from gateway.core.capacity import LEARN
from gateway.core.gpu_gate import Mode
from gateway.core.keys import PREFIX
from gateway.core.priority import LEVELS
from gateway.core.types import PASSTHROUGH, Op
from gateway.policies import POLICIES, spelt

from . import units
from .addresses import (
    backend_url,
    http_url,
    listen_host,
    proxy_url,
    split_runtime,
    store_url,
)

RUNTIMES = ("auto", *BY_NAME)
"""What ``runtime`` may say; ``auto`` asks the engine."""

POLICY_NAMES = tuple(POLICIES)

NAME_PATTERN = r"[A-Za-z0-9._-]{1,64}"
_HASH = re.compile(re.escape(PREFIX) + "[0-9a-fA-F]{64}")
_DIGITS = re.compile(r" *\+?[0-9]{1,15} *")
LATEST = 253402300800
"""Unix seconds of the year 10000; what is over it was meant as milliseconds."""

_DECIMAL = re.compile(r" *\+?([0-9]{1,15}(\.[0-9]{0,9})?|\.[0-9]{1,9}) *")


def text(value: object) -> str:
    """Text that is not empty. Numbers are refused rather than guessed: 0123 would become 83."""
    if not isinstance(value, str):
        raise ValueError("must be text; put it into quotes")  # noqa: TRY004 - pydantic collects only ValueError
    if not value.strip():
        raise ValueError("is empty; write a value or remove the line")
    return value


def label(value: object) -> str:
    """One printable line of at most 255 characters: a name of a model or a key, a pattern."""
    found = text(value).strip()
    if len(found) > 255 or not found.isprintable():
        raise ValueError("must be one line of at most 255 printable characters")
    return found


def key_name(value: object) -> str:
    """The name of a key, as logs and metrics show it."""
    found = label(value)
    if len(found) > 64:
        raise ValueError("must have at most 64 characters")
    return found


def backend_name(value: object) -> str:
    """The name of a backend: it stands before the colon in ``BACKEND:ID``."""
    found = text(value).strip()
    if not re.fullmatch(NAME_PATTERN, found):
        raise ValueError(
            "must be 1 to 64 letters, digits, dots, dashes or underscores (no colon: it ends the"
            " name in BACKEND:MODEL)"
        )
    return found


def public_name(value: object) -> str:
    """The name of a public model. ``auto`` is taken: it lets the gateway choose."""
    found = label(value)
    if found == "auto":
        raise ValueError("cannot be 'auto', with which callers let the gateway choose")
    return found


def header_safe(value: object) -> str:
    """A credential that can travel in a header: visible ASCII. The fault never shows it."""
    found = text(value)
    if not re.fullmatch(r"[!-~]+", found):
        raise ValueError("has a space, line break or letter beyond ASCII; headers cannot carry it")
    return found


def upstream_keys(value: object) -> tuple[str, ...]:
    """A key for an engine, or several in a list."""
    if not isinstance(value, list):
        return (header_safe(value),)
    found = []
    for number, one in enumerate(value, 1):
        try:
            found.append(header_safe(one))
        except ValueError as error:
            raise ValueError(f"entry {number} {error}") from None
    if not found:
        raise ValueError("is empty; write a key or remove the line")
    if len(set(found)) < len(found):
        raise ValueError("lists a key twice")
    if PASSTHROUGH in found and len(found) > 1:
        raise ValueError(f"lists '{PASSTHROUGH}' beside keys; it stands alone, without a list")
    return tuple(found)


def proxy(value: object) -> str:
    """``environment``, or the URL of a proxy."""
    found = text(value).strip()
    return "environment" if found.lower() == "environment" else proxy_url(found)


def client_key(value: object) -> str:
    """A key of a caller: plain, or ``sha256:`` and 64 hex digits."""
    found = header_safe(value)
    if found.startswith(PREFIX) and not _HASH.fullmatch(found):
        raise ValueError("must have 64 hex digits after 'sha256:' ('portico keys new' makes it)")
    return found


def one_of(names: tuple[str, ...]) -> Callable[[object], str]:
    """A check for one of ``names``, in any case."""

    def check(value: object) -> str:
        found = text(value).strip().lower()
        if found not in names:
            raise ValueError(f"must be one of {', '.join(names)}")
        return found

    return check


def whole(low: int, high: int) -> Callable[[object], int]:
    """A check for a whole number, written as a number or (after ``${VAR}``) as text."""
    range_ = f"{low} or more" if high >= 10**12 else f"{low} to {high}"

    def check(value: object) -> int:
        number: object = value
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            number = int(value)
        if isinstance(value, float) and value.is_integer() and abs(value) < 10**15:
            number = int(value)
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise ValueError(f"must be a whole number, {range_}")
        return number

    return check


def share(value: object) -> float:
    """A weight: a number above zero and at most a million."""
    number: object = value
    if isinstance(value, str) and _DECIMAL.fullmatch(value):
        number = float(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError("must be a number above 0, such as 1 or 2.5")  # noqa: TRY004 - pydantic collects only ValueError
    if not 0 < number <= 1e6:
        raise ValueError("must be above 0 and at most 1000000")
    return float(number)


def between(low: float, high: float) -> Callable[[object], float]:
    """A check for a number from ``low`` to ``high``, both included."""

    def check(value: object) -> float:
        number: object = value
        if isinstance(value, str) and _DECIMAL.fullmatch(value):
            number = float(value)
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise ValueError(f"must be a number, {low:g} to {high:g}")  # noqa: TRY004 - pydantic collects only ValueError
        if not low <= number <= high:
            raise ValueError(f"must be {low:g} to {high:g}")
        return float(number)

    return check


def hedge_after(value: object) -> float | str:
    """``p95`` or a duration."""
    if isinstance(value, str) and value.strip().lower() == "p95":
        return "p95"
    try:
        return units.seconds(value)
    except ValueError:
        raise ValueError("must be 'p95' or a time, such as 2s") from None


def workers(value: object) -> int | str:
    """``auto`` or a number of processes."""
    if isinstance(value, str) and value.strip().lower() == "auto":
        return "auto"
    try:
        return whole(1, 1024)(value)
    except ValueError:
        raise ValueError("must be 'auto' (one per core) or a whole number, 1 to 1024") from None


def policy(value: object) -> str:
    """A policy's name, or a mapping of names to weights, which becomes the mix's own name."""
    if not isinstance(value, dict):
        return one_of(POLICY_NAMES)(value)
    if not value:
        raise ValueError("is empty; name a policy, or policies with weights: {auto: 2, session: 1}")
    weights = {one_of(POLICY_NAMES)(name): share(weight) for name, weight in value.items()}
    return next(iter(weights)) if len(weights) == 1 else spelt(weights)


def runtime_url(value: object) -> str:
    """A backend's base URL, perhaps with ``RUNTIME+`` in front, which is kept."""
    runtime, url = split_runtime(text(value).strip())
    if runtime is None:
        return backend_url(url)
    if runtime not in RUNTIMES:
        raise ValueError(f"begins with an unknown runtime; known: {', '.join(RUNTIMES)}")
    return f"{runtime}+{backend_url(url)}"


def device(value: object) -> int | str:
    """A GPU by index, or by the UUID that ``nvidia-smi -L`` prints."""
    if isinstance(value, str) and re.fullmatch(r"(GPU|MIG)-[A-Za-z0-9/-]{1,80}", value):
        return value
    try:
        return whole(0, 1023)(value)
    except ValueError:
        raise ValueError("must be a GPU's index or its UUID, such as 0 or GPU-…") from None


def network(value: object) -> str:
    """A network, such as ``10.0.0.0/8``, or one address."""
    try:
        return str(ip_network(text(value).strip()))
    except ValueError:
        raise ValueError("must be a network, such as 10.0.0.0/8 or fd00::/8") from None


def file_name(value: object) -> str:
    """The name of a file, not yet looked at."""
    found = text(value)
    if "\0" in found:
        raise ValueError("has a NUL character, which no file name can have")
    return found


def moment(value: object) -> float:
    """A moment as Unix seconds: a number, or a date or time of ISO 8601, in UTC unless it says
    otherwise."""
    help_ = "must be Unix seconds or a date such as 2027-01-31 or 2027-01-31T12:00:00Z"
    number: object = value
    if isinstance(value, str):
        if not _DECIMAL.fullmatch(value):
            return _iso(value.strip(), help_)
        number = float(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise ValueError(help_)  # noqa: TRY004 - pydantic collects only ValueError
    if not 0 < number < LATEST:
        raise ValueError(help_)
    return float(number)


def _iso(text: str, help_: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(help_) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _typed(check: Callable[[Any], Any]) -> BeforeValidator:
    return BeforeValidator(check)


def _url(check: Callable[[str], str]) -> BeforeValidator:
    return BeforeValidator(lambda value: check(text(value).strip()))


def _integer(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


_SHARE = {"type": "number", "exclusiveMinimum": 0, "maximum": 1_000_000}
_LIMIT = 10**12

Text = Annotated[str, _typed(text), WithJsonSchema({"type": "string", "minLength": 1})]
Label = Annotated[str, _typed(label), WithJsonSchema({"type": "string", "minLength": 1})]
KeyName = Annotated[
    str, _typed(key_name), WithJsonSchema({"type": "string", "minLength": 1, "maxLength": 64})
]
BackendName = Annotated[
    str, _typed(backend_name), WithJsonSchema({"type": "string", "minLength": 1})
]
PublicName = Annotated[str, _typed(public_name), WithJsonSchema({"type": "string", "minLength": 1})]
ClientKey = Annotated[
    SecretStr, _typed(client_key), WithJsonSchema({"type": "string", "minLength": 1})
]
UpstreamKey = Annotated[
    SecretStr, _typed(header_safe), WithJsonSchema({"type": "string", "minLength": 1})
]
UpstreamKeys = Annotated[
    tuple[SecretStr, ...],
    _typed(upstream_keys),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {
                    "type": "array",
                    "minItems": 1,
                    "uniqueItems": True,
                    "items": {"type": "string", "minLength": 1},
                },
            ]
        }
    ),
]
Proxy = Annotated[SecretStr, _typed(proxy), WithJsonSchema({"type": "string", "minLength": 1})]
RuntimeName = Annotated[
    str, _typed(one_of(RUNTIMES)), WithJsonSchema({"type": "string", "enum": list(RUNTIMES)})
]
PolicyName = Annotated[
    str,
    _typed(policy),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "enum": list(POLICY_NAMES)},
                {
                    "type": "object",
                    "minProperties": 1,
                    "propertyNames": {"enum": list(POLICY_NAMES)},
                    "additionalProperties": _SHARE,
                },
            ]
        }
    ),
]
USAGE = ("limits", "always", "never")
StreamUsage = Annotated[
    str, _typed(one_of(USAGE)), WithJsonSchema({"type": "string", "enum": list(USAGE)})
]
GATES = tuple(mode.value for mode in Mode)
Gate = Annotated[
    str, _typed(one_of(GATES)), WithJsonSchema({"type": "string", "enum": list(GATES)})
]
Host = Annotated[str, _url(listen_host), WithJsonSchema({"type": "string", "minLength": 1})]
Port = Annotated[int, _typed(whole(0, 65535)), WithJsonSchema(_integer(0, 65535))]
Workers = Annotated[
    int | str,
    _typed(workers),
    WithJsonSchema({"anyOf": [_integer(1, 1024), {"type": "string", "const": "auto"}]}),
]
Count = Annotated[int, _typed(whole(1, _LIMIT)), WithJsonSchema({"type": "integer", "minimum": 1})]
Waiting = Annotated[
    int, _typed(whole(0, _LIMIT)), WithJsonSchema({"type": "integer", "minimum": 0})
]
Learn = Annotated[
    str, _typed(one_of(LEARN)), WithJsonSchema({"type": "string", "enum": list(LEARN)})
]
Priority = Annotated[
    str, _typed(one_of(tuple(LEVELS))), WithJsonSchema({"type": "string", "enum": list(LEVELS)})
]
SURFACES = tuple(op.value for op in Op)
Surface = Annotated[
    str, _typed(one_of(SURFACES)), WithJsonSchema({"type": "string", "enum": list(SURFACES)})
]
Moment = Annotated[
    float,
    _typed(moment),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "minLength": 1}]}
    ),
]
Weight = Annotated[float, _typed(share), WithJsonSchema(_SHARE)]
FIRST_BYTE = ("timeout", "auto")
FirstByte = Annotated[
    str, _typed(one_of(FIRST_BYTE)), WithJsonSchema({"type": "string", "enum": list(FIRST_BYTE)})
]
Ratio = Annotated[
    float,
    _typed(between(0, 1)),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1}),
]
Rate = Annotated[
    float,
    _typed(between(0, 10_000)),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 10_000}),
]
Seconds = Annotated[
    float,
    _typed(units.seconds),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "pattern": units.DURATION_PATTERN},
            ]
        }
    ),
]
HedgeAfter = Annotated[
    float | str,
    _typed(hedge_after),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0},
                {"type": "string", "const": "p95"},
                {"type": "string", "pattern": units.DURATION_PATTERN},
            ]
        }
    ),
]
Size = Annotated[
    int,
    _typed(units.size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 1},
                {"type": "string", "pattern": units.SIZE_PATTERN},
            ]
        }
    ),
]
Address = Annotated[str, _url(http_url), WithJsonSchema({"type": "string", "minLength": 1})]
BackendUrl = Annotated[str, _typed(runtime_url), WithJsonSchema({"type": "string", "minLength": 1})]
StoreUrl = Annotated[SecretStr, _url(store_url), WithJsonSchema({"type": "string", "minLength": 1})]
Device = Annotated[
    int | str,
    _typed(device),
    WithJsonSchema({"anyOf": [_integer(0, 1023), {"type": "string", "pattern": "^(GPU|MIG)-"}]}),
]
Network = Annotated[str, _typed(network), WithJsonSchema({"type": "string", "minLength": 1})]
File = Annotated[str, _typed(file_name), WithJsonSchema({"type": "string", "minLength": 1})]
