"""Clients that speak OpenAI's chat completions, engines that speak Anthropic's Messages."""

from __future__ import annotations

from gateway.core.types import Op, Wire

from .bridge import Bridge
from .chat_to_messages_reply import reply
from .chat_to_messages_request import request
from .chat_to_messages_stream import ChatStream

CHAT_TO_MESSAGES = Bridge(
    Wire.OPENAI, Op.CHAT, Wire.ANTHROPIC, Op.MESSAGES, request, reply, ChatStream
)
