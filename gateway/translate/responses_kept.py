"""Responses that nobody kept: calls that name one are refused before any backend is asked."""

from __future__ import annotations

from .fields import beyond
from .responses_to_chat_reply import UNKEPT


def check_kept(response_id: str, param: str) -> None:
    """``response_id`` as a client names it in the path (``param`` is then 'response_id') or in
    'previous_response_id'. Raises Refusal ``unsupported`` when the response was translated: its
    engine has no Responses API, so that there is nothing to fetch, go on from, cancel or
    delete."""
    if response_id.startswith(UNKEPT):
        raise beyond(
            param,
            f"The response '{response_id[:100]}' was not kept: the backend that made it has no"
            ' Responses API of its own, as "store": false in it says. Send the whole conversation'
            " in 'input', or ask a model of a backend that keeps responses.",
        )
