"""Measures against each other at the same routed share, and calibration before and after maps, on a labelled log.

    python benchmarks/routing_policies.py LOG [--shares 0.05,0.1,0.2] [--fusion replace] [--out …/routing-policies.json]

LOG holds labelled rows (docs/routing.md), as JSON lines, CSV or Parquet. Its earlier part fits everything: the gate,
the band's window at each share, fusion and maps. On the later part each measure routes exactly the same number of the
rows that the LLM has answered; gains are paired with the entropy's under the same draws of users. Rows that were drawn
by chance count by the inverse of it. Disagreement needs the column input.kept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.judge import Judge, gains, interval, shown
from corella_edge.metrics import Bootstrap, row_loss, sampled_ece
from corella_edge.routing.fit import fitting
from corella_edge.routing.fit_maps import fit_maps
from corella_edge.routing.fusion import Fusion
from corella_edge.routing.gate_fit import AnsweredRows, first, fit, learn
from corella_edge.routing.labelled import Floats, LabelledRows, Mask
from corella_edge.routing.maps import KINDS, PLAIN
from corella_edge.routing.measure import Band, Disagreement, Entropy, Margin, Measure
from corella_edge.routing.order import order
from corella_edge.routing.parts import Parts, by_time, unequal
from corella_edge.routing.policy import Policy, threshold_for
from corella_edge_runtime.calibrate.log import read
from harness.options import FUSIONS, fractions, fusion
from harness.results import ended

Json = dict[str, Any]
ENTROPY, RANDOM, ORACLE = "entropy", "random", "oracle"
STEPS = 51  # places where a band may begin
ROUTED = 0.2  # share whose rows the maps' table is of


def main() -> int:
    options = arguments()
    return ended("routing_policies", lambda: measured(options), options.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--shares", type=fractions, default=(0.05, 0.1, 0.2))
    parser.add_argument("--fusion", choices=FUSIONS, default="replace")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def measured(options: argparse.Namespace) -> Json:
    """All figures as JSON; tables of them on standard error."""
    whole = by_time(read(options.log))
    parts = Parts(whole.fit.take(whole.fit.known), whole.held.take(whole.held.known))
    rule = fusion(options.fusion, parts.fit)
    rng = np.random.default_rng(options.seed)
    rows = list(versus(parts, rule, options.shares, rng, options.draws))
    maps = list(calibration(parts, options.draws))
    print("\n".join([*table(rows), "", *maps_table(maps)]), file=sys.stderr)
    about = {name: {"rows": len(part), "users": len(np.unique(part.user))}
             for name, part in (("earlier", parts.fit), ("later", parts.held))}  # fmt: skip
    settings = {name: value for name, value in vars(options).items() if name not in ("log", "out")}
    return {"what": "routing-policies", "settings": settings, "parts": about, "fusion": rule.to_json(),
            "versus": rows, "maps": maps}  # fmt: skip


def versus(parts: Parts, rule: Fusion, shares: Sequence[float], rng: np.random.Generator, draws: int) -> Iterator[Json]:
    """Each share and measure: figures, and gains over the base model and over the entropy."""
    held, weight = parts.held, unequal(parts.held)
    lists = held.request if weight is None else None
    judge = Judge(held.label, held.user, draws, requests=lists, weight=weight)
    alone, after = rule.alone(held.crm), rule(held.crm, held.llm, held.inputs)
    helped = row_loss(alone, held.label) - row_loss(after, held.label)
    gate, draw = learned(parts.fit, rule, rng, draws), rng.random(len(held))
    for share in shares:
        named = measures(parts.fit, rule, share, gate)
        values = {name: measure(held.crm, held.inputs_for(measure.needs)) for name, measure in named}
        values |= {RANDOM: rng.random(len(held)), ORACLE: helped}
        routed = {name: first(found, share, draw, weight) for name, found in values.items()}
        figures = {name: judge(np.where(mask, after, alone)) for name, mask in routed.items()}
        for name, found in figures.items():
            yield {
                "share": share, "measure": name, "rows": int(routed[name].sum()), **shown(found),
                "over_crm": gains(found, judge(held.crm)), "over_entropy": gains(found, figures[ENTROPY]),
                "order": order(values[name], helped, judge.bootstrap, weight=weight).verdict,
            }  # fmt: skip


def learned(rows: LabelledRows, rule: Fusion, rng: np.random.Generator, draws: int) -> Measure:
    """The gate of the kind that does best within the earlier part, fitted on all of it; whether it is better or not."""
    inner = by_time(rows, 2 / 3)
    found = learn(AnsweredRows.of(inner.fit, rule), AnsweredRows.of(inner.held, rule), rng, draws=draws)
    asked, (kind, strength, _) = AnsweredRows.of(rows, rule), found.form
    return fit(kind, asked.p, asked.benefit, asked.inputs, found.gate.needs, strength, asked.weight)


def measures(rows: LabelledRows, rule: Fusion, share: float, gate: Measure) -> Iterator[tuple[str, Measure]]:
    """Those that can be had of these rows, by name; all of them fitted on the earlier part."""
    yield ENTROPY, Entropy()
    yield "margin", Margin()
    yield "band", best_band(rows, rule, share)
    yield "gate", gate
    rate = float(rows.label.mean())
    if 0.0 < rate < 1.0:
        yield "entropy, centred", Entropy(rate)
    if "kept" in rows.inputs:
        yield "disagreement", Disagreement()


def best_band(rows: LabelledRows, rule: Fusion, share: float) -> Band:
    """The window over this share of the rows' probabilities in which asking saves most log-loss."""
    after, alone = rule(rows.crm, rows.llm, rows.inputs), rule.alone(rows.crm)
    helped = (row_loss(alone, rows.label) - row_loss(after, rows.label)) * rows.weight
    ends = np.linspace(0.0, 1.0 - share, STEPS)
    lows, highs = np.quantile(rows.crm, ends), np.quantile(rows.crm, np.minimum(1.0, ends + share))
    saved = [helped[(rows.crm >= low) & (rows.crm <= high)].sum() for low, high in zip(lows, highs, strict=True)]
    place = int(np.argmax(saved))
    return Band(float(lows[place]), float(highs[place]))


