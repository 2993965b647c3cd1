"""What holds an engine's routing in operation: the target that moves its threshold, steady routes, kept answers.

The decisions are the pure functions of `corella_edge.routing`; here are their state, the clock and the lock.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.bundle.artefact import Bundle
from corella_edge.request import Candidates, Request, User
from corella_edge.routing import budget
from corella_edge.routing.budget import Scale, Seen, Target
from corella_edge.routing.decision import NEAR, near_top
from corella_edge.routing.forms import RATIO
from corella_edge.routing.kept import Kept, Key, key_of, state_of
from corella_edge.routing.measure import BY_ENTROPY, LN2, NO_ROWS, Floats, Inputs
from corella_edge.routing.policy import Policy, Routing
from corella_edge.routing.reasons import NoAnswer
from corella_edge.routing.steady import LastRoutes, undecided
from corella_edge_runtime.llm.contract.messages import Answers

ROUTES = 200_000  # items whose latest route is remembered: about 20 MB
LOOK_SECONDS = 0.5  # between two looks at what the LLM says of itself
NO_SCALE = "the bundle has no calibration of its measure"
UNASKED = "the LLM cannot be asked"
EASED = "a latency objective lowers the share"
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
LlmStats = Callable[[], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """What is held: a target or none, and how many answers of the LLM are kept for how long."""

    target: Target | None = None
    kept_answers: int = 0
    kept_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class Candidacy:
    """One request's candidates as the base model sees them.

    Attributes:
        p: float64 [n], its probabilities.
        inputs: float64 [n] by name, what the policy's measure needs beside them.
        unknown: n tuples, the fields with a value that it does not know.
        near: bool [n]: those that may be asked at all; None = all.
        held: whether the request leaves the threshold to the target.
    """

    user: User
    candidates: Candidates
    policy: Policy
    p: Floats
    inputs: Inputs
    unknown: Sequence[tuple[str, ...]]
    near: Bools | None = None
    held: bool = True

    @classmethod
    def of(
        cls, request: Request, candidates: Candidates, policy: Policy, p: Floats, inputs: Inputs,
        unknown: Sequence[tuple[str, ...]],
    ) -> Candidacy:  # fmt: skip
        """Of a request; where it asks for the best of a whole catalogue, these alone count as candidates."""
        whole = request.candidates is None and request.top_k is not None
        near = near_top(p, np.arange(len(p)), NEAR * (request.top_k or 0)) if whole else None
        return cls(request.user, candidates, policy, p, inputs, unknown, near, request.threshold is None)


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
    items: list[str | None]
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
        self._kept = Kept(settings.kept_answers, settings.kept_seconds)
        self._routes = LastRoutes(ROUTES)
        self._erased = 0  # how often something was: what was asked before is not kept after
        self._hands = None if settings.target is None else _Hands(settings.target, routing, own, llm)

    def policy(self) -> Policy | None:
        """Of a request that leaves the threshold to the target; None without one, or without a calibration."""
        if self._hands is None:
            return None
        with self._lock:
            return self._hands.policy

    def steady(self, seen: Candidacy, chosen: Places, value: Floats) -> tuple[Places, Floats]:
        """The places int64 [m] that the policy routes and values of its measure float64 [m], with the user's routes of
        last time where the threshold is within the score's tolerance; they are kept in mind."""
        user, p, policy = seen.user.id, seen.p, seen.policy
        if user is None:
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

    def known(self, user: User, candidates: Candidates) -> Floats:
        """float64 [n]: the LLM's latest kept scores of a user's candidates, from before the latest events, too; NaN
        where there is none."""
        with self._lock:
            return self._kept.latest(key_of(user, state_of(user)), candidates.items, self._clock())

    def route(self, seen: Candidacy, chosen: Places, value: Floats, refusal: str, closed: Places = NO_ROWS) -> Route:
        """What becomes of the places int64 [m] that are to be asked, with values of the measure float64 [m].

        Args:
            refusal: why the LLM is not asked at all, then the target learns nothing of the request; empty if it is.
            closed: places int64 [k] that the policy routes and that are not asked, as they cannot change the top k.
        """
        state = state_of(seen.user) if self.settings.kept_answers else b""
        key, now = key_of(seen.user, state), self._clock()
        own = seen.candidates.own
        items = [None if place in own else seen.candidates.items[place] for place in chosen.tolist()]
        with self._lock:
            score = self._recalled(key, state, items, now)
            kept = ~np.isnan(score)
            open_ = ~kept
            if self._hands is not None and seen.held and not refusal:
                open_ &= self._hands.asked(seen, chosen, value, kept, now, closed)
            since = self._erased
        given = Answers.none(len(chosen), NoAnswer.CAPPED)
        given.rows["probability"][kept], given.rows["reason"][kept] = score[kept], 0
        return Route(open_.nonzero()[0], given, kept, key, state, items, since)

    def _recalled(self, key: Key, state: bytes, items: Sequence[str | None], now: float) -> Floats:
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
        if self._hands is not None:
            with self._lock:
                self._hands.hear(seconds)

    def told(self) -> list[str]:
        """Sentences for people, at a start."""
        found = []
        if self._hands is not None:
            found.append(self._hands.told_target())
        if self.settings.kept_answers:
            number, age = self.settings.kept_answers, self.settings.kept_seconds
            found.append(f"up to {number:,} answers of the LLM are kept for {age:g} s")
        return found

    def ease(self, eased: bool) -> None:
        """While a latency objective lowers the share, the target does not work against it."""
        if self._hands is not None:
            with self._lock:
                self._hands.eased = eased

    def share_of_users(self, share: float) -> None:
        """Which share of the users is answered by this engine: a target in milliseconds is of all of them together."""
        if self._hands is not None:
            with self._lock:
                self._hands.part = share

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
            if self._hands is not None:
                self._hands.forget(user)

    def stats(self) -> dict[str, float]:
        """Counters of the kept answers, empty where none are kept, and where the target stands, empty without one."""
        now = self._clock()
        with self._lock:
            self._kept.sweep(now)
            kept = {"kept_answers": float(len(self._kept)), "kept_answer_hits": float(self._kept.hits),
                    "kept_answer_misses": float(self._kept.misses)} if self.settings.kept_answers else {}  # fmt: skip
            return {**kept, **(self._hands.stats(now) if self._hands else {})}

    def shown(self) -> dict[str, Any] | None:
        """Where the target stands, for people; None without one."""
        if self._hands is None:
            return None
        now = self._clock()
        with self._lock:
            return self._hands.shown(now)


