"""The stages of a training run, in order: the one list that recipes, runs, training and reports go by.

Stages 1 to 3 of CoReLLa (arXiv 2403.16378) are `crm`, `joint` and `continuation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from corella_edge_export.recipe import Recipe


@dataclass(frozen=True, slots=True)
class TrainingStage:
    """One stage of a training run.

    Attributes:
        name: its folder in a run, and its line in summary.json.
        title: its heading in the report.
        section: the part of the recipe that says how long it trains.
        trains: the models whose weights it keeps.
        needs: what decides those weights: parts of the recipe by their dotted names, and earlier stages by their
            folders ("crm/"). "llm/" stands for plain text where the LLM has no stage of its own.
        task: the function below `training.tasks` that makes its task and schedule.
    """

    name: str
    title: str
    section: str
    trains: tuple[str, ...]
    needs: tuple[str, ...]
    task: str

    def enabled(self, recipe: Recipe) -> bool:
        """Whether the recipe has this stage."""
        return bool(attrgetter(self.section)(recipe).trains)

    def seed(self, recipe: Recipe) -> int:
        """The recipe's seed, or the LLM's own for a stage that a downloaded checkpoint would have behind it."""
        return recipe.seed if "seed" in self.needs else recipe.llm.seed


STAGES = (
    TrainingStage("text", "Pre-training on plain text", "llm.text", ("llm",), ("llm",), "text.stage"),
    TrainingStage("encoder", "Sentence encoder on users' sequences", "crm.text_sequence",
                  ("encoder", "crm"), ("crm", "seed"), "encoder.stage"),
    TrainingStage("crm", "Stage 1: CRM warm-up", "crm", ("crm",), ("crm", "seed"), "crm.stage"),
    TrainingStage("llm", "LLM on the training rows", "llm", ("llm",), ("llm", "text/"), "llm.stage"),
    TrainingStage("joint", "Stage 2: both models with alignment", "joint", ("crm", "llm"),
                  ("joint", "seed", "crm", "crm/", "llm", "llm/"), "joint.stage"),
    TrainingStage("continuation", "Stage 3: LLM alone", "continuation", ("llm",),
                  ("continuation", "seed", "joint.rows", "llm/", "joint/", "llm"), "llm.continuation"),
)  # fmt: skip


def named(name: str) -> TrainingStage:
    """The stage of that name."""
    return next(stage for stage in STAGES if stage.name == name)


def enabled(recipe: Recipe) -> list[TrainingStage]:
    """The recipe's stages, in order."""
    return [stage for stage in STAGES if stage.enabled(recipe)]


def last_of(recipe: Recipe, model: str) -> TrainingStage:
    """The stage whose weights of "crm" or "llm" a finished run is exported with."""
    return [stage for stage in enabled(recipe) if model in stage.trains][-1]


def resolve(need: str, before: dict[str, Any]) -> str | None:
    """The stage that a need such as "llm/" means among those `before`; None where the recipe has no such stage."""
    name = need.removesuffix("/")
    if name == "llm" and name not in before:
        name = "text"
    return name if name in before else None
