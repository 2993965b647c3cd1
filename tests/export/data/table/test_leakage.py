"""Attributes that know the label are refused by name and by AUC; nothing that is fitted knows a held-out label."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from corella_edge.errors import InputError
from corella_edge_export.data.database import connect
from corella_edge_export.data.finish import file_hash
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.prepared import PreparedData, Split
from corella_edge_export.data.table.description import Entities, Files, SplitPlan
from corella_edge_export.data.table.leakage import check_aucs, check_names
from corella_edge_export.data.table.parse import read_description
from corella_edge_export.data.table.prepare import prepare_table
from corella_edge_export.data.table.samples import write
from quick import others_slow
from tables import Event, described, fill, prepared

FILES = Files((Path("shop.csv"),))
LEAKS = (
    "average_rating", "rating_number", "helpful", "helpful_vote", "vote", "also_buy", "also_view", "also_bought",
    "salesRank", "rank", "bought_together", "similar_item", "Rating", "overall", "stars", "user_rating", "num_reviews",
    "n_ratings", "review_count", "popularity", "ratingCount", "total_votes", "views", "also_viewed", "label",
)  # fmt: skip
DOUBTED = """
name = "tea"
[events]
files = ["e.csv"]
user = "user"
item = "item"
time = "time"
time_unit = "s"
[label]
column = "label"
[items]
files = ["i.csv"]
id = "item"
title = "title"
attributes = { quality = "numeric" }
[split]
rule = "time"
"""
INNOCENT = ("genres", "brand", "price", "year", "content_rating", "country", "main_category", "store", "viewpoint")


@pytest.mark.parametrize("name", LEAKS)
@pytest.mark.parametrize("table", ["items", "users"])
def test_what_knows_the_label_by_its_name_is_refused_unless_allowed(name: str, table: str) -> None:
    entities = Entities(FILES, "id", "title", {"brand": "categorical", name: "numeric"})
    plain = described(Path("shop.csv"), SplitPlan())
    with pytest.raises(
        InputError, match=rf"^\[{table}\] attributes: '{name}' is refused: .*allow_leaks = \['{name}'\]"
    ):
        check_names(replace(plain, **{table: entities}))
    check_names(replace(plain, **{table: replace(entities, allow_leaks=(name,))}))


def test_another_name_for_a_column_hides_nothing() -> None:
    items = Entities(FILES, "id", "title", {"quality": "numeric"}, columns={"quality": ("average_rating",)})
    with pytest.raises(InputError, match="'quality' is refused"):
        check_names(replace(described(Path("a"), SplitPlan()), items=items))


@pytest.mark.parametrize("name", INNOCENT)
def test_other_names_are_not(name: str) -> None:
    check_names(replace(described(Path("a"), SplitPlan()), items=Entities(FILES, "id", "title", {name: "numeric"})))


@pytest.mark.parametrize(("noise", "doubted"), [(0.02, True), (2.0, False)])
def test_a_mean_of_the_labels_under_a_plain_name_is_doubted(noise: float, doubted: bool, tmp_path: Path) -> None:
    """An AUC of 0.8 refuses nobody; the correlation with the items' shares of likes shows where the number is from."""
    draws = random.Random(6)
    taste = {f"i{item}": draws.random() for item in range(60)}
    events = [
        Event(f"u{draws.randrange(50)}", item := f"i{draws.randrange(60)}", 1_500_000_000 + 60 * n,
              int(draws.random() < taste[item]))
        for n in range(6000)
    ]  # fmt: skip
    likes: dict[str, list[int]] = {}
    for event in events:
        likes.setdefault(event.item, []).append(event.label)
    rows = [(i, f"Tea {i}", sum(own) / len(own) + draws.gauss(0, noise)) for i, own in sorted(likes.items())]
    (tmp_path / "e.csv").write_text(
        "user,item,time,label\n" + "".join(f"{e.user},{e.item},{e.time},{e.label}\n" for e in events)
    )
    (tmp_path / "i.csv").write_text("item,title,quality\n" + "".join(f"{i},{t},{q:.4f}\n" for i, t, q in rows))
    (tmp_path / "data.toml").write_text(DOUBTED)
    prepare_table(read_description(tmp_path / "data.toml"), tmp_path / "out", requests=5)
    notes = PreparedData.open(tmp_path / "out").info["notes"]
    assert any(note.startswith("quality of [items] tells much of the label") for note in notes) == doubted


