"""What not to ask about candidates that cannot change the top costs and saves: NDCG@k against LLM time. Pure.

At each threshold, asking about every routed candidate is set beside asking about those alone that can change the k
best, by an interval that held for most rows (`decision.Reach`) or by one that always holds (`decision.exact`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from corella_edge.errors import InputError
from corella_edge.judge import Json, interval, number
from corella_edge.metrics import Bootstrap, Interval, Sampled, sampled_mean
from corella_edge.routing.decision import Reach, Weighting, exact, to_ask
from corella_edge.routing.fusion import Fusion, fuse
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.measure import Floats
from corella_edge.routing.parts import unequal, whole_requests

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Ends = tuple[Floats, Floats]
ALL, OPEN = "all", "open"  # ways to ask: about every routed candidate; about those that can change the top
TOP = 10  # best, of a report; of short requests the better half
MOST_LISTS = 5000  # requests that a report draws


@dataclass(frozen=True)
class RequestLists:
    """Candidates of requests whose outcome is known; float64 [n] each, the rows of a request side by side.

    Attributes:
        p, after: the final score if nobody is asked, and after asking; the same where the LLM has no answer.
        known: whether it has one, bool [n].
        gain: what showing the candidate first is worth: weight · label + bonus.
        weight, bonus: see `decision.Weighting`.
        starts: int64 [lists + 1], where each request's rows begin.
        user: of each list, [lists].
        places: int64 [n], of the rows in the log.
    """

    p: Floats
    after: Floats
    known: Mask
    gain: Floats
    weight: Floats
    bonus: Floats
    starts: Ints
    user: npt.NDArray[np.object_]
    places: Ints
    draws: int = 2000

    @classmethod
    def of(
        cls, rows: LabelledRows, rule: Fusion, weight: Floats | None = None, bonus: Floats | None = None,
        draws: int = 2000,
    ) -> RequestLists:  # fmt: skip
        """Of the requests with two candidates or more.

        Raises:
            InputError: there is none, or a weight or bonus is unknown or below 0.
        """
        w, b = (np.full(len(rows), fill) if v is None else v for v, fill in ((weight, 1.0), (bonus, 0.0)))
        if not ((w >= 0) & (b >= 0)).all():
            raise InputError("weights and bonuses must be known and at least 0 in every row")
        _, request, sizes = np.unique(rows.request, return_inverse=True, return_counts=True)
        order = np.argsort(request, kind="stable")
        order = order[sizes[request[order]] > 1]
        if not len(order):
            raise InputError("request: no request of the log has two candidates, so there is no top to change")
        starts = np.append(np.flatnonzero(np.diff(request[order], prepend=-1)), len(order)).astype(np.int64)
        part, known = rows.take(order), rows.known[order]
        alone, after = rule.alone(part.crm), fuse(part.crm, part.llm, known, rule, part.inputs)
        gain = w[order] * part.label + b[order]
        return cls(alone, after, known, gain, w[order], b[order], starts, part.user[starts[:-1]], order, draws)

    @cached_property
    def list(self) -> Ints:
        """int64 [n], the list of each row."""
        found: Ints = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        return found

    @cached_property
    def bootstrap(self) -> Bootstrap:
        return Bootstrap(self.user[self.judged], self.draws)

    @cached_property
    def judged(self) -> Mask:
        """bool [lists]: whether the order of a list makes a difference to what it is worth."""
        most, least = (of(self.gain, self.starts[:-1]) for of in (np.maximum.reduceat, np.minimum.reduceat))
        return most > least

    def ndcg(self, asked: Mask, k: int) -> Sampled:
        """NDCG@k of the order by value once these rows are asked, over judged lists; equal value counts against."""
        value = Weighting(self.weight, self.bonus)(np.where(asked, self.after, self.p))
        reached, best = self._gained(value, k), self._gained(self.gain, k)
        return sampled_mean((reached / np.where(best > 0, best, 1.0))[self.judged], self.bootstrap)

    def _gained(self, value: Floats, k: int) -> Floats:
        """float64 [lists]: discounted gain of the first k by falling value."""
        order = np.lexsort((self.gain, -value, self.list))
        place = np.arange(len(order)) - self.starts[self.list]
        discount = np.where(place < k, 1.0 / np.log2(place + 2.0), 0.0)
        gained = np.bincount(self.list, weights=self.gain[order] * discount, minlength=len(self.starts) - 1)
        return gained.astype(np.float64, copy=False)

    def decided(self, chosen: Mask, k: int, ends: Ends, ordered: bool = True) -> Mask:
        """bool [n]: of the chosen rows those that can change the k best of their list.

        `ends`: float64 [n] twice, between which the final score of each row lies.
        """
        asked = np.zeros(len(self.p), np.bool_)
        places = np.flatnonzero(chosen)
        low, high = ends[0][places], ends[1][places]
        cuts = np.searchsorted(places, self.starts)
        for place in np.flatnonzero(np.diff(cuts)).tolist():
            mine, span = slice(cuts[place], cuts[place + 1]), slice(self.starts[place], self.starts[place + 1])
            here, reach = places[mine] - span.start, (low[mine], high[mine])
            value = Weighting(self.weight[span], self.bonus[span])
            asked[places[mine]] = to_ask(self.p[span], here, reach, k, ordered, value)
        return asked

    def work(self, asked: Mask) -> tuple[float, float]:
        """In the mean over lists: candidates that are asked about, and whether there is one."""
        counts = np.bincount(self.list, weights=asked, minlength=len(self.starts) - 1)
        return float(counts.mean()), float((counts > 0).mean())


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """One way to ask at one threshold.

    Attributes:
        way: "all", or how it is decided who can change the top.
        asked, touched: candidates asked about in a request, and the share of requests with one, in the mean.
        ms: LLM milliseconds of a request.
        ndcg: NDCG@k. loss: the same minus that of asking about all who are routed, paired.
    """

    ratio: float
    way: str
    asked: float
    touched: float
    ms: float
    ndcg: Interval
    loss: Interval


def curve(
    lists: RequestLists,
    values: Floats,
    thresholds: Mapping[float, float],
    k: int,
    ways: Mapping[str, tuple[Ends, bool]],
    cost: Callable[[float, float], float],
) -> Iterator[CurvePoint]:
    """A point for every threshold (by the ratio that it stands for) and every way, "all" the first of each.

    Args:
        values: of the measure, float64 [n] in the order of the lists' rows. Those at or above a threshold are routed.
        ways: by name, between what the final scores lie, float64 [n] twice, and whether the k best are a list.
        cost: milliseconds of so many asked candidates in so many touched requests.
    """
    for ratio, threshold in thresholds.items():
        chosen = (values >= threshold) & lists.known
        every = lists.ndcg(chosen, k)
        for way in (ALL, *ways):
            asked = chosen if way == ALL else lists.decided(chosen, k, *ways[way])
            found = every if way == ALL else lists.ndcg(asked, k)
            work = lists.work(asked)
            yield CurvePoint(ratio, way, *work, cost(*work), found.interval(), found.gain(every))


def in_report(
    rows: LabelledRows, values: Floats, rule: Fusion, thresholds: Mapping[float, float], reach: Reach | None,
    cost: Callable[[float, float], float] | None, draws: int,
) -> Json | None:  # fmt: skip
    """The curve of a calibration's report; None where no request whose answers are all there has two candidates with
    different outcomes.

    Args:
        rows, values: those that are reported on, and their values of the measure, float64 [n].
        reach: how far asking moves a score; None = by what the rule can do at all.
        cost: None = not known.
    """
    if (drawn := _some(rows)) is None:
        return None
    part, value = rows.take(drawn), values[drawn]
    lists = RequestLists.of(part, rule, draws=draws)
    k = max(1, min(TOP, int(np.median(np.diff(lists.starts))) // 2))
    ends = exact(rule, part.crm[lists.places], part.take(lists.places).inputs) if reach is None else reach(lists.p)
    time = cost or (lambda asked, touched: math.nan)
    found = list(curve(lists, value[lists.places], thresholds, k, {OPEN: (ends, True)}, time))
    points = [_point(one) for one in found]
    return {"k": k, "lists": len(lists.user), "judged": int(lists.judged.sum()),
            "miss": None if reach is None else reach.miss, "points": points}  # fmt: skip


def _some(rows: LabelledRows) -> Mask | None:
    """bool [n]: the rows of some requests; None where the order of no request makes a difference, or where requests do
    not stand for equally many.

    Requests with an answer that is missing by chance are left out: asking about it would seem to bring nothing.
    """
    _, request, sizes = np.unique(rows.request, return_inverse=True, return_counts=True)
    positives, whole = (np.bincount(request, weights=v) for v in (rows.label, whole_requests(rows)))
    useful = np.flatnonzero((positives > 0) & (positives < sizes) & (whole == sizes))
    if not len(useful) or unequal(rows.take(np.isin(request, useful) & rows.known)) is not None:
        return None
    chosen = np.zeros(len(sizes), np.bool_)
    chosen[np.random.default_rng(0).permutation(useful)[:MOST_LISTS]] = True
    kept: Mask = chosen[request]
    return kept


def _point(one: CurvePoint) -> Json:
    return {"ratio": one.ratio, "way": one.way, "asked": one.asked, "touched": one.touched,
            "llm_ms": number(one.ms), "ndcg": interval(one.ndcg), "loss": interval(one.loss)}  # fmt: skip


def ways_of(
    lists: RequestLists, rows: LabelledRows, rule: Fusion, reaches: Mapping[float, Reach]
) -> dict[str, tuple[Ends, bool]]:
    """The ways that are compared: by what the rule can do at all, and by each reach as a list and as a set.

    `rows` are those that the lists are of.
    """
    part = rows.take(lists.places)
    found: dict[str, tuple[Ends, bool]] = {"exact": (exact(rule, part.crm, part.inputs), True)}
    for miss, reach in reaches.items():
        ends = reach(lists.p)
        found |= {f"miss {miss:g}": (ends, True), f"miss {miss:g}, as a set": (ends, False)}
    return found
