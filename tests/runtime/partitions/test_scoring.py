"""A partition's answers: those of JSON lines, in the same bytes however often it was interrupted, or none at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import request_tables as tables
from corella_edge import atomic
from corella_edge.errors import InputError
from corella_edge.request_message import parse_request
from corella_edge.scores import answer
from corella_edge_runtime.batch import Tally
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.partitions import parquet, scoring
from corella_edge_runtime.partitions.layout import partitions

SAME = {"bundle": "b", "threshold": "0.6", "LLM": False, "deterministic": False}


def quiet(tally: Tally) -> None:
    """Nothing is shown."""


def score(engine: Any, source: Path, out: Path, same: Any = SAME) -> Tally:
    tally = Tally()
    scoring.score_all(engine, partitions(source, out), same, tally, quiet)
    return tally


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a few requests."""
    monkeypatch.setattr(scoring, "PIECE_REQUESTS", 7)


def test_answers_are_those_of_json_lines(engine: Any, messages: list[dict], table: Path, tmp_path: Path) -> None:
    tally = score(engine, table, tmp_path / "out")
    assert (tally.requests, tally.candidates, tally.kept) == (240, 720, 0)
    for name, part in (("a.parquet", messages[:100]), ("day=2/b.parquet", messages[100:])):
        # Through JSON and back: what is equal is what a reader of either would get.
        found = [json.loads(json.dumps(answer(r, engine.rank(r), engine.name))) for r in map(parse_request, part)]
        assert tables.rows(tmp_path / "out" / name) == tables.flat(found, part)


def test_a_piece_ends_with_its_candidates(engine: Any, table: Path, tmp_path: Path, monkeypatch: Any) -> None:
    sizes, write = [], parquet.write
    monkeypatch.setattr(scoring, "PIECE_CANDIDATES", 20)
    monkeypatch.setattr(parquet, "write", lambda answers, path: (sizes.append(len(answers)), write(answers, path)))
    score(engine, table / "a.parquet", tmp_path / "out.parquet")
    assert sizes == [21] * 14 + [6]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("at", [0, 6, 7, 50, 99, 100, 239])
def test_an_interrupted_run_ends_in_the_same_bytes(
    engine: Any, table: Path, tmp_path: Path, monkeypatch: Any, at: int
) -> None:
    score(engine, table, tmp_path / "whole")
    rank, calls = Engine.rank, []

    def stop(own: Engine, request: Any) -> Any:
        calls.append(request.id)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        return rank(own, request)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "rank", stop)
        with pytest.raises(KeyboardInterrupt):
            score(engine, table, tmp_path / "out")
    assert (tmp_path / "out/a.parquet").exists() == (at >= 100)
    tally = score(engine, table, tmp_path / "out")
    kept = 7 * (at // 7) if at < 100 else 100 + 7 * ((at - 100) // 7)
    assert (tally.kept, tally.requests) == (kept, 240 - kept)
    for name in ("a.parquet", "day=2/b.parquet"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not [*(tmp_path / "out").rglob("*.partial")]


def test_finished_partitions_are_kept_and_changed_ones_scored_again(
    engine: Any, messages: list[dict], table: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    score(engine, table, out)
    before = (out / "a.parquet").stat().st_mtime_ns
    tables.write(table / "day=2/b.parquet", tables.table_of(messages[:50]))
    tables.write(table / "new.parquet", tables.table_of(messages[:5]))
    tally = score(engine, table, out)
    assert (tally.kept, tally.requests) == (100, 55)
    assert (out / "a.parquet").stat().st_mtime_ns == before
    assert len(tables.rows(out / "day=2/b.parquet")) == 150


def test_answers_of_other_settings_are_refused_before_any_work(engine: Any, table: Path, tmp_path: Path) -> None:
    score(engine, table, tmp_path / "out")
    found, other = partitions(table, tmp_path / "out"), {**SAME, "threshold": "0.5"}
    with pytest.raises(InputError, match=r"a\.parquet: was scored with another threshold; remove it"):
        scoring.check_places(found, other, force=False)
    scoring.check_places(found, other, force=True)
    scoring.check_places(found, SAME, force=False)
    assert score(engine, table, tmp_path / "out", other).requests == 240


@pytest.mark.usefixtures("small")
def test_a_bad_row_is_named_and_nothing_of_its_partition_is_scored(
    engine: Any, messages: list[dict], table: Path, tmp_path: Path
) -> None:
    rows = tables.table_of(messages[100:]).to_pylist()
    rows[99]["history_times"][-1] = 1_700_000_000_000
    import pyarrow as pa

    tables.write(table / "day=2/b.parquet", pa.Table.from_pylist(rows))
    place = len(rows[99]["history_times"]) - 1
    with pytest.raises(InputError) as told:
        score(engine, table, tmp_path / "out")
    assert str(told.value).startswith(
        f"{table / 'day=2/b.parquet'} row 99 (from 0): history_times[{place}]: 1700000000000 looks like milliseconds"
    )
    assert (tmp_path / "out/a.parquet").exists()
    assert not [*tmp_path.rglob("*.piece")]


def test_a_table_without_rows_has_answers_without_rows(engine: Any, tmp_path: Path) -> None:
    source = tables.write(tmp_path / "in.parquet", tables.table_of([]))
    assert score(engine, source, tmp_path / "out.parquet").requests == 0
    assert tables.rows(tmp_path / "out.parquet") == []


def test_two_runs_of_one_partition(engine: Any, table: Path, tmp_path: Path) -> None:
    (partition,) = partitions(table / "a.parquet", tmp_path / "out.parquet")
    with atomic.locked_folder(partition.work), pytest.raises(InputError, match="another run is writing it"):
        score(engine, table / "a.parquet", tmp_path / "out.parquet")


def test_columns_of_all_partitions_are_checked_and_counted(messages: list[dict], table: Path, tmp_path: Path) -> None:
    tables.write(table / "c.parquet", tables.table_of(messages[:3], label=[1, 0, 1]))
    found, told = partitions(table, tmp_path / "out"), list[str]()
    assert scoring.count(found, [], told.extend) == 243
    assert told == ["label"]
    tables.write(table / "d.parquet", tables.table_of(messages[:1]).rename_columns(["id", "x", *"abcd"]))
    with pytest.raises(InputError, match=r"d\.parquet: is no table of requests"):
        scoring.count(partitions(table, tmp_path / "out"), [], told.extend)
