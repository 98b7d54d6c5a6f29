"""A response that nobody kept is refused by its id, before a backend is asked."""

import pytest

from gateway.core.errors import Refusal
from gateway.translate.responses_kept import check_kept
from gateway.translate.responses_to_chat import RESPONSES_TO_CHAT

from .recorded import asking


@pytest.mark.parametrize("param", ["response_id", "previous_response_id"])
def test_the_id_of_a_translated_response_is_refused(param: str) -> None:
    doc = {"choices": [{"message": {"content": "Hi"}}]}
    made = RESPONSES_TO_CHAT.reply(doc, asking({"input": "x"}))["id"]
    with pytest.raises(Refusal) as caught:
        check_kept(made, param)
    assert (caught.value.kind, caught.value.param) == ("unsupported", param)
    assert made in caught.value.message


@pytest.mark.parametrize("response_id", ["resp_aeca63cdec8af20e", "", "anything"])
def test_other_ids_are_for_a_backend_to_judge(response_id: str) -> None:
    check_kept(response_id, "response_id")
