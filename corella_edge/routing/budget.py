"""A share of the candidates, or LLM milliseconds a second, held by moving the threshold. Pure functions of a state.

The threshold is moved as a *level*: the share of the calibration rows that it would route, so that a step is a share
and not nats. Each decision takes the level at which the candidates seen lately would have cost the goal. The goal is
the target, corrected by what the window has spent too much or too little:

    goal = target (1 + GAIN (1 - spent / allowed)), cut to [0, MOST target]

Any GAIN > 0 is stable: with s(t) = r - g (S(t) - r) and S the mean of s over the window, the deviation S - r is a sum
of exp(z t / window) with 1 = -g (1 - exp(-z)) / z, which has no root with a positive real part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import takewhile

import numpy as np
import numpy.typing as npt

from corella_edge.routing.measure import LN2, Floats
from corella_edge.routing.policy import Calibration

SLICES = 60  # of a window
LEAST = 100  # candidates in the window, below which the level stays
LEAST_ASKED = 20  # of them asked, below which nobody knows what one costs
LEAST_CAPPED = 1000  # candidates: caps are of at least so many candidates' budget, or a first user would have none
GAIN, SLOW_GAIN, MOST = 3.0, 1.0, 2.0
LATELY = 0.12  # of the window: how long a candidate shapes the level
PRIOR = 50.0  # candidates of the calibration that stand beside those seen
PROBE = 0.01  # the level at which the cost of an answer is found out where nothing else is asked
_EDGES = np.concatenate(([0.0], np.geomspace(1e-4, 1.0, 200)))
_WIDTHS = np.diff(_EDGES)
Bools = npt.NDArray[np.bool_]


class Scale:
    """A calibration read both ways: level → threshold, and value of the measure → the least level that asks it.

    Above the calibration's hardest rows it goes on to the measure's greatest value, so that harder traffic than the
    calibration's has levels of its own.
    """

    def __init__(self, calibration: Calibration, most: float = LN2) -> None:
        """`most`: the greatest value that the measure has, or a lower one where that is not known."""
        self._never, self._always = calibration.threshold(0.0), calibration.threshold(1.0)
        some = calibration.shares > 0.0
        shares, values = calibration.shares[some], calibration.thresholds[some]
        self._shares, self._values = np.append(0.0, shares), np.append(max(most, float(values[0])), values)
        # Of equal thresholds the first is the least level: the others are set apart by less than matters.
        apart = self._values - 1e-12 * np.arange(len(self._values))
        self._rising, self._levels = apart[::-1].copy(), self._shares[::-1].copy()

    def threshold(self, level: float) -> float:
        """Falls as the level rises; level 0 is never, level 1 always."""
        if level <= 0.0:
            return self._never
        if level >= 1.0:
            return self._always
        return float(np.interp(level, self._shares, self._values))

    def levels(self, measure: Floats) -> Floats:
        """float64 [n], the least level at which each is asked, from values of the measure float64 [n]."""
        found: Floats = np.interp(measure, self._rising, self._levels)
        return found


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that a kind of candidate may take of what the window may ask, as shares; 1 = no cap."""

    new_items: float = 1.0
    new_users: float = 1.0
    one_user: float = 1.0

    def __bool__(self) -> bool:
        return min(self.new_items, self.new_users, self.one_user) < 1.0


@dataclass(frozen=True, slots=True)
class BudgetTarget:
    """What is to be held over `window` seconds: a share of the candidates or, where that is None, LLM milliseconds a
    second."""

    share: float | None = None
    ms: float = 0.0
    window: float = 600.0
    caps: Caps = field(default_factory=Caps)


