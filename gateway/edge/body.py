"""Taking a request's body in: whole and parsed for JSON, as far as needed for multipart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.core.errors import Refusal
from gateway.core.splice import spans
from gateway.edge.multipart import boundary_of, field_span
from gateway.edge.request import Body, Request


@dataclass(slots=True)
class Upload:
    """A body that is passed on while it still comes in. ``prefix`` is what was read to find the
    model, whose name stands at ``span`` (None: it names none); ``length`` is the whole body's, None
    if not announced.
    ``taken`` counts the bytes that were taken of what comes after the prefix."""

    source: Body
    prefix: bytes
    span: tuple[int, int] | None
    length: int | None
    limit: int
    taken: int = 0

    def renamed(self, name: str) -> tuple[bytes, int | None]:
        """The prefix with another model name in it, and the whole length then."""
        if self.span is None:
            return self.prefix, self.length
        start, end = self.span
        new = name.encode()
        length = None if self.length is None else self.length + len(new) - (end - start)
        return self.prefix[:start] + new + self.prefix[end:], length

    @property
    def complete(self) -> bool:
        """Whether the prefix is the whole body."""
        return self.source.at_end or self.length == len(self.prefix)

    @property
    def touched(self) -> bool:
        """Whether more than the prefix was taken, so that it cannot be sent again."""
        return self.taken > 0

    async def more(self) -> bytes:
        """What comes next after the prefix, waited for; empty at the end. Raises Refusal
        ``request_too_large``."""
        data = await self.source.read()
        self.taken += len(data)
        if len(self.prefix) + self.taken > self.limit:
            raise too_large(self.limit)
        return data


def too_large(limit: int) -> Refusal:
    return Refusal(
        "request_too_large",
        f"The request's body is larger than the {limit} bytes that this gateway takes."
        " Send less, or have server.max_body raised.",
        headers={"Connection": "close"},
    )


def at_hand(body: Body, limit: int) -> bytes:
    """A whole body that has come. Raises Refusal ``request_too_large`` or ``invalid_request``."""
    data = body.take()
    if len(data) > limit:
        raise too_large(limit)
    return data


async def read(body: Body, limit: int) -> bytes:
    """The whole body. Raises Refusal ``request_too_large`` or ``invalid_request``."""
    chunks: list[bytes] = []
    size = 0
    while data := await body.read():
        size += len(data)
        if size > limit:
            raise too_large(limit)
        chunks.append(data)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def check_length(body: Body, limit: int) -> None:
    """Refuse an announced length that is over the limit. Raises Refusal ``request_too_large``."""
    if body.length is not None and body.length > limit:
        raise too_large(limit)


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object that a body holds. Raises Refusal ``invalid_request``."""
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if not body.strip():
            raise Refusal(
                "invalid_request", "The request has no body; a JSON object is expected."
            ) from None
        raise Refusal(
            "invalid_request", f"The request's body is not valid JSON: {error}."
        ) from None
    if not isinstance(doc, dict):
        kind = {list: "a list", str: "a string", type(None): "null"}.get(type(doc), "a scalar")
        raise Refusal(
            "invalid_request", f"The request's body is {kind}; a JSON object is expected."
        )
    return doc


# In a megabyte of text a regular expression finds it in half the time that bytes.count takes.
_MODEL = re.compile(rb'"model"')
SPELT = (4, 5)
"""Characters of the names that a model goes by (``name``, ``model``), however they are cased."""


def model_of(doc: dict[str, Any], body: bytes, *names: str, loose: bool = False) -> str:
    """The model a document names, under the first of ``names`` that it has. A body that names two
    is refused: the engine might read the other one. Raises Refusal ``invalid_request``."""
    for key in doc:
        if len(key) in SPELT and key not in names and key.casefold() in names:
            raise Refusal(
                "invalid_request",
                f"The body has a member '{key[:20]}', which some engines take for"
                f" '{key.casefold()[:20]}'. Write it in lower case, once.",
                param=key.casefold(),
            )
    for name in names:
        if name not in doc:
            continue
        value = doc[name]
        if not isinstance(value, str) or not value:
            raise Refusal(
                "invalid_request",
                f"'{name}' has to be a non-empty string, the name of a model.",
                param=name,
            )
        if len(_MODEL.findall(body)) > 1 and len(spans(body, "model")) > 1:
            raise Refusal(
                "invalid_request", "'model' stands twice in the request's body.", param=name
            )
        return value
    if loose:
        return ""
    raise Refusal(
        "invalid_request",
        f"'{names[0]}' is missing: name the model that shall answer (GET /v1/models lists them).",
        param=names[0],
    )


async def upload(request: Request, limit: int) -> tuple[Upload, str]:
    """Read a multipart form until its model is known. Returns the upload and the model's name.
    Raises Refusal ``invalid_request`` or ``request_too_large``."""
    boundary = boundary_of(request.fields.get("content-type", ""))
    if boundary is None:
        raise Refusal(
            "invalid_request",
            "This route takes multipart/form-data with a boundary, as the OpenAI SDK sends it.",
        )
    taken = bytearray()
    near = False
    while data := await request.body.read():
        # The form is searched only once the field's name has come by: a file of many megabytes
        # in front of it is then copied once and not searched again and again.
        near = near or b"model" in taken[-8:] + data
        taken += data
        if len(taken) > limit:
            raise too_large(limit)
        span = field_span(prefix := bytes(taken), boundary, b"model") if near else None
        if span is not None:
            name = prefix[span[0] : span[1]].decode("utf-8", "replace")
            return Upload(request.body, prefix, span, request.body.length, limit), name
    raise Refusal(
        "invalid_request", "The form has no field 'model', or is not complete.", param="model"
    )
