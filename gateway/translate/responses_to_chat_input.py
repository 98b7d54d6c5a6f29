"""The input items of a Responses request as the messages of a chat completion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from gateway.core.types import Doc

from .fields import Losses, cannot, items, text, wrong
from .responses_to_chat_names import TEXT, flat
from .responses_to_chat_parts import Part, as_content, divided, parts

_REMEDY = "Leave it out, or ask a model of a backend that has the Responses API itself."


class Conversation:
    """The messages as they grow. What the model thought, said and called in a row is one message.
    ``thinking`` is the field in which the engine reads past reasoning, None where it reads none."""

    __slots__ = ("_lost", "_shown", "_thinking", "_turn", "messages")

    def __init__(self, lost: Losses, thinking: str | None) -> None:
        self._lost = lost
        self._thinking = thinking
        self._turn: dict[str, Any] | None = None
        self._shown: list[Part] = []
        self.messages: list[dict[str, Any]] = []

    def instruct(self, said: str) -> None:
        """Instructions, and what developers say, come as system messages: few templates know
        another role. Those in front are one, since some templates take only one."""
        self.rest()
        last = self.messages[-1] if self.messages else None
        if last is not None and len(self.messages) == 1 and last["role"] == "system":
            last["content"] += f"\n\n{said}"
        else:
            self.messages.append({"role": "system", "content": said})

    def message(self, item: Doc, where: str) -> None:
        at = f"{where}.content"
        found = parts(item.get("content"), at, self._lost)
        if item.get("phase") is not None:
            self._lost.note("input.phase")
        match item.get("role"):
            case "user":
                self._ask(found)
            case "assistant":
                self._answer(self._only_text(found, at, ""))
            case "system" | "developer":
                self.instruct(self._only_text(found, at, "\n"))
            case _:
                roles = "user, assistant, system or developer"
                raise wrong(f"{where}.role", f"'{where}.role' has to be {roles}.")

    def _only_text(self, found: list[Part], where: str, between: str) -> str:
        said, others = divided(found, between)
        if others:
            raise wrong(where, f"'{where}' has to be text.")
        return said

    def _ask(self, found: list[Part]) -> None:
        shown, self._shown = self._shown, []
        self.rest()
        self.messages.append({"role": "user", "content": as_content(shown + found)})

    # ---- what the model did

    def _answer(self, said: str) -> None:
        turn = self._model(fresh=("content", "tool_calls"))
        turn["content"] = said

    def reasoning(self, item: Doc, where: str) -> None:
        """An engine reads its own words only: neither a summary nor what is encrypted."""
        content = items(item.get("content") or [], f"{where}.content")
        said = "\n".join(text(part.get("text"), f"{at}.text") for part, at in content)
        if self._thinking is None or not said:
            self._lost.note("input.reasoning")
            return
        turn = self._model(fresh=("content", "tool_calls", self._thinking))
        turn[self._thinking] = said

    def call(self, item: Doc, where: str) -> None:
        self._called(item, text(item.get("arguments"), f"{where}.arguments"), where)

    def free_call(self, item: Doc, where: str) -> None:
        given = {TEXT: text(item.get("input"), f"{where}.input")}
        self._called(item, orjson.dumps(given).decode(), where)

    def _called(self, item: Doc, arguments: str, where: str) -> None:
        name = flat(text(item.get("name"), f"{where}.name"), item.get("namespace"))
        function = {"name": name, "arguments": arguments}
        used = text(item.get("call_id"), f"{where}.call_id")
        calls = self._model(fresh=()).setdefault("tool_calls", [])
        calls.append({"id": used, "type": "function", "function": function})

    def _model(self, fresh: tuple[str, ...]) -> dict[str, Any]:
        """The model's message; a new one where the last has one of these fields already."""
        if self._turn is None or any(name in self._turn for name in fresh):
            self.rest()
            self._turn = {"role": "assistant"}
        return self._turn

    def result(self, item: Doc, where: str) -> None:
        """Results are text in a chat. Pictures go into the next message of the user."""
        self._close()
        used = text(item.get("call_id"), f"{where}.call_id")
        said, others = divided(parts(item.get("output"), f"{where}.output", self._lost), "\n")
        if others:
            self._lost.note("input.output")
            said = said or "The result is shown in the next message."
            heading = {"type": "text", "text": f"Result of the tool call {used}:"}
            self._shown += [heading, *others]
        self.messages.append({"role": "tool", "tool_call_id": used, "content": said})

    # ---- ends

    def _close(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            # Ollama wants a text where no call is, TGI none where one is.
            said = turn.pop("content", None) or (None if "tool_calls" in turn else "")
            self.messages.append({"role": "assistant", "content": said, **turn})

    def rest(self) -> None:
        """What is still owed: the model's message, the pictures of the last results."""
        self._close()
        if self._shown:
            self.messages.append({"role": "user", "content": self._shown})
            self._shown = []


ITEMS: dict[str, Callable[[Conversation, Doc, str], None]] = {
    "message": Conversation.message,
    "reasoning": Conversation.reasoning,
    "function_call": Conversation.call,
    "function_call_output": Conversation.result,
    "custom_tool_call": Conversation.free_call,
    "custom_tool_call_output": Conversation.result,
}


def _add(conversation: Conversation, item: Doc, where: str) -> None:
    kind = item.get("type") or ("message" if "role" in item else "item_reference")
    if kind == "item_reference":
        raise cannot(where, "it names an item that is stored elsewhere", "Send the item itself.")
    known = ITEMS.get(str(kind))
    if known is None:
        raise cannot(f"{where}.type", f"it is an item of the type {kind!r}", _REMEDY)
    known(conversation, item, where)


def messages(doc: Doc, lost: Losses, thinking: str | None) -> list[dict[str, Any]]:
    """The whole conversation, instructions first. Raises Refusal."""
    conversation, given = Conversation(lost, thinking), doc.get("input")
    if doc.get("instructions") is not None:
        conversation.instruct(text(doc["instructions"], "instructions"))
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    if not given:
        raise wrong("input", "'input' has to be a text or a list of items.")
    for item, where in items(given, "input"):
        _add(conversation, item, where)
    conversation.rest()
    return conversation.messages
