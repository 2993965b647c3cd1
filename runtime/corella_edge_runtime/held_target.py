"""The target that a server's routing is held to: where its controller stands, and what it is made of.

The decisions are the pure functions of `corella_edge.routing.budget`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.adapters import ALONE, Weights, weights_of
from corella_edge.request import Candidates, Request, User
from corella_edge.routing import budget
from corella_edge.routing.budget import BudgetTarget, RequestSeen, Scale
from corella_edge.routing.decision import NEAR, UNWEIGHTED, Weighting, near_top
from corella_edge.routing.forms import RATIO
from corella_edge.routing.gate import new_items
from corella_edge.routing.measure import BY_ENTROPY, LN2, Floats, Inputs
from corella_edge.routing.policy import Policy, Routing

LOOK_SECONDS = 0.5  # between two looks at what the LLM says of itself
NO_SCALE = "the bundle has no calibration of its measure"
UNASKED = "the LLM cannot be asked"
EASED = "a latency objective lowers the share"
Bools = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]
LlmStats = Callable[[], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Candidacy:
    """One request's candidates as the base model sees them.

    Attributes:
        p: float64 [n], its probabilities.
        inputs: float64 [n] by name, what the policy's measure needs beside them.
        unknown: n tuples, the fields with a value that it does not know.
        near: bool [n]: those that may be asked at all; None = all.
        held: whether the request leaves the threshold to the target.
        adapters: of the LLM, by which it would answer.
    """

    user: User
    candidates: Candidates
    policy: Policy
    p: Floats
    inputs: Inputs
    unknown: Sequence[tuple[str, ...]]
    near: Bools | None = None
    held: bool = True
    adapters: Weights = ALONE

    @classmethod
    def of(
        cls, request: Request, candidates: Candidates, policy: Policy, p: Floats, inputs: Inputs,
        unknown: Sequence[tuple[str, ...]], ranked: Weighting = UNWEIGHTED,
    ) -> Candidacy:  # fmt: skip
        """Of a request; where it asks for the best of a whole catalogue, these alone, as the answer would rank them
        if nobody were asked, count as candidates."""
        near = None
        if request.candidates is None and request.top_k is not None:
            near = near_top(ranked(policy.fusion.alone(p)), np.arange(len(p)), NEAR * request.top_k)
        held, adapters = request.threshold is None, weights_of(request.adapters)
        return cls(request.user, candidates, policy, p, inputs, unknown, near, held, adapters)


@dataclass(slots=True)
class HeldTarget:
    """The state of the controller, and what it is made of. Whoever calls holds the lock."""

    target: BudgetTarget
    routing: Routing
    own: Policy
    llm: LlmStats | None
    part: float = 1.0
    told: float = 0.0  # seconds at work that requests have told of
    down: str = ""  # why the LLM cannot be asked
    eased: bool = False  # whether a latency objective lowers the share
    state: budget.BudgetState = field(init=False)
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
    def current(self) -> BudgetTarget:
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
        more = RequestSeen(levels[among], ~shut[among], asked[among], new_items[among], new_user, counted, self._work())
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
    return new_items(seen.unknown) > 0, "user" in seen.unknown[0], seen.user.id
