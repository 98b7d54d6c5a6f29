"""Clients that speak Anthropic's Messages, engines that speak OpenAI's chat completions."""

from __future__ import annotations

from gateway.core.types import Op, Wire

from .bridge import Bridge
from .messages_to_chat_reply import reply
from .messages_to_chat_request import request
from .messages_to_chat_stream import MessagesStream

MESSAGES_TO_CHAT = Bridge(
    Wire.ANTHROPIC, Op.MESSAGES, Wire.OPENAI, Op.CHAT, request, reply, MessagesStream
)