def published_tolerance(bundle: Bundle) -> float:
    """By how much two computations of the base model's probability may differ, as verification.json says; 0 where it
    does not."""
    found = bundle.json("verification.json").get("tolerance")
    crm = found.get("crm") if isinstance(found, dict) else None
    return float(crm) if isinstance(crm, (int, float)) and 0.0 <= crm <= 1.0 else 0.0


@dataclass(slots=True)
class _Hands:
    """The state of the controller, and what it is made of. Whoever calls holds the lock."""

    target: Target
    routing: Routing
    own: Policy
    llm: LlmStats | None
    part: float = 1.0
    told: float = 0.0  # seconds at work that requests have told of
    down: str = ""  # why the LLM cannot be asked
    eased: bool = False  # whether a latency objective lowers the share
    state: budget.State = field(init=False)
    scale: Scale | None = field(init=False)
    _busy: float | None = None
    _looked: float = -math.inf
    _made: tuple[float, Policy] | None = None

    def __post_init__(self) -> None:
        quantiles, by_entropy = self.routing.quantiles, self.routing.measure is BY_ENTROPY
        most = LN2 if by_entropy else -math.inf
        self.scale = None if quantiles is None else Scale(quantiles, most)
        nats = self.routing.as_nats(self.own)
        own = self.routing.calibration.share(nats) if self.routing.calibration is not None else 0.0
        self.state = budget.begin(self.target, own)
        self.down = "" if self.llm else UNASKED

    @property
    def policy(self) -> Policy | None:
        """At the level that is right now."""
        if self.scale is None:
            return None
        if self._made is None or self._made[0] != self.state.level:
            self._made = self.state.level, self.routing.policy(self.scale.threshold(self.state.level), RATIO.reason)
        return self._made[1]

    @property
    def current(self) -> Target:
        """The target of this engine's part of the users: a share is a share of any part."""
        return self.target if self.target.share is not None else replace(self.target, ms=self.target.ms * self.part)

    def asked(self, seen: Candidacy, chosen: Places, value: Floats, kept: Bools, now: float, closed: Places) -> Bools:
        """bool [m]: which of the routed candidates the caps let through; the request is counted."""
        new_items, new_user, user = _strangers(seen)
        counted = user if self.target.caps.one_user < 1.0 else None
        passed = ~kept
        target = self.current
        passed[passed] = budget.within_caps(self.state, target, value[~kept], new_items[chosen][~kept], new_user, user)
        self._look(now)
        if self.scale is None or self.down:
            return passed
        shut = np.zeros(len(seen.p), np.bool_) if seen.near is None else ~seen.near
        shut[chosen[~passed]] = shut[closed] = True
        asked = np.zeros(len(seen.p), np.bool_)
        asked[chosen[passed]] = True
        among = slice(None) if seen.near is None else seen.near
        levels = self.scale.levels(seen.policy.measure(seen.p, seen.inputs))
        more = Seen(levels[among], ~shut[among], asked[among], new_items[among], new_user, counted, self._work())
        found = budget.observed(self.state, target, more, now)
        self.state = found if self.eased else budget.decided(found, target, now)
        return passed

    def _look(self, now: float) -> None:
        """At the LLM, not at each request: is it there, and how long has it worked?"""
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        found = self.llm() if self.llm is not None else {}
        away = self.llm is None or bool(found.get("breaker_open")) or not found.get("alive", 1.0)
        self.down = UNASKED if away else ""
        busy = found.get("busy_seconds")
        if busy is not None:
            self.told = max(0.0, busy - (busy if self._busy is None else self._busy))
            self._busy = busy

    def hear(self, seconds: float) -> None:
        """Of work, from a request; what the LLM counts itself is not counted twice."""
        if self._busy is None:
            self.told += seconds

    def _work(self) -> float:
        """Seconds of work that were not counted yet."""
        seconds, self.told = self.told, 0.0
        return seconds

    def forget(self, user: str | None) -> None:
        if user is not None:
            self.state = budget.forgotten(self.state, user)
            return
        slices = tuple(replace(part, users={}) for part in self.state.slices)
        self.state = replace(self.state, slices=slices)

    def frozen(self, now: float) -> str:
        """Why the level is not moved; empty while it is."""
        if self.scale is None:
            return NO_SCALE
        if self.eased:
            return EASED
        return self.down or budget.decided(budget.aged(self.state, self.current, now), self.current, now).frozen

    def told_target(self) -> str:
        share, window = self.target.share, self.target.window
        what = f"{self.target.ms:g} LLM milliseconds a second" if share is None else f"a share of {share:g}"
        begins = f"the threshold begins at ratio:{self.state.level:.4g}, and moves"
        return f"held over {window:g} s: {what}; {begins if self.scale else f'nothing moves: {NO_SCALE}'}"

    def stats(self, now: float) -> dict[str, float]:
        state, share = budget.aged(self.state, self.current, now), self.target.share
        return {
            "target_share": math.nan if share is None else share,
            "target_llm_seconds": math.nan if share is not None else self.current.ms / 1e3,
            "held_share": math.nan if state.share is None else state.share,
            "held_llm_seconds": state.busy_ms(now, self.target.window) / 1e3,
            "held_level": state.level,
            "held_frozen": float(bool(self.frozen(now))),
        }

    def shown(self, now: float) -> dict[str, Any]:
        found = {name: None if math.isnan(value) else value for name, value in self.stats(now).items()}
        policy = self.policy
        least = None if policy is None or not math.isfinite(policy.threshold) else policy.threshold
        return {
            "share": found["target_share"], "seconds": found["target_llm_seconds"], "window": self.target.window,
            "held_share": found["held_share"], "held_seconds": found["held_llm_seconds"],
            "level": found["held_level"], "threshold": least, "frozen": self.frozen(now),
        }  # fmt: skip


def _strangers(seen: Candidacy) -> tuple[Bools, bool, str | None]:
    """Which candidates the base model does not know, whether it does not know the user, and who that is."""
    if not any(seen.unknown):
        return np.zeros(len(seen.p), np.bool_), False, seen.user.id
    new_items = np.fromiter(("item" in names for names in seen.unknown), np.bool_, len(seen.p))
    return new_items, "user" in seen.unknown[0], seen.user.id
