"""Messages' content blocks as the messages of a chat completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from gateway.core.asides import attributes, settled
from gateway.core.types import Doc

from .fields import Losses, cannot, items, text, wrong

Part = dict[str, Any]

_INLINE = "Send it inside the request as base64."
_ERROR = "Error: "
"""Chat completions cannot mark a tool's result as failed; the words can."""


def written(value: str) -> Part:
    return {"type": "text", "text": value}


def blocks(content: Any, where: str) -> list[tuple[Doc, str]]:
    """Content as (block, its path); a string is one block of text."""
    if isinstance(content, str):
        return [({"type": "text", "text": content}, where)]
    return items(content, where)


def _text(block: Doc, where: str, lost: Losses) -> list[Part]:
    return [written(text(block.get("text"), f"{where}.text"))]


def _data_url(source: Doc, where: str) -> str:
    kind = text(source.get("media_type"), f"{where}.media_type")
    return f"data:{kind};base64,{text(source.get('data'), f'{where}.data')}"


def _source(block: Doc, where: str) -> tuple[Doc, str]:
    where = f"{where}.source"
    source = block.get("source")
    if not isinstance(source, dict):
        raise wrong(where, f"'{where}' has to be an object with a 'type'.")
    return source, where


def _image(block: Doc, where: str, lost: Losses) -> list[Part]:
    source, where = _source(block, where)
    match source.get("type"):
        case "base64":
            url = _data_url(source, where)
        case "url":
            url = text(source.get("url"), f"{where}.url")
        case other:
            raise cannot(where, f"it is an image of the kind '{other}'", _INLINE)
    return [{"type": "image_url", "image_url": {"url": url}}]


def _document(block: Doc, where: str, lost: Losses) -> list[Part]:
    """A PDF goes as a file, a text as text; title and context go before it as text."""
    source, at = _source(block, where)
    citations = block.get("citations")
    if isinstance(citations, dict) and citations.get("enabled"):
        lost.note("messages.content.citations")
    title, context = block.get("title"), block.get("context")
    about = [written(said) for said in (title, context) if isinstance(said, str) and said]
    match source.get("type"):
        case "base64":
            name = title if isinstance(title, str) and title else "document.pdf"
            file = {"filename": name, "file_data": _data_url(source, at)}
            return [*about, {"type": "file", "file": file}]
        case "text":
            return [*about, written(text(source.get("data"), f"{at}.data"))]
        case "content":
            return [*about, *_parts(source.get("content"), f"{at}.content", lost)]
        case other:
            raise cannot(at, f"it is a document of the kind '{other}'", _INLINE)


def _search_result(block: Doc, where: str, lost: Losses) -> list[Part]:
    lost.note("messages.content.citations")
    heads = [block.get("title"), block.get("source")]
    return [
        *(written(head) for head in heads if isinstance(head, str)),
        *_parts(block.get("content"), f"{where}.content", lost),
    ]


PARTS: dict[str, Callable[[Doc, str, Losses], list[Part]]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
}
"""What a user may say, or a tool may answer."""


def _unknown(block: Doc, where: str) -> Exception:
    return cannot(
        where,
        f"it is a block of the type {block.get('type')!r}",
        "Leave it out, or ask a model of a backend that speaks Anthropic's API itself.",
    )


def _part(block: Doc, where: str, lost: Losses) -> list[Part]:
    kind = PARTS.get(str(block.get("type")))
    if kind is None:
        raise _unknown(block, where)
    lost.cached(block, "messages.content")
    return kind(block, where, lost)


def _parts(content: Any, where: str, lost: Losses) -> list[Part]:
    return [part for block, at in blocks(content, where) for part in _part(block, at, lost)]


def _as_content(parts: list[Part]) -> str | list[Part]:
    """A single text goes as a string: some chat templates take nothing else."""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return str(parts[0]["text"])
    return parts


