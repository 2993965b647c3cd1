"""Scores of one request, column by column, and their JSON form."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import UNSET, Meta, Struct, UnsetType

from corella_edge.request import Request
from corella_edge.routing.decision import Weighting
from corella_edge.routing.exploring import EXPLORE
from corella_edge.routing.forms import FORMS
from corella_edge.routing.fusion import REPLACE, Fusion, fuse
from corella_edge.routing.maps import PLAIN
from corella_edge.routing.measure import LN2, Entropy, Inputs, entropy
from corella_edge.routing.reasons import KEPT, NoAnswer

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Probability = Annotated[float, Meta(ge=0, le=1)]
_ENCODER = msgspec.json.Encoder()
_ROUTED = ", ".join(f"`{reason}`" for reason in (*(form.reason for form in FORMS if form.reason), EXPLORE))
_ROUTED += f"; `{KEPT}`: the LLM's score of the same user state was given before"
_UNANSWERED = "; ".join(f"`{reason}`: {reason.text}" for reason in NoAnswer)


@dataclass(slots=True)
class Trace:
    """What one request cost, for those who look into it.

    Attributes:
        seconds: by step, in the order they happened: "encode", "crm", "policy" (which are asked about), "prompt"
            (texts to tokens, and asking), "queue" (waiting for the LLM), "prefill".
        evaluated, reused: prompt tokens the LLM computed, and took from kept or shared prefixes.
        threshold: in the unit of the measure, nats of the entropy; infinite = the LLM is never asked.
        measure: what the threshold is of.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    evaluated: int = 0
    reused: int = 0
    threshold: float = math.inf
    measure: str = Entropy.name


@dataclass(slots=True)
class Scores:
    """What was found out about the n candidates of one request, in request order.

    Attributes:
        items: n item ids.
        crm: float64 [n], P(label = 1) by the CRM.
        llm: float64 [n], P(Yes) by the LLM; NaN where it was not asked or did not answer.
        routed: bool [n], True where the LLM's score counts in `probability`.
        reason: n texts: why a row was routed (the `reason` of a `forms.Form`, or `KEPT`) or why the LLM did not answer
            although the router chose the row (docs/serve.md lists them); "" for easy rows.
        unknown: n tuples, the names of the fields whose value the CRM has never seen.
        trace: what it cost; not part of what was found out.
        fusion: what makes one probability of both models' where routed.
        notes: what was odd about the request, beside its own notes.
        fallback: "popular" or "similar" where that ranks the candidates in place of the models, else "".
        strength: float64 [n], by which a fallback ranks.
        inputs: float64 [n] by name, what measure and fusion rule look at beside the scores.
        propensity: float64 [n], the chance with which the LLM was asked; None where nothing was left to chance.
        value: by which the probabilities rank; None = by themselves.
        shadow: float64 [n], P(Yes) that was asked for beside the request and counts nowhere; NaN where it was not.
        adapters: name → weight of the LLM's adapters by which it answers; None: the bundle has none.
    """

    items: tuple[str, ...]
    crm: FloatArray
    llm: FloatArray
    routed: BoolArray
    reason: tuple[str, ...]
    unknown: tuple[tuple[str, ...], ...]
    trace: Trace = field(default_factory=Trace, compare=False, repr=False)
    fusion: Fusion = REPLACE
    notes: tuple[str, ...] = ()
    fallback: Literal["", "popular", "similar"] = ""
    strength: FloatArray | None = None
    inputs: Inputs = field(default_factory=dict)
    propensity: FloatArray | None = None
    shadow: FloatArray | None = None
    value: Weighting | None = None
    adapters: Mapping[str, float] | None = None

    @property
    def entropy(self) -> FloatArray:
        """float64 [n], nats: binary entropy of `crm`."""
        return entropy(self.crm)

    @property
    def probability(self) -> FloatArray:
        """float64 [n]: what the fusion rule makes of both scores where routed, else the CRM's; see `fuse`."""
        return fuse(self.crm, self.llm, self.routed, self.fusion, self.inputs)

    @property
    def rank(self) -> npt.NDArray[np.int64]:
        """int64 [n]: 1 = best; equal ones keep request order."""
        return _rank(_best(self.ranked(self.probability), None))

    def ranked(self, p: FloatArray) -> FloatArray:
        """float64 [n]: what ranks candidates of such probabilities: a fallback's strength, or their value."""
        if self.strength is not None:
            return self.strength
        return p if self.value is None else self.value(p)


