"""One partition after the other: rows checked, then scored in pieces that are kept, and the whole put in its place.

The pieces are what an interrupted run goes on from; where they end depends on the rows alone, so that an interrupted
partition ends in the same bytes as any other.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corella_edge import atomic
from corella_edge.bundle import artefact
from corella_edge.errors import InputError, told
from corella_edge.request import Request
from corella_edge_runtime.batch import Progress, Tally
from corella_edge_runtime.partitions import layout, parquet
from corella_edge_runtime.partitions.columns import AnswerColumns, in_columns, request_of
from corella_edge_runtime.partitions.layout import Label, Partition
from corella_edge_runtime.partitions.parquet import RequestTable

if TYPE_CHECKING:
    from corella_edge_runtime.engine import Engine

# A piece ends at whichever comes first.
PIECE_REQUESTS, PIECE_CANDIDATES = 1_000, 100_000
_LABEL, _PIECE, _UNFINISHED = "label.json", ".piece", "unfinished"


def same(bundle: Path, threshold: str, llm: bool, deterministic: bool) -> dict[str, Any]:
    """What the answers of all partitions are made of, by the words that errors use; `threshold`: a policy's key."""
    manifest = artefact.sha256(bundle / artefact.MANIFEST)
    return {"bundle": manifest, "threshold": threshold, "LLM": llm, "deterministic": deterministic}


def check_places(found: Sequence[Partition], wanted: Label, force: bool) -> None:
    """Refuse answers in the places of ours that other settings have given, before any work; `force` replaces them.

    Raises:
        InputError: names the first, and in what it differs.
    """
    for partition in found:
        if force or not partition.out.exists():
            continue
        if why := layout.difference(parquet.label(partition.out), wanted):
            raise InputError(f"--out {partition.out}: {why}; remove it, name another one, or pass --force")


def count(found: Sequence[Partition], features: Sequence[str], left: Callable[[list[str]], None]) -> int:
    """Requests of all partitions, whose columns are checked; `left` is told the columns that nothing reads.

    Raises:
        InputError: names the file and the column.
    """
    total, unread = 0, dict[str, None]()
    for partition in found:
        table = RequestTable(partition.source, features)
        total += table.rows
        unread |= dict.fromkeys(table.left)
        table.close()
    left([*unread])
    return total


def score_all(engine: Engine, found: Sequence[Partition], wanted: Label, tally: Tally, progress: Progress) -> None:
    """Score every partition that is not there yet; each appears complete or not at all.

    Raises:
        InputError: names file and row of a bad request; what was finished before stays.
    """
    for partition in found:
        score(engine, partition, partition.label(wanted), tally, progress)


def is_finished(partition: Partition, label: Label) -> bool:
    """Whether the answers are there, and are those of this bundle, these settings and this input."""
    return parquet.label(partition.out) == label


def score(
    engine: Engine, partition: Partition, label: Label, tally: Tally, progress: Progress, patience: float = 0.0
) -> None:
    """Score one partition, or go on with it, unless it is finished.

    Args:
        label: see `Partition.label`. patience: seconds to wait for another run of it that may be just ending.

    Raises:
        InputError: see `score_all`.
    """
    if is_finished(partition, label):
        tally.kept += parquet.count(partition.source)
        return
    table = RequestTable(partition.source, engine.user_features)
    try:
        with atomic.locked_folder(partition.work, patience):
            pieces = _begun(partition.work, label)
            if not pieces:
                _check(engine, table)
            start = _stop(pieces[-1]) if pieces else 0
            tally.kept += start
            pieces += _score_rest(engine, table, partition.work, start, tally, progress)
            _finish(partition, pieces, label)
    except OSError as error:
        raise InputError(f"--out {partition.out}: writing failed: {told(error)}") from error
    finally:
        table.close()


def _begun(work: Path, label: Label) -> list[Path]:
    """The pieces that an interrupted run with the same label has left, in order; none of another's stays."""
    place, text = work / _LABEL, json.dumps(dict(label), sort_keys=True).encode()
    if not place.exists() or place.read_bytes() != text:
        for path in work.iterdir():
            path.unlink()
        atomic.write_file(place, text)
    return sorted(work.glob(f"*{_PIECE}"))


def _stop(piece: Path) -> int:
    """The row behind the last one of a piece, as its name says."""
    return int(piece.name.removesuffix(_PIECE))


def _check(engine: Engine, table: RequestTable) -> None:
    """Every row of a partition, before the first is scored. Raises InputError, which names file and row."""
    for _ in _requests(table, check=engine.check if engine.refuses or table.asks else None):
        pass


def _requests(
    table: RequestTable, start: int = 0, check: Callable[[Request], None] | None = None
) -> Iterator[tuple[int, Request]]:
    for row, values in table.read(start):
        try:
            request = request_of(values, table.features)
            if check is not None:
                check(request)
        except InputError as error:
            raise InputError(f"{table.path} row {row} (from 0): {in_columns(str(error))}") from None
        yield row, request


def _score_rest(
    engine: Engine, table: RequestTable, work: Path, start: int, tally: Tally, progress: Progress
) -> Iterator[Path]:
    """Score from row `start` on; each piece as soon as it is in its place."""
    requests, begun, before = _requests(table, start), time.perf_counter(), tally.seconds
    while True:
        answers, row = AnswerColumns(), start
        for row, request in islice(requests, PIECE_REQUESTS):
            scores = engine.rank(request)
            answers.add(row, request, scores)
            tally.add(request, scores)
            tally.seconds = before + time.perf_counter() - begun
            progress(tally)
            if len(answers) >= PIECE_CANDIDATES:
                break
        if not len(answers):
            return
        piece = work / f"{row + 1:012d}{_PIECE}"
        parquet.write(answers, work / _UNFINISHED)
        atomic.publish_file(work / _UNFINISHED, piece)
        yield piece


def _finish(partition: Partition, pieces: Sequence[Path], label: Label) -> None:
    """All pieces as one file in its place; then they go."""
    whole = partition.work / _UNFINISHED
    parquet.join(pieces, whole, dict(label))
    atomic.publish_file(whole, partition.out)
    shutil.rmtree(partition.work)
