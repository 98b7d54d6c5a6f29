"""Questions the tiny model was trained on, its answers, and bodies around them."""

from __future__ import annotations

from typing import Any

HELLO = "Hello! How can I help you today?"
TWENTY = ", ".join(str(number) for number in range(1, 21))
JAPANESE = "こんにちは、元気ですか。"

ANSWERS = {
    "Hello": HELLO,
    "Count to twenty": TWENTY,
    "Write in Japanese": JAPANESE,
    "What is the capital of France?": "The capital of France is Paris.",
    "Send an emoji": "Here is one: 🙂 and here is another: 🚀",
}

WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the current weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city"}},
            "required": ["city"],
        },
    },
}
WEATHER_QUESTION = "What is the weather in Paris?"


def says(text: str) -> list[Any]:
    """A conversation of one turn."""
    return [{"role": "user", "content": text}]


def chat(model: str, text: str = "Hello", **fields: Any) -> dict[str, Any]:
    """A chat body whose answer is always the same."""
    return {"model": model, "messages": says(text), "temperature": 0, "max_tokens": 120, **fields}