def test_a_reviews_text_is_no_text_of_an_item() -> None:
    plain = described(Path("a"), SplitPlan())
    with pytest.raises(InputError, match="'notes' is refused: a text in the events' file is a review's"):
        check_names(replace(plain, items=Entities(None, "id", "title", {"notes": "text"})))
    for title in ("reviewText", "summary", "Review Title"):
        with pytest.raises(InputError, match=f"title: '{title}' stands in the events' file and is a review's text"):
            check_names(replace(plain, items=Entities(None, "id", title)))
        check_names(replace(plain, items=Entities(FILES, "id", title)))
    check_names(replace(plain, items=Entities(FILES, "id", "title", {"description": "text"})))


def sales(label: Callable[[int, int], int]) -> list[Event]:
    draws = random.Random(6)
    pairs = [(draws.randrange(30), draws.randrange(50)) for _ in range(2000)]
    return [Event(f"u{user}", f"i{item}", 10 * n, label(user, item)) for n, (user, item) in enumerate(pairs)]


@pytest.mark.parametrize("table", ["items", "users"])
@pytest.mark.parametrize("kind", ["numeric", "categorical", "multi"])
def test_a_single_attribute_that_tells_the_label_is_refused_with_its_auc(table: str, kind: Any, tmp_path: Path) -> None:
    side = table[0]
    events = sales(lambda user, item: (item if table == "items" else user) % 2)
    told = {"numeric": lambda n: float(n % 2), "categorical": lambda n: "ab"[n % 2], "multi": lambda n: ["ab"[n % 2]]}
    attributes = {table: {"colour": (kind, {f"{side}{n}": told[kind](n) for n in range(50)})}}
    with pytest.raises(InputError, match=rf"^\[{table}\] attributes: 'colour' alone .* its AUC is (1\.0000|0\.99..)"):
        prepared(tmp_path / "out", events, SplitPlan(), **attributes)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["source.csv"]


def test_attributes_that_only_help_are_kept_and_their_auc_is_told(tmp_path: Path) -> None:
    draws = random.Random(2)
    events = sales(lambda user, item: int(draws.random() < (0.8 if item % 2 else 0.3)))
    values = {f"i{n}": float(n % 2) for n in range(50)}
    items: Any = {"new": ("numeric", values), "sku": ("categorical", {f"i{n}": f"sku {n}" for n in range(50)})}
    data = prepared(tmp_path / "out", events, SplitPlan(), items=items)
    train = data.split("train")
    found = data.info["attribute_auc"]["items"]
    wanted = roc_auc_score(train.labels, [values[data.item_ids[item]] for item in train.items])
    assert found["new"] == pytest.approx(wanted, abs=1e-4)
    with connect() as db:
        half = np.asarray([row[0] for row in db.execute("SELECT hash(u::INTEGER) % 2 FROM range(30) t(u)").fetchall()])
    assert found["sku"] == pytest.approx(by_the_other_half(train, half[train.users]), abs=1e-4)


def by_the_other_half(rows: Split, half: Any) -> float:
    """AUC of each item's share of likes among the other half of the users, one row of the general share added."""
    scores = np.zeros(len(half))
    for row, (item, own) in enumerate(zip(rows.items, half, strict=True)):
        others = half != own
        same = rows.labels[others & (rows.items == item)]
        scores[row] = (same.sum() + rows.labels[others].mean()) / (len(same) + 1)
    return float(roc_auc_score(rows.labels, scores))


def test_few_rows_part_by_chance_and_are_not_judged(tmp_path: Path) -> None:
    events = [Event(f"u{n % 3}", f"i{n % 6}", n, n % 2) for n in range(40)]
    colour = ("numeric", {f"i{n}": float(n % 2) for n in range(6)})
    data = prepared(tmp_path / "out", events, SplitPlan(), items={"colour": colour})  # type: ignore[dict-item]
    assert data.info["attribute_auc"] == {"items": {}}


