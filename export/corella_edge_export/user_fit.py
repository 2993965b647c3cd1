"""How far a user likes more than others do, beyond what the items' quality explains: fitted on training rows.

A training row must not see the level its own label went into, nor that of its sitting: the mood of one evening is no
level. So a row is encoded with the user's other sittings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corella_edge_export.data.prepared import Split

USER_LEVEL = "user_level"  # its name among the CRM's inputs in training
WIDTH = 3
SITTING = 86_400  # seconds without a row that end a sitting
NOTHING = 1e-9  # information that is left of a difference of equal sums
STRENGTH = 2.0  # information of the prior that everyone's level is 0

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Levels:
    """Of every user float32 [users, 3], and of every training row without its own sitting, float32 [n, 3].

    The numbers are the level in log odds, the logarithm of the information it rests on, and whether there is any.
    """

    users: Floats
    rows: Floats


def fit(rows: Split, logits: npt.NDArray[np.float64], users: int) -> Levels:
    """Levels from training rows and what their items' quality gives for each, float64 [n] log odds.

    One Newton step from 0 towards the most likely level, the quality held fixed.
    """
    expected = 1.0 / (1.0 + np.exp(-logits))
    parts = np.stack([rows.labels - expected, expected * (1.0 - expected)])
    own, sitting = rows.users.astype(np.int64), sittings(rows)
    of_user = np.zeros((2, users))
    of_sitting = np.zeros((2, int(sitting.max(initial=-1)) + 1))
    for k, part in enumerate(parts):
        np.add.at(of_user[k], own, part)
        np.add.at(of_sitting[k], sitting, part)
    return Levels(_numbers(of_user), _numbers(of_user[:, own] - of_sitting[:, sitting]))


def sittings(rows: Split) -> npt.NDArray[np.int64]:
    """int64 [n]: rows of one user with less than `SITTING` between each and the next have the same number."""
    order = np.lexsort((rows.times, rows.users))
    users, times = rows.users[order], rows.times[order]
    begins = np.concatenate([[True], (np.diff(users) != 0) | (np.diff(times) > SITTING)])[: len(order)]
    found = np.empty(len(order), dtype=np.int64)
    found[order] = np.cumsum(begins) - 1
    return found


def _numbers(sums: npt.NDArray[np.float64]) -> Floats:
    residual, information = sums
    there = information > NOTHING
    columns = (np.where(there, residual / (information + STRENGTH), 0.0), np.where(there, np.log1p(information), 0.0))
    return np.stack([*columns, there], axis=1).astype(np.float32)
