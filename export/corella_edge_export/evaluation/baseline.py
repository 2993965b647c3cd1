"""Baselines without learning: how often an item and a user are liked, both smoothed, and how many like an item. A
model is worth what it gains over them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from corella_edge_export.data.prepared import Split

STRENGTH = 5.0  # pseudo-rows of the overall rate; chosen on that split's validation rows

Floats = npt.NDArray[np.float64]


def smoothed_rates(train: Split, rows: Split, strength: float = STRENGTH) -> Floats:
    """A score for each row: logit of its item's like rate plus logit of its user's; float64 [n].

    The rate of an item or user with n training rows, n₊ of them liked, is (n₊ + strength · g) / (n + strength),
    where g is the rate of all training rows; one without training rows has the rate g. The training labels must
    be of both kinds.
    """
    overall = float(train.labels.mean())
    item = _rates(train.items, train.labels, rows.items, overall, strength)
    user = _rates(train.users, train.labels, rows.users, overall, strength)
    return _logit(item) + _logit(user)


def no_learning(train: Split, rows: Split) -> Floats | None:
    """`smoothed_rates`, or None where the training labels are all of one kind."""
    return smoothed_rates(train, rows) if 0.0 < train.labels.mean() < 1.0 else None


def popularity(train: Split, rows: Split) -> Floats:
    """log(1 + training rows in which the row's item was liked), float64 [n]."""
    size = max(train.items.max(initial=0), rows.items.max(initial=0)) + 1
    liked = np.bincount(train.items, weights=train.labels, minlength=size)
    return np.log1p(liked[rows.items])


def without_learning(train: Split, rows: Split) -> dict[str, Floats]:
    """Scores float64 [n] of each baseline by name; without like rates where the training labels are of one kind."""
    rates = no_learning(train, rows)
    return {**({} if rates is None else {"no_learning": rates}), "popularity": popularity(train, rows)}


def _rates(
    of: npt.NDArray[np.int32],
    labels: npt.NDArray[np.int8],
    asked: npt.NDArray[np.int32],
    overall: float,
    strength: float,
) -> Floats:
    size = max(of.max(initial=0), asked.max(initial=0)) + 1
    count = np.bincount(of, minlength=size)
    liked = np.bincount(of, weights=labels, minlength=size)
    rates: Floats = (liked + strength * overall) / (count + strength)
    return rates[asked]


def _logit(p: Floats) -> Floats:
    result: Floats = np.log(p) - np.log1p(-p)
    return result
