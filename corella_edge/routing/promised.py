"""A threshold that keeps a promise: of errors that nobody was asked about, or of the share that is asked. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from corella_edge.errors import InputError
from corella_edge.judge import Json, interval, number
from corella_edge.metrics import Bootstrap, row_hit, sampled_mean
from corella_edge.routing.certified import ASSUMED, certify, one_row_each, within_budget
from corella_edge.routing.labelled import LabelledRows, Mask
from corella_edge.routing.measure import Floats


@dataclass(frozen=True, slots=True)
class Promise:
    """What later traffic is promised, with confidence 1 - `delta`.

    Attributes:
        risk: P(the base model is wrong about a row, at 0.5, and the row is not routed) is at most this; None = the
            routed share is at most the wanted one.
        largest: with a risk, the greatest share that may be routed.
        one_each: one row of each user is looked at, since rows of one user are not independent.
        seed: of the draw of those rows.
    """

    delta: float
    risk: float | None = None
    largest: float = 1.0
    one_each: bool = False
    seed: int = 0


def promised(promise: Promise, rows: LabelledRows, values: Floats, share: float) -> tuple[float, Json]:
    """The threshold that keeps it, and what is to be said of it.

    Args:
        rows: such as the measure was not fitted on. values: of the measure, float64 [n].
        share: the wanted one, which is not looked at where there is a risk.

    Raises:
        InputError: it cannot be promised; says how many rows it would take.
    """
    if promise.one_each:
        places = one_row_each(rows.user, np.random.default_rng(promise.seed))
        rows, values = rows.take(places), values[places]
    about = {"delta": promise.delta, "rows": len(rows), "users": len(np.unique(rows.user)),
             "one_row_a_user": promise.one_each, "assumed": ASSUMED}  # fmt: skip
    if promise.risk is None:
        return _budget(promise.delta, values, share, about)
    found = certify(values, wrong(rows), promise.risk, promise.delta, promise.largest)
    if not found.certified:
        raise InputError(f"{found.text()} No bundle is written")
    return found.threshold, {**about, **found.to_json(), "text": found.text()}


def _budget(delta: float, values: Floats, share: float, about: Json) -> tuple[float, Json]:
    if not 0.0 < share < 1.0:
        raise InputError(
            f"--delta promises that a share is not passed, and the share {share:g} is no limit; give --share"
        )
    threshold = within_budget(values, share, delta)
    realised = float((values >= threshold).mean())
    text = (f"With confidence {1 - delta:.4g} at most {share:.1%} of later rows are routed ({realised:.1%} of the "
            f"{len(values):,} rows that it is promised by)")  # fmt: skip
    return threshold, {**about, "budget": share, "share": realised, "threshold": number(threshold), "text": text}


def wrong(rows: LabelledRows) -> Mask:
    """bool [n]: whether the base model names the wrong class, at 0.5."""
    found: Mask = row_hit(rows.crm, rows.label) == 0.0
    return found


def realised(rows: LabelledRows, values: Floats, threshold: float, draws: int) -> Json:
    """P(wrong and not routed) on rows that the threshold does not come from, with an interval over users."""
    missed = (wrong(rows) & (values < threshold)).astype(np.float64)
    return interval(sampled_mean(missed, Bootstrap(rows.user, draws)).interval())
