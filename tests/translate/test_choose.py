"""Of several bridges the first serves that can express the request."""

from __future__ import annotations

import pytest

from gateway.core.errors import Refusal
from gateway.core.types import Op, Wire
from gateway.translate import BRIDGES
from gateway.translate.choose import choose
from tests.translate.asks import asking

GENERATE = BRIDGES[(Wire.OLLAMA, Op.GENERATE)]


@pytest.mark.parametrize(
    ("doc", "op"),
    [({"prompt": "Hi"}, Op.CHAT), ({"prompt": "Hi", "raw": True}, Op.COMPLETIONS)],
)
def test_the_document_decides_between_chat_and_completions(doc, op) -> None:
    found = choose(GENERATE, asking(doc))
    assert found is not None
    assert found[0].to_op is op


def test_the_last_bridge_says_why_none_can() -> None:
    for bridges, words in ((GENERATE, "takes no 'suffix'"), (GENERATE[:1], "/v1/completions")):
        with pytest.raises(Refusal) as caught:
            choose(bridges, asking({"prompt": "a", "suffix": "b"}))
        assert (caught.value.kind, caught.value.param) == ("unsupported", "suffix")
        assert words in caught.value.message


def test_a_fault_of_the_document_is_told_at_once() -> None:
    with pytest.raises(Refusal) as caught:
        choose(GENERATE, asking({"prompt": "a", "raw": True, "system": "b"}))
    assert caught.value.kind == "invalid_request"


def test_without_a_bridge_there_is_none() -> None:
    assert choose((), asking({})) is None
