"""A request's way through the books: what is known before, and what it leaves behind."""

from __future__ import annotations

import pytest

from backends import BY_NAME
from gateway.core.catalog import Place
from gateway.core.cost import Known, costs
from gateway.core.prompt import BLOCK
from gateway.core.types import Backend, Call, Health, Load, Model, Op, Sight, Usage, Wire
from gateway.state.board import Board, Page
from gateway.state.lore import Lore

LONG = "something that was said " * 400


def place(name: str, runtime: str = "vllm", **load: float) -> Place:
    sight = Sight(Health.UP, runtime=runtime, models=(Model("m"),), load=Load(**load))
    return Place(
        Backend(name, f"http://{name}:1", runtime), sight, BY_NAME[runtime], Model("m"), "m"
    )


A, B = place("a"), place("b")


def chat(*texts: str, stream: bool = True, **doc: object) -> Call:
    messages = [{"role": "user", "content": text} for text in texts]
    return Call(
        "id", Wire.OPENAI, Op.CHAT, "/", "m", stream=stream, doc={"messages": messages, **doc}
    )


def known(lore: Lore, call: Call, at: Place, now: float) -> Known:
    return lore.brief(call, (at,), now).known[0]


def carried(lore: Lore, call: Call, at: Place, now: float, took: float = 0.5) -> None:
    """A request from its sending to its end."""
    brief = lore.brief(call, (A, B), now)
    sent = lore.send(call, brief, at, now)
    lore.first(sent, now + took)
    lore.end(sent, now + took + 1, Usage(round(brief.tokens), 100, 0))


def test_a_conversation_is_known_where_it_was_sent() -> None:
    lore = Board().lore
    carried(lore, chat(LONG), A, 10.0)
    brief = lore.brief(chat(LONG, "and more"), (A, B), 20.0)
    in_blocks = len(LONG) // BLOCK * BLOCK / len(LONG) * brief.tokens
    assert brief.known[0].cached == pytest.approx(in_blocks, rel=0.02)
    assert brief.known[1].cached == 0
    assert costs(brief)[0].total < costs(brief)[1].total


def test_all_workers_know_it_at_once() -> None:
    page = Page(2)
    left, right = Board(page, 0), Board(page, 1)
    brief = left.lore.brief(chat(LONG), (A, B), 10.0)
    left.lore.send(chat(LONG), brief, B, 10.0)
    seen = right.lore.brief(chat(LONG), (A, B), 10.0)
    assert seen.known[1].cached > 0
    assert (seen.known[1].waiting, seen.known[1].queue > 0) == (1, True)
    page.clear(0)
    assert known(right.lore, chat(LONG), B, 10.0).waiting == 0


def test_a_request_that_was_never_answered_leaves_nothing() -> None:
    lore = Board().lore
    carried(lore, chat(LONG), A, 1.0)
    held = known(lore, chat(LONG), A, 5.0).cached
    longer = chat(LONG, LONG)
    for at in (A, B):
        sent = lore.send(longer, lore.brief(longer, (A, B), 6.0), at, 6.0)
        lore.end(sent, 7.0, None)
        lore.end(sent, 7.0, None)
    assert known(lore, longer, A, 8.0).cached == pytest.approx(held, rel=0.02)
    assert known(lore, longer, B, 8.0).cached == 0
    assert known(lore, longer, B, 8.0).waiting == 0


def test_one_that_was_cut_after_its_first_token_leaves_its_prompt() -> None:
    lore = Board().lore
    sent = lore.send(chat(LONG), lore.brief(chat(LONG), (A,), 1.0), A, 1.0)
    lore.first(sent, 2.0)
    lore.end(sent, 3.0, None)
    assert known(lore, chat(LONG), A, 4.0).cached > 0


def test_a_place_that_was_not_asked_about_can_be_sent_to_all_the_same() -> None:
    lore = Board().lore
    brief = lore.brief(chat(LONG), (A,), 1.0)
    lore.send(chat(LONG), brief, B, 1.0)
    assert known(lore, chat(LONG), B, 1.0).waiting == 1


