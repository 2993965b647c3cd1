"""A log in two parts by time, whether both are enough to learn from, and the traps that a log may hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import NormalDist

import numpy as np

from corella_edge.errors import InputError
from corella_edge.metrics import Sampled, auc, auc_error
from corella_edge.routing.labelled import CLIP, Floats, LabelledRows, Mask

POWER, LEVEL = 0.8, 0.05  # of a test: found so often if it is there, and so often if it is not (two-sided)
LATE = 0.05  # share of held-out rows earlier than the last fitted one, from which the two parts are mixed
ONE_POSITIVE = 0.95  # share of the lists with a positive and a negative row, from which each has one by construction
FEW_LISTS = 20
# Users with a positive row, and users with a negative one, that a bootstrap over users takes. In simulated logs its
# 95 % interval of a gain in AUC then holds the true one 94 times in 100; with 5 such users 87 times, with 2 of them 65
# times and with one 25 times, as the spread of a class that few users have is that of those few.
FEW_USERS = 20
WHOLE = 0.5  # of the requests with an answer, that have all of theirs: below, candidates were drawn one by one
NO_GAIN = 0.5  # of AUC: rows that show no smaller one show nothing


@dataclass(frozen=True)
class Parts:
    """A log cut in two.

    Attributes:
        fit: what thresholds, maps and gates are fitted on.
        held: what is reported on; no request of it is earlier than one of `fit`, unless the caller cut otherwise.
    """

    fit: LabelledRows
    held: LabelledRows


def by_time(rows: LabelledRows, share: float = 0.5) -> Parts:
    """The earlier part with about `share` of the rows, and the later one.

    Requests are never torn, nor are requests of one moment. Users may be in both parts, as they are before and after
    a policy goes into operation: intervals are over users of the later part alone, and whatever is cross-fitted within
    the earlier part keeps a user's rows in one fold.

    Raises:
        InputError: all requests are of one moment.
    """
    _, request = np.unique(rows.request, return_inverse=True)
    began = np.full(request.max() + 1, np.inf)
    np.minimum.at(began, request, rows.time)
    moment = began[request]
    moments, counts = np.unique(moment, return_counts=True)
    if len(moments) < 2:
        raise InputError("time: all requests are of one moment, so no later part can be held out; give Unix seconds")
    before = np.cumsum(counts)[:-1]  # rows earlier than moments[1:]
    cut = moments[1 + int(np.argmin(np.abs(before - share * len(rows))))]
    return Parts(rows.take(moment < cut), rows.take(moment >= cut))


def check_apart(parts: Parts) -> None:
    """Raises InputError where a row of the later part was fitted on, or every one of them is earlier than the fit."""
    fitted = set(zip(parts.fit.request.tolist(), parts.fit.item.tolist(), strict=True))
    later = zip(parts.held.request.tolist(), parts.held.item.tolist(), strict=True)
    if both := [row for row in later if row in fitted]:
        request, item = both[0]
        raise InputError(f"{len(both):,} of the {len(parts.held):,} held-out rows are among those of the fit, too "
                         f"(item {item[:40]!r} of request {request[:40]!r} is one), and cannot judge what they have "
                         "fitted; hold out other, later rows")  # fmt: skip
    last, first = float(parts.held.time.max()), float(parts.fit.time.min())
    if last < first:
        raise InputError(f"the held-out rows, until {moment(last)}, are all earlier than those of the fit, from "
                         f"{moment(first)}; fit on the earlier log, and hold out the later one")  # fmt: skip


def moment(seconds: float) -> str:
    """A Unix time as ISO 8601 in UTC; a number where the calendar does not reach."""
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{seconds:g}"


def usable(rows: LabelledRows) -> Mask:
    """bool [n]: rows that say what asking the LLM brings.

    A row without the LLM's score counts where the score was sure to be taken down (propensity 1), as there is none to
    be had; below 1 it is only missing by chance, and rows like it are there with a score.
    """
    return rows.known | (rows.propensity >= 1.0)


def unequal(rows: LabelledRows) -> Floats | None:
    """float64 [n]: how many rows each stands for, the inverse of its propensity; None where all stand for as many."""
    each = rows.weight
    return None if not len(each) or each.min() == each.max() else each


def whole_requests(rows: LabelledRows) -> Mask:
    """bool [n]: rows of requests of which every answer is known that there is.

    None of them is where candidates of one request were drawn one by one (`serve --explore`): the few requests with
    all answers are then other ones than the rest, and nobody knows how many each stands for.
    """
    _, request = np.unique(rows.request, return_inverse=True)
    chance, wanting = rows.propensity, (rows.known | (rows.propensity < 1.0))
    least, most = np.full(request.max() + 1, np.inf), np.zeros(request.max() + 1)
    np.minimum.at(least, request[wanting], chance[wanting])
    np.maximum.at(most, request[wanting], chance[wanting])
    answered, missing = (np.bincount(request, weights=v) > 0 for v in (rows.known, ~usable(rows)))
    together = (least >= most).all() and (~missing[answered]).mean() >= WHOLE if answered.any() else True
    return ~missing[request] & bool(together)


def even_users(rows: LabelledRows, of: Mask) -> float:
    """As how many users, each with as many of the rows bool [n], these rows tell: (Σ m)² / Σ m² (Kish 1965, section
    11.7), where m is what a user's such rows stand for. 0 without one."""
    _, owner = np.unique(rows.user, return_inverse=True)
    mass = np.bincount(owner, weights=np.where(of, rows.weight, 0.0))
    return float(mass.sum() ** 2 / (mass @ mass)) if mass.any() else 0.0


