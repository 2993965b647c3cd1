"""NDCG@k against LLM time: asking about every routed candidate, or about those alone that can change the k best.

    python benchmarks/decision_aware.py LOG [--top-k 10] [--miss 0.02,0.1,0.3] [--out …/results/decision-aware.json]

LOG holds labelled rows (docs/routing.md), as JSON lines, CSV or Parquet. Its earlier part fits how far asking moves a
score, the thresholds and, with `--fusion best`, maps and fusion; figures are of the later part, with intervals over
users. A log whose requests have one candidate each has no top: `--by user` ranks each user's rows of the later part
together. `--weight` and `--bonus` name inputs of the log (columns input.NAME): the k best are then those of weight ·
score + bonus, and NDCG counts weight · label + bonus.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError
from corella_edge.routing.curve import cut
from corella_edge.routing.decision import Reach
from corella_edge.routing.decision_curve import ALL, CurvePoint, RequestLists, curve, ways_of
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.measure import entropy
from corella_edge.routing.parts import by_time
from corella_edge.routing.policy import RATIOS, AskCost
from corella_edge_runtime.calibrate.log import read
from harness.options import FUSIONS, fractions, fusion
from harness.results import ended


def main() -> int:
    options = arguments()
    return ended("decision_aware", lambda: measured(options), options.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--miss", type=fractions, default=(0.02, 0.1, 0.3), help="shares of rows that may move further")
    parser.add_argument("--by", choices=["request", "user"], default="request", help="what is ranked together")
    parser.add_argument("--fusion", choices=FUSIONS, default="replace")
    parser.add_argument("--weight", metavar="NAME")
    parser.add_argument("--bonus", metavar="NAME")
    parser.add_argument("--first-ms", type=float, default=8.0, help="of the first candidate of a request")
    parser.add_argument("--further-ms", type=float, default=0.6, help="of each further one")
    parser.add_argument("--ratios", type=fractions, default=RATIOS)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The curve as JSON; a table of it on standard error."""
    parts = by_time(read(options.log))
    asked = parts.fit.take(parts.fit.known)
    rule = fusion(options.fusion, parts.fit)
    after = rule(asked.crm, asked.llm, asked.inputs)
    reaches = {miss: Reach.fit(rule.alone(asked.crm), after, miss) for miss in options.miss}
    held = parts.held if options.by == "request" else replace(parts.held, request=parts.held.user)
    weight, bonus = (column(held, name) for name in (options.weight, options.bonus))
    lists = RequestLists.of(held, rule, weight, bonus, options.draws)
    doubt = entropy(parts.fit.crm)
    thresholds = {ratio: cut(doubt, ratio) for ratio in options.ratios}
    cost = AskCost(options.first_ms, options.further_ms)
    doubt_held = entropy(held.crm[lists.places])
    found = list(curve(lists, doubt_held, thresholds, options.top_k, ways_of(lists, held, rule, reaches), cost.of))
    print(table(found, options.top_k), file=sys.stderr)
    about = {"lists": len(lists.user), "judged": int(lists.judged.sum()), "rows": len(lists.p)}
    settings = {name: value for name, value in vars(options).items() if name not in ("log", "out")}
    return {"what": "decision-aware", "settings": settings, **about, "points": [asdict(one) for one in found]}


def column(rows: LabelledRows, name: str | None) -> Any:
    """An input of the log. Raises InputError where it has none of that name."""
    if name is None:
        return None
    if name not in rows.inputs:
        raise InputError(f"the log has no column input.{name}")
    return rows.inputs[name]


def table(points: Sequence[CurvePoint], k: int) -> str:
    """The figures for reading."""
    head = f"{'ratio':>6} {'way':<20} {'asked':>7} {'touched':>8} {'ms':>8} {'saved':>6}"
    lines, whole = [f"{head}  NDCG@{k}, and minus asking all"], 0.0
    for one in points:
        whole = one.ms if one.way == ALL else whole
        saved = 1 - one.ms / whole if whole else 0.0
        lines.append(f"{one.ratio:6g} {one.way:<20} {one.asked:7.2f} {one.touched:8.1%} {one.ms:8.2f} {saved:6.0%}  "
                     f"{one.ndcg}  {one.loss}")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