def user(content: Any, where: str, lost: Losses) -> list[Doc]:
    """Tools' results as messages of their own, right behind the calls that they answer; then what
    the user said, and the images that tools have brought."""
    results: list[Doc] = []
    said: list[Part] = []
    for block, at in blocks(content, where):
        if block.get("type") == "tool_result":
            lost.cached(block, "messages.content")
            result, shown = _result(block, at, lost)
            results.append(result)
            said += shown
        else:
            said += _part(block, at, lost)
    if said or not results:
        results.append({"role": "user", "content": _as_content(said)})
    return results


def _result(block: Doc, where: str, lost: Losses) -> tuple[Doc, list[Part]]:
    """The message of a tool, which is text only, and the parts that do not fit into it."""
    if block.get("toolset_name") is not None:
        raise _unknown({"type": "toolset member"}, where)
    call = text(block.get("tool_use_id"), f"{where}.tool_use_id")
    content = block.get("content")
    parts = [] if content is None else _parts(content, f"{where}.content", lost)
    answer = "\n".join(part["text"] for part in parts if part["type"] == "text")
    others = [part for part in parts if part["type"] != "text"]
    if others:
        lost.note("messages.content.tool_result.content")
        answer = answer or "The result is shown in the next message."
        others.insert(0, written(f"Result of the tool call {call}:"))
    if block.get("is_error"):
        lost.note("messages.content.tool_result.is_error")
        answer = _ERROR + answer
    return {"role": "tool", "tool_call_id": call, "content": answer}, others


def assistant(content: Any, where: str, lost: Losses) -> Doc:
    """One message. Texts are joined as they are: an answer with citations comes in blocks that
    begin in the middle of a sentence."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Doc] = []
    for block, at in blocks(content, where):
        lost.cached(block, "messages.content")
        match block.get("type"):
            case "text":
                texts.append(text(block.get("text"), f"{at}.text"))
            case "thinking":
                thoughts.append(text(block.get("thinking"), f"{at}.thinking"))
            case "redacted_thinking":
                lost.note("messages.content.redacted_thinking")
            case "tool_use":
                calls.append(_call(block, at))
            case _:
                raise _unknown(block, at)
    said = "".join(texts)
    # TGI takes a call beside an empty text for plain text; Ollama wants a text where no call is.
    message: dict[str, Any] = {"role": "assistant", "content": said or (None if calls else "")}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _call(block: Doc, where: str) -> Doc:
    if block.get("toolset_name") is not None:
        raise _unknown({"type": "toolset member"}, where)
    given = block.get("input")
    if not isinstance(given, dict):
        raise wrong(f"{where}.input", f"'{where}.input' has to be an object.")
    return {
        "id": text(block.get("id"), f"{where}.id"),
        "type": "function",
        "function": {
            "name": text(block.get("name"), f"{where}.name"),
            "arguments": orjson.dumps(given).decode(),
        },
    }


def system(content: Any, where: str, lost: Losses) -> str:
    """A system prompt as one text."""
    texts = []
    for block, at in blocks(content, where):
        if block.get("type") != "text":
            raise wrong(at, f"'{at}' has to be a block of the type 'text'.")
        if attributes(block):
            lost.note("system.x-anthropic-billing-header")
            continue
        lost.cached(block, "system")
        texts.append(text(block.get("text"), f"{at}.text"))
    return "\n".join(texts)


def messages(doc: Doc, lost: Losses) -> list[Doc]:
    """The whole conversation, system prompt first; what it says in the middle is said by the user,
    since few templates take it there."""
    found: list[Doc] = []
    if changes := settled(doc):
        doc = {**doc, **changes}
        lost.note("messages.role")
    said = system(doc["system"], "system", lost) if doc.get("system") else ""
    if said:
        found.append({"role": "system", "content": said})
    for message, at in items(doc.get("messages"), "messages"):
        where = f"{at}.content"
        match message.get("role"):
            case "user":
                found += user(message.get("content"), where, lost)
            case "assistant":
                found.append(assistant(message.get("content"), where, lost))
            case "system":
                said = system(message.get("content"), where, lost)
                found.append({"role": "system", "content": said})
            case _:
                raise wrong(f"{at}.role", f"'{at}.role' has to be 'user' or 'assistant'.")
    return found
