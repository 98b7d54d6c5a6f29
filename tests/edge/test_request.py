"""A request's body as it comes: bounded, unfolded, failed; and the forms of a target."""

from __future__ import annotations

import gzip
import zlib

import pytest

from gateway.core.errors import Refusal
from gateway.edge.request import HELD, Body, Packed, split_target


class Held:
    """Counts how often its reading is stopped and resumed."""

    transport = None

    def __init__(self) -> None:
        self.calls: list[str] = []

    def hold(self) -> None:
        self.calls.append("hold")

    def go_on(self) -> None:
        self.calls.append("go on")


async def everything(body: Body) -> bytes:
    whole = b""
    while data := await body.read():
        whole += data
    return whole


async def test_a_body_that_nobody_reads_stops_its_client_until_somebody_does() -> None:
    client = Held()
    body = Body(client, None)
    for _ in range(5):
        body.feed(b"x" * (HELD // 4))
    assert client.calls == ["hold"]
    assert len(body.take()) == 5 * (HELD // 4)
    assert client.calls == ["hold", "go on"]


@pytest.mark.parametrize("size", [0, 1, 100_000, 3_000_000])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_packed_body_is_read_as_what_it_means(coding: str, size: int) -> None:
    text = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    packed = gzip.compress(text) if coding == "gzip" else zlib.compress(text)
    body = Packed(Held(), coding)
    for at in range(0, len(packed), 1000):
        body.feed(packed[at : at + 1000])
    body.end()
    assert await everything(body) == text


async def test_a_bomb_is_unfolded_no_further_than_it_is_read() -> None:
    body = Packed(Held(), "gzip")
    body.feed(gzip.compress(b"\0" * 300_000_000, 9))
    body.end()
    assert not body.complete
    assert len(body.take()) <= 2 * HELD


@pytest.mark.parametrize(
    "data",
    [b"no gzip at all", gzip.compress(b"cut short" * 1000)[:-20]],
    ids=["rubbish", "cut"],
)
async def test_a_packed_body_that_does_not_hold_is_refused(data: bytes) -> None:
    body = Packed(Held(), "gzip")
    body.feed(data)
    body.end()
    with pytest.raises(Refusal) as caught:
        await everything(body)
    assert caught.value.kind == "invalid_request"


@pytest.mark.parametrize(
    ("target", "found"),
    [
        (b"/a/b?c=d%20e", ("/a/b", "c=d%20e")),
        (b"/v1/models/org%2Fname%3Ax", ("/v1/models/org/name:x", "")),
        (b"http://host:80/a?b", ("/a", "b")),
        (b"http://host", ("/", "")),
        (b"/a#part?no", ("/a", "")),
        (b"*", ("*", "")),
    ],
)
def test_targets_in_all_their_forms(target: bytes, found: tuple[str, str]) -> None:
    assert split_target(target) == found
