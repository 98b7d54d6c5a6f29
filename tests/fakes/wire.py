"""Reads the recordings of real engines under tests/wire and turns them into answers."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent / "wire"
RECORDED_MODEL = "tiny-chat"
HOP = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive", "date"})


@dataclass(frozen=True, slots=True)
class Recording:
    """One recorded answer. ``pieces`` are the HTTP chunks in order (one piece when the answer was
    not chunked), ``headers`` are without those that belong to one connection only, ``finished`` is
    False when the engine never sent the terminal chunk."""

    path: str
    status: int
    headers: tuple[tuple[str, str], ...]
    framing: str
    pieces: tuple[bytes, ...]
    finished: bool = True

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    def naming(self, model: str) -> Recording:
        """The same answer from an engine whose model has another name."""
        new = json.dumps(model)[1:-1].encode()
        pieces = tuple(piece.replace(RECORDED_MODEL.encode(), new) for piece in self.pieces)
        return Recording(self.path, self.status, self.headers, self.framing, pieces, self.finished)


def load(case: str) -> Recording | None:
    """The recording ``FOLDER/CASE`` (no suffix), None when there is none or nothing came."""
    file = ROOT / f"{case}.json"
    return _parse(json.loads(file.read_text())) if file.exists() else None


@cache
def folder(name: str, prefix: str = "") -> dict[str, Recording]:
    """Case name -> recording, for every case of a folder whose name starts with ``prefix``."""
    found = {
        file.stem: load(f"{name}/{file.stem}") for file in (ROOT / name).glob(f"{prefix}*.json")
    }
    return {case: answer for case, answer in sorted(found.items()) if answer is not None}


def _parse(doc: dict[str, Any]) -> Recording | None:
    response = doc["response"]
    if not response.get("status"):
        return None
    headers = tuple((name, value) for name, value in response["headers"] if name.lower() not in HOP)
    pieces, finished = _pieces(response)
    path = doc["request"]["line"].split(" ")[1]
    status = int(response["status"].split(" ")[1])
    return Recording(path, status, headers, response["framing"], pieces, finished)


def _pieces(response: dict[str, Any]) -> tuple[tuple[bytes, ...], bool]:
    if response["framing"] != "chunked":
        return (_bytes(response),), True
    chunks = [chunk for chunk in response["chunks"] if "left_out" not in chunk]
    payloads = tuple(_bytes(chunk) for chunk in chunks if chunk["size"] != "0")
    return payloads, any(chunk["size"] == "0" for chunk in chunks)


def _bytes(entry: dict[str, Any]) -> bytes:
    if "base64" in entry:
        return base64.b64decode(entry["base64"])
    return str(entry.get("data", "")).encode()