def test_unequal_engines_are_told_apart_by_their_own_times() -> None:
    lore = Board().lore
    for turn in range(30):
        now = turn * 10.0
        carried(lore, chat(f"{turn} {LONG}"), A, now, took=0.1)
        carried(lore, chat(f"{turn} {LONG}"), B, now, took=1.2)
    fast, slow = (known(lore, chat(LONG), at, 400.0) for at in (A, B))
    assert slow.prefill > 4 * fast.prefill


def test_what_embedding_takes_is_prefill() -> None:
    board, lore = Board(), None
    lore = board.lore
    for turn in range(20):
        now = turn * 10.0
        call = Call("id", Wire.OPENAI, Op.EMBEDDINGS, "/", "m", doc={"input": f"{turn} {LONG}"})
        sent = lore.send(call, lore.brief(call, (A,), now), A, now)
        lore.end(sent, now + 5.0, Usage(2400, 0, 0), Op.EMBEDDINGS)
    assert known(lore, chat(LONG), A, 400.0).prefill > 10


def test_answers_that_come_whole_teach_how_fast_an_engine_decodes() -> None:
    lore = Board().lore
    for turn in range(30):
        now = turn * 30.0
        call = chat(f"{turn} {LONG}", stream=False)
        sent = lore.send(call, lore.brief(call, (A,), now), A, now)
        lore.end(sent, now + 20.0, Usage(2400, 200, 0))
    assert known(lore, chat(LONG), A, 1000.0).decode > 5


def test_an_answer_is_no_longer_than_the_caller_allows() -> None:
    lore = Board().lore
    assert lore.brief(chat("x", max_tokens=5), (A,), 1.0).out == 5
    assert lore.brief(chat("x", max_completion_tokens=7), (A,), 1.0).out == 7
    assert lore.brief(chat("x", max_tokens="no"), (A,), 1.0).out > 100


def test_requests_that_no_book_was_kept_of_count_as_decoding() -> None:
    board = Board()
    for _ in range(6):
        board.enter("m", "a", 1.0)
    found = known(board.lore, chat(LONG), A, 1.0)
    assert (found.decoding, found.context > 0) == (6, True)


def test_an_engine_that_serves_others_too_is_seen_to_be_busier() -> None:
    lore = Board().lore
    crowded = place("c", running=40, waiting=10, kv_used=0.99)
    found = known(lore, chat(LONG), crowded, 1.0)
    assert (found.decoding, found.waiting, found.queue > 0) == (40, 10, True)
    assert found.held == pytest.approx(0.99 * found.room)


def test_what_an_engine_says_of_our_own_requests_changes_nothing() -> None:
    board = Board()
    for _ in range(20):
        board.enter("m", "c", 1.0)
    found = known(
        board.lore, chat(LONG), place("c", running=18, waiting=6, kv_used=0.9, ours=20), 1.0
    )
    assert (found.decoding, found.waiting, found.queue, found.held) == (20, 0, 0, 0)


def test_a_provider_has_no_queue_of_ours() -> None:
    lore, cloud = Board().lore, place("x", "openai")
    for _ in range(5):
        lore.send(chat(LONG), lore.brief(chat(LONG), (cloud,), 1.0), cloud, 1.0)
    assert known(lore, chat(LONG), cloud, 1.0).queue == 0


def test_an_engine_that_came_back_has_an_empty_cache() -> None:
    lore = Board().lore
    carried(lore, chat(LONG), A, 1.0)
    carried(lore, chat(LONG), B, 1.0)
    lore.restarted("a")
    lore.restarted("never heard of")
    assert known(lore, chat(LONG), A, 5.0).cached == 0
    assert known(lore, chat(LONG), B, 5.0).cached > 0


def test_the_wait_for_room_tells_nothing_of_speed() -> None:
    lore = Board().lore
    huge = chat("filler " * 200_000)
    lore.send(huge, lore.brief(huge, (A,), 0.0), A, 0.0)
    for turn in range(20):
        carried(lore, chat(f"{turn} {LONG}"), A, 1.0 + turn, took=30.0)
    assert known(lore, chat(LONG), A, 400.0).prefill == 1.0


def test_the_room_is_what_the_engine_says_it_is() -> None:
    lore = Board().lore
    assert known(lore, chat(LONG), place("c", cache=50_000), 1.0).room == 50_000
    assert known(lore, chat(LONG), place("c", cache=80_000), 1.1).room == 80_000
    assert known(lore, chat(LONG), A, 1.0).room == 400_000
