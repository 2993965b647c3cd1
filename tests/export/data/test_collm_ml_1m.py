"""The reader of CoLLM's split: small files made here, each kind of bad one, and the published files where they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from corella_edge.errors import InputError
from corella_edge_export.data.prepare import prepare, write_prepared
from corella_edge_export.data.prepared import SPLITS, PreparedData
from corella_edge_export.data.registry import read
from corella_edge_export.evaluation.baseline import smoothed_rates

TITLES = {1: "Toy Story (1995)", 2: "Matrix, The (1999)", 3: "Misérables, Les (1995)", 10: "Avventura, L' (1960)"}
# uid, iid, label, timestamp, his; the user 2 is met in valid and test, the user 7 in test alone.
ROWS: dict[str, list[tuple[int, int, int, int, list[int]]]] = {
    "train": [
        (1, 1, 1, 100, [0]),
        (1, 2, 0, 100, [0, 1]),
        (1, 3, 1, 300, [0, 1]),
        (2, 2, 1, 50, [0]),
    ],
    "valid": [(2, 1, 0, 400, [0, 2]), (2, 3, 1, 400, [0, 2])],
    "test": [(2, 10, 0, 500, [0, 2, 3]), (7, 10, 1, 450, [0]), (7, 1, 1, 450, [0, 10])],
}
Change = Callable[[pl.DataFrame], pl.DataFrame]


def frame_of(name: str) -> pl.DataFrame:
    schema = {"uid": pl.Int64, "iid": pl.Int64, "label": pl.Int64, "timestamp": pl.Int64, "his": pl.List(pl.Int64)}
    frame = pl.DataFrame(ROWS[name], schema=schema, orient="row")
    return frame.with_columns(title=pl.col("iid").replace_strict(TITLES), not_cold=pl.lit(0))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for name in SPLITS:
        frame_of(name).write_parquet(folder / f"{name}.parquet")
    return folder


@pytest.fixture
def made(source: Path, tmp_path: Path) -> PreparedData:
    write_prepared(read("collm-ml-1m", source, {}), tmp_path / "out", requests=3)
    return PreparedData.open(tmp_path / "out")


def histories(data: PreparedData, name: str) -> dict[tuple[int, int], tuple[int, list[int]]]:
    """(uid, iid) → label and the history behind the row's pointer, as the publisher's ids."""
    split, log = data.split(name), data.log
    users, items = [[int(one) for one in ids] for ids in (data.user_ids, data.item_ids)]
    answer = {}
    for row, user in enumerate(split.users.tolist()):
        first = int(log.offsets[user])
        past = log.items[first : first + int(split.positions[row])]
        assert first + split.positions[row] <= log.offsets[user + 1]
        answer[users[user], items[split.items[row]]] = int(split.labels[row]), [items[item] for item in past]
    return answer


@pytest.mark.parametrize("name", SPLITS)
def test_splits_are_kept_and_pointers_give_the_published_histories(made: PreparedData, name: str) -> None:
    assert histories(made, name) == {(uid, iid): (label, his[1:]) for uid, iid, label, _, his in ROWS[name]}
    split = made.split(name)
    assert np.all(np.diff(split.times) >= 0)
    assert np.isnan(split.ratings).all()


def test_the_log_holds_liked_items_only_and_says_so(made: PreparedData) -> None:
    assert made.history_events == "liked"
    assert made.info["history"]["events"] == "liked"
    assert made.info["split"]["rule"].startswith("as published")
    assert made.log.labels.tolist() == [1] * len(made.log.items)
    assert made.info["counts"]["interactions"] == 6
    assert made.info["counts"]["dropped"] == 0
    assert not made.info["redistributable"]
    assert set(made.info["sources"]) == {f"{name}.parquet" for name in SPLITS}


def test_titles_and_years(made: PreparedData) -> None:
    assert made.items["title"] == ["Toy Story", "L'Avventura", "The Matrix", "Les Misérables"]
    assert made.items["year"] == ["1995", "1960", "1999", "1995"]
    assert made.items["decade"] == ["1990s", "1960s", "1990s", "1990s"]
    assert made.user_attributes == {}
    assert made.item_attributes == {"year": "categorical", "decade": "categorical"}


def test_warm_rows_have_a_user_and_an_item_of_train(made: PreparedData) -> None:
    assert made.warm(made.split("train")).all()
    assert made.warm(made.split("valid")).tolist() == [True, True]
    assert made.warm(made.split("test")).tolist() == [False, False, False]


def test_requests_ask_for_the_row_itself(made: PreparedData) -> None:
    """A disliked item is in no log, so it cannot be found at the row's position."""
    lines = (made.root / "requests.jsonl").read_text().splitlines()
    requests = {request["id"]: request for request in pl.Series(lines).str.json_decode().to_list()}
    split = made.split("test")
    for row in range(3):
        request = requests[f"test-{row}"]
        assert request["user"]["id"] == made.user_ids[split.users[row]]
        assert request["candidates"][0]["item"] == made.item_ids[split.items[row]]
        assert len(request["user"].get("history") or []) == split.positions[row]


