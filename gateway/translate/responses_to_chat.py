"""Clients that speak OpenAI's Responses, engines that speak chat completions."""

from __future__ import annotations

from gateway.core.types import Op, Wire

from .bridge import Bridge
from .responses_to_chat_reply import reply
from .responses_to_chat_request import request
from .responses_to_chat_stream import ResponsesStream

RESPONSES_TO_CHAT = Bridge(
    Wire.OPENAI, Op.RESPONSES, Wire.OPENAI, Op.CHAT, request, reply, ResponsesStream
)