def calibration(parts: Parts, draws: int) -> Iterator[Json]:
    """ECE of each model on each route of the later rows, behind maps that the earlier rows fitted."""
    doubt = Entropy()
    policy = Policy(threshold=threshold_for(doubt(parts.fit.crm), ROUTED))
    routed: Mask = doubt(parts.held.crm) >= policy.threshold
    for kind in KINDS:
        maps = PLAIN if kind == "none" else fit_maps(parts.fit, fitting(parts.fit, policy), kind)
        held = parts.held
        routes = {
            "routed: LLM": (routed, held.llm, maps.llm), "routed: base model": (routed, held.crm, maps.crm),
            "not routed: base model": (~routed, held.crm, maps.alone),
        }  # fmt: skip
        for name, (mask, p, mapped) in routes.items():
            yield {"maps": kind, "route": name, "rows": int(mask.sum()), **_ece(held.take(mask), p[mask],
                   mapped(p[mask]), draws)}  # fmt: skip


def _ece(rows: LabelledRows, before: Floats, after: Floats, draws: int) -> Json:
    bootstrap = Bootstrap(rows.user, draws)
    raw, made = (sampled_ece(p, rows.label, bootstrap, weight=unequal(rows)) for p in (before, after))
    return {"before": interval(raw.interval()), "after": interval(made.interval()), "change": interval(made.gain(raw))}


def table(rows: Sequence[Json]) -> Iterator[str]:
    """Gains for reading."""
    names = " ".join(f"{name:<28}" for name in ("AUC over base", "AUC over entropy", "log-loss over base"))
    yield f"{'share':>6} {'measure':<18} {'AUC':>7}  {names} order"
    for row in rows:
        texts = [_text(row["over_crm"]["auc"]), _text(row["over_entropy"]["auc"]), _text(row["over_crm"]["logloss"])]
        cells = " ".join(f"{text:<28}" for text in texts)
        yield f"{row['share']:6g} {row['measure']:<18} {row['auc']['value']:7.4f}  {cells} {row['order']}"


def maps_table(rows: Sequence[Json]) -> Iterator[str]:
    yield f"{'maps':<12} {'route':<24} {'rows':>7}  {'ECE before':>10} {'after':>8}  change"
    for row in rows:
        before, after = row["before"]["value"], row["after"]["value"]
        yield (f"{row['maps']:<12} {row['route']:<24} {row['rows']:>7,}  {before:10.4f} {after:8.4f}  "
               f"{_text(row['change'])}")  # fmt: skip


def _text(found: Json) -> str:
    if None in found.values():
        return "-"
    return f"{found['value']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"


if __name__ == "__main__":
    sys.exit(main())
