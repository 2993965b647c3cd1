"""Both models' scores of a split's rows, by torch, kept beside the run: what every table of the study starts from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from accelerate import PartialState

from corella_edge import atomic
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.request import Candidates, User
from corella_edge_export.crm.base import CrmModel
from corella_edge_export.data.prepared import PreparedData, Split
from corella_edge_export.data.rowset import history_needed
from corella_edge_export.data.sampling import draw_users
from corella_edge_export.evaluation import ranking
from corella_edge_export.evaluation.scored import Floats, Json, Mask, ScoredRows, ScoredSplits
from corella_edge_export.training.run import Run
from corella_edge_export.training.stages import Stages
from corella_edge_export.training.tasks import crm as train_crm
from corella_edge_export.training.tasks import llm as train_llm

Indices = npt.NDArray[np.int64]


class Predictions:
    """A finished run's scores. Files are keyed by the weights they came from, and made once."""

    def __init__(self, run: Run, base: Run, say: Callable[[str], None] = lambda message: None) -> None:
        """`base` is the run whose stage 1 all gains are held against."""
        self.run, self.base, self.say = run, base, say
        self.stages = Stages(run)

    def pair(self, valid_rows: int = 0) -> ScoredSplits:
        """Validation rows (a seeded sample of whole users with about `valid_rows` rows, 0 = all) and all test rows."""
        valid = self.run.data.split("valid")
        users = draw_users(valid, valid_rows, self.run.recipe.llm.seed)
        return ScoredSplits(self._scored("valid", np.isin(valid.users, users)), self._scored("test", None))

    def alone(self) -> ScoredRows:
        """All test rows by the base model of a recipe without an LLM, which answers none of them."""
        return self._scored("test", None)

    def ranking(self, rows: int) -> Json:
        """Where the items of about `rows` liked test rows stand in the catalogue, by both CRMs and without learning."""
        data, (schema, catalog) = self.run.data, self.run.fit_inputs()
        encoder = FeatureEncoder(schema, catalog)
        targets = ranking.choose_targets(data, "test", rows, 0, history_needed(schema, None))
        others = ranking.simple(targets, ranking.vectors_of(encoder, data))
        models = {"crm": (self.run, None), "base": (self.base, "crm")}
        scorers = {name: scorer(run.crm(stage), encoder, data) for name, (run, stage) in models.items()}
        about = json.dumps([weights(self.run), weights(self.base), rows, [*scorers, *others]])
        folder = self.run.folder / "predictions" / f"ranks-{hashlib.sha256(about.encode()).hexdigest()[:16]}"
        folder.mkdir(parents=True, exist_ok=True)
        self.say(f"{self.run.folder}: the catalogue is ranked for {len(targets):,} test rows")
        places = ranking.rank(targets, scorers, others, folder, lambda what, done, of: None)
        return {"protocol": targets.protocol(), "slices": ranking.judge(targets, places)}

    def _scored(self, name: str, mask: Mask | None) -> ScoredRows:
        split = self.run.data.split(name)
        rows = np.arange(len(split.users)) if mask is None else np.flatnonzero(mask)
        nobody: Floats = np.full(len(rows), np.nan)
        warm = self._seen(split) if self.run.data.history_events == "all" else self.run.data.warm(split)
        return ScoredRows(
            base=self._kept(name, "base", rows, lambda: self._crm(self.base, "crm", name)),
            crm=self._kept(name, "crm", rows, lambda: self._crm(self.run, None, name)),
            llm=self._kept(name, "llm", rows, lambda: self._llm(split, rows)) if self.run.recipe.trains_llm else nobody,
            labels=split.labels[rows],
            users=split.users[rows].astype(np.int64),
            seen=warm[rows],
            new_items=self.run.data.unseen_items(split)[rows],
        )

    def _seen(self, split: Split) -> Mask:
        seen: Mask = np.isin(split.users, np.unique(self.run.data.split("train").users))
        return seen

    def _kept(self, split: str, model: str, rows: Indices, score: Callable[[], Floats]) -> Floats:
        """float64 [rows], from the file if it has the scores of these rows by these weights."""
        origin = self.base if model == "base" else self.run
        about = json.dumps([model, split, weights(origin), hashlib.sha256(rows.tobytes()).hexdigest()])
        key = hashlib.sha256(about.encode()).hexdigest()[:16]
        path = origin.folder / "predictions" / f"{split}-{model}-{key}.f64"
        if not path.exists():
            self.say(f"{origin.folder}: {model} scores {len(rows):,} {split} rows")
            found = score()
            path.parent.mkdir(exist_ok=True)
            atomic.write_file(path, (found if len(found) == len(rows) else found[rows]).tobytes())
        return np.frombuffer(path.read_bytes(), dtype=np.float64)

    def _crm(self, run: Run, stage: str | None, split: str) -> Floats:
        return train_crm.predict(run.crm(stage).to(PartialState().device), self.stages.rows(split))

    def _llm(self, split: Split, rows: Indices) -> Floats:
        """nan for items without text."""
        builder = self.stages.builder
        sequences = builder.exact(split, np.unique(split.users[rows]).tolist(), set(rows.tolist()))
        model = self.run.llm().to(PartialState().device)
        found, probability = train_llm.predict(self.run.reader(model, builder), sequences)
        whole: Floats = np.full(len(split.users), np.nan)
        whole[found] = probability
        return np.asarray(whole[rows])


def scorer(model: CrmModel, encoder: FeatureEncoder, data: PreparedData) -> ranking.Scorer:
    """Logits of all items by torch, float32 [items]."""
    place, items = PartialState().device, {field.name for field in encoder.schema.fields if field.side == "item"}
    model = model.to(place)
    candidates = Candidates(data.item_ids, None, encoder.rows(data.item_ids))

    def scores(user: User) -> npt.NDArray[np.float32]:
        feed, parts = encoder.encode(user, candidates)[0], []
        for start in range(0, len(candidates), train_crm.EVALUATION_BATCH):
            part = slice(start, start + train_crm.EVALUATION_BATCH)
            chosen = {name: values[part] if name in items else values for name, values in feed.items()}
            with torch.inference_mode():
                parts.append(model(train_crm.tensors(chosen, place)).cpu().numpy())
        return np.concatenate(parts)

    return scores


def weights(run: Run) -> dict[str, str]:
    """File → hash, of what every stage of a run has kept."""
    files = sorted(run.folder.glob("*/best*.safetensors"))
    return {str(path.relative_to(run.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def folder_of(root: Path, seed: int, variant: str) -> Path:
    """Where the study keeps a run."""
    return root / f"seed-{seed}" / variant.replace(" ", "-")
