"""What a bundle shows people: items, users of its sample, its curve. A bundle without something shows that less."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bundles import ITEMS, USERS, make_bundle, reseal
from corella_edge.bundle.artefact import Bundle
from corella_edge.request_message import parse_request
from corella_edge.routing.forms import parse_threshold
from corella_edge.routing.measure import LN2
from corella_edge.routing.policy import Policy
from corella_edge_runtime.showcase import SHOWN_EVENTS, Showcase

GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-v1"


def show(root: Path, threshold: Policy | None = None) -> Showcase:
    bundle = Bundle.open(root)
    schema, catalog = bundle.schema()
    return Showcase(bundle, schema, catalog, threshold or parse_threshold("policy", bundle.routing()))


def change(root: Path, file: str, old: str, new: str) -> None:
    path = root / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    reseal(root)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle")


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Showcase:
    return show(make_bundle(tmp_path_factory.mktemp("showcase") / "bundle"))


def ids(found: dict) -> list[str]:
    return [item["item"] for item in found["items"]]


def test_a_sample_is_seeded_without_repeats_and_never_larger_than_the_catalogue(shown):
    first = ids(shown.items("", 10, 7))
    assert len(set(first)) == 10
    assert ids(shown.items("  ", 10, 7)) == first
    assert ids(shown.items("", 10, 8)) != first
    assert sorted(ids(shown.items("", 10 * ITEMS, 7))) == sorted(shown.catalog.ids)
    assert shown.items("", 1, 0)["total"] == ITEMS


def test_items_are_found_by_id_and_by_words_of_the_title_in_any_case(shown):
    assert ids(shown.items("FILM 8", 1, 0)) == ["i8"]
    assert ids(shown.items("FILM 8", 10, 0)) == ["i8", "i18", "i28", "i38"]
    assert ids(shown.items("i12", 10, 0)) == ["i12"]
    assert ids(shown.items("12 film", 10, 0)) == ["i12"]
    assert ids(shown.items("no such film", 10, 0)) == []
    assert len(shown.items("film", 5, 0)["items"]) == 5


def test_items_with_a_word_that_begins_like_the_query_come_first(root):
    change(root, "catalog.jsonl", "Film 30", "Émile")
    change(root, "catalog.jsonl", 'Film 3"', 'Ofémile"')
    assert ids(show(root).items("éMILE", 10, 0)) == ["i30", "i3"]


def test_an_item_without_title_is_found_by_its_id(shown):
    (item,) = shown.items(f"i{ITEMS - 1}", 10, 0)["items"]
    assert item["title"] is None
    assert item["features"]["genres"]


def test_fields_are_those_the_models_look_at(shown):
    assert [(field["name"], field["kind"]) for field in shown.item_fields] == [("genres", "many")]
    assert shown.item_fields[0]["values"] == ["Action", "Comedy", "Drama"]
    assert shown.user_fields == []
    golden = show(GOLDEN)
    kinds = {field["name"]: field["kind"] for field in golden.item_fields + golden.user_fields}
    assert kinds == {"genres": "many", "minutes": "number", "age": "one", "interests": "many"}


def test_users_are_found_by_a_part_of_their_id(shown):
    assert shown.users("", 200)["total"] == USERS
    assert len(shown.users("", 4)["users"]) == 4
    assert [user["id"] for user in shown.users(" U2", 1)["users"]] == ["u2"]
    assert [user["id"] for user in shown.users("5", 2)["users"]] == ["u5", "u15"]
    assert {user["id"] for user in shown.users("U2", 200)["users"]} == {"u2", *(f"u{i}" for i in range(20, USERS))}


def test_a_user_is_shown_as_before_the_held_out_items(shown):
    rows = [json.loads(line) for line in shown.bundle.path("sample.jsonl").read_text().splitlines()]
    own = [row for row in rows if row["request"]["user"]["id"] == "u3"]
    found = shown.user("u3")
    shortest = min((row["request"]["user"]["history"] for row in own), key=len)
    assert [event["item"] for event in found["history"]] == [event["item"] for event in shortest]
    assert found["events"] == len(shortest)
    labels = {row["request"]["candidates"][0]["item"]: row["label"] for row in own}
    assert {item["item"]: item["label"] for item in found["held_out"]} == labels
    assert not labels.keys() & {event["item"] for event in found["history"]}
    line = next(user for user in shown.users("u3", 1)["users"])
    assert line["events"] == found["events"]
    assert line["latest"] == [event["title"] or event["item"] for event in reversed(found["history"])][:3]


def test_what_is_shown_of_a_user_is_a_request(shown):
    found = shown.user("u3")
    history = [{name: event[name] for name in ("item", "rating", "time")} for event in found["history"]]
    request = parse_request({"user": {"id": found["id"], "features": found["features"], "history": history}})
    assert len(request.user.history) == len(history)


def test_a_stranger_is_nobody(shown):
    assert shown.user("nobody") is None


def test_a_long_history_is_cut_to_its_latest_events(root):
    events = [{"item": f"i{n % ITEMS}", "rating": 4, "time": n} for n in range(SHOWN_EVENTS + 50)]
    row = {"request": {"user": {"id": "long", "history": events}, "candidates": [{"item": "i1"}]}, "label": None}
    (root / "sample.jsonl").write_text(json.dumps(row) + "\n")
    reseal(root)
    found = show(root).user("long")
    assert found["events"] == SHOWN_EVENTS + 50
    assert [event["time"] for event in found["history"]] == list(range(50, SHOWN_EVENTS + 50))
    assert found["held_out"][0]["label"] is None


def test_a_bundle_without_sample_has_no_users(tmp_path):
    shown = show(make_bundle(tmp_path / "bundle", sample=False))
    assert shown.users("", 10)["users"] == []
    assert shown.user("u1") is None


def test_a_bundle_without_llm_says_so_and_shows_its_items(tmp_path):
    shown = show(make_bundle(tmp_path / "bundle", llm=False))
    assert shown.curve()["llm"] is False
    assert shown.items("", 3, 0)["fields"]


def test_the_curve_is_the_bundle_s_own_calibration_and_table():
    golden = show(GOLDEN)
    curve, calibration = golden.curve(), golden.bundle.calibration()
    assert curve["nats"][0] is None
    for share, nats in zip(curve["shares"][1:-1], curve["nats"][1:-1], strict=True):
        assert nats == pytest.approx(calibration.threshold(share), abs=1e-6)
        assert nats <= LN2
    routing = golden.bundle.json("routing.json")
    assert [row["auc"] for row in curve["table"]] == [row["auc"] for row in routing["table"]]
    assert curve["rows"] == routing["rows"]
    json.dumps(curve, allow_nan=False)


def test_figures_that_are_no_numbers_are_null(root):
    data = json.loads((root / "routing.json").read_text())
    data["table"] = [{"ratio": 0.0, "auc": math.nan, "logloss": "?"}, "nonsense", {"ratio": 1.0, "auc": 0.7}]
    (root / "routing.json").write_text(json.dumps(data))
    reseal(root)
    table = show(root).curve()["table"]
    assert table[0] == {"ratio": 0.0, "share": None, "auc": None, "logloss": None, "accuracy": None}
    assert [row["auc"] for row in table] == [None, 0.7]


def test_the_server_s_own_threshold_is_told(root):
    assert show(root, Policy(threshold=0.5)).curve()["threshold"] == {"nats": 0.5, "unit": "entropy"}
    assert show(root, Policy(reason="ratio")).curve()["threshold"] == {"nats": None, "unit": "ratio"}
