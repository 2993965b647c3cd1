"""`corella-edge catalog update`: one line for every mistake, and a bundle that verifies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from corella_edge.bundle.artefact import Bundle


@pytest.fixture
def items(tmp_path: Path) -> Path:
    lines = [{"item": "new-1", "title": "Film of the year", "genres": ["Drama"]}, {"item": "i3", "title": "Film 3a"},
             {"item": "i4", "title": "Film 4"}]  # fmt: skip
    path = tmp_path / "items.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_replacement_is_written_verified_and_explained(
    corella: Any, bundle: Path, items: Path, tmp_path: Path
) -> None:
    old = len(Bundle.open(bundle).schema()[1])
    done = corella("catalog", "replace", bundle, items, "--out", tmp_path / "new")
    assert done.code == 0, done.err
    label, rows, path = done.out.splitlines()
    new = Bundle.open(tmp_path / "new")
    assert label == f"{new.label}: 1 added, 2 changed, {old - 2} removed"
    assert rows.startswith("0 reference rows kept, ")
    assert path == str(tmp_path / "new")
    assert "reference rows of the new items: what this machine computes, not the training" in done.err
    assert "1 of the 3 items are ids that the base model has never seen: it goes by" in " ".join(done.err.split())
    assert list(new.schema()[1].ids) == ["new-1", "i3", "i4"]
    done = corella("verify", tmp_path / "new", "--llm-threads", 1)
    assert done.code == 0, done
    assert done.out.endswith(": verified\n")


def test_thresholds_of_another_catalogue_are_told(
    corella: Any, bundle: Path, items: Path, requests: Path, tmp_path: Path
) -> None:
    """By `inspect` and by whoever opens the bundle with its LLM, also after a second replacement and an update."""
    known, first = Bundle.open(bundle), tmp_path / "first"
    assert corella("catalog", "replace", bundle, items, "--out", first).code == 0
    other = tmp_path / "other.jsonl"
    other.write_text('{"item": "i5", "title": "Film 5"}\n')
    assert corella("catalog", "replace", first, other, "--out", tmp_path / "second").code == 0
    assert (
        corella("catalog", "update", tmp_path / "second", items, "--out", tmp_path / "third", "--no-verify").code == 0
    )
    for folder, told in ((bundle, False), (first, True), (tmp_path / "second", True), (tmp_path / "third", True)):
        found = Bundle.open(folder)
        assert found.calibrated_on() == (known.label if told else "")
        assert found.calibration().thresholds.tolist() == known.calibration().thresholds.tolist()
        page = corella("inspect", folder)
        assert page.code == 0
        assert (f"calibrated on the catalogue of {known.label}, which was replaced" in page.out) == told
        done = corella("score", folder, requests, "--out", tmp_path / "scores.jsonl", "--llm-threads", 1, "--force")
        assert done.code == 0, done.err
        assert (f"calibrated on the catalogue of {known.label}, which was replaced" in done.err) == told
    quiet = corella("score", first, requests, "--out", tmp_path / "alone.jsonl", "--no-llm")
    assert "calibrated" not in quiet.err  # nobody is asked, so no threshold matters


def test_an_update_is_written_verified_and_explained(corella: Any, bundle: Path, items: Path, tmp_path: Path) -> None:
    done = corella("catalog", "update", bundle, items, "--out", tmp_path / "new")
    assert done.code == 0, done.err
    label, rows, path = done.out.splitlines()
    assert label == f"{Bundle.open(tmp_path / 'new').label}: 1 added, 1 changed, 1 as before"
    assert re.match(r"[\d,]+ reference rows kept, ", rows)
    assert "dropped" in rows
    assert path == str(tmp_path / "new")
    assert done.err.splitlines() == [
        "corella-edge: note: 1 item with another title: what the CRM has learned of their ids stays; "
        "another thing needs another id (i3)"
    ]
    done = corella("verify", tmp_path / "new", "--llm-threads", 1)
    assert done.code == 0, done
    assert done.out.endswith(": verified\n")


def test_a_bundle_whose_scores_are_not_the_trained_ones_is_not_written(
    corella: Any, bundle: Path, items: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from corella_edge_runtime import reference

    monkeypatch.setattr(reference, "tolerance", lambda _: reference.Tolerance(-1.0, 1.0))
    done = corella("catalog", "update", bundle, items, "--out", tmp_path / "new")
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert "differs from the trained models" in done.err
    assert not (tmp_path / "new").exists()
    assert corella("catalog", "update", bundle, items, "--out", tmp_path / "new", "--no-verify").code == 0


def test_mistakes_are_one_line(corella: Any, bundle: Path, items: Path, tmp_path: Path) -> None:
    items.write_text('{"item": "new", "genre": "Drama"}\n')
    for args, code, part in (
        ((bundle, items), 2, f"{items} line 1: unknown attribute 'genre'; did you mean 'genres'?"),
        ((bundle, tmp_path / "none"), 2, "none: no such file"),
        ((tmp_path, items), 3, "not a bundle"),
    ):
        done = corella("catalog", "update", *args, "--out", tmp_path / "new")
        assert (done.code, done.out, done.err.count("\n")) == (code, "", 1)
        assert part in done.err
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "thesis").write_text("precious")
    assert "not empty" in corella("catalog", "update", bundle, items, "--out", tmp_path / "new").err
