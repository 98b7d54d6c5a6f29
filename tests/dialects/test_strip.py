"""The usage event that only the gateway asked for goes; every other byte stays."""

import json
from pathlib import Path

import pytest

from gateway.dialects.strip import UsageStrip

WIRE = Path(__file__).parent.parent / "wire"


def recorded(folder: str, case: str) -> bytes:
    response = json.loads((WIRE / folder / f"{case}.json").read_text())["response"]
    return "".join(chunk.get("data", "") for chunk in response["chunks"]).encode()


def without_usage(data: bytes) -> bytes:
    events = data.split(b"\n\n")
    return b"\n\n".join(e for e in events if b'"choices":[]' not in e)


@pytest.mark.parametrize("folder", ["vllm-0.32.0", "sglang-0.5.23", "xllamacpp-2026.10.11549"])
def test_the_event_is_taken_out_at_every_split_position(folder):
    data = recorded(folder, "chat_stream_usage")
    wanted = without_usage(data)
    assert wanted != data
    for position in range(len(data) + 1):
        strip = UsageStrip()
        out = strip.feed(data[:position]) + strip.feed(data[position:]) + strip.close()
        assert out == wanted, position


def test_byte_by_byte_it_is_taken_out_too():
    data = recorded("vllm-0.32.0", "chat_stream_usage")
    strip = UsageStrip()
    out = b"".join(strip.feed(data[i : i + 1]) for i in range(len(data))) + strip.close()
    assert out == without_usage(data)


def test_an_event_known_to_hold_content_is_not_held_back():
    strip = UsageStrip()
    part = b'data: {"id":"1","choices":[{"index":0,"delta":{"content":"a'
    assert strip.feed(part) == part
    assert strip.feed(b'b"}}]}\n\n') == b'b"}}]}\n\n'


def test_what_was_held_comes_out_at_the_end():
    strip = UsageStrip()
    assert strip.feed(b'data: {"id"') == b""
    assert strip.close() == b'data: {"id"'
