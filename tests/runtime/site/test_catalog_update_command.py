"""What an updated catalogue does to scores: new items count as inline ones, unchanged ones keep every bit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles import ITEMS, make_bundle
from corella_edge.bundle.artefact import Bundle, sha256
from corella_edge.errors import BundleError, InputError
from corella_edge.request import Candidate, Event, Request, User
from corella_edge.request_message import parse_request
from corella_edge_runtime import reference
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.site import layout as sites
from corella_edge_runtime.site.catalog_change import change
from corella_edge_runtime.site.catalog_update import Update

GOLDEN = Path(__file__).parents[2] / "golden" / "bundle-v1"
TINY_LINES = [
    {"item": "new-1", "title": "Film of the year", "genres": ["Drama", "Action"]},
    {"item": "new-2", "title": "Untold", "genres": ["never heard of"]},
    {"item": "new-3", "genres": []},
    {"item": "i3", "title": "Another film"},
    {"item": "i4", "genres": ["Comedy"]},
]
GOLDEN_LINES = [
    {"item": "new-1", "title": "The Silent Galaxy", "genres": ["Adventure"], "minutes": 99},
    {"item": "new-2", "title": "Nothing known"},
    {"item": "i01", "title": "The Mended Robot Circuit", "minutes": None},
]


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


class Pair:
    """A bundle and its update, both open."""

    def __init__(self, folder: Path, parent: Path, lines: list[dict[str, Any]]) -> None:
        self.parent, self.child, self.lines = parent, folder / "new", lines
        self.report = change(Update, parent, write(folder / "items.jsonl", lines), self.child)
        self.old = Engine.open(parent, llm_threads=1, require_llm=True, deterministic=True)
        self.new = Engine.open(self.child, llm_threads=1, require_llm=True, deterministic=True)

    @property
    def ids(self) -> set[str]:
        return {line["item"] for line in self.lines}

    def users(self) -> list[User]:
        """Those of the sample, and one that has liked a new item."""
        lines = (self.parent / "sample.jsonl").read_text().splitlines()
        return [parse_request(json.loads(line)["request"]).user for line in lines[:: max(1, len(lines) // 8)]]

    def close(self) -> None:
        self.old.close()
        self.new.close()


@pytest.fixture(scope="module", params=["tiny", "golden"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("update")
    if request.param == "tiny":
        made = Pair(folder, make_bundle(folder / "old"), TINY_LINES)
    else:
        made = Pair(folder, Path(shutil.copytree(GOLDEN, folder / "old")), GOLDEN_LINES)
    yield made
    made.close()


def columns(engine: Engine, user: User, candidates: list[Candidate]) -> tuple[Any, ...]:
    scores = engine.rank(Request(user, tuple(candidates), threshold="ratio:1"))
    return scores.crm.tolist(), np.nan_to_num(scores.llm, nan=-1).tolist(), scores.reason, scores.unknown


def without(user: User, ids: set[str]) -> User:
    return User(user.id, user.features, tuple(event for event in user.history if event.item not in ids))


def test_new_and_changed_items_score_exactly_as_inline_candidates_of_the_old_bundle(pair: Pair) -> None:
    inline = [Candidate(line["item"], {k: v for k, v in line.items() if k != "item"}) for line in pair.lines]
    for user in pair.users():
        user = without(user, pair.ids)
        assert columns(pair.new, user, [Candidate(c.item) for c in inline]) == columns(pair.old, user, inline)


def test_prompts_of_new_and_changed_items_have_the_ids_of_inline_ones(pair: Pair) -> None:
    assert pair.old.llm
    assert pair.new.llm
    for line in pair.lines:
        inline = Candidate(line["item"], {k: v for k, v in line.items() if k != "item"})
        assert pair.new.llm.prompts.suffix(Candidate(line["item"])) == pair.old.llm.prompts.suffix(inline)


def test_unchanged_items_keep_their_scores_bit_for_bit(pair: Pair) -> None:
    items = [Candidate(item) for item in pair.old.encoder.catalog.ids if item not in pair.ids]
    for user in pair.users():
        for candidates in (items, items[:1], items[3:9], [*items[:2], Candidate("nowhere")]):
            asked = without(user, pair.ids)
            assert columns(pair.new, asked, candidates) == columns(pair.old, asked, candidates)


def test_an_item_that_is_new_counts_in_a_history_too(pair: Pair) -> None:
    assert pair.new.llm
    bare, liked = User("u"), User("u", {}, (Event("new-1", 5.0),))
    assert len(pair.new.llm.prompts.prefix(liked)) > len(pair.new.llm.prompts.prefix(bare))


def test_without_candidates_the_new_items_are_ranked_as_well(pair: Pair) -> None:
    found = pair.new.rank(Request(User(), threshold="ratio:0")).items
    assert found == (*pair.old.encoder.catalog.ids, *(i for i in pair.new.encoder.catalog.ids if i.startswith("new")))
    assert sum(item.startswith("new") for item in found) == sum(line["item"].startswith("new") for line in pair.lines)


def test_the_new_bundle_verifies_and_the_old_one_is_as_it_was(pair: Pair) -> None:
    rows = reference.read(pair.new.bundle)
    found = reference.compare(pair.new)
    assert found.problems == []
    assert (len(rows), found.rows) == (pair.report.rows, pair.report.rows)
    assert pair.report.rows + pair.report.dropped == len(reference.read(pair.old.bundle))
    Bundle.open(pair.parent)


def test_models_and_vocabularies_are_the_old_files_and_the_manifest_says_where_they_come_from(pair: Pair) -> None:
    old, new = Bundle.open(pair.parent), Bundle.open(pair.child)
    same = [name for name in old.manifest.files if old.path(name).samefile(new.path(name))]
    assert set(same) == old.manifest.files.keys() - {"catalog.jsonl", "reference.jsonl"}
    about = new.manifest.about["catalog_update"]
    assert about["parent"]["manifest_sha256"] == sha256(pair.parent / "manifest.json")
    assert about["items_sha256"] == sha256(pair.child.parent / "items.jsonl")
    assert about["reference_rows_dropped"] == pair.report.dropped
    assert {key: new.manifest.about[key] for key in old.manifest.about} == old.manifest.about
    assert new.label == pair.report.label


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "old", llm=False)


def test_an_update_is_the_same_every_time_and_can_be_updated_again(tiny: Path, tmp_path: Path) -> None:
    items = write(tmp_path / "items.jsonl", TINY_LINES)
    change(Update, tiny, items, tmp_path / "a")
    change(Update, tiny, items, tmp_path / "b")
    assert (tmp_path / "a" / "manifest.sha256").read_bytes() == (tmp_path / "b" / "manifest.sha256").read_bytes()
    report = change(
        Update, tmp_path / "a", write(tmp_path / "more.jsonl", [{"item": "new-1", "title": "Renamed"}]), tmp_path / "c"
    )
    assert report.label.count("items") == 1
    catalog = Bundle.open(tmp_path / "c").schema()[1]
    assert catalog.of("new-1") == {"title": "Renamed", "genres": ["Drama", "Action"]}
    assert sites.version_id(tmp_path / "a") != sites.version_id(tmp_path / "c")


def test_what_changes_nothing_is_told(tiny: Path, tmp_path: Path) -> None:
    items = write(tmp_path / "items.jsonl", [{"item": "i3", "title": "Film 3"}])
    with pytest.raises(InputError, match="changes nothing"):
        change(Update, tiny, items, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_where_no_reference_row_would_be_left_nothing_is_written(tiny: Path, tmp_path: Path) -> None:
    items = write(tmp_path / "items.jsonl", [{"item": f"i{i}", "title": f"Neu {i}"} for i in range(ITEMS)])
    # Without an LLM nothing reads titles: all rows hold.
    assert change(Update, tiny, items, tmp_path / "fine").dropped == 0
    spoken = make_bundle(tmp_path / "spoken")
    with pytest.raises(InputError, match="nothing could be verified any more"):
        change(Update, spoken, items, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_damaged_parent_and_a_failed_check_leave_nothing(tiny: Path, tmp_path: Path) -> None:
    items = write(tmp_path / "items.jsonl", TINY_LINES)

    def refuse(folder: Path) -> None:
        assert Bundle.open(folder).manifest.name == "tiny"
        raise BundleError("other scores")

    with pytest.raises(BundleError, match="other scores"):
        change(Update, tiny, items, tmp_path / "new", check=refuse)
    (tiny / "crm.onnx").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"crm\.onnx"):
        change(Update, tiny, items, tmp_path / "new")
    assert {path.name for path in tmp_path.iterdir()} == {"old", "items.jsonl"}


def test_extras_must_be_asked_for_and_are_kept(tiny: Path, tmp_path: Path) -> None:
    items = write(tmp_path / "items.jsonl", [{"item": "i3", "poster": "three.png"}])
    with pytest.raises(InputError, match="unknown attribute 'poster'"):
        change(Update, tiny, items, tmp_path / "new")
    assert change(Update, tiny, items, tmp_path / "new", ["poster"]).changed == 1
    again = write(tmp_path / "again.jsonl", [{"item": "i4", "poster": "four.png"}])
    change(Update, tmp_path / "new", again, tmp_path / "newer")  # known by now
    assert Bundle.open(tmp_path / "newer").schema()[1].of("i3")["poster"] == "three.png"
