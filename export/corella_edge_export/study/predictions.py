"""Both models' scores of a split's rows, by torch, kept beside the run: what every table of the study starts from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from accelerate import PartialState

from corella_edge import atomic
from corella_edge_export.data.prepared import Split
from corella_edge_export.data.sampling import draw_users
from corella_edge_export.evaluation.scored import Floats, Mask, Pair, ScoredRows
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

    def pair(self, valid_rows: int = 0) -> Pair:
        """Validation rows (a seeded sample of whole users with about `valid_rows` rows, 0 = all) and all test rows."""
        valid = self.run.data.split("valid")
        users = draw_users(valid, valid_rows, self.run.recipe.llm.seed)
        return Pair(self._scored("valid", np.isin(valid.users, users)), self._scored("test", None))

    def _scored(self, name: str, mask: Mask | None) -> ScoredRows:
        split = self.run.data.split(name)
        rows = np.arange(len(split.users)) if mask is None else np.flatnonzero(mask)
        warm = self._seen(split) if self.run.data.history_events == "all" else self.run.data.warm(split)
        return ScoredRows(
            base=self._kept(name, "base", rows, lambda: self._crm(self.base, "crm", name)),
            crm=self._kept(name, "crm", rows, lambda: self._crm(self.run, None, name)),
            llm=self._kept(name, "llm", rows, lambda: self._llm(split, rows)),
            labels=split.labels[rows],
            users=split.users[rows].astype(np.int64),
            seen=warm[rows],
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


def weights(run: Run) -> dict[str, str]:
    """File → hash, of what every stage of a run has kept."""
    files = sorted(run.folder.glob("*/best*.safetensors"))
    return {str(path.relative_to(run.folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def folder_of(root: Path, seed: int, variant: str) -> Path:
    """Where the study keeps a run."""
    return root / f"seed-{seed}" / variant.replace(" ", "-")
