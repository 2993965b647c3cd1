"""Which of llama.cpp's file types a bundle's LLM is written as: what each costs, and keeps on the rows it is for."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from corella_edge import metrics
from corella_edge.errors import ExportError, InputError
from corella_edge.prompt import PromptEncoder
from corella_edge.routing.measure import entropy
from corella_edge_export.bundling import verify
from corella_edge_export.llm.importance import Importance, importance

if TYPE_CHECKING:
    from corella_edge_export.bundling.write import Export

SHARE, FEWEST = 0.3, 200  # of the rows, the hardest; and no fewer than so many
MAX_DROP = 0.002  # of AUC, what a sweep allows where nothing else is said
NEAR = 1.05  # a type that takes no more of the fastest one's time is as fast
DRAWS = 500  # of the bootstrap, as at the calibration: an export waits for it
IMPORTANT_ROWS = 500  # training rows whose prompts tell what is important
UNQUANTISED = ("F32", "F16", "BF16")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tried:
    """A file type on the hard rows.

    Attributes:
        size: bytes of the file.
        milliseconds: of a row, prefixes kept as in serving.
        auc, logloss, ece: of its P(Yes).
        drop: f16's AUC less its own; `low`, `high`: its 95 % interval over users.
        moved, furthest: the mean and the greatest change of P(Yes) against f16.
    """

    kind: str
    size: int
    milliseconds: float
    auc: float
    logloss: float
    ece: float
    drop: float
    low: float
    high: float
    moved: float
    furthest: float

    def to_json(self, timed: bool) -> dict[str, Any]:
        """Without its time unless that decided something: else the same run makes the same bundle."""
        return {name: value for name, value in asdict(self).items() if timed or name != "milliseconds"}

    @property
    def lost(self) -> str:
        """The drop with its interval, for people."""
        return f"{self.drop:.4f} [{self.low:.4f}, {self.high:.4f}]"


def hard_rows(crm: Floats) -> npt.NDArray[np.bool_]:
    """Of rows with these probabilities of the base model, those that it is least sure of: which the LLM is for."""
    count = min(len(crm), max(FEWEST, round(SHARE * len(crm))))
    found = np.zeros(len(crm), np.bool_)
    found[np.argsort(-entropy(crm), kind="stable")[:count]] = True
    return found


def tried(
    kind: str, size: int, milliseconds: float, found: Floats, f16: Floats, labels: npt.NDArray[Any],
    users: npt.NDArray[Any],
) -> Tried:  # fmt: skip
    """`found`, `f16`: P(Yes) of the same hard rows, float64 [n], nan where there is no text; `labels`, `users`: [n]."""
    known = ~np.isnan(f16)
    draws = metrics.Bootstrap(users[known], DRAWS)
    theirs, mine = (metrics.sampled_auc(scores[known], labels[known], draws) for scores in (f16, found))
    drop = theirs.gain(mine)
    own = metrics.quality(found[known], labels[known])
    moved, ece = np.abs(found - f16)[known], metrics.ece(found[known], labels[known])
    return Tried(kind, size, milliseconds, own.auc, own.logloss, ece, drop.value, drop.low, drop.high,
                 float(moved.mean()), float(moved.max()))  # fmt: skip


def choose(rows: Sequence[Tried], max_drop: float) -> Tried:
    """The fastest type whose AUC on the hard rows is at most `max_drop` below f16's; of those as fast, the smallest.

    Raises:
        ExportError: none is.
    """
    good = [row for row in rows if row.drop <= max_drop]
    if not good:
        nearest = min(rows, key=lambda row: row.drop)
        raise ExportError(f"no file type keeps the AUC of hard rows within {max_drop:g} of f16's; the nearest, "
                          f"{nearest.kind}, loses {nearest.lost}")  # fmt: skip
    fastest = min(row.milliseconds for row in good)
    return min((row for row in good if row.milliseconds <= NEAR * fastest), key=lambda row: row.size)


def check(rows: Sequence[Tried], max_drop: float | None) -> None:
    """Raises ExportError for a type that loses more AUC on the hard rows than is allowed; None allows anything."""
    for row in rows:
        if max_drop is not None and not row.drop <= max_drop:
            raise ExportError(
                f"{row.kind} loses {row.lost} of AUC on hard rows against f16, --max-auc-drop allows {max_drop:g}; "
                "choose another type (--sweep compares all), or weigh by --imatrix"
            )


def check_types(types: Sequence[str]) -> None:
    """Raises InputError for a type that llama.cpp has not, one that is given twice, or none at all."""
    from corella_edge_runtime.llm.llama.binding import check_file_type

    for kind in types:
        check_file_type(kind)
    if not types:
        raise InputError("--llm-type: none is given")
    if len(set(types)) != len(types):
        raise InputError("--llm-type: a type is given twice")


def table(rows: Sequence[Tried]) -> Iterator[list[str]]:
    """Cells, a head first."""
    yield ["type", "MiB", "ms/row", "AUC", "drop [95 %]", "log-loss", "ECE", "P(Yes) moved", "at most"]
    for row in rows:
        auc, *rest = (f"{value:.4f}" for value in (row.auc, row.logloss, row.ece, row.moved, row.furthest))
        yield [row.kind, f"{row.size / 2**20:.1f}", f"{row.milliseconds:.2f}", auc, row.lost, *rest]


class FileTypeWriter:
    """Writes the LLM of one export as the wanted types, or as the one that a sweep chooses."""

    def __init__(self, job: Export, f16: Path, prompts: PromptEncoder, crm: Floats) -> None:
        """`crm`: the base model's probability of the job's requests."""
        self.job, self.f16, self.prompts = job, f16, prompts
        self.scores: Floats = np.full(len(crm), np.nan)  # by the f16 file, once it is asked
        self.hard = hard_rows(crm)
        self.weights: Importance | None = None
        self.rows: list[Tried] = []

    def weigh(self, model: Any) -> None:
        """Make the importance matrix of training prompts, which every type is then written by."""
        builder, data, recipe = self.job.run.builder(), self.job.run.data, self.job.run.recipe
        drawn = builder.drawn(data.split("train"), IMPORTANT_ROWS, 0, recipe.seed)
        self.job.say(f"LLM: importance matrix of {sum(len(s.tokens) for s in drawn):,} tokens of training prompts")
        self.weights = importance(model, (list(sequence.tokens) for sequence in drawn))

    def write(self) -> None:
        """llm.gguf and its variants, each judged by all rows. Raises ExportError for one that loses too much."""
        job = self.job
        if job.options.sweep:  # the file that the calibration asks is known after it
            self.scores = job.check_f16(self.f16, self.prompts)
            self._sweep()
        for file, kind in job.llm_files().items():
            with job.stages.of(f"LLM: {file} as {kind}"):
                self._make(job.folder / file, kind)
            # Rows that fit no block of the type stay f16: a file hardly smaller than f16 is one of those.
            size = (job.folder / file).stat().st_size
            job.say(f"LLM: {file} is {size / self.f16.stat().st_size:.0%} of f16's size")
        job.calibrating.start(self.f16)
        if not job.options.sweep:
            self.scores = job.check_f16(self.f16, self.prompts)
        for file, kind in job.llm_files().items():
            with job.stages.of(f"LLM: {len(job.requests)} test rows by {file}"):
                found, row = self._judge(job.folder / file, kind, job.requests)
            job.differences[f"llm_{kind}"] = verify.check_llm(kind, found, job.llm_reference, tolerance=1.0)
            job.judge(kind, found)
            self.rows = [*(other for other in self.rows if other.kind != kind), row]
            check([row], job.options.max_drop)
        job.types = self.rows

    def _sweep(self) -> None:
        job, asked = self.job, [request for request, hard in zip(self.job.requests, self.hard, strict=True) if hard]
        for kind in job.options.llm_types:
            path = job.work / f"{kind}.gguf"
            try:
                self._make(path, kind)
            except ExportError as error:
                job.say(f"LLM: {error}")
                continue
            self.rows.append(self._judge(path, kind, asked)[1])
            path.unlink()
            job.say(f"LLM: {kind} tried, {self.rows[-1].milliseconds:.2f} ms a row")
        if not self.rows:
            raise ExportError("none of the file types can be written")
        most = MAX_DROP if job.options.max_drop is None else job.options.max_drop
        chosen = choose(self.rows, most)
        job.say(f"LLM: {chosen.kind} is chosen, the fastest of those that lose at most {most:g} of AUC on hard rows")
        job.options = replace(job.options, llm_types=(chosen.kind,))

    def _make(self, path: Path, kind: str) -> None:
        from corella_edge_runtime.llm.llama.binding import quantize

        if kind == "F16":
            shutil.copyfile(self.f16, path)
        else:
            quantize(self.f16, path, kind, importance=None if kind in UNQUANTISED else self.weights)

    def _judge(self, path: Path, kind: str, requests: Sequence[Any]) -> tuple[Floats, Tried]:
        """(P(Yes) of the requests, what the hard ones of them say)."""
        started = time.monotonic()
        threads, adapter = self.job.calibrating.threads, self.job.adapter
        found = verify.gguf_scores(path, self.prompts, requests, threads, adapter=adapter)
        milliseconds = 1000.0 * (time.monotonic() - started) / max(1, len(requests))
        hard = found if len(requests) == self.hard.sum() != len(self.hard) else found[self.hard]
        rows, size = self.job.sample, path.stat().st_size
        labels, users = rows.labels[self.hard], rows.users[self.hard]
        return found, tried(kind, size, milliseconds, hard, self.scores[self.hard], labels, users)
