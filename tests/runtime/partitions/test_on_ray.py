"""Who gives partitions to workers: the dead are replaced, nothing is lost or done twice, errors end the run.

With a stand-in for Ray; tests/integration/test_score_on_ray.py has a real one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import request_tables as tables
from corella_edge.errors import ComputeError, CorellaError, InputError
from corella_edge_runtime.batch import Tally
from corella_edge_runtime.partitions import on_ray, scoring
from corella_edge_runtime.partitions.layout import partitions
from corella_edge_runtime.partitions.on_ray import PartitionJob, Tell, room
from fake_ray import FakeRay

OPTIONS = {"llm": None, "require_llm": False, "threshold": "ratio:0.3", "deterministic": False}


class Said:
    """What the driver told."""

    def __init__(self) -> None:
        self.warnings, self.left, self.shown = list[str](), list[str](), list[tuple[int, int]]()
        self.tell = Tell(
            lambda t: self.shown.append((t.kept + t.requests, t.total)), self.warnings.append, self.left.extend
        )


@pytest.fixture
def run(crm_bundle: Path, table: Path, messages: list[dict], tmp_path: Path) -> Callable[..., tuple[Tally, Said]]:
    """run(fake ray, workers): what scoring three partitions into `out` gives."""
    tables.write(table / "c.parquet", tables.table_of(messages[:20], label=[1] * 20))

    def start(ray: FakeRay, workers: int = 2, force: bool = False) -> tuple[Tally, Said]:
        said, job = Said(), PartitionJob(crm_bundle, 1, OPTIONS, force)
        return on_ray._Driver(ray, partitions(table, tmp_path / "out"), job, said.tell).run(workers), said

    return start


@pytest.fixture
def here(crm_bundle: Path, engine: Any, table: Path, tmp_path: Path) -> Callable[[], dict[str, bytes]]:
    """The files that this process makes of the table."""

    def made() -> dict[str, bytes]:
        wanted = scoring.same(crm_bundle, engine.policy.key, llm=False, deterministic=False)
        scoring.score_all(engine, partitions(table, tmp_path / "here"), wanted, Tally(), lambda tally: None)
        return files(tmp_path / "here")

    return made


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("workers", [1, 2, 9])
def test_answers_are_those_of_this_process(run: Any, here: Any, tmp_path: Path, workers: int) -> None:
    ray = FakeRay()
    tally, said = run(ray, workers)
    assert (tally.total, tally.requests, tally.candidates, tally.kept) == (260, 260, 780, 0)
    assert files(tmp_path / "out") == here()
    assert len(ray.actors) == len(ray.killed) == min(workers, 3)
    assert (ray.wanted["num_cpus"], ray.wanted["max_restarts"], said.left) == (1, 0, ["label"])
    assert said.shown[-1] == (260, 260)
    assert all(done <= of for done, of in said.shown)


def test_a_worker_that_dies_is_replaced_and_its_partition_repeated(run: Any, here: Any, tmp_path: Path) -> None:
    died = []

    def dies(number: int, name: str, args: Any) -> bool:
        if name == "score" and args[0] != "c.parquet" and args[0] not in died:
            died.append(args[0])
            return True
        return False

    ray = FakeRay(dies)
    tally, said = run(ray)
    assert (sorted(died), tally.requests, len(ray.actors)) == (["a.parquet", "day=2/b.parquet"], 260, 4)
    assert [warning for warning in said.warnings if "died" in warning] == [
        f"a worker has died; {name} goes on with another one" for name in died
    ]
    assert files(tmp_path / "out") == here()


def test_a_partition_that_always_ends_its_worker_ends_the_run(run: Any, tmp_path: Path) -> None:
    ray = FakeRay(lambda number, name, args: name == "score" and args[0] == "a.parquet")
    with pytest.raises(ComputeError, match=r"a\.parquet: the worker that scores it has died 3 times: .* killed"):
        run(ray, 1)


def test_workers_that_never_open_the_bundle_end_the_run(run: Any) -> None:
    with pytest.raises(ComputeError, match="a worker that opens the bundle has died 3 times"):
        run(FakeRay(lambda number, name, args: name == "open"))


def test_finished_partitions_are_given_to_nobody(run: Any, here: Any, table: Path, tmp_path: Path) -> None:
    run(FakeRay())
    asked = []
    tally, _ = run(FakeRay(lambda number, name, args: bool(asked.append(name))))
    assert (tally.kept, tally.requests) == (260, 0)
    assert "score" not in asked


def test_the_error_of_a_worker_ends_the_run_in_its_words(run: Any, table: Path, messages: list[dict]) -> None:
    tables.write(table / "a.parquet", tables.table_of([{**messages[0], "candidates": []}]))
    with pytest.raises(CorellaError, match=r"a\.parquet row 0 \(from 0\): candidates: the list is empty") as told:
        run(FakeRay())
    assert told.value.exit_code == 2


def test_answers_that_do_not_come_here_are_missed(run: Any, tmp_path: Path) -> None:
    class Elsewhere(FakeRay):
        def get(self, call: Any) -> Any:
            if call.name == "score":
                call.args = (*call.args[:2], str(tmp_path / "elsewhere" / call.args[0]), call.args[3])
            return super().get(call)

    with pytest.raises(InputError, match="workers need one --out, on a path that all of them reach"):
        run(Elsewhere())


def test_workers_with_and_without_an_llm_do_not_mix(run: Any) -> None:
    class Mixed(FakeRay):
        def get(self, call: Any) -> Any:
            found = super().get(call)
            return {**found, "llm": call.actor.number == 1} if call.name == "open" else found

    with pytest.raises(InputError, match="has an LLM, and others have none; install the same everywhere"):
        run(Mixed())


def test_as_many_workers_as_cpus_suffice_for() -> None:
    nodes = [{"Alive": alive, "Resources": {"CPU": cpus}} for alive, cpus in ((True, 5.0), (True, 2.0), (False, 8.0))]
    assert [room(nodes, cpus) for cpus in (1, 2, 3, 5)] == [7, 3, 1, 1]
    with pytest.raises(InputError, match="--worker-cpus 6: no node of the cluster has so many; the largest has 5"):
        room([*nodes, {"Alive": True, "Resources": {}}], 6)
