"""What a failed attempt means: may the request go elsewhere, and is the backend to blame?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gateway.core.breaker import Failure
from gateway.core.budget import Budget
from gateway.core.runtime import MOVE_ON, Verdict
from gateway.core.types import Call, Op, Tactics, Tried
from gateway.edge.exchange import End, Result
from gateway.state.board import Board

UNTOUCHED = frozenset({Verdict.LOADING, Verdict.OVERLOADED, Verdict.UNSUPPORTED})
"""Refusals by which an engine says that it has done nothing of what was asked."""

ENGINE_CUT = frozenset({"backend_unreachable", "backend_timeout"})
"""Reasons of a cut answer that mean the engine. Its error events may be about the request."""

Blame = Callable[[str, str, Failure], None]
"""(backend, reason, failure)."""


def repeatable(call: Call) -> bool:
    """Whether the request may be sent again when an engine may have acted on it: not where it
    makes the engine keep or drop something."""
    if call.op is Op.RESPONSES:
        return call.doc.get("store") is not True and call.doc.get("background") is not True
    return call.op is not Op.RESPONSES_BY_ID or call.method == "GET"


class Moves:
    """Holds one process's retry budget."""

    def __init__(self, board: Board, blame: Blame, now: float) -> None:
        self._board = board
        self._blame = blame
        self.adopt(Tactics(), now)

    def adopt(self, tactics: Tactics, now: float) -> None:
        """Take over a configuration."""
        self.budget = Budget(tactics.retry_share, tactics.retry_floor, now)

    def allowed(self, call: Call, result: Result, tried: Tried) -> bool:
        """Whether a request whose attempt ended so may be tried elsewhere. Asks the budget last,
        since its answer is spent."""
        if result.reason == "full":
            return True
        if result.sent and result.verdict not in UNTOUCHED and not repeatable(call):
            return False
        if result.reason == "reset" and self._fell_with_others(tried):
            return True
        return self.budget.take(tried.ended)

    def _fell_with_others(self, tried: Tried) -> bool:
        """Whether the request was there already when the backend began to fail: what one crash
        takes with it comes once, and is no reason to lose any of it."""
        fell = self._board.lane(tried.backend).fell
        return fell > 0 and tried.began < fell

    def ended(self, tried: Tried, result: Result) -> None:
        """Count an attempt against its backend, where it proves something by itself."""
        lane = self._board.lane(tried.backend)
        cut = result.end is End.CUT and result.reason in ENGINE_CUT
        broken = result.end is End.BROKEN and result.sent
        if not (cut or broken):
            return
        late = result.reason in ("timeout", "backend_timeout")
        if late and lane.last_byte > tried.began and not cut:
            return  # others got bytes from it meanwhile: slow with this one, but not hung
        lane.fell = lane.fell or tried.ended
        self._blame(tried.backend, result.reason, Failure(trial=tried.trial))

    def settled(self, tries: Sequence[Tried], *, answered: bool) -> None:
        """When a request is over: what engines answered with an error of their own. Another's
        good answer proves that the request was not to blame; where several failed alike, it may
        well have been."""
        answers = [t for t in tries if t.end == "given_up" and t.reason == Verdict.ENGINE.value]
        if not answers or (not answered and len(answers) > 1):
            return
        for tried in answers:
            failure = Failure(proven=answered, trial=tried.trial)
            self._blame(tried.backend, f"answers {tried.status}", failure)


def others_may_do_better(result: Result) -> bool:
    """Never after a refusal that is the caller's own fault (INTERFACE section 7)."""
    return (
        result.end is End.BROKEN
        or result.verdict in MOVE_ON
        or result.verdict is Verdict.UNSUPPORTED
    )
