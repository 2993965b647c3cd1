"""What holds an engine's routing in operation: the target that moves its threshold, steady routes, kept answers.

The decisions are the pure functions of `corella_edge.routing`; here are their state, the clock and the lock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.adapters import ALONE, Weights
from corella_edge.request import Candidates, User
from corella_edge.routing.budget import BudgetTarget
from corella_edge.routing.kept import Asked, KeptAnswers, Key, asked_by, key_of, state_of
from corella_edge.routing.measure import NO_ROWS, Floats
from corella_edge.routing.policy import Policy, Routing
from corella_edge.routing.reasons import NoAnswer
from corella_edge.routing.steady import LastRoutes, undecided
from corella_edge_runtime.held_target import Candidacy, HeldTarget, LlmStats
from corella_edge_runtime.llm.contract.messages import Answers

ROUTES = 200_000  # items whose latest route is remembered: about 20 MB
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """What is held: a target or none, and how many answers of the LLM are kept for how long."""

    target: BudgetTarget | None = None
    kept_answers: int = 0
    kept_seconds: float = 3600.0


@dataclass(slots=True)
class Route:
    """What becomes of one request's m routed candidates.

    Attributes:
        asked: places int64 [k] among them of those that the LLM is asked about.
        given: an answer for each of the others: a kept score, or why it is not asked.
        kept: bool [m], where that is a kept score.
    """

    asked: Places
    given: Answers
    kept: Bools
    key: Key
    state: bytes
    items: Sequence[Asked | None]
    since: int

    def filled(self, answers: Answers) -> Answers:
        """All m answers, from those to the k questions."""
        rows = self.given.rows.copy()
        rows[self.asked] = answers.rows
        return Answers(rows)


class Control:
    """Of one engine; all methods may be called from several threads."""

    def __init__(
        self, settings: ControlSettings, routing: Routing, own: Policy, tolerance: float, llm: LlmStats | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """
        Args:
            own: the policy that stands without a target.
            tolerance: by which two computations of the base model's probability may differ.
            llm: its counters; None = there is no LLM.
        """
        self.settings, self._routing, self._tolerance, self._llm, self._clock = settings, routing, tolerance, llm, clock
        self._lock = threading.Lock()
        self._kept = KeptAnswers(settings.kept_answers, settings.kept_seconds)
        self._routes = LastRoutes(ROUTES)
        self._erased = 0  # how often something was: what was asked before is not kept after
        self._target = None if settings.target is None else HeldTarget(settings.target, routing, own, llm)

    def policy(self) -> Policy | None:
        """Of a request that leaves the threshold to the target; None without one, or without a calibration."""
        if self._target is None:
            return None
        with self._lock:
            return self._target.policy

    def steady(self, seen: Candidacy, chosen: Places, value: Floats) -> tuple[Places, Floats]:
        """The places int64 [m] that the policy routes and values of its measure float64 [m], with the user's routes of
        last time where the threshold is within the score's tolerance; they are kept in mind. A request with a threshold
        of its own neither follows another policy's routes nor leaves any."""
        user, p, policy = seen.user.id, seen.p, seen.policy
        if user is None or not seen.held:
            return chosen, value
        with self._lock:
            known = self._routes.knows(user)
        asked = np.zeros(len(p), np.bool_)
        asked[chosen] = True
        unsure = np.zeros(len(p), np.bool_)
        if known:
            unsure = undecided(p, policy.least(len(p)), self._tolerance, lambda at: policy.measure(at, seen.inputs))
        with self._lock:
            found = self._routes.steady(user, seen.candidates.items, asked, unsure)
            self._routes.remember(user, seen.candidates.items, found)
        if np.array_equal(found, asked):
            return chosen, value
        places = found.nonzero()[0]
        return places, policy.measure(p, seen.inputs)[places]

    def known(self, user: User, candidates: Candidates, adapters: Weights = ALONE) -> Floats:
        """float64 [n]: the LLM's latest kept scores of a user's candidates, by these adapters, from before the latest
        events, too; NaN where there is none."""
        items = asked_by(candidates.items, adapters)
        with self._lock:
            return self._kept.latest(key_of(user, state_of(user)), items, self._clock())

    def route(self, seen: Candidacy, chosen: Places, value: Floats, refusal: str, closed: Places = NO_ROWS) -> Route:
        """What becomes of the places int64 [m] that are to be asked, with values of the measure float64 [m].

        Args:
            refusal: why the LLM is not asked at all, then the target learns nothing of the request; empty if it is.
            closed: places int64 [k] that the policy routes and that are not asked, as they cannot change the top k.
        """
        state = state_of(seen.user) if self.settings.kept_answers else b""
        key, now = key_of(seen.user, state), self._clock()
        own, asked = seen.candidates.own, asked_by(seen.candidates.items, seen.adapters)
        items = [None if place in own else asked[place] for place in chosen.tolist()]
        with self._lock:
            score = self._recalled(key, state, items, now)
            kept = ~np.isnan(score)
            open_ = ~kept
            if self._target is not None and seen.held and not refusal:
                open_ &= self._target.asked(seen, chosen, value, kept, now, closed)
            since = self._erased
        given = Answers.none(len(chosen), NoAnswer.CAPPED)
        given.rows["probability"][kept], given.rows["reason"][kept] = score[kept], 0
        return Route(open_.nonzero()[0], given, kept, key, state, items, since)

    def _recalled(self, key: Key, state: bytes, items: Sequence[Asked | None], now: float) -> Floats:
        """float64 [m]: kept scores; NaN also of candidates that brought features of their own, which are not kept."""
        found = np.full(len(items), np.nan)
        if self.settings.kept_answers:
            places = [place for place, item in enumerate(items) if item is not None]
            found[places] = self._kept.get(key, state, [item for item in items if item is not None], now)
        return found

    def keep(self, route: Route, answers: Answers) -> None:
        """Keep what the LLM has answered to the k questions, unless something was erased since they were asked."""
        if not self.settings.kept_answers:
            return
        of = [(route.items[place], row) for row, place in enumerate(route.asked.tolist())]
        rows = [(item, row) for item, row in of if item is not None and answers.answered[row]]
        with self._lock:
            if rows and route.since == self._erased:
                scores = answers.probability[[row for _, row in rows]]
                self._kept.put(route.key, route.state, [item for item, _ in rows], scores, self._clock())

    def worked(self, seconds: float) -> None:
        """A request's questions kept the LLM at work; for an LLM that does not count its seconds itself."""
        if self._target is not None:
            with self._lock:
                self._target.hear(seconds)

    def told(self) -> list[str]:
        """Sentences for people, at a start."""
        found = []
        if self._target is not None:
            found.append(self._target.told_target())
        if self.settings.kept_answers:
            number, age = self.settings.kept_answers, self.settings.kept_seconds
            found.append(f"up to {number:,} answers of the LLM are kept for {age:g} s")
        return found

    def ease(self, eased: bool) -> None:
        """While a latency objective lowers the share, the target does not work against it."""
        if self._target is not None:
            with self._lock:
                self._target.eased = eased

    def share_of_users(self, share: float) -> None:
        """Which share of the users is answered by this engine: a target in milliseconds is of all of them together."""
        if self._target is not None:
            with self._lock:
                self._target.part = share

    def forget(self, user: str | None = None) -> None:
        """Drop what is kept of a user, and of those who gave no id; None: of everybody."""
        with self._lock:
            self._erased += 1
            if user is None:
                self._kept.clear()
                self._routes.clear()
            else:
                self._kept.forget(user)
                self._kept.forget_unnamed()
                self._routes.forget(user)
            if self._target is not None:
                self._target.forget(user)

    def stats(self) -> dict[str, float]:
        """Counters of the kept answers, empty where none are kept, and where the target stands, empty without one."""
        now = self._clock()
        with self._lock:
            self._kept.sweep(now)
            kept = {"kept_answers": float(len(self._kept)), "kept_answer_hits": float(self._kept.hits),
                    "kept_answer_misses": float(self._kept.misses)} if self.settings.kept_answers else {}  # fmt: skip
            return {**kept, **(self._target.stats(now) if self._target else {})}

    def shown(self) -> dict[str, Any] | None:
        """Where the target stands, for people; None without one."""
        if self._target is None:
            return None
        now = self._clock()
        with self._lock:
            return self._target.shown(now)
