"""Keeps the figures of a finished study: combined analysis, claims of each seed, ablations; docs/studies.md shows them.

    python benchmarks/keep_study.py runs/study-ml-1m-small --out benchmarks/results/study-ml-1m-small.json --note "..."

The analyses of single seeds stay behind, figures keep five digits, and the plot of AUC by share is copied beside.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from harness.results import write

DIGITS = 5
LEFT_OUT = ("by_seed",)
BY_VARIANT = ("boundary_by_variant", "models_by_variant")
PLOT = "curve-auc.svg"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a finished `corella-edge study`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--note", action="append", default=[], help="what a reader must know; may be repeated")
    parser.add_argument("--ablation", type=Path, help="another study of the recipe, of fewer seeds, for its ablations")
    options = parser.parse_args()
    keep(options.study, options.out, options.note, options.ablation)


def keep(study: Path, out: Path, notes: list[str], ablation: Path | None = None) -> None:
    """Write `out`, and the plot beside it where the study has one."""
    found = json.loads((study / "study.json").read_text("utf-8"))
    figures = {name: value for name, value in found.items() if name not in LEFT_OUT}
    figures["notes"] = [*figures.get("notes", []), *notes]
    if ablation is not None:
        other = json.loads((ablation / "study.json").read_text("utf-8"))
        figures |= {"ablation": other["ablation"], "ablation_by_seed": other["ablation_by_seed"]}
        for name in BY_VARIANT:
            figures["analysis"][name] = other["analysis"][name]
        figures["notes"].append(f"Ablations, and the shift and the models by variant: training seeds {other['seeds']}.")
    write(out, rounded(figures))
    if (study / PLOT).exists():
        shutil.copyfile(study / PLOT, out.with_name(f"{out.stem}-{PLOT}"))


def rounded(value: Any) -> Any:
    """Every fraction with five significant digits; whole numbers as they are."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    if isinstance(value, float) and not value.is_integer():
        return float(f"{value:.{DIGITS}g}") if abs(value) < 10 ** (DIGITS - 1) else round(value, 1)
    return value


if __name__ == "__main__":
    main()
