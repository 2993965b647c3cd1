"""The form of a benchmark's result: what `benchmark.json` holds, and how it is read again. Nothing is measured here.

Fields that a reader does not know are passed over, so that an older reader reads a newer file of the same format.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from corella_edge.atomic import write_file
from corella_edge.errors import InputError
from corella_edge_runtime.bench.results.circumstances import (
    BundleFacts,
    Ceilings,
    Data,
    Figure,
    MachineFacts,
    Quiet,
    Settings,
    Software,
    Threads,
    Verified,
)
from corella_edge_runtime.bench.results.points import Point

FORMAT = 2
FILE = "benchmark.json"
_NUMBERS = re.compile(rb"\[[\s\d,]+\]")


class QualityPoint(msgspec.Struct, frozen=True, kw_only=True):
    """Quality of the labelled rows under one way of choosing.

    Attributes:
        line: `policy`, `random`, `oracle` (the rows whose log-loss asking lowers most), `crm`, `llm`, or a published
            router rule's name.
        share: of the rows, asked about.
        metrics: auc, logloss, ece, uauc (within users), ndcg@k, accuracy, by name; those that the rows cannot give are
            absent. `gains` are over the base model, paired.
    """

    line: str
    threshold: str | None
    ratio: float | None
    share: float
    metrics: dict[str, Figure]
    gains: dict[str, Figure] = msgspec.field(default_factory=dict)


class QualityLines(msgspec.Struct, frozen=True, kw_only=True):
    """Quality at the same thresholds; `why` says why there is none.

    Attributes:
        knee: the share after which more of the LLM brings less than its part; None if no share brings anything.
    """

    rows: int = 0
    users: int = 0
    points: tuple[QualityPoint, ...] = ()
    knee: float | None = None
    why: str = ""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A whole benchmark.

    Attributes:
        created: when it began, UTC, ISO 8601.
        measured: what the latencies count, a sentence.
        planned: points that the run was to have; more than `points` if it was interrupted.
        complete: whether everything planned was measured.
        void: why the figures must not be used; "" = they may.
    """

    format: int
    created: str
    measured: str
    bundle: BundleFacts
    data: Data
    machine: MachineFacts
    software: Software
    threads: Threads
    settings: Settings
    verified: Verified
    quiet: Quiet
    ceilings: Ceilings
    points: tuple[Point, ...] = ()
    quality: QualityLines = QualityLines()
    planned: int = 0
    complete: bool = True
    void: str = ""
    warnings: tuple[str, ...] = ()


def encode(result: Result) -> bytes:
    """A result as JSON: a line for each field, and for each array of numbers."""
    lines = msgspec.json.format(msgspec.json.encode(result), indent=1)
    return _NUMBERS.sub(lambda found: b"".join(found[0].split()), lines) + b"\n"


def decode(data: bytes, name: str) -> Result:
    """A result of JSON; `name` is what errors call its source. Raises InputError: no result of this format."""
    try:
        head = msgspec.json.decode(data, type=_FormatHead)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: not a {FILE} of `corella-edge benchmark --out`: {error}") from None
    if head.format != FORMAT:
        raise InputError(f"{name}: has format {head.format}, and this version reads format {FORMAT}; measure again")
    try:
        return msgspec.json.decode(data, type=Result)
    except (msgspec.ValidationError, ValueError) as error:
        raise InputError(f"{name}: damaged: {error}; measure again") from None


class _FormatHead(msgspec.Struct):
    """What every format has."""

    format: int


def read(path: Path) -> Result:
    """A file, or `benchmark.json` of a folder. Raises InputError: it cannot be read, or is something else."""
    file = path / FILE if path.is_dir() else path
    try:
        data = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {error.strerror}") from None
    return decode(data, str(file))


def write(result: Result, folder: Path) -> None:
    """`benchmark.json` into a folder that exists, whole or not at all."""
    write_file(folder / FILE, encode(result))
