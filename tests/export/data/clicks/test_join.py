"""A log and its clicks become rows that a plain look at both gives; what is dropped is counted."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles import make_bundle, reseal
from corella_edge.catalog import FITTED
from corella_edge.decision_log import Torn, read_clicks, read_decisions
from corella_edge.errors import InputError
from corella_edge.request import Request, User
from corella_edge.scores import Scores
from corella_edge_export.crm.fitted import schema
from corella_edge_export.data.clicks.join import HOUR, JoinPlan, prepare_log
from corella_edge_runtime.decisions import DecisionLog

START = 1_700_000_000.0


def decision(name: Any = "r1", user: Any = "u1", when: float | None = START, items: Any = "abc", **more: Any) -> Any:
    candidates = [{"item": item, "rank": rank, "probability": 0.5, **more} for rank, item in enumerate(items, 1)]
    found = {"id": name, "user": user, "time": when, "bundle": "b@1", "candidates": candidates}
    return {key: value for key, value in found.items() if value is not None}


def click(request: str = "r1", item: str = "a", after: float = 60.0, **more: Any) -> dict[str, Any]:
    return {"request": request, "item": item, "time": START + after, **more}


class Case:
    """The files of one run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.out = folder, folder / "out"
        (folder / "log").mkdir()
        self.lines(
            "items.jsonl", [{"item": item, "title": f"Tea {item}", "price": 3, "kinds": ["x"]} for item in "abc"]
        )

    def lines(self, name: str, values: list[Any]) -> Path:
        path = self.folder / name
        path.write_text("".join(json.dumps(value) + "\n" for value in values), "utf-8")
        return path

    def run(self, decisions: list[Any], clicks: list[Any], **plan: Any) -> dict[str, Any]:
        self.lines("log/decisions-00000001.jsonl", decisions)
        clicked = self.lines("clicks.jsonl", clicks)
        told = prepare_log(
            self.folder / "log", clicked, self.folder / "items.jsonl", self.out, JoinPlan(**plan), lambda _: None
        )
        assert told == json.loads((self.out / "ledger.json").read_text())
        return told

    def rows(self) -> list[dict[str, str]]:
        with (self.out / "events.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_what_was_chosen_in_time_has_label_one_and_all_else_zero(case: Case) -> None:
    told = case.run([decision()], [click(event="purchase", quantity=2), click(after=5, event="view")])
    assert [(r["user"], r["item"], r["time"], r["label"], r["rank"]) for r in case.rows()] == [
        ("u1", "a", "1700000000", "1", "1"), ("u1", "b", "1700000000", "0", "2"), ("u1", "c", "1700000000", "0", "3")
    ]  # fmt: skip
    assert case.rows()[0] | {"event": "view", "quantity": "3.0", "request": "r1", "propensity": "1.0"} == case.rows()[0]
    assert (told["positives"], told["rows"]["kept"], told["clicks"]["kept"]) == (1, 3, 2)


def test_every_click_that_does_not_count_has_its_reason(case: Case) -> None:
    clicks = [
        click(), click(), click(item="b", after=25 * HOUR), click(item="b", after=-1), click("r9"), click(item="z"),
        click(item="c", event="view"),
    ]  # fmt: skip
    told = case.run([decision()], clicks, events=("click",))
    assert told["clicks"] == {
        "read": 7,
        "dropped": {
            "told twice": 1, "of an event that does not count": 1, "before their decision": 1,
            "later than the window": 1, "without a decision": 1, "on an item that its decision did not show": 1,
        },
        "kept": 1,
    }  # fmt: skip
    assert [row["label"] for row in case.rows()] == ["1", "0", "0"]


def test_every_row_that_is_left_out_has_its_reason(case: Case) -> None:
    decisions = [
        decision(),
        decision(),
        decision(None),
        decision("r2", None),
        decision("r3", when=None),
        decision("r4"),
    ]
    told = case.run(decisions, [click()], shown=2)
    assert told["rows"] == {
        "read": 18,
        "dropped": {
            "below rank 2": 2, "of a decision whose id came before": 3, "of a decision without id": 3,
            "of a decision without user": 3, "of a decision without time": 3,
        },
        "kept": 4,
    }  # fmt: skip
    assert (told["decisions"], told["positives"]) == (6, 1)


ITEMS = st.sampled_from("abc")


@given(data=st.data())
def test_read_is_kept_and_dropped_and_labels_are_those_of_a_plain_look(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    names = st.sampled_from(["r1", "r2", "r3"])
    shown = data.draw(st.dictionaries(names, st.lists(ITEMS, min_size=1, max_size=3, unique=True), min_size=1))
    clicks = data.draw(
        st.lists(st.builds(click, names, ITEMS, st.integers(-2, 30).map(lambda hours: hours * HOUR)), max_size=8)
    )
    expected = {
        (name, item): any(
            c["request"] == name and c["item"] == item and START <= c["time"] <= START + 24 * HOUR for c in clicks
        )
        for name, items in shown.items()
        for item in items
    }
    case = Case(tmp_path_factory.mktemp("join"))
    decisions = [decision(name, items="".join(items)) for name, items in shown.items()]
    if len(set(expected.values())) < 2:
        with pytest.raises(InputError, match="has a click"):
            case.run(decisions, clicks)
        assert not case.out.exists()
        return
    told = case.run(decisions, clicks)
    assert {(r["request"], r["item"]): r["label"] == "1" for r in case.rows()} == expected
    for ledger in (told["rows"], told["clicks"]):
        assert ledger["read"] == ledger["kept"] + sum(ledger["dropped"].values())
    assert told["clicks"]["read"] == len(clicks)


def test_the_log_of_a_server_is_read_as_it_was_written(case: Case) -> None:
    p = np.array([0.9, 0.5, 0.1])
    scores = Scores(("i0", "i1", "i2"), p, np.full(3, np.nan), np.zeros(3, bool), ("",) * 3, ((),) * 3)
    with DecisionLog.open(case.folder / "log", 2**20, clock=lambda: START) as log:
        for i in range(40):
            log.put(Request(User(f"u{i}"), id=f"r{i}"), scores, "b@1", wait=True)
    clicked = case.lines("clicks.jsonl", [click("r7", "i0"), click("r8", "i1")])
    case.lines("items.jsonl", [{"item": f"i{k}", "title": "t"} for k in range(3)])
    told = prepare_log(case.folder / "log", clicked, case.folder / "items.jsonl", case.out, JoinPlan(), lambda _: None)
    assert (told["rows"]["kept"], told["positives"], told["untitled"]) == (120, 2, 0)
    assert [row["rank"] for row in case.rows() if row["label"] == "1"] == ["1", "2"]


def test_a_line_that_was_cut_off_at_the_end_is_told_and_elsewhere_an_error(case: Case) -> None:
    path = case.lines("log/decisions-00000001.jsonl", [decision(), decision("r2")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    assert [type(found) for found in read_decisions(path)][1] is Torn
    path.write_bytes(whole[: len(whole) // 2 - 20] + b"\n" + whole[len(whole) // 2 :])
    with pytest.raises(InputError, match=r"decisions-00000001\.jsonl line 1: not a decision"):
        list(read_decisions(path))


def test_items_that_the_table_lacks_are_known_by_their_id(case: Case) -> None:
    told = case.run([decision(items="abz")], [click()])
    assert told["untitled"] == 1
    table = tomllib.loads((case.out / "data.toml").read_text())
    assert table["items"] == {
        "files": ["items.jsonl"], "id": "item", "title": "title", "attributes": {"kinds": "multi", "price": "numeric"},
        "missing_title": "id",
    }  # fmt: skip
    assert (case.out / "items.jsonl").read_text().splitlines()[-1] == '{"item": "z"}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("request,item\nr1,a\n", "line 1: no column 'time'; the header is request,item,time[,event,quantity]"),
        ("request,item,time\nr1,a\n", "line 2: 2 fields, the header has 3"),
        ("request,item,time\nr1,a,noon\n", "line 2: time: 'noon' is not a number"),
        ("request,item,time\nr1,a,1700000000000\n", "line 2: time: 1700000000000 looks like milliseconds"),
        ("request,item,time,quantity\nr1,a,17,0\n", "line 2: quantity: expected a number above 0, got 0.0"),
        ('{"request": "r1", "item": "a"}\n', "line 1: time: is missing"),
        ('{"request": "r1", "item": "a", "time": 1, "who": 2}\n', "line 1: click: unknown field 'who'"),
        ("request,item,time\nr1,\xff,1\n", "line 2: not UTF-8"),
    ],
)
def test_a_bad_line_of_clicks_is_one_error_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "clicks"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as error:
        list(read_clicks(path))
    assert f"{path} {message}" in str(error.value)


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "\ufefftime,request,item,other,event\r\n17.5,r1,7,x,view\r\n18,r2,b,y,\r\n", newline=""
    )
    (tmp_path / "a.jsonl").write_text(
        '{"request": "r1", "item": "7", "time": 17.5, "event": "view"}\n{"request": "r2", "item": "b", "time": 18}\n'
    )
    assert list(read_clicks(tmp_path / "a.csv")) == list(read_clicks(tmp_path / "a.jsonl"))


def test_what_nothing_can_be_learned_of_is_refused_and_nothing_is_written(case: Case) -> None:
    with pytest.raises(InputError, match=r"no row has a click .3 items shown, 1 clicks; 1 without a decision"):
        case.run([decision()], [click("r9")])
    with pytest.raises(InputError, match="every row has a click"):
        case.run([decision(items="a")], [click()])
    with pytest.raises(InputError, match="no row is left"):
        case.run([decision(None)], [click()])
    assert not case.out.exists()
    with pytest.raises(InputError, match="no such file"):
        prepare_log(case.folder / "no", case.folder, case.folder, case.out, JoinPlan(), lambda _: None)


def test_of_a_bundle_what_was_fitted_is_no_attribute(tmp_path: Path) -> None:
    assert schema.MEAN_RATING in FITTED
    bundle = make_bundle(tmp_path / "bundle", llm=False)
    text = (bundle / "catalog.jsonl").read_text().replace('"genres"', '"mean_rating": 4.5, "quality": 1, "genres"')
    (bundle / "catalog.jsonl").write_text(text)
    reseal(bundle)
    (tmp_path / "log").mkdir()
    (tmp_path / "log" / "d.jsonl").write_text(json.dumps(decision(items=["i1", "i2"])) + "\n")
    (tmp_path / "clicks").write_text(json.dumps(click(item="i1")) + "\n")
    prepare_log(tmp_path / "log", tmp_path / "clicks", bundle, tmp_path / "out", JoinPlan(), lambda _: None)
    table = tomllib.loads((tmp_path / "out" / "data.toml").read_text())
    assert table["items"]["attributes"] == {"genres": "multi"}
    first = json.loads((tmp_path / "out" / "items.jsonl").read_text().splitlines()[0])
    assert first.keys() == {"item", "title", "genres"}
