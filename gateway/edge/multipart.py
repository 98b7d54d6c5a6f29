"""Finding the model in a multipart form without waiting for the files behind it."""

from __future__ import annotations

import re

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^;\s]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb'content-disposition:[^\r\n]*[;\s]name="?([^";\r\n]*)"?', re.IGNORECASE)


def boundary_of(content_type: str) -> bytes | None:
    """The boundary of a multipart/form-data content type (RFC 2046 5.1.1), None without one."""
    if not content_type.lower().startswith("multipart/form-data"):
        return None
    match = _BOUNDARY.search(content_type)
    return (match.group(1) or match.group(2)).encode() if match else None


def field_span(buffer: bytes, boundary: bytes, name: bytes) -> tuple[int, int] | None:
    """Where the value of the field ``name`` stands in what has come so far, as (start, end);
    None while it is not (wholly) there."""
    mark = b"--" + boundary
    at = buffer.find(mark)
    while at >= 0:
        head_end = buffer.find(b"\r\n\r\n", at)
        if head_end < 0:
            return None
        after = buffer.find(b"\r\n" + mark, head_end + 2)
        disposition = _NAME.search(buffer, at, head_end)
        if disposition and disposition.group(1) == name:
            return (head_end + 4, after) if after >= 0 else None
        at = after + 2 if after >= 0 else -1
    return None
