"""What orders candidates best? Log-loss and AUC that asking gains at 5, 10 and 20 %, by several measures.

    python benchmarks/gate_forms.py LOG [--fusion replace|blend|best] [--out …/results/gate-forms.json]

LOG holds labelled rows with a gate's inputs (docs/routing.md). Everything is fitted on the earlier part of the asked
rows and judged on the later: the entropy; the margin; a band, which is nearness to the probability that gained most on
the earlier part; the ridge and logistic gates; and boosted trees on the same columns (scikit-learn, extra [dev]), which
are what a gate in ONNX would have to be worth its session for. `random` is as many rows, drawn. Gains are over the
entropy at the same share, paired, with 95 % intervals over users.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from corella_edge.judge import interval
from corella_edge.metrics import Bootstrap, sampled_auc, sampled_mean
from corella_edge.routing.gate_fit import SHARES, AnsweredRows, first, fit, usable
from corella_edge.routing.measure import Floats, Margin, entropy
from corella_edge.routing.parts import by_time
from corella_edge_runtime.calibrate.log import read
from harness.options import FUSIONS, fusion
from harness.results import ended

Row = dict[str, Any]
USUAL = "entropy"
CENTRES = np.linspace(0.05, 0.95, 37)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--fusion", choices=FUSIONS, default="replace")
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    return ended("gate_forms", lambda: measured(options.log, options.fusion, options.draws), options.out)


def measured(log: Path, name: str, draws: int) -> Row:
    """Gains of every measure, and what they were fitted on."""
    parts = by_time(read(log))
    rule = fusion(name, parts.fit)
    earlier, later = (AnsweredRows.of(part, rule) for part in (parts.fit, parts.held))
    shares = {share: compared(measures(earlier, later, share), later, share, draws) for share in SHARES}
    print(table(shares), file=sys.stderr)
    found = {f"{share:g}": rows for share, rows in shares.items()}
    about = {"rows": [len(earlier.p), len(later.p)], "inputs": list(usable(earlier.inputs))}
    return {"what": "gate-forms", "fusion": rule.to_json(), **about, "shares": found}


def measures(earlier: AnsweredRows, later: AnsweredRows, share: float) -> dict[str, Floats]:
    """Values float64 [n] of the later rows, by measure; each is fitted on the earlier rows."""
    needs, rng = usable(earlier.inputs), np.random.default_rng(0)
    found = {USUAL: entropy(later.p), "margin": Margin()(later.p), "band": -np.abs(later.p - centre(earlier, share))}
    for kind in ("ridge", "logistic"):
        gate = fit(kind, earlier.p, earlier.benefit, earlier.inputs, needs, weight=earlier.weight)
        found[kind] = gate(later.p, later.inputs)
    trees = HistGradientBoostingRegressor(max_leaf_nodes=15, learning_rate=0.05, early_stopping=True, random_state=0)
    trees.fit(columns(earlier, needs), earlier.benefit, earlier.weight)
    found["trees"] = np.asarray(trees.predict(columns(later, needs)), np.float64)
    return {**found, "random": rng.random(len(later.p))}


def centre(rows: AnsweredRows, share: float) -> float:
    """The probability around which the share of the rows gains most."""
    draw, benefit = np.random.default_rng(1).random(len(rows.p)), rows.benefit * rows.each
    gains = [benefit[first(-np.abs(rows.p - at), share, draw, rows.weight)].sum() for at in CENTRES]
    return float(CENTRES[int(np.argmax(gains))])


def columns(rows: AnsweredRows, needs: tuple[str, ...]) -> Floats:
    """float64 [n, 2 + k] for the trees, which take what is unknown as it is."""
    return np.stack([rows.p, entropy(rows.p), *(rows.inputs[name] for name in needs)], axis=1)


def compared(values: Mapping[str, Floats], rows: AnsweredRows, share: float, draws: int) -> list[Row]:
    """What asking gains at this share, by measure, and how much more than by the entropy."""
    bootstrap, draw, benefit = Bootstrap(rows.user, draws), np.random.default_rng(2).random(len(rows.p)), rows.benefit
    chosen = {name: first(of, share, draw, rows.weight) for name, of in values.items()}
    saved = {name: sampled_mean(benefit * mask, bootstrap, rows.weight) for name, mask in chosen.items()}
    final = {name: np.where(mask, rows.after, rows.before) for name, mask in chosen.items()}
    aucs = {name: sampled_auc(p, rows.label, bootstrap, rows.weight) for name, p in final.items()}
    base = sampled_auc(rows.before, rows.label, bootstrap, rows.weight)
    return [
        {"measure": name, "saved": interval(saved[name].interval()), "over": interval(saved[name].gain(saved[USUAL])),
         "auc": interval(aucs[name].gain(base)), "auc_over": interval(aucs[name].gain(aucs[USUAL]))}
        for name in values
    ]  # fmt: skip


def table(shares: Mapping[float, list[Row]]) -> str:
    """The figures for reading."""
    lines = [f"{'share':>6} {'measure':<9} {'nats saved':<32} {'over entropy':<32} {'gain in AUC':<30} over entropy"]
    for share, rows in shares.items():
        for row in rows:
            nats = [f"{_of(row[key], 5):<32}" for key in ("saved", "over")]
            lines.append(f"{share:6.0%} {row['measure']:<9} {' '.join(nats)} {_of(row['auc'], 4):<30} "
                         f"{_of(row['auc_over'], 4)}")  # fmt: skip
    return "\n".join(lines)


def _of(found: Row, digits: int) -> str:
    return f"{found['value']:+.{digits}f} [{found['low']:+.{digits}f}, {found['high']:+.{digits}f}]"


if __name__ == "__main__":
    sys.exit(main())
