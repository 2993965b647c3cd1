"""What a routed share costs in latency under load: share, candidates and their correlation → requests touched → p99.

Candidates of one request are not unsure independently of each other: one user is hard in whole. How many of N are asked
is beta-binomial (share s, intra-request correlation r); with r = 0 a request is touched with chance 1 - (1 - s)^N.
Requests arrive at random (Poisson). Each passes the base model, and a touched one then the LLM, whose work is the
prompt's common prefix and one suffix for each candidate asked; both are queues with one server, first come, first
served (M/G/1). The server's LLM packs waiting requests into one decode, which is at least as fast.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corella_edge.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

QUANTILES = {"p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0, "p99.9": 99.9}  # of an objective, in per cent
REQUESTS = 40_000  # simulated: 400 of them lie above the 99th percentile
_STEPS = 30  # of a bisection: the result is exact to 1e-9
_MOST = 1.0 - 1e-9  # of a correlation
_LONGEST = 3600.0  # seconds


@dataclass(frozen=True, slots=True)
class Box:
    """What one request costs on a machine, in seconds, and the standard deviation of the logarithm of each cost.

    Attributes:
        crm: of a request that asks nothing.
        prefix: of the LLM's work before the first candidate; of a returning user, whose prefix is kept, the rest of it.
        suffix: of each candidate asked.
    """

    crm: float
    prefix: float
    suffix: float
    crm_spread: float = 0.0
    llm_spread: float = 0.0


Correlations = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Load:
    """What arrives: requests a second, candidates of each, and the correlation of being asked within a request.

    The correlation is that of the candidates above a threshold, and so depends on it: (share, correlation) pairs by
    rising share, between which it is interpolated.
    """

    qps: float
    candidates: int
    correlations: Correlations = ()

    def correlation(self, share: float) -> float:
        """At a share; 0 where nothing is known."""
        if not self.correlations:
            return 0.0
        shares, found = zip(*self.correlations, strict=True)
        return float(np.interp(share, shares, found))


@dataclass(frozen=True, slots=True)
class Reached:
    """Percentiles of latency (`QUANTILES`) in seconds, the share of requests that ask the LLM, and the share of its
    time that it works.

    Where more arrives than one of the two models can do, the latencies are infinite.
    """

    share: float
    touched: float
    utilisation: float
    p50: float
    p90: float
    p95: float
    p99: float
    p999: float

    def at(self, quantile: str) -> float:
        """Seconds at one of `QUANTILES`."""
        found: float = getattr(self, quantile.replace(".", ""))
        return found


@dataclass(frozen=True, slots=True)
class Draws:
    """The luck of a simulated stretch of traffic, float64 [n] each: shared by all that is compared on it."""

    gaps: Floats
    asked: Floats
    crm: Floats
    llm: Floats

    @classmethod
    def of(cls, rng: np.random.Generator, n: int = REQUESTS) -> Draws:
        return cls(rng.exponential(size=n), rng.random(n), rng.standard_normal(n), rng.standard_normal(n))


def asked_chances(share: float, n: int, correlation: float) -> Floats:
    """float64 [n + 1]: the chance that 0, 1, … n candidates of a request are asked."""
    if share <= 0.0 or share >= 1.0:
        certain: Floats = np.eye(n + 1)[n if share >= 1.0 else 0]
        return certain
    # Too little correlation for the beta's parameters to be told from infinity is none.
    weight = (1.0 - correlation) / correlation if correlation > 1e-9 else np.inf
    log = _log_rising(share, weight, n) + _log_rising(1.0 - share, weight, n)[::-1] + _log_choices(n)
    relative = np.exp(log - log.max())
    chances: Floats = relative / relative.sum()
    return chances


def _log_rising(mean: float, weight: float, n: int) -> Floats:
    """float64 [n + 1]: logs of the rising factorials of mean · weight, up to a factor a step; of mean^k without end."""
    steps = np.arange(n, dtype=np.float64)
    each = np.log(mean + steps / weight) if np.isfinite(weight) else np.full(n, np.log(mean))
    return np.concatenate([[0.0], np.cumsum(each)])


def _log_choices(n: int) -> Floats:
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1, dtype=np.float64)))])
    choices: Floats = logs[n] - logs - logs[::-1]
    return choices


def touched(share: float, n: int, correlation: float = 0.0) -> float:
    """The share of requests in which at least one of n candidates is asked."""
    return float(1.0 - asked_chances(share, n, correlation)[0])


def correlation(asked: Ints, sizes: Ints) -> float:
    """Intra-request correlation of requests with `asked` int64 [g] of `sizes` int64 [g] candidates, 0 to below 1.

    The analysis-of-variance estimator for groups of unequal size (Donald & Donner 1987; Ridout et al. 1999, Biometrics
    55, section 2.1). 0 where nothing varies: of one request, or if all or no candidates are asked.
    """
    groups, rows = len(sizes), int(sizes.sum())
    if groups < 2 or rows <= groups:
        return 0.0
    mean = asked.sum() / rows
    within = float((asked * (1.0 - asked / sizes)).sum()) / (rows - groups)
    between = float((sizes * (asked / sizes - mean) ** 2).sum()) / (groups - 1)
    size = (rows - float((sizes.astype(np.float64) ** 2).sum()) / rows) / (groups - 1)
    total = between + (size - 1.0) * within
    return float(np.clip((between - within) / total, 0.0, _MOST)) if total > 0.0 else 0.0


def correlation_of_touched(share: float, n: int, seen: float) -> float:
    """The correlation at which `seen` of the requests are touched at a share; 0 where as many are as without any."""
    if not 0.0 < share < 1.0 or n < 2 or seen >= touched(share, n):
        return 0.0
    low, high = 0.0, _MOST
    for _ in range(_STEPS):  # the more correlated, the fewer requests are touched
        middle = 0.5 * (low + high)
        low, high = (middle, high) if touched(share, n, middle) > seen else (low, middle)
    return 0.5 * (low + high)


def mean_wait(rate: float, mean: float, square: float) -> float:
    """Mean seconds in the queue of an M/G/1 server (Pollaczek and Khinchine): rate · E[S²] / 2(1 - rate · E[S])."""
    busy = rate * mean
    return rate * square / (2.0 * (1.0 - busy)) if busy < 1.0 else float("inf")


def ends(arrivals: Floats, work: Floats) -> Floats:
    """When each of n jobs is done, float64 [n] seconds: one server, first come, first served; `arrivals` rise."""
    done = np.cumsum(work)
    finished: Floats = done + np.maximum.accumulate(arrivals - (done - work))
    return finished


def reached(box: Box, load: Load, share: float, draws: Draws) -> Reached:
    """The latencies at a share. For the same `draws`, and a correlation that does not depend on the share, none of
    them falls as the share rises."""
    chances = asked_chances(share, load.candidates, load.correlation(share))
    asked = np.searchsorted(np.cumsum(chances)[:-1], draws.asked, side="right")
    hit = asked > 0
    crm = _noisy(box.crm, box.crm_spread, draws.crm)
    llm = np.where(hit, _noisy(1.0, box.llm_spread, draws.llm) * (box.prefix + box.suffix * asked), 0.0)
    arrivals = np.cumsum(draws.gaps) / load.qps
    utilisation = load.qps * float(llm.mean())
    seen = float(1.0 - chances[0])
    if max(utilisation, load.qps * float(crm.mean())) >= 1.0:
        return Reached(share, seen, utilisation, *[float("inf")] * len(QUANTILES))
    scored = ends(arrivals, crm)
    done = scored.copy()
    done[hit] = ends(scored[hit], llm[hit])
    return Reached(share, seen, utilisation, *np.percentile(done - arrivals, list(QUANTILES.values())).tolist())


def _noisy(seconds: float, spread: float, luck: Floats) -> Floats:
    """Log-normal times with the median `seconds`."""
    times: Floats = seconds * np.exp(spread * luck)
    return times


def largest_share(box: Box, load: Load, quantile: str, limit: float, draws: Draws, most: float = 1.0) -> float | None:
    """The largest share at which a quantile (of `QUANTILES`) is at most `limit` seconds; None = not even 0."""

    def holds(share: float) -> bool:
        return reached(box, load, share, draws).at(quantile) <= limit

    if not holds(0.0):
        return None
    if holds(most):
        return most
    low, high = 0.0, most
    for _ in range(_STEPS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def costs(touched_share: Floats, asked: Floats, seconds: Floats) -> tuple[float, float]:
    """Seconds of a prefix and of a suffix, neither below 0, that fit mean seconds of the LLM's work best, relatively.

    Args:
        touched_share, asked, seconds: float64 [k], of each measured share: requests touched, candidates asked a
            request, and mean seconds a request beyond the base model's.
    """
    weight = 1.0 / np.maximum(seconds, 1e-6)
    a, b, y = touched_share * weight, asked * weight, seconds * weight
    aa, ab, bb, ay, by = float(a @ a), float(a @ b), float(b @ b), float(a @ y), float(b @ y)
    determinant = aa * bb - ab * ab
    if determinant > 1e-12 * aa * bb:
        prefix, suffix = (ay * bb - by * ab) / determinant, (by * aa - ay * ab) / determinant
        if prefix >= 0.0 and suffix >= 0.0:
            return prefix, suffix
        if suffix < 0.0 and aa:
            return max(0.0, ay / aa), 0.0
    return 0.0, max(0.0, by / bb) if bb else 0.0


def parse_slo(text: str) -> tuple[str, float]:
    """`p99=30ms` → ("p99", 0.03 seconds); the quantile is one of `QUANTILES`. Raises InputError."""
    names = "|".join(map(re.escape, QUANTILES))
    matched = re.fullmatch(rf"\s*({names})\s*=\s*([0-9]*\.?[0-9]+)\s*(ms|s)\s*", text)
    seconds = float(matched[2]) / (1000.0 if matched[3] == "ms" else 1.0) if matched else 0.0
    if matched is None or not 0.0 < seconds <= _LONGEST:
        raise InputError(f"slo: {text[:40]!r} is not a quantile and a time above 0 and up to an hour; write p99=30ms, "
                         f"with {', '.join(QUANTILES)}, and ms or s")  # fmt: skip
    return matched[1], seconds