def _best(values: FloatArray, most: int | None) -> npt.NDArray[np.int64]:
    """Places int64 of the `most` highest values (None: of all), the best first; of equal ones the first."""
    n = len(values)
    if most is None or most >= n:
        return (-values).argsort(kind="stable")
    # All are looked at once, and few of them sorted: of a large catalogue a few are wanted.
    among = np.flatnonzero(values >= np.partition(values, n - most)[n - most])
    return among[(-values[among]).argsort(kind="stable")[:most]]


def _at(scores: Scores, places: npt.NDArray[np.int64]) -> Scores:
    """The scores of the candidates at these places, in that order, without what is of all of them."""
    listed = places.tolist()
    items, reason = tuple([scores.items[i] for i in listed]), tuple([scores.reason[i] for i in listed])
    unknown = tuple([scores.unknown[i] for i in listed])
    return Scores(items, scores.crm[places], scores.llm[places], scores.routed[places], reason, unknown)


def _rank(order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    rank = np.empty_like(order)
    rank[order] = np.arange(1, len(order) + 1)
    return rank


class Scored(Struct, forbid_unknown_fields=True, gc=False):
    """A candidate and what was found out about it."""

    item: str
    rank: Annotated[int, Meta(ge=1, description="1 is best.")]
    probability: Annotated[
        Probability,
        Meta(
            description="By the bundle's fusion rule (without one the LLM's) where `routed`, else the CRM's; of a "
            "bundle with maps, the mapped one."
        ),
    ]
    crm: Probability
    llm: Probability | None
    entropy: Annotated[float, Meta(ge=0, le=LN2, description="Of `crm`, in nats.")]
    routed: bool
    reason: Annotated[
        str,
        Meta(
            description=f"Why it was routed ({_ROUTED}) or why the LLM did not answer ({_UNANSWERED}); empty for "
            "easy candidates."
        ),
    ]
    unknown: Annotated[tuple[str, ...], Meta(description="Fields whose value the CRM has never seen.")]
    value: (
        Annotated[
            float, Meta(description="weight · probability + bonus, by which it is ranked; where these are given.")
        ]
        | UnsetType
    ) = UNSET
    crm_rank: Annotated[int, Meta(ge=1, description="Rank by the CRM alone, if `explain`.")] | UnsetType = UNSET
    crm_mapped: (
        Annotated[Probability, Meta(description="`crm` on the scale of `probability`; of a bundle with maps.")]
        | UnsetType
    ) = UNSET
    llm_mapped: (
        Annotated[Probability | None, Meta(description="`llm` on the scale of `probability`; of a bundle with maps.")]
        | UnsetType
    ) = UNSET


class TokenCounts(Struct, forbid_unknown_fields=True):
    evaluated: int
    reused: int


class Explanation(Struct, forbid_unknown_fields=True):
    """What an answer to a request with `explain` adds."""

    threshold: Annotated[
        float | None, Meta(description="Nats, or the unit of the `measure` where there is one; null: never asked.")
    ]
    wanted: Annotated[
        int,
        Meta(
            description="Candidates that the LLM was wanted for: at or above it, without those that cannot change the "
            "`top_k`, and with those drawn at random."
        ),
    ]
    routed: Annotated[int, Meta(description="Those in which the LLM's score counts.")]
    tokens: TokenCounts
    milliseconds: dict[str, float]
    measure: Annotated[str, Meta(description="What the threshold is of, where not the entropy.")] | UnsetType = UNSET
    adapters: (
        Annotated[
            dict[str, float],
            Meta(description="Weights of the LLM's adapters by which it answers; of a bundle with adapters."),
        ]
        | UnsetType
    ) = UNSET


class Answer(Struct, forbid_unknown_fields=True, kw_only=True):
    """Candidates in the request's `order`: of the whole catalogue best first, else as they were given."""

    id: str | UnsetType = UNSET
    bundle: Annotated[str, Meta(description="`name@version` of what answered.")]
    candidates: list[Scored]
    fallback: (
        Annotated[
            Literal["popular", "similar"],
            Meta(
                description="What ranks the candidates in place of the models, which know nothing of the user; absent "
                "where they rank."
            ),
        ]
        | UnsetType
    ) = UNSET
    notes: (
        Annotated[
            list[str],
            Meta(
                min_length=1,
                description="What was odd about the numbers of the history, and put right if possible, a sentence "
                "each; absent if nothing was.",
            ),
        ]
        | UnsetType
    ) = UNSET
    explain: Explanation | UnsetType = UNSET


def answered(request: Request, scores: Scores, bundle: str) -> Answer:
    """The answer to `request`: candidates in its order, cut to the `top_k` best by rank."""
    # Where the LLM has no part, one column serves for both scores. (Of bytes, a tenth of the time of `any`.)
    routed, mapped = True in scores.routed.tobytes(), scores.fusion.maps is not PLAIN
    final = scores.probability if routed or mapped else scores.crm
    ranked = scores.ranked(final)
    best = _best(ranked, request.top_k)
    if not request.best_first and len(best) == len(final):
        shown, rank = scores, _rank(best)
    else:
        by_place = np.arange(len(best)) if request.best_first else best.argsort()
        shown, rank, final = _at(scores, best[by_place]), by_place + 1, final[best[by_place]]
        ranked = ranked[best[by_place]]
    crm = shown.crm.tolist()
    columns: list[Iterable[object]] = [
        shown.items, rank.tolist(), final.tolist() if routed or mapped else crm, crm,
        [None if p != p else p for p in shown.llm.tolist()] if routed else repeat(None),
        shown.entropy.tolist(), shown.routed.tolist(), shown.reason, shown.unknown,
    ]  # fmt: skip
    if scores.value is not None or request.explain or mapped:
        columns.append(repeat(UNSET) if scores.value is None else ranked.tolist())
    if request.explain:
        by_crm = _rank(_best(scores.crm if scores.value is None else scores.value(scores.crm), None))
        columns.append((by_crm if shown is scores else by_crm[best[by_place]]).tolist())
    if mapped:
        columns += [*([] if request.explain else [repeat(UNSET)]), *_mapped(shown, scores.fusion)]
    return Answer(
        bundle=bundle,
        candidates=list(map(Scored, *columns)),
        fallback=scores.fallback or UNSET,
        notes=[*request.notes, *scores.notes] or UNSET,
        id=UNSET if request.id is None else request.id,
        explain=_explained(scores) if request.explain else UNSET,
    )


def shown_places(request: Request, scores: Scores) -> npt.NDArray[np.int64]:
    """int64 [m]: the places among `scores` of the candidates that `answered` shows, in its order."""
    best = _best(scores.ranked(scores.probability), request.top_k)
    return best if request.best_first else np.sort(best)


def _mapped(shown: Scores, fusion: Fusion) -> list[list[float | None]]:
    """Both models' columns on the scale of the final probabilities."""
    crm, llm = fusion.mapped(shown.crm, shown.llm, shown.routed)
    return [crm.tolist(), [None if p != p else p for p in llm.tolist()]]


def answer_json(request: Request, scores: Scores, bundle: str) -> bytes:
    """The answer as JSON."""
    return _ENCODER.encode(answered(request, scores, bundle))


def answer(request: Request, scores: Scores, bundle: str) -> dict[str, Any]:
    """The answer as what its JSON says."""
    found: dict[str, Any] = msgspec.json.decode(answer_json(request, scores, bundle))
    return found


def _explained(scores: Scores) -> Explanation:
    trace = scores.trace
    return Explanation(
        trace.threshold if math.isfinite(trace.threshold) else None,
        sum(map(bool, scores.reason)),
        int(scores.routed.sum()),
        TokenCounts(trace.evaluated, trace.reused),
        {name: round(1000.0 * seconds, 3) for name, seconds in trace.seconds.items()},
        UNSET if trace.measure == Entropy.name else trace.measure,
        UNSET if scores.adapters is None else dict(scores.adapters),
    )
