"""What the study looks at: scores of one split's rows by the models of one trained variant, and its metrics."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge import judge
from corella_edge.judge import METRICS, Figures, Json, gains, interval, number, percents, shown
from corella_edge.metrics import auc_error
from corella_edge.routing.measure import entropy

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

FEW_USERS = 10  # drawing among fewer says little of others
WIDE = 0.02  # half an interval of 95 % of an AUC, from which differences between models are hard to tell
__all__ = [
    "METRICS", "Figures", "Json", "ScoredJudge", "ScoredRows", "ScoredSplits", "gains", "interval", "number",
    "percents", "shown",
]  # fmt: skip


@dataclass(frozen=True)
class ScoredRows:
    """Rows of one split: probabilities float64 [n] of three models, labels, owners.

    Attributes:
        base: the CRM after stage 1, what gains are held against.
        crm: the CRM of the routed system, after stage 2.
        llm: nan where an item has no text: the CRM's score stands there, whatever the rule.
        seen: the user was in train; for another split, whatever it calls warm.
        new_items: the item has no training row; None = not told.
    """

    base: Floats
    crm: Floats
    llm: Floats
    labels: npt.NDArray[np.int8]
    users: npt.NDArray[np.int64]
    seen: Mask
    new_items: Mask | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for columns of different lengths, no rows, or a probability missing outside `llm`."""
        shapes = {np.shape(column) for column in self._columns().values()}
        if shapes != {(len(self.labels),)} or not len(self.labels):
            raise ValueError(f"columns must be [n] with one n above 0, not {sorted(shapes)}")
        if not (np.isfinite(self.base).all() and np.isfinite(self.crm).all()):
            raise ValueError("base and crm need a score in every row")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def answered(self) -> Mask:
        """bool [n]: rows that the LLM has a score for."""
        return ~np.isnan(self.llm)

    @property
    def llm_or_crm(self) -> Floats:
        """float64 [n]: the LLM alone, the CRM where it has no answer."""
        return np.where(self.answered, self.llm, self.crm)

    @property
    def entropies(self) -> Floats:
        """float64 [n], nats: what routing looks at."""
        return entropy(self.crm)

    def part(self, mask: Mask) -> ScoredRows:
        """The rows of a mask."""
        return ScoredRows(**{name: column[mask] for name, column in self._columns().items()})

    def _columns(self) -> dict[str, Any]:
        """Those that are told."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: column for name, column in found.items() if column is not None}


@dataclass(frozen=True)
class ScoredSplits:
    """One trained variant's scores: thresholds and fits come from `valid`, figures from `test`."""

    valid: ScoredRows
    test: ScoredRows


class ScoredJudge(judge.Judge):
    """All metrics of probabilities on fixed rows under the same draws of users."""

    def __init__(self, rows: ScoredRows, draws: int = 2000, seed: int = 0) -> None:
        super().__init__(rows.labels, rows.users, draws, seed)
        self.rows = rows


def doubts(labels: npt.NDArray[np.int8], what: str) -> list[str]:
    """What to know of figures over so few rows: nothing, or one sentence. `what` names them, such as "test rows"."""
    rows, liked = len(labels), int(np.sum(labels > 0))
    if liked in (0, rows):
        return [f"{rows:,} {what}, {'all' if liked else 'none'} of them liked: there is no AUC"]
    half = 1.96 * auc_error(liked, rows - liked)
    if half <= WIDE:
        return []
    return [f"{rows:,} {what} ({liked:,} liked): intervals are wide, an AUC of 0.75 is known to ± {half:.2f} at best"]


def few_users(users: npt.NDArray[np.integer[Any]]) -> list[str]:
    """What to know of intervals over so few users: nothing, or one sentence."""
    number = len(np.unique(users))
    if number >= FEW_USERS:
        return []
    return [f"the rows are of {number} user{'s' * (number > 1)}: intervals, drawn among them, say little of others"]
