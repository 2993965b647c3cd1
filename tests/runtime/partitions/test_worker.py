"""A worker scores what it was told to score, and says in a sentence why it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import corella_edge
import request_tables as tables
from corella_edge.bundle.artefact import MANIFEST, sha256
from corella_edge.errors import CorellaError
from corella_edge_runtime.batch import Tally
from corella_edge_runtime.partitions import scoring
from corella_edge_runtime.partitions.layout import partitions
from corella_edge_runtime.partitions.worker import EngineWorker, raised

OPTIONS = {"llm": None, "require_llm": False, "threshold": "ratio:0.3", "deterministic": False}


def worker(bundle: Path, **changes: Any) -> EngineWorker:
    told = {"manifest": sha256(bundle / MANIFEST), "release": corella_edge.__version__, "cpus": 1, **changes}
    return EngineWorker(str(bundle), options=OPTIONS, **told)


def test_a_worker_gives_the_same_bytes_as_this_process(
    crm_bundle: Path, engine: Any, table: Path, tmp_path: Path
) -> None:
    own = worker(crm_bundle)
    said = raised(own.open())
    assert (said["llm"], said["features"]) == (False, [])
    wanted = scoring.same(crm_bundle, said["threshold"], said["llm"], deterministic=False)
    for part in partitions(table, tmp_path / "there"):
        found = own.score(part.name, str(part.source), str(part.out), part.label(wanted))
        assert Tally.from_json(raised(found)).requests == own.done() > 0
    scoring.score_all(engine, partitions(table, tmp_path / "here"), wanted, Tally(), lambda tally: None)
    for name in ("a.parquet", "day=2/b.parquet"):
        assert (tmp_path / "here" / name).read_bytes() == (tmp_path / "there" / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"manifest": "0" * 64}, 3, "is another bundle on "),
        ({"release": "0.0.1"}, 2, "and 0.0.1 here; install one release everywhere"),
    ],
)
def test_what_differs_on_its_machine_is_told(crm_bundle: Path, changes: dict, code: int, message: str) -> None:
    with pytest.raises(CorellaError) as told:
        raised(worker(crm_bundle, **changes).open())
    assert (told.value.exit_code, message in str(told.value)) == (code, True)


def test_a_bundle_that_is_not_there_is_told(crm_bundle: Path, tmp_path: Path) -> None:
    own = EngineWorker(str(tmp_path / "none"), "0" * 64, corella_edge.__version__, 1, OPTIONS)
    with pytest.raises(CorellaError, match="workers need the bundle on a path that all of them reach"):
        raised(own.open())


def test_another_input_and_a_bad_row_are_told(
    crm_bundle: Path, messages: list[dict], table: Path, tmp_path: Path
) -> None:
    own = worker(crm_bundle)
    said = raised(own.open())
    wanted = scoring.same(crm_bundle, said["threshold"], said["llm"], deterministic=False)
    part = partitions(table, tmp_path / "out")[0]
    label = part.label(wanted)
    tables.write(part.source, tables.table_of(messages[:2]))
    with pytest.raises(CorellaError, match=r"a\.parquet: holds something else on "):
        raised(own.score(part.name, str(part.source), str(part.out), label))
    tables.write(part.source, tables.table_of([{**messages[0], "candidates": []}]))
    found = own.score(part.name, str(part.source), str(part.out), part.label(wanted))
    assert (found["code"], " row 0 (from 0): candidates: the list is empty" in found["error"]) == (2, True)
    assert not part.out.exists()
