"""Quality of labelled rows at every threshold, from one score of each row by each model: what a latency buys."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from corella_edge.json_lines import Traffic
from corella_edge.judge import Figures
from corella_edge.request import Request
from corella_edge.routing import rules
from corella_edge.routing.curve import HeldOut, at_random, highest, knee, oracle
from corella_edge.routing.fusion import REPLACE, Fusion
from corella_edge.routing.labelled import Floats, LabelledRows, Mask
from corella_edge.routing.measure import BY_ENTROPY, Inputs, Measure
from corella_edge.routing.policy import Policy
from corella_edge.scores import Scores
from corella_edge_runtime.bench.results.circumstances import Figure
from corella_edge_runtime.bench.results.figures import figure
from corella_edge_runtime.bench.results.result import QualityLines, QualityPoint

NO_LABELS = "no row of these requests has a label"
LEAST = 50  # rows that are scored however long it takes
Rank = Callable[[Request], Scores]
Progress = Callable[[str, int, int], None]


def score(
    rank: Rank, rows: Sequence[Traffic], users: Sequence[str], progress: Progress, seconds: float = np.inf
) -> LabelledRows:
    """Ask both models about every labelled candidate, once; about the first rows only, if `seconds` are over."""
    found: list[tuple[Traffic, str, list[int], Scores]] = []
    end = time.monotonic() + seconds
    for number, (row, user) in enumerate(zip(rows, users, strict=True), 1):
        if number > LEAST and time.monotonic() >= end:
            break
        known = [i for i, label in enumerate(row.labels) if label is not None]
        found.append((row, user, known, rank(replace(row.request, threshold="ratio:1", top_k=None))))
        progress("labelled rows", number, len(rows))
    return _columns(found)


def _columns(found: Sequence[tuple[Traffic, str, list[int], Scores]]) -> LabelledRows:
    crm, llm = ([float(getattr(s, name)[i]) for _, _, at, s in found for i in at] for name in ("crm", "llm"))
    items = [s.items[i] for _, _, at, s in found for i in at]
    labels = [float(row.labels[i] or 0) for row, _, at, _ in found for i in at]
    count, sizes = len(labels), [len(at) for _, _, at, _ in found]
    users = np.repeat(np.array([user for _, user, _, _ in found], dtype=object), sizes)
    return LabelledRows(
        request=_lists(found, sizes), user=users, item=np.array(items, dtype=object), time=np.zeros(count),
        label=np.array(labels), crm=np.array(crm), llm=np.array(llm), propensity=np.ones(count),
        inputs=columns([(s.inputs, at) for _, _, at, s in found]),
    )  # fmt: skip


def _lists(found: Sequence[tuple[Traffic, str, list[int], Scores]], sizes: Sequence[int]) -> npt.NDArray[np.object_]:
    """What is ranked together: the candidates of a request; of requests with one candidate each, a user's."""
    single = all(size <= 1 for size in sizes)
    names = [user if single else str(number) for number, (_, user, _, _) in enumerate(found)]
    return np.repeat(np.array(names, dtype=object), sizes)


def columns(parts: Sequence[tuple[Inputs, list[int]]]) -> dict[str, Floats]:
    """Inputs of requests, at the places of each, as columns; nan where a request has not got one."""
    names = dict.fromkeys(name for inputs, _ in parts for name in inputs)
    return {
        name: np.concatenate([inputs[name][at] if name in inputs else np.full(len(at), np.nan) for inputs, at in parts])
        for name in names
    }


def judged(
    rows: LabelledRows, policies: Mapping[str, Policy], ratios: Mapping[str, float | None], measure: Measure,
    rule: Fusion = REPLACE, draws: int = 2000,
) -> QualityLines:  # fmt: skip
    """Every line of quality: the policies, as many rows at random, by an oracle and by each published rule, and each
    model alone.

    A policy that orders candidates by the entropy is CoReLLa's rule itself, which then has no line of its own.

    Args:
        policies, ratios: by threshold as written.
        measure: the bundle's; the knee is looked for by it.
    """
    if not len(rows):
        return QualityLines(why=NO_LABELS)
    if missing := [name for name in measure.needs if name not in rows.inputs]:
        return QualityLines(why=f"the bundle's policy looks at {missing[0]}, which the answers do not tell")
    values = measure(rows.crm, rows.inputs_for(measure.needs))
    held = HeldOut(rows, values, rule, draws)
    base, published = held.base, rules.orders(held.judged, rule)
    if measure is BY_ENTROPY:
        published.pop(rules.ENTROPY, None)
    points = []
    for threshold, policy in policies.items():
        mask = asked(held, policy)
        at = (threshold, ratios[threshold], float(mask.mean()))
        points.append(_point("policy", *at, held.judge(held.answer(mask)), base))
        points += _as_many(held, int(mask.sum()), at, published, base)
    points.append(_point("crm", None, 0.0, 0.0, base, base))
    if held.judged.known.any():
        every = held.judge(np.where(held.judged.known, held.judged.llm, held.judged.crm))
        points.append(_point("llm", None, 1.0, float(held.judged.known.mean()), every, base))
    return QualityLines(
        rows=len(held.judged), users=len(set(rows.user.tolist())), points=tuple(points), knee=knee(held)
    )


def _as_many(
    held: HeldOut, count: int, at: tuple[str, float | None, float], published: Mapping[str, Floats], base: Figures
) -> list[QualityPoint]:
    """So many rows chosen otherwise: at random, by an oracle, and by published rules, where there is a choice."""
    points = [_plain("random", *at, at_random(held, count)),
              _plain("oracle", *at, held.judge.points(held.answer(oracle(held, count))))]  # fmt: skip
    if 0 < count < held.judged.known.sum():
        points += [_point(name, *at, held.judge(held.answer(highest(held, order, count))), base)
                   for name, order in published.items()]  # fmt: skip
    return points


def asked(held: HeldOut, policy: Policy) -> Mask:
    """bool [m]: judged rows that a policy asks about and that have an answer of the LLM."""
    rows = held.judged
    chosen = np.zeros(len(rows), np.bool_)
    chosen[policy.route(rows.crm, rows.inputs_for(policy.measure.needs))[0]] = True
    return chosen & rows.known


def _point(
    line: str, threshold: str | None, ratio: float | None, share: float, found: Figures, base: Figures
) -> QualityPoint:
    metrics, gains = {}, {}
    for name, sampled in found.items():
        own, over = sampled.interval(), sampled.gain(base[name])
        metrics[name] = figure(own.value, own.low, own.high)
        gains[name] = figure(over.value, over.low, over.high)
    return QualityPoint(line=line, threshold=threshold, ratio=ratio, share=share, metrics=metrics, gains=gains)


def _plain(
    line: str, threshold: str, ratio: float | None, share: float, found: Mapping[str, float | None]
) -> QualityPoint:
    """Without intervals: a line to be seen beside the policy's."""
    metrics = {name: Figure() if value is None else figure(value) for name, value in found.items()}
    return QualityPoint(line=line, threshold=threshold, ratio=ratio, share=share, metrics=metrics)
