"""A shop's requests over HTTP, by the real application and engine: selection, stock, popular and similar items."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from corella_edge.errors import InputError
from corella_edge_runtime.decisions import DecisionLog
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.server.app import build_app
from corella_edge_runtime.server.service import Service
from corella_edge_runtime.store.stock import StockFile
from corella_edge_runtime.store.users import UserStore
from shops import make_shop

ONE = "exactly one of the fields 'available' and 'unavailable' is needed"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shop(tmp_path_factory.mktemp("shop") / "bundle", types=["purchase"])


class Shop:
    """The application around a bundle, with all that a box keeps in a folder."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        self.folder, self.engine = folder, Engine.open(bundle, llm=None)
        self.store = UserStore.open(folder / "users.db")
        self.log = DecisionLog.open(folder / "log", 2**20)
        self.service = Service(None, self.store, StockFile.open(folder / "stock.json"), self.log)
        self.service.serve(self.engine)
        self.app = build_app(self.service)

    def call(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        async def once() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(self.app), base_url="http://localhost"
            ) as client:
                return await client.request(method, path, content=None if body is None else json.dumps(body).encode())

        answer = asyncio.run(once())
        assert answer.status_code == status, answer.text
        return answer.json() if status == 200 else answer.json()["error"]["message"]

    def ranked(self, **fields: Any) -> list[str]:
        return [row["item"] for row in self.call("POST", "/v1/rank", {"user_id": "u1", **fields})["candidates"]]

    def decisions(self) -> list[dict[str, Any]]:
        """Of the log, once all of it is written."""
        self.log.close()
        files = sorted((self.folder / "log").glob("*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_text().splitlines()]

    def close(self) -> None:
        self.service.close()
        self.store.close()
        self.engine.close()


@pytest.fixture
def shop(bundle: Path, tmp_path: Path) -> Iterator[Shop]:
    made = Shop(bundle, tmp_path)
    yield made
    made.close()


def test_every_stored_item_is_left_out_not_only_the_latest(shop: Shop) -> None:
    bought = [f"i{n}" for n in range(30)]
    least = shop.engine.memory[0]
    assert least < len(bought)
    shop.call("POST", "/v1/events", {"user_id": "u1", "events": [{"item": item} for item in bought]})
    assert set(shop.ranked()) == {f"i{n}" for n in range(30, 40)}
    assert len(shop.ranked(exclude_seen=False)) == 40
    # A history in the request is taken as it is; what is stored of the user was seen all the same.
    sent = shop.call("POST", "/v1/rank", {"user": {"id": "u1", "history": [{"item": "i35"}]}})
    assert {row["item"] for row in sent["candidates"]} == {f"i{n}" for n in range(30, 40)} - {"i35"}
    assert set(shop.ranked(candidates=[{"item": "i1"}, {"item": "i31"}])) == {"i1", "i31"}
    assert shop.ranked(candidates=[{"item": "i1"}, {"item": "i31"}], exclude_seen=True) == ["i31"]


def test_only_the_types_that_count_form_the_history(shop: Shop) -> None:
    events = [{"item": "i1", "type": "purchase", "quantity": 2}, {"item": "i2", "type": "view"}, {"item": "i3"}]
    shop.call("POST", "/v1/events", {"user_id": "u1", "events": events})
    left_out = {f"i{n}" for n in range(40)} - set(shop.ranked())
    assert left_out == {"i1", "i3"}
    by_hand = {"user": {"id": "u1", "history": [{"item": "i1"}, {"item": "i3"}]}}
    assert [row["item"] for row in shop.call("POST", "/v1/rank", by_hand)["candidates"]] == shop.ranked()
    told = shop.call("GET", "/v1/users/u1")["events"]
    assert [{k: v for k, v in event.items() if k != "arrived"} for event in told] == [
        {"item": "i1", "type": "purchase", "quantity": 2.0}, {"item": "i2", "type": "view"}, {"item": "i3"}
    ]  # fmt: skip
    wrong = shop.call("POST", "/v1/events", {"user_id": "u", "events": [{"item": "i", "quantity": 0}]}, 422)
    assert wrong == "events[0].quantity: expected a number above 0, got 0"


def test_a_window_of_events_that_count_is_not_shortened_by_others(shop: Shop) -> None:
    bought = [{"item": f"i{n}", "type": "purchase"} for n in range(9)]
    looked = [{"item": f"i{n}", "type": "view"} for n in range(9, 39)]
    shop.call("POST", "/v1/events", {"user_id": "u1", "events": bought + looked})
    stored = shop.store.user("u1", 5, 1, ("purchase",))
    assert stored is not None
    assert stored.history.items == ["i4", "i5", "i6", "i7", "i8"]


def test_availability_is_replaced_changed_and_kept(shop: Shop) -> None:
    assert shop.call("GET", "/v1/availability") == {"unavailable": [], "unknown": 0}
    told = shop.call("PUT", "/v1/availability", {"available": ["i1", 2, "i3"]})
    assert told == {"available": ["2", "i1", "i3"], "unknown": 1}
    assert set(shop.ranked()) == {"i1", "i3"}
    shop.call("PATCH", "/v1/availability", {"available": ["i5"], "unavailable": ["i1"]})
    assert set(shop.ranked()) == {"i3", "i5"}
    assert StockFile.open(shop.folder / "stock.json").now == shop.service.stock.now  # type: ignore[union-attr]
    shop.call("PUT", "/v1/availability", {"unavailable": ["i7"]})
    assert len(shop.ranked()) == 39
    shop.call("PATCH", "/v1/availability", {"available": ["i7"], "unavailable": ["i8"]})
    assert set(shop.ranked(available=["i7", "i8"])) == {"i7", "i8"}  # the request's own list, in place of the box's
    assert "i8" not in shop.ranked()


@pytest.mark.parametrize(
    ("method", "body", "message"),
    [
        ("PUT", {}, "exactly one of the fields 'available' and 'unavailable' is needed"),
        (
            "PUT",
            {"available": [], "unavailable": []},
            "exactly one of the fields 'available' and 'unavailable' is needed",
        ),
        ("PUT", {"avail": []}, "body: unknown field 'avail'; known fields: available, unavailable"),
        ("PATCH", {"available": ["i1"], "unavailable": ["i1"]}, "the item 'i1' is in both lists"),
        ("PATCH", {"available": [1.5]}, "available[0]: expected text or a whole number, got 1.5"),
    ],
)
def test_wrong_availability_is_refused_and_nothing_changed(shop: Shop, method: str, body: Any, message: str) -> None:
    shop.call("PUT", "/v1/availability", {"unavailable": ["i7"]})
    before = (shop.folder / "stock.json").read_bytes()
    error = shop.call(method, "/v1/availability", body, 422)
    assert error.replace("a whole number or text", "text or a whole number") == message
    assert (shop.folder / "stock.json").read_bytes() == before
    assert shop.call("GET", "/v1/availability")["unavailable"] == ["i7"]


def test_availability_that_cannot_be_written_stays_as_it_was(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise InputError("x: writing failed") from OSError(28, "No space left on device")

    monkeypatch.setattr("corella_edge_runtime.store.stock.write_file", full)
    shop.call("PUT", "/v1/availability", {"available": ["i1"]}, 507)
    assert len(shop.ranked()) == 40


@pytest.mark.parametrize("text", ['{"available": [1', '{"all": []}', "[]", '{"available": [], "available": []}'])
def test_a_damaged_file_of_availability_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "stock.json").write_text(text)
    with pytest.raises(InputError, match=r"stock\.json: "):
        StockFile.open(tmp_path / "stock.json")


def test_popular_and_similar_items_are_those_available(shop: Shop) -> None:
    assert shop.call("GET", "/v1/popular?count=1")["popular"] == [{"item": "i7", "title": "Film 7", "count": 1000}]
    found = shop.call("GET", "/v1/items/i0/similar")
    assert [row["item"] for row in found["similar"]] == ["i1", "i2"]
    assert found["bundle"] == "tiny@1"
    shop.call("PUT", "/v1/availability", {"unavailable": ["i7", "i1"]})
    assert shop.call("GET", "/v1/popular?count=1")["popular"][0]["item"] != "i7"
    assert [row["item"] for row in shop.call("GET", "/v1/items/i0/similar")["similar"]] == ["i2"]
    assert shop.call("GET", "/v1/items/gone/similar", status=404) == "the catalogue has no item 'gone'"
    assert "count, a whole number" in shop.call("GET", "/v1/items/i0/similar?count=0", status=422)
    assert "count, a whole number" in shop.call("GET", "/v1/popular?most=3", status=422)


def test_a_bad_filter_is_422_with_the_nearest_names(shop: Shop) -> None:
    error = shop.call("POST", "/v1/rank", {"user": {}, "filter": {"genre": "Drama"}}, 422)
    assert error == "filter: no item has an attribute 'genre'; nearest: genres"


def test_a_new_user_is_answered_with_what_is_popular_and_told_so(shop: Shop) -> None:
    found = shop.call("POST", "/v1/rank", {"user_id": "nobody", "top_k": 3})
    assert found["fallback"] == "popular"
    assert found["candidates"][0]["item"] == "i7"
    shop.call("POST", "/v1/events", {"user_id": "nobody", "events": [{"item": "i1"}]})
    assert "fallback" not in shop.call("POST", "/v1/rank", {"user_id": "nobody", "top_k": 3})


def shown(decision: dict[str, Any]) -> list[dict[str, Any]]:
    """The candidates of a decision without what only the log has."""
    return [{name: value for name, value in one.items() if name != "inputs"} for one in decision["candidates"]]


def test_the_log_holds_what_was_answered(shop: Shop) -> None:
    first = shop.call("POST", "/v1/rank", {"user_id": "u1", "id": "r1", "top_k": 3})
    second = shop.call("POST", "/v1/rank", {"user": {"features": {"about": "secret"}}, "candidates": [
        {"item": "new", "features": {"title": "a secret title"}}]})  # fmt: skip
    assert len(second["id"]) == 16  # the server's, so that a click can be joined
    decisions = shop.decisions()
    assert [(d["id"], d.get("user"), d["bundle"]) for d in decisions] == [
        ("r1", "u1", "tiny@1"), (second["id"], None, "tiny@1")
    ]  # fmt: skip
    assert [*map(shown, decisions)] == [first["candidates"], second["candidates"]]
    assert "secret" not in json.dumps(decisions)


def test_without_a_file_and_a_bundle_that_knows_it_is_501(make_site: Any) -> None:
    site = make_site()
    assert site.call("GET", "/v1/availability").status_code == 501


def test_a_selection_that_leaves_nothing_is_answered_and_counted(shop: Shop) -> None:
    nothing = {"user": {"id": "u"}, "available": [], "explain": True}
    for more in ("", "?mode=progressive"):

        async def once(more: str = more) -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(shop.app), base_url="http://localhost"
            ) as client:
                return await client.post(f"/v1/rank{more}", json=nothing)

        answer = asyncio.run(once())
        assert answer.status_code == 200
        assert '"candidates":[]' in answer.text
        assert answer.headers["server-timing"].startswith("turn;") or "total;dur=" in answer.headers["server-timing"]
    assert shop.call("GET", "/page/live")["requests"] == 2
