"""A latency objective, kept by asking the LLM less: the share falls when requests are late, and comes back after.

The controller counts requests since its last decision: those that took longer than the objective, and those that came
near it. It multiplies when it lowers and adds when it raises (AIMD; Chiu & Jain 1989), lowers as soon as too many are
late, and raises only after enough requests without. Pure functions; time is passed in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

from corella_edge.routing.measure import NEVER
from corella_edge.routing.policy import Policy, Routing

LOWER, RAISE = 0.7, 0.05  # times; plus
LEAST = 0.03  # of the share: below it nothing is asked
NEAR = 0.8  # of the objective: with too many requests above it the share is not raised
LATE = 3  # requests that are late before anything is lowered
ENOUGH = 2.0  # times the requests of which one may be late, before anything is raised
PATIENCE = 60.0  # seconds after which fewer are enough, if none came near it


@dataclass(frozen=True, slots=True)
class Objective:
    """At most a share `1 - quantile` of the requests may take longer than `seconds`."""

    quantile: float
    seconds: float

    @property
    def allowed(self) -> float:
        """The share that may be late."""
        return 1.0 - self.quantile


@dataclass(frozen=True, slots=True)
class Eased:
    """Where the controller stands.

    Attributes:
        factor: of the share that would be asked without it, 0 to 1.
        since: when it was last decided, monotonic seconds.
        requests, late, near: counted since.
    """

    factor: float = 1.0
    since: float = 0.0
    requests: int = 0
    late: int = 0
    near: int = 0


def observed(eased: Eased, objective: Objective, seconds: float, now: float) -> Eased:
    """After one more request that took so long: counted, and decided where enough is known."""
    counted = replace(
        eased, requests=eased.requests + 1, late=eased.late + (seconds > objective.seconds),
        near=eased.near + (seconds > NEAR * objective.seconds),
    )  # fmt: skip
    return decided(counted, objective, now)


def decided(eased: Eased, objective: Objective, now: float) -> Eased:
    """Lower or raise the share, hold it and start counting again, or keep counting."""
    allowed = objective.allowed * eased.requests
    if eased.late >= LATE and eased.late > allowed:
        lower = LOWER * eased.factor
        return Eased(lower if lower >= LEAST else 0.0, now)
    if allowed < ENOUGH and now - eased.since < PATIENCE:
        return eased
    if eased.near <= allowed:
        return Eased(min(1.0, eased.factor + RAISE), now)
    return Eased(eased.factor, now)


@lru_cache(256)
def lowered(policy: Policy, routing: Routing, factor: float) -> Policy:
    """A policy that asks `factor` of the share of the calibration rows that another asks: its hardest; 0 asks nothing.

    A band grows narrower from both ends: its hardest are the nearest to its middle.
    Where the bundle does not tell which share that is, only 0 changes anything.
    """
    if factor >= 1.0:
        return policy
    if factor <= 0.0:
        return replace(policy, threshold=NEVER, budget=None)
    share, quantiles = routing.share(policy), routing.calibration_of(policy.measure)
    if share is None or quantiles is None:
        return policy
    return replace(policy, threshold=max(policy.threshold, quantiles.threshold(factor * share)))
