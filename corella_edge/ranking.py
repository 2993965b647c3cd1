"""Where the items to be found stand in a ranking of the catalogue, and what that is worth. Numpy only.

In a ranking of the catalogue a row has one relevant item, its target; a list that was shown (`Lists`) may have any
number of them. Equal scores count against it (the pessimistic rule): a model that scores
everything alike finds nothing, and no order in which items happen to be kept decides. Scores that round to equal
numbers therefore cost: rank logits rather than probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from corella_edge.metrics import Bootstrap, Floats, Ints, Sampled, sampled_mean

CUT = 10  # the k of HR@k and NDCG@k where nothing else is said


def ranks(scores: npt.ArrayLike, targets: npt.ArrayLike, left_out: Sequence[npt.ArrayLike] | None = None) -> Ints:
    """The place from 1 of each row's target among the row's candidates, int64 [b].

    It is 1 + the number of other candidates that do not score lower; a score that is nan counts as the highest of
    another item, and as the lowest of the target.

    Args:
        scores: float [b, n], one column an item; only their order within a row counts.
        targets: int [b], columns. left_out: for each row the columns that are no candidates, such as the items of a
            history, in any order and repeated as they come; the target itself always stays one.

    Raises:
        ValueError: shapes that do not fit, or a column that is not there.
    """
    table, wanted = np.asarray(scores), np.asarray(targets, dtype=np.int64)
    if table.ndim != 2 or wanted.shape != table.shape[:1] or (left_out is not None and len(left_out) != len(table)):
        raise ValueError(f"scores {table.shape}, targets {wanted.shape}: not [b, n] and [b], or left out not of b rows")
    if table.size and not ((wanted >= 0) & (wanted < table.shape[1])).all():
        raise ValueError(f"a target is none of the {table.shape[1]} columns")
    own = np.take_along_axis(table, wanted[:, None], axis=1)
    places: Ints = table.shape[1] - np.count_nonzero(table < own, axis=1).astype(np.int64)
    for row, columns in enumerate(left_out or ()):
        gone = np.unique(np.asarray(columns, dtype=np.int64))
        if len(gone) and not 0 <= gone[0] <= gone[-1] < table.shape[1]:
            raise ValueError(f"row {row} leaves out what is none of the {table.shape[1]} columns")
        gone = gone[gone != wanted[row]]
        places[row] -= len(gone) - np.count_nonzero(table[row, gone] < own[row])
    return places


def hits(places: npt.ArrayLike, k: int = CUT) -> Floats:
    """1.0 where the target is among the first k, float64 [b]; the mean is HR@k, which is Recall@k for one target."""
    found: Floats = (np.asarray(places) <= k).astype(np.float64)
    return found


def discounted(places: npt.ArrayLike, k: int = CUT) -> Floats:
    """1 / log2(rank + 1) where the target is among the first k, else 0.0, float64 [b]; the mean is NDCG@k.

    With one relevant item the ideal gain is 1, so this is the normalised gain (Järvelin and Kekäläinen 2002).
    """
    at = np.asarray(places, dtype=np.float64)
    gain: Floats = np.where(at <= k, 1.0 / np.log2(at + 1.0), 0.0)
    return gain


def reciprocal(places: npt.ArrayLike) -> Floats:
    """1 / rank, float64 [b]; the mean is MRR over the whole ranking."""
    value: Floats = 1.0 / np.asarray(places, dtype=np.float64)
    return value


def gains_of(places: npt.ArrayLike, k: int = CUT) -> dict[str, Floats]:
    """What each row adds to each metric, float64 [b] by the metric's name: hr@k, ndcg@k, mrr."""
    return {f"hr@{k}": hits(places, k), f"ndcg@{k}": discounted(places, k), "mrr": reciprocal(places)}


class Lists:
    """Rows that were ranked together, and NDCG@k of each such list by scores.

    Attributes:
        first: the first row of each list, int64 [lists].
        judged: lists with a relevant and an irrelevant row, bool [lists]: of the others every order is as good.
    """

    def __init__(self, requests: npt.ArrayLike, labels: npt.ArrayLike) -> None:
        """`requests` [n] says which list a row is in; labels float [n], above 0 = relevant."""
        self._relevant = np.asarray(labels) > 0
        _, self.first, self._list = np.unique(np.asarray(requests), return_index=True, return_inverse=True)
        self._rows = np.bincount(self._list)
        self._positives = np.bincount(self._list[self._relevant], minlength=len(self._rows))
        self.judged = (self._positives > 0) & (self._positives < self._rows)

    def most(self, weight: Floats) -> Floats:
        """float64 [lists]: the largest of each list's rows, of float64 [n]."""
        found = np.zeros(len(self.first))
        np.maximum.at(found, self._list, weight)
        return found

    def ndcg(self, scores: npt.ArrayLike, k: int = CUT) -> Floats:
        """NDCG@k of each list by float [n], float64 [lists]; nan for a list that is not judged.

        Gains are 0 or 1, discounts 1 / log2(rank + 1), over the best order's (Järvelin and Kekäläinen 2002).
        """
        order = np.lexsort((self._relevant, -np.asarray(scores, dtype=np.float64), self._list))
        ahead = np.cumsum(self._rows) - self._rows
        place = np.arange(len(order)) - ahead[self._list[order]] + 1.0
        worth = np.where(self._relevant[order] & (place <= k), 1.0 / np.log2(place + 1.0), 0.0)
        found = np.bincount(self._list[order], weights=worth, minlength=len(self._rows))
        best = np.r_[0.0, np.cumsum(1.0 / np.log2(np.arange(1, k + 1) + 1.0))][np.minimum(self._positives, k)]
        return np.where(self.judged, found / np.where(best > 0, best, 1.0), np.nan)


def means(places: npt.ArrayLike, k: int = CUT) -> dict[str, float]:
    """hr@k, ndcg@k and mrr of ranks [b]; nan without a row."""
    return {name: float(v.mean()) if len(v) else float("nan") for name, v in gains_of(places, k).items()}


def sampled(places: npt.ArrayLike, bootstrap: Bootstrap, k: int = CUT) -> Mapping[str, Sampled]:
    """hr@k, ndcg@k and mrr of ranks [b] under every draw of users.

    Two rankings of the same rows under the same `bootstrap` are paired: `Sampled.gain` has their difference.
    """
    return {name: sampled_mean(values, bootstrap) for name, values in gains_of(places, k).items()}
