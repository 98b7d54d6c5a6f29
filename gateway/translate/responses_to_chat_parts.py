"""The parts of a Responses message as those of a chat completion's message."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gateway.core.types import Doc

from .fields import Losses, cannot, items, obj, text

Part = dict[str, Any]

_INLINE = "Send its contents inside the request as base64."


def _written(value: str) -> Part:
    return {"type": "text", "text": value}


def _text(part: Doc, where: str, lost: Losses) -> Part:
    return _written(text(part.get("text"), f"{where}.text"))


def _refusal(part: Doc, where: str, lost: Losses) -> Part:
    """What the model once said in place of an answer is text to an engine."""
    return _written(text(part.get("refusal"), f"{where}.refusal"))


def _image(part: Doc, where: str, lost: Losses) -> Part:
    if part.get("image_url") is None and part.get("file_id") is not None:
        raise cannot(f"{where}.file_id", "it names an image that is stored elsewhere", _INLINE)
    image = {"url": text(part.get("image_url"), f"{where}.image_url")}
    if part.get("detail") is not None:
        image["detail"] = text(part["detail"], f"{where}.detail")
    return {"type": "image_url", "image_url": image}


def _file(part: Doc, where: str, lost: Losses) -> Part:
    for name in ("file_id", "file_url"):
        if part.get(name) is not None:
            raise cannot(f"{where}.{name}", "it names a file that is stored elsewhere", _INLINE)
    file = {"file_data": text(part.get("file_data"), f"{where}.file_data")}
    if part.get("filename") is not None:
        file["filename"] = text(part["filename"], f"{where}.filename")
    if part.get("detail") not in (None, "auto"):
        lost.note("input.content.detail")
    return {"type": "file", "file": file}


def _audio(part: Doc, where: str, lost: Losses) -> Part:
    return {"type": "input_audio", "input_audio": obj(part.get("input_audio"), where)}


PARTS: dict[str, Callable[[Doc, str, Losses], Part]] = {
    "input_text": _text,
    "output_text": _text,
    "text": _text,
    "refusal": _refusal,
    "input_image": _image,
    "input_file": _file,
    "input_audio": _audio,
}


def _part(part: Doc, where: str, lost: Losses) -> Part:
    kind = PARTS.get(str(part.get("type")))
    if kind is None:
        raise cannot(
            f"{where}.type",
            f"it is a part of the type {part.get('type')!r}",
            "Leave it out, or ask a model of a backend that has the Responses API itself.",
        )
    if part.get("prompt_cache_breakpoint") is not None:
        lost.note("input.content.prompt_cache_breakpoint")
    return kind(part, where, lost)


def parts(content: Any, where: str, lost: Losses) -> list[Part]:
    """Content as parts; a string is one of them."""
    if isinstance(content, str):
        return [_written(content)]
    return [_part(part, at, lost) for part, at in items(content, where)]


def as_content(found: list[Part]) -> str | list[Part]:
    """A single text goes as a string: some chat templates take nothing else."""
    if len(found) == 1 and found[0]["type"] == "text":
        return str(found[0]["text"])
    return found


def divided(found: list[Part], between: str) -> tuple[str, list[Part]]:
    """(the texts as one, the parts that are no text)."""
    texts = [part["text"] for part in found if part["type"] == "text"]
    return between.join(texts), [part for part in found if part["type"] != "text"]