def test_genres_only_where_the_official_file_lies_beside(source: Path) -> None:
    assert "genres" not in read("collm-ml-1m", source, {}).items.columns
    movies = "9::Matrix, The (1999)::Action|Sci-Fi\n8::Toy Story (1995)::Animation\n7::Other (1990)::War\n"
    (source / "movies.dat").write_bytes(movies.encode("latin-1"))
    raw = read("collm-ml-1m", source, {})
    assert raw.item_attributes == {"genres": "multi", "year": "categorical", "decade": "categorical"}
    genres = dict(raw.items.select("item_id", "genres").iter_rows())
    assert genres == {"1": ["Animation"], "2": ["Action", "Sci-Fi"], "3": None, "10": None}
    assert any("extra data: the genres" in note for note in raw.notes)
    assert "movies.dat" in raw.sources


ABSTRACTS = [
    ("The Matrix", 1999, ["Sci-Fi", "Action"], "A hacker learns."),
    ("L'Avventura", 1960, None, "A woman disappears."),
    ("Toy Story", 1985, ["Other"], "Of another year."),
]


def write_abstracts(folder: Path) -> None:
    schema = {"title": pl.String, "year": pl.Int64, "genres": pl.List(pl.String), "abstract": pl.String}
    pl.DataFrame(ABSTRACTS, schema=schema, orient="row").write_parquet(folder / "abstracts.parquet")


def test_abstracts_only_where_their_file_lies_beside(source: Path) -> None:
    write_abstracts(source)
    raw = read("collm-ml-1m", source, {})
    kinds = {"genres": "multi", "year": "categorical", "decade": "categorical", "abstract": "categorical"}
    assert raw.item_attributes == kinds
    told = {item: (genres, text) for item, genres, text in raw.items.select("item_id", "genres", "abstract").rows()}
    matrix, avventura = (["Sci-Fi", "Action"], "A hacker learns."), (None, "A woman disappears.")
    assert told == {"1": (None, None), "2": matrix, "3": (None, None), "10": avventura}
    assert any("abstracts.parquet" in note for note in raw.notes)
    assert "abstracts.parquet" in raw.sources


def test_official_genres_win_over_those_of_the_abstracts(source: Path, tmp_path: Path) -> None:
    write_abstracts(source)
    (source / "movies.dat").write_bytes(b"9::Matrix, The (1999)::Action\n")
    raw = read("collm-ml-1m", source, {})
    told = {item: (genres, text) for item, genres, text in raw.items.select("item_id", "genres", "abstract").rows()}
    assert told["2"] == (["Action"], "A hacker learns.")
    assert told["10"] == (None, "A woman disappears.")
    write_prepared(raw, tmp_path / "both", requests=1)
    assert PreparedData.open(tmp_path / "both").items["abstract"][1] == "A woman disappears."


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop("abstract"), "abstracts.parquet: the column abstract is missing"),
        (lambda f: f.with_columns(genres=pl.lit("War")), "the column genres holds String, not lists of texts"),
        (lambda f: f.with_columns(title=None).cast({"title": pl.String}), "abstracts.parquet row 1: title is missing"),
        (lambda f: f[:0], "abstracts.parquet: the file has no rows"),
    ],
)
def test_bad_abstracts_are_one_error(source: Path, change: Change, message: str) -> None:
    write_abstracts(source)
    path = source / "abstracts.parquet"
    change(pl.read_parquet(path)).write_parquet(path)
    with pytest.raises(InputError) as error:
        read("collm-ml-1m", source, {})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_part_of_the_split_is_noted(made: PreparedData) -> None:
    (note,) = made.info["notes"]
    assert "4 / 2 / 3 rows, not 33,891 / 10,401 / 7,331" in note


