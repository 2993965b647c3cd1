"""A log of decisions, decided again by another policy, without any model.

The base model's scores are in the log. Whether a row would be asked follows from them; what the answer would have been
is known where the log holds one, be it that it counted or that it was asked for in the shadow.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corella_edge.errors import InputError
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.policy import Policy

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
# Why the LLM did not answer although it was wanted, where another policy would not have made it answer either.
NEVER_ASKED = ("no_text", "no_llm", "too_long")


@dataclass(frozen=True)
class LoggedRows:
    """Rows of a log, [n] each. A label is nan where nobody knows it.

    Attributes:
        routed: bool, the LLM's score counted.
        reason: object of str, why it did, or why the LLM did not answer although it was wanted; else "".
        final: float64, the probability that was answered; nan where that is not known.
    """

    rows: LabelledRows
    routed: Mask
    reason: npt.NDArray[np.object_]
    final: Floats

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def mute(self) -> Mask:
        """bool [n]: where no policy gets an answer: the log gives the reason, or the item has no words to ask about."""
        told, text = np.isin(self.reason.astype(str), NEVER_ASKED), self.rows.inputs.get("text")
        return told if text is None else told | ((text == 0.0) & ~self.rows.known)

    def take(self, where: npt.NDArray[np.int64] | Mask) -> LoggedRows:
        """The rows at these places int64 [m], or where bool [n] is true."""
        return LoggedRows(self.rows.take(where), self.routed[where], self.reason[where], self.final[where])


@dataclass(frozen=True, slots=True)
class Replayed:
    """What another policy makes of a log's n rows.

    Attributes:
        wanted: bool [n], it asks.
        undecided: int64 [m], places of those whose answer nobody knows, because the LLM was never asked.
        share_then, share_now: of the rows, in which the LLM's score counted, and would.
        touched_then, touched_now: of the requests, in which one did.
        added, dropped: rows that are asked now and were not, and the other way round.
    """

    wanted: Mask
    undecided: npt.NDArray[np.int64]
    share_then: float
    share_now: float
    touched_then: float
    touched_now: float
    added: int
    dropped: int


def wants(policy: Policy, logged: LoggedRows) -> Mask:
    """bool [n]: the rows about which a policy asks the LLM, which has to know what it is asked about.

    Every request is decided by itself, as it is served.

    Raises:
        InputError: the log lacks an input of the policy's measure.
    """
    missing = [name for name in policy.measure.needs if name not in logged.rows.inputs]
    if missing:
        raise InputError(
            f"the measure {policy.measure.name} needs the input {missing[0]!r}, which the log does not have"
        )
    wanted = np.zeros(len(logged), bool)
    inputs = logged.rows.inputs
    for places in requests(logged.rows.request):
        own = {name: values[places] for name, values in inputs.items()}
        chosen, _ = policy.route(logged.rows.crm[places], own)
        wanted[places[chosen]] = True
    return wanted & ~logged.mute


def requests(names: npt.NDArray[np.object_]) -> list[npt.NDArray[np.int64]]:
    """Places int64 of each request's rows, ascending, of the names of n rows."""
    if not len(names):
        return []
    number = np.unique(names.astype(str), return_inverse=True)[1]
    order = np.argsort(number, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(number[order])) + 1)


def replay(logged: LoggedRows, policy: Policy) -> Replayed:
    """Decide the rows of a log again."""
    wanted, routed, known = wants(policy, logged), logged.routed, logged.rows.known
    number = np.unique(logged.rows.request.astype(str), return_inverse=True)[1]
    groups = int(number.max(initial=-1)) + 1

    def touched(rows: Mask) -> float:
        return float((np.bincount(number[rows], minlength=groups) > 0).mean()) if groups else 0.0

    def share(rows: Mask) -> float:
        return float(rows.mean()) if len(rows) else 0.0

    return Replayed(
        wanted, np.flatnonzero(wanted & ~known), share(routed), share(wanted), touched(routed), touched(wanted),
        int((wanted & ~routed).sum()), int((routed & ~wanted).sum()),
    )  # fmt: skip
