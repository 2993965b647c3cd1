"""The logs of a run, read and checked: every stage's training and validation lines, and what was kept."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError
from corella_edge_export.training import metrics_log
from corella_edge_export.training import stage as training

Line = dict[str, Any]
# Sub-folder → title, in the order of training.
STAGES = {stage.name: stage.title for stage in training.STAGES}
MODELS = {"": "", "crm_": "CRM", "llm_": "LLM"}
METRICS = {"auc": "AUC", "logloss": "log-loss", "accuracy": "accuracy", "ece": "ECE", "perplexity": "perplexity"}
LOSSES = {"loss": "all", "crm_loss": "CRM", "llm_loss": "LLM", "align_loss": "alignment"}
NUMBERS = {"rate", "seconds", *LOSSES, *map("".join, product(MODELS, METRICS))}
# What decides which weights are kept, as far as a log without a summary tells.
MERITS = (("auc", 1.0), ("perplexity", -1.0), ("llm_auc", 1.0), ("crm_auc", 1.0))
# Counts up to here are exact as floats.
GREATEST = 2**53


@dataclass(frozen=True, slots=True)
class StageLog:
    """One stage's lines in the order they were written; `kept` is the evaluation whose weights were kept."""

    name: str
    train: tuple[Line, ...]
    valid: tuple[Line, ...]
    kept: Line | None
    finished: bool

    @property
    def title(self) -> str:
        return STAGES[self.name]

    @property
    def steps(self) -> int:
        return max((line["step"] for line in (*self.train, *self.valid)), default=0)

    @property
    def seconds(self) -> float:
        found = (number(line, "seconds") for line in (*self.train, *self.valid))
        return max((seconds for seconds in found if not math.isnan(seconds)), default=0.0)


@dataclass(frozen=True, slots=True)
class RunLog:
    """A run's settings and the stages that were begun."""

    recipe: dict[str, Any]
    data: str
    versions: dict[str, Any]
    stages: tuple[StageLog, ...]
    finished: bool

    @property
    def name(self) -> str:
        return str(self.recipe.get("name", "without a name"))


def read(folder: Path) -> RunLog:
    """The run in `folder`, finished or not.

    Raises:
        InputError: not a run, or a file of it is damaged; names the file, and the line of a log.
    """
    if not (folder / "run.json").is_file():
        raise InputError(f"{folder}: not a training run (run.json is missing)")
    about = _object(folder / "run.json")
    done = (folder / "summary.json").is_file()
    summary = _object(folder / "summary.json") if done else {}
    begun = [name for name in STAGES if (folder / name / metrics_log.NAME).is_file()]
    stages = tuple(
        _stage(folder, name, summary.get(name), finished=done or number != len(begun))
        for number, name in enumerate(begun, 1)
    )
    recipe, versions = (about.get(key) or {} for key in ("recipe", "versions"))
    if not isinstance(recipe, dict) or not isinstance(versions, dict):
        raise InputError(f"{folder / 'run.json'}: recipe and versions must be objects")
    return RunLog(recipe, str(about.get("data", "")), versions, stages, done)


def number(line: Line, key: str) -> float:
    """NaN for what is not there, null or infinite."""
    value = line.get(key)
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _stage(folder: Path, name: str, best: Any, finished: bool) -> StageLog:
    lines = list(_lines(folder / name / metrics_log.NAME))
    valid = tuple(line for line in lines if line["kind"] == "valid")
    train = tuple(line for line in lines if line["kind"] == "train")
    return StageLog(name, train, valid, _kept(valid, best), finished)


def _kept(valid: tuple[Line, ...], best: Any) -> Line | None:
    """The evaluation that the summary names, or else the first of the best."""
    step = best.get("step") if isinstance(best, dict) else None
    named = [line for line in valid if line["step"] == step]
    if named or not valid:
        return named[-1] if named else None
    for key, sign in MERITS:
        if any(line.get(key) is not None for line in valid):
            return max(valid, key=lambda line: _ordered(sign * number(line, key)))
    return valid[-1]


def _ordered(merit: float) -> float:
    return -math.inf if math.isnan(merit) else merit


def _lines(path: Path) -> Iterator[Line]:
    try:
        rows = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    for place, row in enumerate(rows if rows[-1] else rows[:-1], 1):
        try:
            yield _line(json.loads(row))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {place}: {error}") from None


def _line(line: Any) -> Line:
    """The line, if every key that the report uses holds what it should. Raises ValueError."""
    if not isinstance(line, dict) or line.get("kind") not in ("train", "valid"):
        raise ValueError('expected an object with "kind": "train" or "valid"')
    if type(line.get("step")) is not int or not 0 <= line["step"] < GREATEST:
        raise ValueError("step must be a count")
    if line["kind"] == "train" and line.get("loss") is None:
        raise ValueError("loss is missing")
    for key in NUMBERS & line.keys():
        if not _is_number(line[key]):
            raise ValueError(f"{key} must be a number")
    if not _is_numbers(line.get("distance") or []):
        raise ValueError("distance must be a list of numbers")
    for key in ("calibration", "crm_calibration", "llm_calibration"):
        bins = line.get(key) or []
        if not isinstance(bins, list) or not all(_is_numbers(row) and len(row) == 3 for row in bins):
            raise ValueError(f"{key} must be a list of [mean, rate, count]")
    return line


def _is_number(value: Any) -> bool:
    return value is None or type(value) is float or (type(value) is int and abs(value) < GREATEST)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_number, value))


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected an object")
    return value
