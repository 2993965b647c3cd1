"""Finished slices survive an interrupted run, and only those of the same measurement."""

from __future__ import annotations

from pathlib import Path

import pytest

from corella_edge.errors import InputError
from corella_edge_runtime.bench.results.circumstances import Noise
from corella_edge_runtime.bench.results.journal import FILE, Journal, key
from corella_edge_runtime.bench.results.points import Rates, Try
from corella_edge_runtime.bench.results.seen import Meanwhile, Seen, Slice, Spot, sliced

KEY = key({"budget": 1.0}, "bundle")


def one(repeat: int) -> Slice:
    seen = [Seen(0.0, 0.01, 5, 1, stages={"crm": 0.001}), Seen(0.1, None, degraded={"busy": 1})]
    rates = Rates(largest=5.0, first_failed=6.0, tries=(Try(rate=5.0, p99=1.0, held=True),))
    return sliced(Spot(scenario="server", threshold="ratio:0.5"), repeat, seen, Meanwhile(1.0, Noise()), 5.0, rates)


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    first = Journal(tmp_path, KEY)
    assert (first.slices, first.resumed, first.dropped) == ([], 0, False)
    for repeat in range(3):
        first.add(one(repeat))
    second = Journal(tmp_path, KEY)
    assert second.slices == [one(repeat) for repeat in range(3)]
    assert second.resumed == 3
    second.add(one(3))
    assert Journal(tmp_path, KEY).resumed == 4


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_a_line_that_was_cut_off_is_measured_again(tmp_path: Path, cut: int) -> None:
    first = Journal(tmp_path, KEY)
    for repeat in range(3):
        first.add(one(repeat))
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[:-cut])
    second = Journal(tmp_path, KEY)
    assert second.slices == [one(repeat) for repeat in range(3 if cut == 1 else 2)]
    second.add(one(7))
    assert Journal(tmp_path, KEY).slices[-1] == one(7)


def test_a_finished_run_and_another_measurement_are_not_gone_on_with(tmp_path: Path) -> None:
    done = Journal(tmp_path, KEY)
    done.add(one(0))
    other = Journal(tmp_path, key("other"))
    assert (other.resumed, other.dropped) == (0, True)
    other.add(one(0))
    other.end()
    again = Journal(tmp_path, key("other"))
    assert (again.resumed, again.dropped) == (0, False)
    (tmp_path / FILE).write_bytes(b"\xff\nnothing")
    assert Journal(tmp_path, KEY).resumed == 0


def test_without_a_folder_nothing_is_written() -> None:
    kept = Journal(None, KEY)
    kept.add(one(0))
    kept.end()
    assert kept.slices == [one(0)]


def test_a_folder_that_is_gone_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    kept = Journal(tmp_path / "out", KEY)
    (tmp_path / "out" / FILE).unlink()
    (tmp_path / "out").rmdir()
    with pytest.raises(InputError, match=r"slices\.jsonl: cannot be written"):
        kept.add(one(0))


def test_the_key_is_of_every_part() -> None:
    assert key({"a": 1, "b": 2}) == key({"b": 2, "a": 1})
    assert len({key({"a": 1}), key({"a": 2}), key({"a": 1}, 1)}) == 3