def student(p: float, freedom: float) -> float:
    """Quantile of Student's t; exact for 1 and 2 degrees of freedom, else by Abramowitz and Stegun 26.7.5."""
    if freedom == 1:
        return math.tan(math.pi * (p - 0.5))
    if freedom == 2:
        return (2 * p - 1) / math.sqrt(2 * p * (1 - p))
    z = NormalDist().inv_cdf(p)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def detectable(error: float, users: int) -> float:
    """The smallest true gain that is found with the usual power, given its standard error over so many users.

    A bootstrap over u users has (u - 1) / u of the variance, and its error is itself only known by u - 1 degrees of
    freedom; inf for a single user.
    """
    if users < 2:
        return math.inf
    reach = student(1 - LEVEL / 2, users - 1) + student(POWER, users - 1)
    return reach * error * math.sqrt(users / (users - 1))


def rows_needed(rows: int, users: int, error: float, wanted: float) -> int:
    """Rows of such users with which a gain of `wanted` is found with the usual power.

    Args:
        rows, users, error: what there are, and the gain's standard error over them, which falls with the root of both.
    """
    low, high = 0.0, 1.0
    while detectable(error / math.sqrt(high), max(2, int(users * high))) > wanted:
        low, high = high, 2 * high
        if high > 1e9:
            break
    for _ in range(40):
        middle = 0.5 * (low + high)
        few = detectable(error / math.sqrt(middle), max(2, int(users * middle))) > wanted
        low, high = (middle, high) if few else (low, middle)
    return math.ceil(rows * high)


@dataclass(frozen=True)
class Enough:
    """Whether held-out rows can show a gain.

    Attributes:
        rows, users: what there are.
        positive, negative: as how many users, each with as many of them, the rows of either class tell.
        smallest: the smallest true gain in AUC that they show with the usual power; inf = none.
        wanted: the gain that has to be seen.
        needed, of: rows that show it, and of how many users.
    """

    rows: int
    users: int
    positive: float
    negative: float
    smallest: float
    wanted: float
    needed: int
    of: int

    @property
    def holds(self) -> bool:
        return self.smallest <= self.wanted

    @property
    def advice(self) -> str:
        """What to do where they are too few. A gain is named that these rows can show, if there is one."""
        if self.smallest >= NO_GAIN:
            return "collect more"
        power = 10.0 ** (1 - math.floor(math.log10(self.smallest)))
        return (f"collect more, or say --gain {math.ceil(self.smallest * power) / power:g} if smaller gains need not "
                "be seen")  # fmt: skip

    def __str__(self) -> str:
        power = f"({POWER:.0%} power, two-sided {LEVEL:.0%} level)"
        seen = f"the smallest gain in AUC that they would show is {self.smallest:.3f} {power}"
        if min(self.positive, self.negative) < FEW_USERS:
            seen = (f"it takes {FEW_USERS} users with a positive row and {FEW_USERS} with a negative one to tell how "
                    "much a gain differs from one user to the next, and the positive rows here are spread as over "
                    f"{self.positive:.1f} users, the negative ones as over {self.negative:.1f}")  # fmt: skip
        elif self.smallest >= NO_GAIN:
            seen = f"they show no gain whatever {power}"
        return (f"{self.rows:,} held-out rows of {self.users:,} users: {seen}; {self.wanted:g} takes about "
                f"{self.needed:,} held-out rows of {self.of:,} users")  # fmt: skip