def put(row: int, **values: Any) -> Change:
    def change(frame: pl.DataFrame) -> pl.DataFrame:
        rows = frame.to_dicts()
        rows[row].update(values)
        return pl.DataFrame(rows, schema=frame.schema)

    return change


BAD: list[tuple[str, Change, str]] = [
    ("train", lambda f: f.drop("his"), "train.parquet: the column his is missing; it has uid, iid, label"),
    ("valid", lambda f: f.cast({"uid": pl.Float64}), "valid.parquet: the column uid holds Float64, not integers"),
    ("test", lambda f: f.with_columns(his=pl.lit("0")), "the column his holds String, not lists of integers"),
    ("test", lambda f: f.with_columns(title=pl.col("iid")), "the column title holds Int64, not text"),
    ("valid", lambda f: f[:0], "valid.parquet: the file has no rows"),
    ("valid", put(1, label=2), "valid.parquet row 2: label 2 is neither 0 nor 1"),
    ("train", put(2, label=None), "train.parquet row 3: label is missing"),
    ("train", put(0, timestamp=-1), "train.parquet row 1: timestamp -1 is no Unix time"),
    ("train", put(0, title="Toy Story"), "row 1: title 'Toy Story' is not a title that ends in its year"),
    ("train", put(0, title="Story (1995)"), "train.parquet row 1: item 1 has two titles"),
    ("train", put(0, his=[]), "train.parquet row 1: his does not begin with one 0"),
    ("train", put(1, his=[1]), "train.parquet row 2: his does not begin with one 0"),
    ("test", put(0, his=[0, 2, 4]), "test.parquet row 1: his holds the item 4, which is in no row"),
    ("test", put(0, his=[0, 2, None]), "test.parquet row 1: his holds the item None"),
    ("test", put(0, his=[0, 3, 2]), "test.parquet row 1: his is not the 2 items that user 2 liked before"),
    ("test", put(0, his=[0, 2]), "test.parquet row 1: his is not the 2 items that user 2 liked before"),
    ("train", put(0, label=0), "train.parquet row 2: his is not the 0 items that user 1 liked before"),
    ("valid", put(1, iid=1, title=TITLES[1]), "valid.parquet row 2: user 2 meets item 1 a second time"),
    ("valid", put(0, timestamp=49), "valid.parquet row 1: timestamp 49 is earlier than the row before of user 2"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_input_is_one_error_with_file_and_row(source: Path, name: str, change: Change, message: str) -> None:
    change(frame_of(name)).write_parquet(source / f"{name}.parquet")
    with pytest.raises(InputError) as error:
        read("collm-ml-1m", source, {})
    assert message in str(error.value)
    assert str(error.value).startswith(str(source))
    assert "\n" not in str(error.value)


def test_missing_and_unreadable_files(source: Path) -> None:
    path = source / "test.parquet"
    content = path.read_bytes()
    for broken in (b"", b"no parquet", content[: len(content) // 2], content[:-9] + b"\0" * 9):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"test\.parquet: cannot be read as Parquet"):
            read("collm-ml-1m", source, {})
    path.unlink()
    with pytest.raises(InputError, match=r"test\.parquet: the file is missing"):
        read("collm-ml-1m", source, {})


def test_baseline_by_hand(made: PreparedData) -> None:
    train, valid = made.split("train"), made.split("valid")
    logit = [np.log(p / (1 - p)) for p in (0.75, (1 + 5 * 0.75) / 6)]  # the rate of all, and after one liked row
    assert smoothed_rates(train, valid) == pytest.approx([2 * logit[1], 2 * logit[1]])
    # User 2 (one liked row) with an unseen item; user 7 is unseen.
    by_id = dict(zip([made.user_ids[user] for user in made.split("test").users], range(3), strict=True))
    scores = smoothed_rates(train, made.split("test"))
    assert scores[by_id["2"]] == pytest.approx(logit[1] + logit[0])
    assert smoothed_rates(train, valid, strength=1e9) == pytest.approx([2 * logit[0]] * 2, abs=1e-6)


@pytest.fixture(scope="module")
def published() -> Path:
    root = os.environ.get("CORELLA_EDGE_TEST_DATA")
    if not root:
        pytest.skip("CORELLA_EDGE_TEST_DATA is not set; its folder collm-ml-1m holds CoLLM's split")
    folder = Path(root) / "collm-ml-1m"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: CoLLM's split of MovieLens-1M")
    return folder


@pytest.fixture(scope="module")
def collm(published: Path, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    out = tmp_path_factory.mktemp("collm") / "prepared"
    prepare("collm-ml-1m", published, out)
    return PreparedData.open(out)


def test_published_counts(collm: PreparedData) -> None:
    counts = collm.info["counts"]
    assert [counts[name] for name in SPLITS] == [33_891, 10_401, 7_331]
    assert collm.info["notes"] == []
    assert collm.info["unseen"]["test"]["user_rows"] == pytest.approx(0.424, abs=0.0005)
    assert collm.info["unseen"]["test"]["item_rows"] == pytest.approx(0.013, abs=0.0005)


@pytest.mark.parametrize("name", SPLITS)
def test_every_pointer_gives_the_published_history(collm: PreparedData, published: Path, name: str) -> None:
    rows = pl.read_parquet(published / f"{name}.parquet").select("uid", "iid", "label", "his").rows()
    assert histories(collm, name) == {(uid, iid): (label, his[1:]) for uid, iid, label, his in rows}


@pytest.mark.parametrize("name", SPLITS)
def test_warm_equals_the_published_column(collm: PreparedData, published: Path, name: str) -> None:
    frame = pl.read_parquet(published / f"{name}.parquet")
    wanted = dict(zip(zip(frame["uid"], frame["iid"], strict=True), frame["not_cold"], strict=True))
    split = collm.split(name)
    warm = collm.warm(split)
    for user, item, found in zip(split.users, split.items, warm, strict=True):
        assert wanted[int(collm.user_ids[user]), int(collm.item_ids[item])] == found
    if name == "test":
        assert (warm.sum(), (~warm).sum()) == (4_153, 3_178)


def uauc(score: Any, label: Any, users: Any) -> tuple[float, int]:
    """Mean AUC of the users with rows of both classes, and how many they are."""
    order = np.argsort(users, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(users[order])) + 1)
    aucs = [roc_auc_score(label[group], score[group]) for group in groups if 0 < label[group].mean() < 1]
    return float(np.mean(aucs)), len(aucs)


def test_baseline_reproduces_the_known_figures(collm: PreparedData) -> None:
    test = collm.split("test")
    score, warm = smoothed_rates(collm.split("train"), test), collm.warm(test)
    assert roc_auc_score(test.labels, score) == pytest.approx(0.7320, abs=5e-5)
    assert roc_auc_score(test.labels[warm], score[warm]) == pytest.approx(0.7611, abs=5e-5)
    assert roc_auc_score(test.labels[~warm], score[~warm]) == pytest.approx(0.6899, abs=5e-5)
    value, users = uauc(score, test.labels, test.users)
    assert value == pytest.approx(0.6816, abs=5e-5)
    assert users == 224


EXTRA = {
    "disliked-train": {(1, 3): [1, 2], (2, 3): [2], (2, 10): [2, 3], (7, 1): [10]},
    "disliked": {(1, 3): [1, 2], (2, 3): [2, 1], (2, 10): [2, 1, 3], (7, 1): [10]},
}


@pytest.mark.parametrize("extra", EXTRA)
def test_disliked_rows_are_in_histories_only_where_asked_for_and_noted(
    source: Path, tmp_path: Path, extra: str
) -> None:
    write_prepared(read("collm-ml-1m", source, {"extra": extra}), tmp_path / "out", requests=3)
    data = PreparedData.open(tmp_path / "out")
    assert data.info["name"] == f"collm-ml-1m+{extra}"  # the published figures go with the other name
    assert (data.history_events, data.rows_in_log) == ("some", False)
    assert data.info["history"]["rule"].startswith("extra data:")
    assert any(note.startswith("extra data: histories also hold") for note in data.info["notes"])
    found = {key: past for name in SPLITS for key, (_, past) in histories(data, name).items()}
    assert {key: past for key, past in found.items() if key in EXTRA[extra]} == EXTRA[extra]
    for split in map(data.split, SPLITS):
        assert split.ratings.tolist() == [4.0 if label else 2.0 for label in split.labels.tolist()]
    assert ((data.log.ratings > data.info["like"]["above"]) == (data.log.labels == 1)).all()


def test_published_histories_are_checked_with_extra_data_too(source: Path) -> None:
    put(0, his=[0, 3, 2])(frame_of("test")).write_parquet(source / "test.parquet")
    with pytest.raises(InputError, match=r"test\.parquet row 1: his is not the 2 items"):
        read("collm-ml-1m", source, {"extra": "disliked"})
