"""The CRM of a recipe over several seeds: test AUC with bootstrap intervals, seen and unseen users apart.

python benchmarks/crm_seeds.py ml-1m-tiny --data data/ml-1m --work runs/crm --out benchmarks/results/crm-ml-1m.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge import metrics
from corella_edge.metrics import Bootstrap, auc_interval
from corella_edge.schema import FeatureEncoder
from corella_edge_export import train_crm
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.recipe import Recipe, load_recipe
from corella_edge_export.rows import EncodedRows
from corella_edge_export.run import Run
from corella_edge_export.stages import Stages
from results import write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs; finished ones are not repeated")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--note", default="", help="what a reader must know of the data, e.g. reconstructed timestamps")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    data, recipe = PreparedData.open(options.data), load_recipe(options.recipe)
    seeds = [int(seed) for seed in options.seeds.split(",")]
    found = [one(data, replace(recipe, seed=seed), options.work / f"seed-{seed}") for seed in seeds]
    values = [entry["all"]["auc"]["value"] for entry in found]
    summary = {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}
    about = {"what": "CRM over seeds", "recipe": recipe.name, "data": data.info["name"], "note": options.note}
    write(options.out, {**about, "test_auc": summary, "seeds": dict(zip(seeds, found, strict=True))})
    print(json.dumps(summary))


def one(data: PreparedData, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Train (or finish) one seed and judge it on the test rows."""
    run = Run.start(folder, recipe, data)
    valid = Stages(run).do("crm", ())
    schema, catalog = run.fit_inputs()
    rows = EncodedRows(data, "test", FeatureEncoder(schema, catalog))
    probability = train_crm.predict(run.crm("crm"), rows)
    known = schema.vocabularies["user_id"].index_of
    seen = np.asarray([data.user_ids[user] in known for user in rows.rows.users])
    groups = {"all": np.ones(len(rows), dtype=bool), "seen users": seen, "unseen users": ~seen}
    judged = {name: judge(probability[m], rows.labels[m], rows.rows.users[m]) for name, m in groups.items()}
    return {"validation": valid, **judged}


def judge(probability: Any, labels: Any, users: Any) -> dict[str, Any]:
    """AUC with its interval, log-loss and accuracy."""
    auc = auc_interval(probability, labels, Bootstrap(users))
    print(f"  {len(labels):,} rows: AUC {auc}")
    return {"rows": len(labels), **asdict(metrics.quality(probability, labels)), "auc": asdict(auc)}


if __name__ == "__main__":
    main()
