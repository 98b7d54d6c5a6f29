"""An engine's own error reaches an Ollama client as the text it is."""

from __future__ import annotations

import pytest

from gateway.translate.ollama_error import error
from tests.backends.recorded import answer


@pytest.mark.parametrize(
    ("folder", "case", "words"),
    [
        ("vllm-0.32.0", "error_temperature", "temperature must be non-negative, got -3.0."),
        ("vllm-0.32.0", "get_unknown_path", "Not Found"),
        ("sglang-0.5.23", "error_too_long", "The input (9010 tokens) is longer than"),
        ("xllamacpp-2026.10.11549", "error_no_messages", "'messages' is required"),
        ("llama-cpp-python-0.3.36", "error_malformed_json", "Internal Server Error"),
    ],
)
def test_recorded_errors_are_told_in_their_own_words(folder, case, words) -> None:
    recorded = answer(folder, case)
    assert error(recorded.status, recorded.body)["error"].startswith(words)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error": "Model is overloaded", "error_type": "overloaded"}', "Model is overloaded"),
        (b'{"detail": [{"msg": "Field required"}, {"msg": "too big"}]}', "Field required; too big"),
        (b"", "The engine answered 500."),
        (b"{}", "{}"),
        (b"x" * 3000, "x" * 2000 + "…"),
    ],
)
def test_other_shapes_are_told_as_well(body, text) -> None:
    assert error(500, body) == {"error": text}
