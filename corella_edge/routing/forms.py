"""The ways to write a threshold, and the policy that each stands for.

A new way is a new row of `FORMS`. The request's schema, OpenAPI, the command line's help and checks, and the `reason`
of a routed candidate follow from it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from corella_edge.errors import InputError
from corella_edge.routing.measure import BY_ENTROPY, LN2, NEVER, Band, entropy
from corella_edge.routing.policy import Budget, Policy, Routing

_EPSILON = float(np.finfo(np.float64).eps)
MOST_MS = 60_000  # of LLM time a request: a minute
Numbers = tuple[float, ...]
UNKNOWN = Routing()  # nothing is calibrated, nothing measured


@dataclass(frozen=True, slots=True)
class Form:
    """A way to write a threshold: a prefix, and a number from 0 to `most`, or what `read` makes of the rest.

    Attributes:
        reason: of the candidates that are routed by such a threshold; empty: that of what it stands for.
        placeholder: stands for the number in help texts.
        meaning: what the number is.
        digits: regular expression of what JSON may have after the prefix; unused without a prefix.
        policy: the numbers, and what the bundle says → the policy.
        range: what to give instead of a number out of range, where `meaning` does not say it.
        read: the rest of the text → its numbers, None for any other text.
    """

    prefix: str
    reason: str
    placeholder: str
    meaning: str
    most: float
    digits: str
    policy: Callable[[Numbers, Routing], Policy]
    range: str = ""
    read: Callable[[str], Numbers | None] | None = None

    def __str__(self) -> str:
        most = f"{self.most:g}" if self.most == round(self.most) else f"{self.most:.4g}"
        return self.meaning if self.read else f"{self.meaning} (0 to {most})"

    def number(self, text: str) -> float:
        """The number behind the prefix. Raises InputError."""
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if 0.0 <= number <= self.most:
            return number
        # Whoever writes 0.7 may mean a share: what is out of one form's range may be in another's.
        others = [form.prefix + text for form in MEANT if not self.prefix and 0.0 <= number <= form.most]
        hint = f"; or is {' or '.join(others)} meant?" if others else ""
        shown = repr(text[:40]) if math.isnan(number) else text[:40]
        if self.range and not math.isnan(number):
            raise InputError(f"{self.name}: {shown} is out of range; give {self.range}")
        raise InputError(f"{self.name}: {shown} is not {self}{hint}")

    @property
    def name(self) -> str:
        """What errors call it."""
        return self.prefix.rstrip(":") or "threshold"

    def numbers(self, text: str) -> Numbers:
        """What stands behind the prefix. Raises InputError."""
        if self.read is None:
            return (self.number(text),)
        found = self.read(text)
        if found is None:
            raise InputError(f"{self.name}: {text[:40]!r} is not {self}")
        return found


def _by_entropy(numbers: Numbers, routing: Routing) -> Policy:
    return routing.policy(numbers[0], ENTROPY.reason, BY_ENTROPY)


def _by_share(numbers: Numbers, routing: Routing) -> Policy:
    (share,) = numbers
    if routing.quantiles is not None:
        return routing.policy(routing.quantiles.threshold(share), RATIO.reason)
    if 0.0 < share < 1.0:
        raise InputError(f"threshold: ratio:{share:g} needs a calibrated bundle; give an entropy in nats instead")
    return routing.policy(routing.measure.least if share else NEVER, RATIO.reason)


def _by_margin(numbers: Numbers, routing: Routing) -> Policy:
    """The entropy at that distance. Both ends are routed: what rounding may take from a probability or an entropy is
    less than what is added to the distance and taken from the result."""
    away = min(0.5, numbers[0] + _EPSILON)
    nats = float(entropy([0.5 - away, 0.5 + away]).min()) * (1.0 - 8.0 * _EPSILON)
    return routing.policy(nats, MARGIN.reason, BY_ENTROPY)


_PROBABILITY = r"(0|1|0\.[0-9]{1,9})"
_BAND = f"{_PROBABILITY}-{_PROBABILITY}"


def _read_band(text: str) -> Numbers | None:
    """Two probabilities, the lower first, in whatever order they are written."""
    found = re.fullmatch(r"(\d*\.?\d+)-(\d*\.?\d+)", text, re.ASCII)
    ends = sorted(map(float, found.groups())) if found else [math.inf]
    return tuple(ends) if ends[-1] <= 1.0 else None


def _by_band(numbers: Numbers, routing: Routing) -> Policy:
    return routing.policy(0.0, BAND.reason, Band(*numbers))


def _by_cost(numbers: Numbers, routing: Routing) -> Policy:
    (milliseconds,) = numbers
    if milliseconds == 0.0:
        return routing.policy(NEVER, MS.reason)
    if routing.quantiles is None:
        raise InputError(f"threshold: ms:{milliseconds:g} needs a calibrated bundle; give an entropy in nats instead")
    if routing.cost is None:
        raise InputError(f"threshold: ms:{milliseconds:g} needs to know what asking the LLM costs on this machine, and "
                         "no engine has measured it; give a share as ratio:SHARE instead")  # fmt: skip
    budget = Budget(milliseconds, routing.cost, routing.quantiles)
    return routing.policy(routing.measure.least, MS.reason, budget=budget)


def _own(numbers: Numbers, routing: Routing) -> Policy:
    if routing.own is not None:
        return routing.policy(routing.own, OWN.reason)
    return parse_threshold(routing.threshold, routing)


ENTROPY = Form("", "entropy", "NATS", "an entropy in nats", LN2, "", _by_entropy)
RATIO = Form("ratio:", "ratio", "SHARE", "a share of the candidates", 1.0, _PROBABILITY, _by_share)
MARGIN = Form(
    "margin:", "margin", "DISTANCE", "the greatest distance of the base model's probability from 0.5", 0.5,
    r"(0|0\.5|0\.[0-4][0-9]{0,8})", _by_margin,
    "a distance from 0.5 between 0 and 0.5",
)  # fmt: skip
BAND = Form(
    "band:", "band", "LOW-HIGH", "the lowest and the highest probability of the base model, such as band:0.4-0.6", 1.0,
    _BAND, _by_band, read=_read_band,
)  # fmt: skip
MS = Form(
    "ms:", "ms", "TIME", "milliseconds of the LLM for a request, in the mean", MOST_MS,
    r"((0|[1-9][0-9]{0,3}|[1-5][0-9]{4})(\.[0-9]{1,3})?|60000)", _by_cost,
)  # fmt: skip
OWN = Form(
    "policy", "policy", "", "what the bundle carries", 0.0, "", _own, read=lambda text: None if text else (),
)  # fmt: skip
FORMS = (ENTROPY, RATIO, MARGIN, BAND, MS, OWN)
MEANT = (RATIO, MARGIN)
_EACH = "; ".join(f"{form.prefix}{form.placeholder}, {form}" for form in FORMS)
HELP = f"Which candidates the LLM is asked about: {_EACH}."
PATTERN = "^(" + "|".join(form.prefix + form.digits for form in FORMS if form.prefix) + ")$"  # of those that are texts


def read_threshold(value: float | str) -> tuple[Form, Numbers]:
    """How a threshold is written, and its numbers; no bundle is needed for that.

    Raises:
        InputError: no such form, or a number out of its range.
    """
    text = str(value).strip()
    if text == OWN.prefix:
        return OWN, ()
    head, colon, number = text.rpartition(":")
    for form in FORMS:
        if form.prefix == head + colon:
            return form, form.numbers(number)
    raise InputError(f"threshold: {text[:40]!r} is not one of: {_EACH}")


@lru_cache(256, typed=True)
def parse_threshold(value: float | str, routing: Routing = UNKNOWN) -> Policy:
    """`0.65` (nats), `"ratio:0.05"` (routed share, by the bundle's calibration) or another of `FORMS`, as a policy.

    Raises:
        InputError: as `read_threshold`; or a ratio without a calibration, a cost that nobody has measured.
    """
    form, numbers = read_threshold(value)
    return form.policy(numbers, routing)


def needs_cost(value: float | str, routing: Routing) -> bool:
    """Whether a threshold means nothing without the cost of asking. Raises InputError as `read_threshold`."""
    form, _ = read_threshold(value)
    return form is MS or (form is OWN and routing.own is None and needs_cost(routing.threshold, routing))


def lacks_cost(value: float | str | None, routing: Routing) -> bool:
    """Whether a threshold, if there is one, waits for the cost of asking to be measured. Raises InputError."""
    return routing.cost is None and value is not None and needs_cost(value, routing)


def parse_share(text: str) -> float:
    """A routed share from 0 to 1. Raises InputError."""
    return RATIO.number(text)
