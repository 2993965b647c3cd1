"""Does the alignment move anything? What stage 2 did to both models and to the projections, of finished runs.

    python benchmarks/alignment.py runs/study-ml-1m-stages/seed-1/full --data data/ml-1m \\
        --out benchmarks/results/alignment.json

Before and after the joint stage, on the same of its training rows, without dropout and hidden ids:

    gap       mean square of a number's difference between the two projections, and `spread_llm`, `spread_crm`, the
              variances of both. Projections of equal mean that know nothing of each other have a gap of the sum of
              both; where all three shrink alike, what is projected shrank and nothing was aligned
    likeness  of the two models' own states, whatever the projections do: linear CKA, 0 to 1
    pull_llm  norm of the gradient of align_weight * L_align on the LLM, in parts of that of L_llm; `pull_crm` so, too

and `moved_llm`, `moved_crm`: norm of what the weights changed by in the stage, in parts of their own. Runs of other
weights and rates are those of a recipe of a few lines, `base = "ml-1m-stages"` and a section `[joint]`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from corella_edge.errors import InputError
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.training import loop
from corella_edge_export.training.run import Run
from corella_edge_export.training.stages import Stages
from corella_edge_export.training.tasks.joint import JointTask
from harness.results import write
from keep_study import rounded

BATCHES = 12
Figures = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="runs with a joint stage")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--note", action="append", default=[], help="what a reader must know; may be repeated")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    data = PreparedData.open(options.data)
    found = [one(Run.open(folder, data)) for folder in options.runs]
    about = {"what": "alignment", "data": data.info["name"], "notes": options.note}
    write(options.out, rounded({**about, "runs": found}))
    print(json.dumps(found, indent=1))


def one(run: Run) -> dict[str, Any]:
    """A run's settings of stage 2, its validation figures, and what the stage did."""
    if not run.recipe.joint.epochs:
        raise InputError(f"{run.folder}: its recipe, {run.recipe.name}, has no joint stage")
    task, _ = Stages(run, quiet=True).task("joint")
    assert isinstance(task, JointTask)
    task.crm.masking.rate = 0.0
    before, old = measured(task), weights(task)
    loop.restore(task, run.best("joint"))
    after, new = measured(task), weights(task)
    moved = {f"moved_{side}": float((new[side] - old[side]).norm() / old[side].norm()) for side in old}
    line, joint = loop.best_line(run.folder / "joint"), run.recipe.joint
    settings = {name: getattr(joint, name) for name in ("align_weight", "align_learning_rate", "learning_rate",
                                                        "crm_learning_rate", "rows", "epochs")}  # fmt: skip
    valid = {name: line[name] for name in ("crm_auc", "llm_auc")}
    about = {"recipe": run.recipe.name, "seed": run.recipe.seed, **settings}
    return {**about, **valid, **moved, "before": before, "after": after}


def weights(task: JointTask) -> dict[str, Tensor]:
    """Either model's weights, one after the other."""
    models = {"llm": task.reader.model, "crm": task.crm.model}
    return {side: torch.cat([p.detach().flatten() for p in model.parameters()]) for side, model in models.items()}


def measured(task: JointTask) -> Figures:
    """Means over batches and pairs."""
    task.model.eval()
    return mean(of_batch(task, batch, index) for index, batch in enumerate(task.batches(0)[:BATCHES]))


def of_batch(task: JointTask, batch: Any, index: int) -> Figures:
    given: list[tuple[list[Tensor], list[Tensor]]] = []
    hook = task.align.register_forward_hook(lambda module, args, result: given.append(args))
    found = task.losses(batch, 0, index, loop.Part())
    hook.remove()
    llm, crm = given[0]
    pairs = zip(task.align.pairs, task.align.g_llm, task.align.g_crm, strict=True)
    pull = {
        f"pull_{side}": task.recipe.align_weight * norm(found["align_loss"], model) / norm(found[f"{side}_loss"], model)
        for side, model in (("llm", task.reader.model), ("crm", task.crm.model))
    }  # fmt: skip
    with torch.no_grad():
        return {**mean(of_pair(llm[b - 1].float(), crm[c - 1], *maps) for (b, c), *maps in pairs), **pull}


def of_pair(llm: Tensor, crm: Tensor, to_llm: nn.Module, to_crm: nn.Module) -> Figures:
    a, b = to_llm(llm), to_crm(crm)
    spread = {"spread_llm": float(a.var(dim=0).mean()), "spread_crm": float(b.var(dim=0).mean())}
    return {"gap": float((a - b).square().mean()), **spread, "likeness": likeness(llm, crm)}


def likeness(x: Tensor, y: Tensor) -> float:
    """Linear CKA of float32 [n, a] and [n, b]: 1 where one is a rotation of the other, 0 where nothing is shared."""
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    return float((x.T @ y).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()))


def norm(loss: Tensor, model: nn.Module) -> float:
    """L2 norm of a loss's gradient on the weights that it reaches."""
    mine = [p for p in model.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, mine, retain_graph=True, allow_unused=True)
    return float(torch.stack([g.norm() for g in found if g is not None]).norm())


def mean(figures: Iterable[Figures]) -> Figures:
    """Of each figure."""
    parts = list(figures)
    return {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
