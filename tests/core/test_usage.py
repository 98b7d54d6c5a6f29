"""Tokens are read out of the ends of an answer in every shape that engines use."""

import pytest

from gateway.core.types import Usage
from gateway.core.usage import extract


@pytest.mark.parametrize(
    ("head", "tail", "expected"),
    [
        (b"", b'"usage":{"prompt_tokens":9,"total_tokens":19,"completion_tokens":10}}', (9, 10, 0)),
        (
            b"",
            b'"usage": {"prompt_tokens": 9, "completion_tokens": 1,'
            b' "prompt_tokens_details": {"cached_tokens": 8}}}',
            (9, 1, 8),
        ),
        (b'{"usage":{"prompt_tokens":7,"total_tokens":7},"data":[[', b"0.1,0.2]]}", (7, 0, 0)),
        (
            b'"usage":{"cache_read_input_tokens":8,"input_tokens":1,"output_tokens":0}',
            b'"usage":{"output_tokens":10}',
            (9, 10, 8),
        ),
        (
            b"",
            b'"usage":{"input_tokens":5,"output_tokens":6,'
            b'"input_tokens_details":{"cached_tokens":2}}',
            (5, 6, 2),
        ),
        (b"", b'"timings":{"cache_n":8,"prompt_n":1,"predicted_n":10,"x":1.5}}', (9, 10, 8)),
        (b"", b'{"done":true,"prompt_eval_count":26,"eval_count":298}', (26, 298, 0)),
        (b"", b'"usage":{"prompt_tokens":0,"completion_tokens":0}}\n "usage":null}', (0, 0, 0)),
    ],
)
def test_reported_usage_is_found(head, tail, expected):
    assert extract(head, tail, 99) == Usage(*expected)


@pytest.mark.parametrize(
    "tail",
    [
        b"",
        b'"usage":null}',
        b'"usage":{"prompt_tokens":',
        b'"content":"\\"usage\\":{\\"prompt_tokens\\":5}"',
        b'"usage":{"prompt_tokens":nonsense}',
    ],
)
def test_without_usage_the_counted_events_stand_in_and_say_so(tail):
    assert extract(b"", tail, 4) == Usage(output=4, counted=False)