def test_allowed_leaks_stand_in_every_report(tmp_path: Path) -> None:
    events = sales(lambda user, item: item % 2)
    items = {"colour": ("numeric", {f"i{n}": float(n % 2) for n in range(50)})}
    source = tmp_path / "source.csv"
    source.write_text("rows")
    plain = described(source, SplitPlan(), items=items)  # type: ignore[arg-type]
    allowed = replace(plain, items=replace(plain.items, allow_leaks=("colour",)))
    with connect() as db:
        fill(db, events, items)  # type: ignore[arg-type]
        info = write(allowed, db, Ledger(2000), tmp_path / "out")
    assert info["attribute_auc"]["items"]["colour"] == 1.0
    assert info["notes"] == ["allow_leaks: colour of [items] may know the label; figures are optimistic if so"]


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): file_hash(path)["sha256"] for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.mark.parametrize("rule", others_slow(["time", "per-user", "leave-one-out"], ["time"]))
def test_held_out_labels_change_nothing_that_is_fitted(rule: Any, tmp_path: Path) -> None:
    """Other labels and ratings of valid and test: the same training rows, tables, schema, vocabularies, catalogue
    (mean ratings, quality, likeness), inputs of every training row, and weights of a trained base model."""
    pytest.importorskip("torch")
    draws = random.Random(2)
    genres = {f"i{n}": [f"g{n % 3}", f"g{n % 4}"] for n in range(50)}
    price = {f"i{n}": n / 3 for n in range(50)}
    items: Any = {"genres": ("multi", genres), "price": ("numeric", price)}
    ages: Any = {"age": ("numeric", {f"u{n}": 20.0 + n for n in range(30)})}

    def rated(event: Event) -> Event:
        rating = float(draws.randint(1, 5))
        return replace(event, rating=rating, label=int(rating > 3))

    events = [rated(event) for event in sales(lambda user, item: 0)]
    first = prepared(tmp_path / "first", events, SplitPlan(rule=rule), items=items, users=ages)
    held = {(first.user_ids[u], first.item_ids[i], t) for part in ("valid", "test") for u, i, t in zip(
        *(getattr(first.split(part), name).tolist() for name in ("users", "items", "times")), strict=True)}  # fmt: skip
    other = [rated(event) if (event.user, event.item, event.time) in held else event for event in events]
    second = prepared(tmp_path / "second", other, SplitPlan(rule=rule), items=items, users=ages)
    before, after = hashes(first.root), hashes(second.root)
    same = {"train.parquet", "items.parquet", "users.parquet"}
    assert {name: before[name] for name in same} == {name: after[name] for name in same}
    assert all(before[name] != after[name] for name in ("valid.parquet", "test.parquet", "interactions.parquet"))
    assert fitted(first, tmp_path / "a") == fitted(second, tmp_path / "b")


def fitted(data: PreparedData, folder: Path) -> dict[str, Any]:
    """All that is fitted on prepared data, in bytes."""
    from corella_edge_export.training.run import Run
    from corella_edge_export.training.stages import Stages
    from tiny_run import recipe

    crm = {"item_quality": True, "item_vectors": 4, "user_level": True}
    chosen = recipe(crm=crm, prompt={"item": "{title}:"})
    stages = Stages(Run.start(folder, chosen, data), quiet=True)
    stages.do("crm", ())
    rows = stages.rows("train")
    inputs = {name: value.tobytes() for name, value in rows.batch(np.arange(len(rows))).items()}
    kept = {name: value for name, value in hashes(folder).items() if name.startswith("vocab/") or name in (
        "schema.json", "catalog.jsonl")}  # fmt: skip
    assert len(kept) > 4
    weights = {name: value.numpy().tobytes() for name, value in stages.run.crm("crm").state_dict().items()}
    assert weights
    return {**inputs, **kept, **weights}


def test_an_auc_is_that_of_training_rows_alone(tmp_path: Path) -> None:
    plan = described(tmp_path, SplitPlan(), items={"colour": ("numeric", {})})
    with connect() as db:
        fill(
            db, sales(lambda user, item: item % 2), {"colour": ("numeric", {f"i{n}": float(n % 2) for n in range(50)})}
        )
        db.execute("CREATE TABLE item_codes AS SELECT row_number() OVER ()::INTEGER AS i, item_id FROM items")
        db.execute("CREATE TABLE labelled AS SELECT 1 AS u, i, hash(i) % 2 AS label, 'train' AS part FROM item_codes, "
                   "range(20)")  # fmt: skip
        before = check_aucs(db, plan)
        db.execute("INSERT INTO labelled SELECT 1, i, i % 2, 'test' FROM item_codes, range(500)")
        assert check_aucs(db, plan) == before
