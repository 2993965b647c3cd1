"""Whether a learned gate is to order the candidates, decided on the earlier part of a log alone. Pure."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from corella_edge.judge import Json, interval
from corella_edge.routing.calibrated import Wanted
from corella_edge.routing.gate_fit import SHARES, AnsweredRows, Learned, Versus, fit, judged, learn
from corella_edge.routing.parts import Parts, by_time

INNER = 2 / 3  # of the earlier part, on which a gate is fitted that the rest of that part judges


def gated(parts: Parts, wanted: Wanted, seed: int = 0) -> tuple[Wanted, Json]:
    """What is wanted, by the gate where it is better than the entropy; and how both did.

    The decision is made within the earlier part. A gate that is taken is fitted again on all of it, unless something is
    promised of its threshold: then rows that it was not fitted on are left for that. The comparison on the later part
    is for the report.

    Raises:
        InputError: too few rows that the LLM was asked about; says how many it takes.
    """
    inner, rng = by_time(parts.fit, INNER), np.random.default_rng(seed)
    first, second = (AnsweredRows.of(part, wanted.fusion) for part in (inner.fit, inner.held))
    found = learn(first, second, rng, SHARES, wanted.draws)
    told: Json = {**_told(found), "parts": [len(first.p), len(second.p)]}
    if not found.better:
        return wanted, told
    gate = found.gate
    if wanted.promise is None:
        whole = AnsweredRows.of(parts.fit, wanted.fusion)
        kind, strength, _ = found.form
        gate = fit(kind, whole.p, whole.benefit, whole.inputs, gate.needs, strength, whole.weight)
    later, _ = judged(gate, AnsweredRows.of(parts.held, wanted.fusion), SHARES, rng, wanted.draws)
    fresh = inner.held if wanted.promise is not None else None
    return replace(wanted, measure=gate, fresh=fresh), {**told, "later": [_row(one) for one in later]}


def _told(found: Learned) -> Json:
    forms = [{"kind": kind, "strength": strength, "gain": gain} for kind, strength, gain in found.forms]
    return {"taken": found.better, "gain": interval(found.gain), "inputs": list(found.gate.needs), "forms": forms,
            "versus": [_row(one) for one in found.versus], "text": found.text()}  # fmt: skip


def _row(one: Versus) -> Json:
    return {"share": one.share, **{name: interval(getattr(one, name)) for name in ("gate", "entropy", "gain", "auc")}}
