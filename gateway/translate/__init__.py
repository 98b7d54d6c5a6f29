"""The translations: which surface can be served through which other one, in order of preference.

OpenAI's chat completions are the hub. A surface without a bridge is native or not there at all.
Where a surface has several bridges, ``choose`` says which of them serves a request."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.core.types import Op, Wire

from . import ollama_chat, ollama_embed
from .bridge import Bridge
from .chat_to_messages import CHAT_TO_MESSAGES
from .completions_to_chat import COMPLETIONS_TO_CHAT
from .count_to_tokenize import COUNT_TO_TOKENIZE
from .messages_to_chat import MESSAGES_TO_CHAT
from .responses_to_chat import RESPONSES_TO_CHAT
from .through import through

BRIDGES: Mapping[tuple[Wire, Op], tuple[Bridge, ...]] = {
    (Wire.ANTHROPIC, Op.MESSAGES): (MESSAGES_TO_CHAT,),
    (Wire.ANTHROPIC, Op.COUNT_TOKENS): (COUNT_TO_TOKENIZE,),
    (Wire.OPENAI, Op.CHAT): (CHAT_TO_MESSAGES,),
    (Wire.OPENAI, Op.COMPLETIONS): (
        COMPLETIONS_TO_CHAT,
        through(COMPLETIONS_TO_CHAT, CHAT_TO_MESSAGES),
    ),
    (Wire.OPENAI, Op.RESPONSES): (
        RESPONSES_TO_CHAT,
        through(RESPONSES_TO_CHAT, CHAT_TO_MESSAGES),
    ),
    (Wire.OLLAMA, Op.CHAT): (
        ollama_chat.CHAT,
        through(ollama_chat.CHAT, CHAT_TO_MESSAGES),
    ),
    (Wire.OLLAMA, Op.GENERATE): (
        ollama_chat.GENERATE_AS_CHAT,
        through(ollama_chat.GENERATE_AS_CHAT, CHAT_TO_MESSAGES),
        ollama_chat.GENERATE_AS_COMPLETION,
    ),
    (Wire.OLLAMA, Op.EMBED): (ollama_embed.EMBED,),
    (Wire.OLLAMA, Op.EMBEDDINGS): (ollama_embed.EMBEDDINGS,),
}