@dataclass(frozen=True, slots=True)
class WindowSlice:
    """What was seen from `begun` on, one sixtieth of the window: candidates, how many of them were asked, how many of
    those had an item or a user that the base model does not know, or were of which user; busy seconds of the LLM."""

    begun: float
    candidates: int = 0
    asked: int = 0
    busy: float = 0.0
    new_items: int = 0
    new_users: int = 0
    users: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RequestSeen:
    """One request's candidates.

    Attributes:
        levels: float64 [n], from `Scale.levels`.
        eligible: bool [n]: those that the LLM is asked about if the level is high enough, and that cost something.
        asked: bool [n]: those that it was asked about.
        new_items: bool [n]; new_user: whether the base model does not know the user.
        user: who; None = not known, or not to be counted.
        busy: seconds that the LLM was at work since the observation before.
    """

    levels: Floats
    eligible: Bools
    asked: Bools
    new_items: Bools
    new_user: bool = False
    user: str | None = None
    busy: float = 0.0


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A controller between two requests.

    Attributes:
        level: where the threshold stands.
        goal: the share that was last aimed at before any correction.
        frozen: why the level is not moved now; empty while it is.
        lately: float64 [bins], eligible candidates by level; `weight`: all candidates. Both fade.
        slices: the window, oldest first.
        started, seen: times of the first and of the latest observation.
    """

    level: float
    goal: float
    frozen: str = "nothing was seen yet"
    lately: Floats = field(default_factory=lambda: np.zeros(len(_WIDTHS)))
    weight: float = 0.0
    slices: tuple[WindowSlice, ...] = ()
    started: float | None = None
    seen: float | None = None
    trim: float = 1.0
    decided: float | None = None

    @property
    def candidates(self) -> int:
        """Of the window."""
        return sum(part.candidates for part in self.slices)

    @property
    def asked(self) -> int:
        """Of the window."""
        return sum(part.asked for part in self.slices)

    @property
    def share(self) -> float | None:
        """Realised over the window; None where nothing was seen."""
        return self.asked / self.candidates if self.candidates else None

    def busy_ms(self, now: float, window: float) -> float:
        """LLM milliseconds a second, realised over the window so far."""
        return 1000.0 * sum(part.busy for part in self.slices) / self._elapsed(now, window)

    def _elapsed(self, now: float, window: float) -> float:
        since = now if self.started is None else self.started
        return min(window, max(now - since, window / SLICES))


def begin(target: BudgetTarget, own: float) -> BudgetState:
    """The state before the first request; `own`: the level of the threshold that stands without a target."""
    if target.share is not None:
        return BudgetState(target.share, target.share)
    level = max(own, PROBE) if target.ms > 0.0 else 0.0
    return BudgetState(level, level)


def aged(state: BudgetState, target: BudgetTarget, now: float) -> BudgetState:
    """The state at a later time: what left the window is not in it."""
    past = now - target.window
    kept = tuple(part for part in state.slices if part.begun > past)
    return state if len(kept) == len(state.slices) else replace(state, slices=kept)


def observed(state: BudgetState, target: BudgetTarget, seen: RequestSeen, now: float) -> BudgetState:
    """The state after one more request; the level is `decided` by itself."""
    state = aged(state, target, now)
    fade = 1.0 if state.seen is None else np.exp(min(0.0, state.seen - now) / (LATELY * target.window))
    bins = np.searchsorted(_EDGES, seen.levels[seen.eligible], side="left") - 1
    counts = np.bincount(bins.clip(0), minlength=len(_WIDTHS))
    return replace(
        state, lately=state.lately * fade + counts, weight=state.weight * float(fade) + len(seen.levels),
        slices=_added(state.slices, target, seen, now), started=now if state.started is None else state.started,
        seen=now,
    )  # fmt: skip


def _added(
    slices: tuple[WindowSlice, ...], target: BudgetTarget, seen: RequestSeen, now: float
) -> tuple[WindowSlice, ...]:
    width = target.window / SLICES
    begun = now // width * width
    if not slices or slices[-1].begun < begun:
        slices = (*slices, WindowSlice(begun))
    last, asked = slices[-1], int(np.count_nonzero(seen.asked))
    users = last.users
    if asked and seen.user is not None:
        users = {**users, seen.user: users.get(seen.user, 0) + asked}
    grown = WindowSlice(
        last.begun, last.candidates + len(seen.levels), last.asked + asked, last.busy + seen.busy,
        last.new_items + int(np.count_nonzero(seen.asked & seen.new_items)),
        last.new_users + (asked if seen.new_user else 0), users,
    )  # fmt: skip
    return (*slices[:-1], grown)


def decided(state: BudgetState, target: BudgetTarget, now: float) -> BudgetState:
    """The state with the level that is right now; shares 0 and 1 are exact, and what is not known moves nothing."""
    if target.share in (0.0, 1.0):
        return replace(state, level=target.share, goal=target.share, frozen="")
    if target.share is None and target.ms <= 0.0:
        return replace(state, level=0.0, goal=0.0, frozen="")
    if state.candidates < LEAST:
        return replace(state, frozen=f"fewer than {LEAST} candidates in the window")
    goal, spent = _share_goal(state, target.share) if target.share is not None else _ms_goal(state, target, now)
    if goal is None:
        return replace(state, frozen=f"fewer than {LEAST_ASKED} answers of the LLM in the window")
    left = 1.0 - spent
    since = 0.0 if state.decided is None else min(1.0, max(0.0, now - state.decided) / target.window)
    trim = min(max(0.0, state.trim + SLOW_GAIN * since * left), MOST)
    corrected = goal * min(max(0.0, trim + GAIN * left), MOST)
    level = level_for(state.lately, state.weight, corrected)
    return replace(state, level=level, goal=min(goal, 1.0), trim=trim, decided=now, frozen="")


def _share_goal(state: BudgetState, share: float) -> tuple[float | None, float]:
    """The share to aim at, and what was spent of what was allowed."""
    return share, state.asked / (share * state.candidates)


def _ms_goal(state: BudgetState, target: BudgetTarget, now: float) -> tuple[float | None, float]:
    """As `_share_goal`: the target over what the candidates of a second would cost if all were asked."""
    busy, asked = sum(part.busy for part in state.slices), state.asked
    if asked < LEAST_ASKED or busy <= 0.0:
        return None, 0.0
    newest = state.slices[-1].begun
    late = [*takewhile(lambda part: part.begun > newest - LATELY * target.window, reversed(state.slices))]
    seconds = max(now - late[-1].begun, target.window / SLICES)
    if state.started is not None:  # the first slice may have begun before there was anything to see
        seconds = max(min(seconds, now - state.started), 1e-3)
    a_second = max(sum(part.candidates for part in late), 1) / seconds
    goal = target.ms / 1000.0 / (busy / asked * a_second)
    return goal, state.busy_ms(now, target.window) / target.ms


def level_for(lately: Floats, weight: float, share: float) -> float:
    """The level at which `share` of the candidates seen lately are asked; some of the calibration stand beside them.

    Args:
        lately: float64 [bins], eligible candidates by level; fewer than `weight`, the number of all.
    """
    if share <= 0.0:
        return 0.0
    asked = np.append(0.0, np.cumsum(lately + PRIOR * _WIDTHS)) / (weight + PRIOR)
    if share >= asked[-1]:
        return 1.0
    place = int(np.searchsorted(asked, share, side="left"))
    part = (share - asked[place - 1]) / (asked[place] - asked[place - 1])
    return float(_EDGES[place - 1] + part * (_EDGES[place] - _EDGES[place - 1]))


def within_caps(
    state: BudgetState, target: BudgetTarget, measure: Floats, new_items: Bools, new_user: bool, user: str | None
) -> Bools:
    """bool [m]: which of one request's m hard candidates the caps let through, the hardest first.

    A cap is of what the window may ask: the goal times its candidates.

    Args:
        measure: float64 [m].
        new_items: bool [m].
    """
    caps = target.caps
    passed = np.ones(len(measure), np.bool_)
    if not caps or not len(measure):
        return passed
    budget = state.goal * max(state.candidates, LEAST_CAPPED)
    order = np.argsort(-measure, kind="stable")
    if caps.new_items < 1.0:
        room = caps.new_items * budget - sum(part.new_items for part in state.slices)
        _cut(passed, order[new_items[order]], room)
    if caps.new_users < 1.0 and new_user:
        _cut(passed, order, caps.new_users * budget - sum(part.new_users for part in state.slices))
    if caps.one_user < 1.0 and user is not None:
        _cut(passed, order, caps.one_user * budget - sum(part.users.get(user, 0) for part in state.slices))
    return passed


def _cut(passed: Bools, order: npt.NDArray[np.intp], room: float) -> None:
    """Leave the first of those that passed so far, as many as there is room for."""
    still = order[passed[order]]
    passed[still[max(0, int(room)) :]] = False


def forgotten(state: BudgetState, user: str) -> BudgetState:
    """The state without a user's id; what was asked stays counted."""
    slices = tuple(
        replace(part, users={name: asked for name, asked in part.users.items() if name != user})
        if user in part.users
        else part
        for part in state.slices
    )
    return replace(state, slices=slices)
