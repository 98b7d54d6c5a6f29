"""Ollama's pictures, base64 without a type, as the data URLs that OpenAI's chat takes."""

from __future__ import annotations

import binascii
from typing import Any

from .fields import wrong

MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF8", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
)
"""How the files of each kind begin. WebP and AVIF name themselves a few bytes later."""

LOOK = 64
"""Characters of the base64 text that are decoded to see the kind."""


def parts(images: Any, where: str) -> list[dict[str, Any]]:
    """Content parts of the images of a message or a prompt; ``where`` is the field's name. Raises
    Refusal ``invalid_request`` when one is no base64 or no known kind of picture."""
    if images is None:
        return []
    if not isinstance(images, list):
        raise wrong(where, f"'{where}' has to be a list of base64 strings.")
    return [
        {"type": "image_url", "image_url": {"url": _url(image, f"{where}[{index}]")}}
        for index, image in enumerate(images)
    ]


def _url(image: Any, where: str) -> str:
    if not isinstance(image, str):
        raise wrong(where, f"'{where}' has to be a base64 string.")
    if image.startswith("data:"):
        return image
    kind = _kind(_beginning(image))
    if kind is None:
        raise wrong(
            where,
            f"'{where}' is not the base64 text of a JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
            " picture. Send the file itself in base64, without a URL or a path.",
        )
    return f"data:image/{kind};base64,{image}"


def _beginning(image: str) -> bytes:
    text = image[:LOOK].strip()
    try:
        return binascii.a2b_base64(text[: len(text) // 4 * 4], strict_mode=True)
    except (binascii.Error, ValueError):
        return b""


def _kind(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    return next((kind for magic, kind in MAGIC if data.startswith(magic)), None)
