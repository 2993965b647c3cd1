"""How far a user likes more than others do, beyond what the items' quality explains: fitted on training rows.

Of everything (his level), and of items as good, or of as high a number, as the candidate (his leanings). A training
row must not see the level its own label went into, nor that of its sitting: the mood of one evening is no level. So a
row is encoded with the user's other sittings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge_export.data.prepared import Split

USER_LEVEL = "user_level"  # its name among the CRM's inputs in training
WIDTH = 3
NUMBER = "history_number_"  # begins CRM inputs whose first number is the candidate's own
QUALITY = f"{NUMBER}quality"
VARIANCES = (0.5, 0.1, 0.1, 0.1)  # of a user's weights of the columns of `leaning`
SITTING = 86_400  # seconds without a row that end a sitting
NOTHING = 1e-9  # information that is left of a difference of equal sums
STRENGTH = 2.0  # information of the prior that everyone's level is 0

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Levels:
    """Of every user float32 [users, w], and of every training row without its own sitting, float32 [n, w].

    The first three numbers are the level in log odds, the logarithm of the information it rests on, and whether
    there is any; then, where leanings are asked for, the weights of the columns of `leaning`.
    """

    users: Floats
    rows: Floats


def fit(
    split: Split, logits: Doubles, users: int, own: Doubles | None = None, served: Doubles | None = None,
    timed: bool = True,
) -> Levels:  # fmt: skip
    """Levels from training rows and what their items' quality gives for each, float64 [n] log odds.

    One Newton step from 0 towards the most likely level, the quality held fixed. `own` float64 [n, k] are the rows'
    `leaning` columns as training sees them, `served` as serving does: a row's weights come from the first, a user's
    from the second, by a step of their own. Where rows have no times (not `timed`), each is a sitting of its own.
    """
    expected = 1.0 / (1.0 + np.exp(-logits))
    parts = np.stack([split.labels - expected, expected * (1.0 - expected)])
    user = split.users.astype(np.int64)
    sitting = sittings(split) if timed else np.arange(len(user), dtype=np.int64)
    of_user = _sums(parts.T, user, users).T
    of_sitting = _sums(parts.T, sitting, int(sitting.max(initial=-1)) + 1).T
    found = Levels(_numbers(of_user), _numbers(of_user[:, user] - of_sitting[:, sitting]))
    if own is None or served is None:
        return found
    of_users = _weights(_sums(_terms(parts, served), user, users))
    of_rows = _without_sitting(_terms(parts, own), user, sitting)
    return Levels(np.hstack([found.users, of_users]), np.hstack([found.rows, of_rows]))


def _sums(values: Doubles, group: Indices, groups: int) -> Doubles:
    """float64 [groups, w]: values [n, w] summed by group."""
    found = np.zeros((groups, values.shape[1]))
    np.add.at(found, group, values)
    return found


def _terms(parts: Doubles, columns: Doubles) -> Doubles:
    """float64 [n, k + k * k]: each row's part of the slope and of the curvature in the weights of k columns."""
    residual, information = parts
    curvature = columns[:, :, None] * columns[:, None, :] * information[:, None, None]
    return np.hstack([columns * residual[:, None], curvature.reshape(len(columns), -1)])


def _without_sitting(terms: Doubles, user: Indices, sitting: Indices) -> Floats:
    """float32 [n, k]: weights of each row's user from his other sittings."""
    of_sitting = _sums(terms, sitting, int(sitting.max(initial=-1)) + 1)
    owner = np.zeros(len(of_sitting), dtype=np.int64)
    owner[sitting] = user
    return _weights(_sums(terms, user, int(user.max(initial=-1)) + 1)[owner] - of_sitting)[sitting]


def _weights(sums: Doubles) -> Floats:
    """float32 [groups, k] of summed `_terms`: one Newton step from 0, drawn to 0 by `VARIANCES`."""
    count = int((math.isqrt(1 + 4 * sums.shape[1]) - 1) // 2)
    slope, curvature = sums[:, :count, None], sums[:, count:].reshape(-1, count, count)
    found: Floats = np.linalg.solve(curvature + np.diag(1.0 / np.asarray(VARIANCES[:count])), slope).astype(np.float32)
    return found[:, :, 0]


def leaning(feed: Mapping[str, Any]) -> list[Any]:
    """Columns of the candidate that a user may lean to: 1, its quality and, of an `item_number`, that and its square.

    Arrays or tensors of CRM inputs [n, 4] give columns [n].
    """
    quality = feed[QUALITY][:, 0]
    columns = [quality * 0.0 + 1.0, quality]
    for name in feed:
        if name.startswith(NUMBER) and name != QUALITY:
            number = feed[name][:, 0]
            columns += [number, number * number - 1.0]
    return columns


def sittings(split: Split) -> npt.NDArray[np.int64]:
    """int64 [n]: rows of one user with less than `SITTING` between each and the next have the same number."""
    order = np.lexsort((split.times, split.users))
    users, times = split.users[order], split.times[order]
    begins = np.concatenate([[True], (np.diff(users) != 0) | (np.diff(times) > SITTING)])[: len(order)]
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.cumsum(begins) - 1
    return found


def _numbers(sums: npt.NDArray[np.float64]) -> Floats:
    residual, information = sums
    there = information > NOTHING
    columns = (np.where(there, residual / (information + STRENGTH), 0.0), np.where(there, np.log1p(information), 0.0))
    return np.stack([*columns, there], axis=1).astype(np.float32)