def enough(held: LabelledRows, gain: Sampled | None, wanted: float) -> Enough:
    """From the rows that are reported on and the gain in AUC under draws of their users (a paired difference); None
    where scores are the same whatever is asked, so that there is no gain to be shown.

    The error of such a gain has two parts, that of the positive rows and that of the negative ones (Hanley and McNeil
    1982), and draws of users show either by the users who have such rows alone. So each class takes `FEW_USERS` of
    them, counted by `even_users`, and the rarer one gives the degrees of freedom. At least as many rows are needed as
    have enough users of the rarer class. Where draws have no error at all, the bound of two unrelated AUCs over
    independent rows stands for it, each class counted as if one more row of each had been seen.
    """
    rows, users = len(held), len(np.unique(held.user))
    positive, negative = (even_users(held, of) for of in (held.label > 0, held.label <= 0))
    fewest, needed, smallest = min(positive, negative), rows, 0.0
    if gain is not None:
        error, such = _error(held, gain, fewest)
        needed, smallest = rows_needed(rows, such, error, wanted), detectable(error, such)
    needed = max(needed, math.ceil(rows * FEW_USERS / max(1.0, fewest)))
    of = max(FEW_USERS, math.ceil(users * needed / rows))
    known = smallest if fewest >= FEW_USERS else math.inf
    return Enough(rows, users, positive, negative, known, wanted, needed, of)


def _error(held: LabelledRows, gain: Sampled, fewest: float) -> tuple[float, int]:
    """The standard error of a gain, and how many users it is of."""
    known = gain.draws[~np.isnan(gain.draws)]
    if fewest >= 2.0 and len(known) and np.ptp(known) > 0 and math.isfinite(gain.value):
        return float(known.std()), int(fewest)
    ones = int(held.label.sum())
    return math.sqrt(2) * auc_error(ones + 1, len(held) - ones + 1), FEW_USERS


def traps(parts: Parts, values: Floats) -> Iterator[str]:
    """What makes the figures of a log look better, or other, than those of operation; a sentence each.

    `values` float64 [n] is the measure of the held-out rows.
    """
    fit, held = parts.fit, parts.held
    late = float((held.time < fit.time.max()).mean())
    if late > LATE:
        yield (f"{late:.0%} of the held-out rows are earlier than the last row of the fit, as after a random split: "
               "what is fitted then knows the time that it is judged on; split by time")  # fmt: skip
    share, lists = one_positive(held)
    if lists >= FEW_LISTS and share >= ONE_POSITIVE:
        yield (f"{share:.0%} of {lists:,} requests have exactly one positive: positives that were put among drawn "
               "negatives. NDCG over such lists is about twice that of lists as they were shown "
               "(arXiv 2609.27953); log what was shown")  # fmt: skip
    yield from _selected(held, values)
    if clipped := int((held.propensity < 1.0 / CLIP).sum()):
        yield (f"the chance with which the LLM's answer was taken down is below {1 / CLIP:g} in {clipped:,} held-out "
               f"rows: each stands for {CLIP:g} rows, where it should stand for more")  # fmt: skip


def one_positive(rows: LabelledRows) -> tuple[float, int]:
    """Of the requests of two rows or more: the share with exactly one positive, and the number of such requests."""
    _, request = np.unique(rows.request, return_inverse=True)
    sizes, positives = np.bincount(request), np.bincount(request, weights=rows.label)
    lists = sizes >= 2
    return (float((positives[lists] == 1).mean()) if lists.any() else 0.0), int(lists.sum())


def _selected(held: LabelledRows, values: Floats) -> Iterator[str]:
    """Whether the LLM's score is there, or had a chance to be, more often where the measure is high, or low: a policy
    made the log."""
    known = held.known | (held.propensity < 1.0)
    found, error = auc(values, known), auc_error(int(known.sum()), int((~known).sum()), 0.5)
    if math.isfinite(error) and abs(found - 0.5) > max(0.05, 3 * error):
        side = "above" if found > 0.5 else "below"
        yield (f"the LLM's score is known in {known.mean():.0%} of the held-out rows, and these lie {side} the others "
               "by the measure: a policy chose them. What asking about the others would bring is not in this log; take "
               "a random sample down (`serve --shadow`)")  # fmt: skip
