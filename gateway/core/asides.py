"""What coding agents put into a Messages request beside the conversation, said as engines take it.

Agents (Claude Code since 2.1.154, its beta ``mid-conversation-system-2026-04-07``) say instructions
in the middle of the conversation, as messages of the role 'system'. Many chat templates take them
only in front and fail on any other: Qwen's raises "System message must be at the beginning", which
comes back as 400 or 500 (llama.cpp issue 27367, ollama issue 17774)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.core.types import Doc

ATTRIBUTION = "x-anthropic-billing-header:"
"""How a block of the system prompt begins that is meant for Anthropic's accounts alone. It differs
from conversation to conversation and stands in front of all else, so that no engine could use its
cache for what is the same in all of them. vLLM leaves it out as well (entrypoints/anthropic)."""

_OPEN, _CLOSE = "<system-reminder>\n", "\n</system-reminder>"
"""The marks in which Claude Code itself puts instructions where 'system' is not taken."""


def attributes(block: Any) -> bool:
    """Whether a block of a system prompt is such an attribution."""
    said = block.get("text") if isinstance(block, dict) else None
    return isinstance(said, str) and said.startswith(ATTRIBUTION)


def unattributed(system: Any) -> Any:
    """A system prompt without its attribution; itself where there is none."""
    if not isinstance(system, list) or not any(attributes(block) for block in system):
        return system
    return [block for block in system if not attributes(block)]


def settled(doc: Doc) -> Mapping[str, Any]:
    """The fields of a Messages document that have to change so that instructions stand in front
    only: those before the first turn join ``system``, each later one is said at the end of the
    user's turn before it (where no user spoke, of the next). Text stays where it was, so that an
    engine's cache of the conversation still holds. Empty where nothing has to change, and where
    there is anything but text among the instructions."""
    messages = doc.get("messages")
    if not isinstance(messages, list) or not any(map(_instructs, messages)):
        return {}
    said = [_texts(message) for message in messages if _instructs(message)]
    if any(texts is None for texts in said):
        return {}
    first = next((i for i, m in enumerate(messages) if not _instructs(m)), len(messages))
    changes: dict[str, Any] = {"messages": _in_turns(messages[first:])}
    leading = [text for texts in said[:first] for text in texts or ()]
    if leading:
        changes["system"] = [*_blocks(doc.get("system")), *map(_block, leading)]
    return changes


def _instructs(message: Any) -> bool:
    return isinstance(message, dict) and message.get("role") == "system"


def _block(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _blocks(content: Any) -> list[Any]:
    """Content as a list of blocks; a string is one block of text."""
    if isinstance(content, str):
        return [_block(content)] if content else []
    return content if isinstance(content, list) else []


def _texts(message: Doc) -> list[str] | None:
    """What a message says; None where that is more than text."""
    content = message.get("content")
    if not isinstance(content, str | list):
        return None
    blocks = _blocks(content)
    texts = [block.get("text") for block in blocks if isinstance(block, dict)]
    whole = len(texts) == len(blocks) and all(isinstance(text, str) for text in texts)
    return [text for text in texts if isinstance(text, str) and text] if whole else None


def _in_turns(messages: list[Any]) -> list[Any]:
    said: list[Any] = []
    waiting: list[dict[str, Any]] = []
    for message in messages:
        user = isinstance(message, dict) and message.get("role") == "user"
        if _instructs(message):
            waiting += [_block(f"{_OPEN}{text}{_CLOSE}") for text in _texts(message) or ()]
            if said and said[-1].get("role") == "user":
                said[-1], waiting = _more(said[-1], waiting), []
        elif user:
            said.append(_more(message, waiting))
            waiting = []
        else:
            said.append(message)
    return [*said, {"role": "user", "content": waiting}] if waiting else said


def _more(message: Doc, blocks: list[dict[str, Any]]) -> Doc:
    if not blocks:
        return message
    return {**message, "content": [*_blocks(message.get("content")), *blocks]}
