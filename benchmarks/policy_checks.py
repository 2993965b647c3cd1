"""What a labelled log can promise and show: certified shares, and the gain that is left if every answer is the same.

    python benchmarks/policy_checks.py LOG --name NAME [--share 0.2] [--gate] [--gain 0.01] [--risks 0.05,0.1] [--out …]

LOG holds labelled rows (docs/routing.md), as JSON lines, CSV or Parquet. The policy is fitted as `calibrate` fits it,
once by the LLM's answers and once with 0.5 in place of each: what it gains then, it gains without any LLM. Where the
rows are too few, the refusal is kept in place of figures. The certified shares are those of `calibrate --risk`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.errors import InputError
from corella_edge.routing.calibrated import BEST, Wanted, calibrated, check_parts, fused, measured
from corella_edge.routing.gated import gated
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.parts import by_time
from corella_edge.routing.promised import Promise, promised, realised
from corella_edge_runtime.calibrate.log import read
from harness.options import fractions
from harness.results import ended

Json = dict[str, Any]
SAME = 0.5  # in place of every answer


def main() -> int:
    options = arguments()
    return ended("policy_checks", lambda: checked(options), options.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", type=Path)
    parser.add_argument("--name", required=True, help="What the documents call the data.")
    parser.add_argument("--share", type=float, default=0.2)
    parser.add_argument("--gate", action="store_true")
    parser.add_argument("--gain", type=float, default=0.01)
    parser.add_argument("--risks", type=fractions, default=())
    parser.add_argument("--delta", type=float, default=0.05)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def checked(options: argparse.Namespace) -> Json:
    """All figures as JSON."""
    rows = read(options.log)
    wanted = Wanted(share=options.share, gain=options.gain, draws=options.draws, ratios=())
    same = replace(rows, llm=np.where(rows.known, SAME, np.nan))
    by_llm = fitted(rows, wanted, options.gate)
    settings = {name: value for name, value in vars(options).items() if name not in ("log", "out")}
    return {
        "what": "policy-checks", "settings": settings, "rows": len(rows), "users": len(np.unique(rows.user)),
        "fitted": by_llm, "same_answer": None if "refused" in by_llm else fitted(same, wanted, options.gate),
        "certified": certified(rows, wanted, options.risks, options.delta),
    }  # fmt: skip


def fitted(rows: LabelledRows, wanted: Wanted, gate: bool) -> Json:
    """The policy that `calibrate` fits, on later rows; or why it refuses to."""
    try:
        parts = by_time(rows, wanted.part)
        check_parts(parts, wanted)
        wanted, _ = fused(parts, wanted, BEST)
        if gate:
            wanted, _ = gated(parts, wanted)
        found = calibrated(rows, wanted).result
    except InputError as error:
        return {"refused": str(error)}
    policy = found["policy"]
    return {"measure": wanted.measure.name, "rule": wanted.fusion.rule,
            "rows": found["parts"]["held_out"]["rows"],
            "users": found["parts"]["held_out"]["users"], "share": policy["share"], "auc": policy["auc"],
            "gain": policy["over_crm"]["auc"], "by_llm": found["by_llm"] and found["by_llm"]["auc"]}  # fmt: skip


def certified(rows: LabelledRows, wanted: Wanted, risks: Sequence[float], delta: float) -> list[Json]:
    """For each risk the smallest share that keeps it, by the earlier rows, and what later ones say; or the refusal."""
    parts, found = by_time(rows, wanted.part), []
    values, later = (measured(part, wanted.measure) for part in (parts.fit, parts.held))
    for risk in risks:
        try:
            threshold, told = promised(Promise(delta, risk), parts.fit, values, 1.0)
        except InputError as error:
            found.append({"risk": risk, "refused": str(error)})
            continue
        kept = {name: told[name] for name in ("share", "missed", "rows")}
        found.append({"risk": risk, **kept, "later": realised(parts.held, later, threshold, wanted.draws)})
    return found


if __name__ == "__main__":
    sys.exit(main())
