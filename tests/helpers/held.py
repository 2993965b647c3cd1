"""Requests under a controller of a target, by a simulated clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from corella_edge.routing import budget
from corella_edge.routing.budget import BudgetState, BudgetTarget, RequestSeen, Scale
from corella_edge.routing.measure import entropy, is_routed

Traffic = Callable[[float, np.random.Generator], np.ndarray]  # time → probabilities of one request


@dataclass
class Run:
    """What became of requests; `cost` is the LLM's seconds for each candidate that is asked."""

    target: BudgetTarget
    scale: Scale
    cost: float = 0.003
    own: float = 0.05
    state: BudgetState = field(init=False)
    times: list[float] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    candidates: list[int] = field(default_factory=list)
    levels: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = budget.begin(self.target, self.own)

    def request(self, p: np.ndarray, t: float) -> int:
        s = entropy(p)
        asked = is_routed(s, self.scale.threshold(self.state.level))
        everything, nothing = np.ones(len(p), np.bool_), np.zeros(len(p), np.bool_)
        number = int(asked.sum())
        seen = RequestSeen(self.scale.levels(s), everything, asked, nothing, busy=self.cost * number)
        self.state = budget.decided(budget.observed(self.state, self.target, seen, t), self.target, t)
        self.times.append(t)
        self.asked.append(number)
        self.candidates.append(len(p))
        self.levels.append(self.state.level)
        return number

    def drive(self, traffic: Traffic, since: float, until: float, a_second: float, seed: int = 1) -> None:
        rng, t = np.random.default_rng(seed), since
        while (t := t + rng.exponential(1.0 / a_second)) < until:
            self.request(traffic(t, rng), t)

    def over_window(self, since: float, until: float) -> np.ndarray:
        """Share over the window that ends at each request of that time, counted from the requests themselves."""
        times = np.asarray(self.times)
        asked, seen = (np.append(0, np.cumsum(numbers)) for numbers in (self.asked, self.candidates))
        ends = np.flatnonzero((times >= since) & (times < until))
        begins = np.searchsorted(times, times[ends] - self.target.window, side="right")
        found: np.ndarray = (asked[ends + 1] - asked[begins]) / (seen[ends + 1] - seen[begins])
        return found
