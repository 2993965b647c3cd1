"""Users with memory over HTTP: events, ranking by a bare id, export, erasure, and what a broken disk looks like."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import logging
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.history import GIVEN, STORED
from corella_edge.request import Event, User
from corella_edge_runtime.machine.timekeeping import Reading, read_clocks
from corella_edge_runtime.server.routes.users import _LOG_SECONDS
from corella_edge_runtime.store.events import parse_events
from corella_edge_runtime.store.users import UserStore
from corella_edge_runtime.store.writer import WriteStep
from json_schema import SCHEMAS, documents, valid

SCRIPT = Path(__file__).with_name("serve_cli.py")
# httpx, like most clients, resolves "." and ".." in a path before it sends it: another test has these.
IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda x: x.strip("."))
ODD_IDS = [
    "a/b",
    "/",
    "a//b/",
    "%41",
    "%",
    "?x=1",
    "#",
    "\0",
    " ",
    "+",
    "\n",
    "a\n",
    "\r\n",
    "\u202e",
    "\ufffd",
    "ü",
    "7",
]


@pytest.fixture
def store(site: Any, tmp_path: Path) -> Iterator[UserStore]:
    """The store of `site`."""
    with UserStore.open(tmp_path / "users.db") as opened:
        site.service.store = opened
        yield opened


def append(site: Any, user_id: Any, *items: str, **more: Any) -> httpx.Response:
    body = {"user_id": user_id, "events": [{"item": item} for item in items], **more}
    return site.call("POST", "/v1/events", content=json.dumps(body).encode())


def message(response: httpx.Response) -> str:
    assert valid(SCHEMAS["Error"], response.json())
    return response.json()["error"]["message"]


def test_a_bare_id_is_ranked_with_the_stored_profile_and_history(site: Any, store: UserStore) -> None:
    seen = site.watch()
    events = [{"item": "318", "rating": 5, "time": 1700000000}, {"item": 661}]
    body = {"user_id": 42, "events": events, "features": {"gender": "F"}}
    response = site.call("POST", "/v1/events", content=json.dumps(body).encode())
    assert response.json() == {"user_id": "42", "appended": 2, "events": 2}
    assert valid(SCHEMAS["Appended"], response.json())
    known = User("42", {"gender": "F"}, (Event("318", 5.0, 1700000000), Event("661")))
    assert site.rank({"user_id": 42}).status_code == 200
    assert site.rank({"user_id": "42"}).status_code == 200
    assert site.rank({"user": {"id": "42"}}).status_code == 200
    assert [request.user for request in seen] == [known] * 3
    assert site.ranker.history == STORED
    assert seen[0].user.history is seen[2].user.history
    assert site.rank({"user_id": "nobody"}).status_code == 200
    assert site.rank({"user": {"id": "42", "history": [{"item": "1"}]}}).status_code == 200
    assert site.ranker.history == GIVEN
    assert [request.user for request in seen[3:]] == [User("nobody"), User("42", {}, (Event("1"),))]
    assert append(site, 42, "914").json()["events"] == 3
    site.rank({"user_id": "42"})
    assert seen[-1].user.history == (*known.history, Event("914"))


def test_a_retry_with_its_key_is_answered_the_same(site: Any, store: UserStore) -> None:
    answers = [append(site, "u", "a", "b", key=key).json() for key in ("k", "k", 7, "7")]
    assert answers == [{"user_id": "u", "appended": 2, "events": events} for events in (2, 2, 4, 4)]
    refused = append(site, "u", "c", key="k")
    assert refused.status_code == 422
    assert message(refused).startswith("key: ")


def test_export_has_everything_and_deletion_leaves_nothing(site: Any, store: UserStore, tmp_path: Path) -> None:
    append(site, "user<1>", "item<1>", "item<2>", features={"x": "profile<1>"}, key="key<1>")
    append(site, "u", "a")
    export = site.call("GET", "/v1/users/user%3C1%3E")
    assert export.status_code == 200
    held = export.json()
    assert valid(SCHEMAS["UserExport"], held)
    assert (held["user_id"], held["features"]) == ("user<1>", {"x": "profile<1>"})
    assert [event["item"] for event in held["events"]] == ["item<1>", "item<2>"]
    assert [key["key"] for key in held["keys"]] == ["key<1>"]
    assert site.ranker.forgotten == 0
    deleted = site.call("DELETE", "/v1/users/user%3C1%3E")
    assert deleted.json() == {"user_id": "user<1>", "deleted": True}
    assert valid(SCHEMAS["Deleted"], deleted.json())
    assert site.ranker.forgotten == 1
    assert not any(b"<1>" in path.read_bytes() for path in tmp_path.iterdir())
    assert site.call("DELETE", "/v1/users/user%3C1%3E").json()["deleted"] is False
    assert site.call("GET", "/v1/users/user%3C1%3E").status_code == 404
    assert site.call("GET", "/v1/users/u").status_code == 200


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(user_id=IDS | st.sampled_from(ODD_IDS))
def test_any_id_in_a_path_is_the_id_of_the_body(site: Any, store: UserStore, user_id: str) -> None:
    async def course() -> None:
        async with site.client() as client:
            path = f"/v1/users/{quote(user_id, safe='')}"
            appended = await client.post("/v1/events", json={"user_id": user_id, "events": []})
            assert appended.json() == {"user_id": user_id, "appended": 0, "events": 0}
            assert (await client.get(path)).json()["user_id"] == user_id
            assert (await client.delete(path)).json() == {"user_id": user_id, "deleted": True}

    asyncio.run(course())


@pytest.mark.parametrize("path", ["", "%FF", "a%C3", "x" * 257])
def test_what_is_no_id_is_refused(site: Any, store: UserStore, path: str) -> None:
    append(site, "\ufffd", "a")
    for method in ("GET", "DELETE"):
        response = site.call(method, f"/v1/users/{path}")
        assert response.status_code == 422
        assert message(response).startswith("user id: ")
    assert store.user("\ufffd", 1)


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b'{"user_id": "a", "user_id": "b"}', 400), (b"\xff", 400), (b"[" * 100_000, 400),
     (b'{"user_id": "u", "events": [{"item": "\\ud800"}]}', 400), (b"[]", 422), (b'{"user_id": "u"}', 422),
     (b'{"user_id": "u", "events": [{"item": ""}]}', 422), (b" " * (8 * 2**20 + 1), 413)],
)  # fmt: skip
def test_a_wrong_body_is_refused_and_nothing_kept(site: Any, store: UserStore, body: bytes, status: int) -> None:
    response = site.call("POST", "/v1/events", content=body)
    assert response.status_code == status
    assert message(response)
    assert store.user("u", 1) is None


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(documents(SCHEMAS["NewEvents"]))
def test_whatever_the_schema_allows_is_accepted(document: Any) -> None:
    assert valid(SCHEMAS["NewEvents"], document)
    assert parse_events(document).user_id


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    documents(SCHEMAS["NewEvents"]),
    st.sampled_from([*SCHEMAS["NewEvents"]["properties"], "extra"]),
    st.sampled_from([None, True, -1, 0.5, 2**64, "", "x", "x" * 257, [], [1], {}, [{"item": "a"}], {"x": {}}]),
)
def test_schema_and_parser_judge_damaged_documents_alike(document: Any, name: str, value: Any) -> None:
    document = {**document, name: value}
    try:
        accepted = bool(parse_events(document))
    except InputError:
        accepted = False
    assert accepted == valid(SCHEMAS["NewEvents"], document)


def test_without_a_store_the_answer_says_which_option_gives_one(site: Any) -> None:
    for method, path in (("POST", "/v1/events"), ("GET", "/v1/users/u"), ("DELETE", "/v1/users/u")):
        response = site.call(method, path)
        assert response.status_code == 501
        assert "--store" in message(response)
    assert site.rank({"user_id": "u"}).status_code == 200


def hold_disk(store: UserStore) -> threading.Event:
    """The writer waits until the event is set."""
    gate = threading.Event()
    store._writer.submit(WriteStep(lambda db: gate.wait(20)))
    return gate


def test_events_are_answered_when_they_are_on_the_disk_and_hold_nobody_up(site: Any, store: UserStore) -> None:
    async def course() -> None:
        async with site.client() as client:
            gate = hold_disk(store)
            bodies = [{"user_id": f"u{i}", "events": [{"item": "a"}]} for i in range(100)]
            appends = [asyncio.create_task(client.post("/v1/events", json=body)) for body in bodies]
            for _ in range(5):
                assert (await client.post("/v1/rank", json={"user_id": "u1"})).status_code == 200
            assert (await client.get("/v1/users/u1")).status_code == 404
            assert not any(append.done() for append in appends)
            gate.set()
            assert {(await append).json()["events"] for append in appends} == {1}

    asyncio.run(course())


def test_what_is_under_way_is_finished_while_stopping_and_more_is_refused(site: Any, store: UserStore) -> None:
    async def course() -> None:
        async with site.client() as client:
            gate = hold_disk(store)
            under_way = asyncio.create_task(client.post("/v1/events", json={"user_id": "u", "events": [{"item": "a"}]}))
            while not site.service.in_flight:
                await asyncio.sleep(0.001)
            stopped = asyncio.create_task(site.service.drained())
            await asyncio.sleep(0)
            for refused in (client.post("/v1/events", json={}), client.delete("/v1/users/u")):
                assert (await refused).status_code == 503
            assert not stopped.done()
            gate.set()
            assert (await under_way).json()["events"] == 1
            await stopped

    asyncio.run(course())


def limit_pages(store: UserStore, more: int) -> None:
    count = store._writer.submit(WriteStep(lambda db: db.execute("PRAGMA page_count").fetchone()[0])).result()
    store._writer.submit(WriteStep(lambda db: db.execute(f"PRAGMA max_page_count = {count + more}"))).result()


def test_a_full_disk_is_507_until_there_is_room(site: Any, store: UserStore, caplog: pytest.LogCaptureFixture) -> None:
    append(site, "u", "a", features={"age": 3})
    limit_pages(store, 2)
    for _ in range(3):
        response = append(site, "u", *["secret" + "x" * 200] * 300)
        assert response.status_code == 507
        assert message(response) == "the users' store has no room on its disk; send the same again once there is"
    assert len(caplog.messages) == 1
    assert str(store.path) in caplog.messages[0]
    assert "secret" not in caplog.text
    assert site.rank({"user_id": "u"}).status_code == 200
    assert append(site, "u", "b").json()["events"] == 2
    limit_pages(store, 10_000)
    assert append(site, "u", *["x" * 200] * 300).json()["events"] == 302


def test_a_failure_is_logged_once_a_minute_without_anything_of_users(
    site: Any, store: UserStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(site, "secret-user", "secret-item")
    store.close()
    clock = [1000.0]
    monkeypatch.setattr("corella_edge_runtime.server.routes.users.time", SimpleNamespace(monotonic=lambda: clock[0]))
    for clock[0] in (1000.0, 1001.0, 1000.0 + _LOG_SECONDS):
        assert append(site, "secret-user", "secret-item").status_code == 503
        response = site.call("GET", "/v1/users/secret-user")
        assert response.status_code == 503
        assert response.headers["retry-after"] == "5"
        assert "log" in message(response)
        assert site.rank({"user_id": "another-user"}).status_code == 503
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "secret" not in caplog.text


def test_metrics_name_the_route_and_not_the_user(site: Any, store: UserStore) -> None:
    append(site, "secret-user", "a")
    site.call("GET", "/v1/users/secret-user")
    text = site.metrics()
    assert 'corella_edge_requests_total{route="/v1/users/{id}",status="200"} 1.0' in text
    assert "secret-user" not in text


def serve(folder: Path, *options: str) -> subprocess.Popen[str]:
    """`corella-edge serve --store` around the fake."""
    (folder / "bundle").mkdir(exist_ok=True)
    (folder / "bundle" / "manifest.json").touch()
    command = [sys.executable, str(SCRIPT), "serve", str(folder / "bundle"), "--port", "0"]
    command += ["--store", str(folder / "users.db"), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@contextlib.contextmanager
def served(folder: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its address and process, once it is ready."""
    process = serve(folder, *options)
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        lines = [process.stdout.readline(), process.stdout.readline()]
        while "is ready" not in process.stderr.readline():
            assert process.poll() is None
        yield re.findall(r"http://\S+", "".join(lines))[0], process
    finally:
        process.kill()
        process.communicate()


def test_what_a_server_answered_is_there_after_it_was_killed(tmp_path: Path) -> None:
    with served(tmp_path) as (address, process):
        body = {"user_id": "u", "events": [{"item": "a"}], "features": {"age": 3}}
        assert httpx.post(f"{address}/v1/events", json=body).status_code == 200
        process.kill()
        process.wait()
    with served(tmp_path) as (address, process):
        held = httpx.get(f"{address}/v1/users/u").json()
        assert [event["item"] for event in held["events"]] == ["a"]
        assert held["features"] == {"age": 3}
        assert httpx.post(f"{address}/v1/rank", json={"user_id": "u"}).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_ids_that_look_like_folders_are_ids(tmp_path: Path) -> None:
    with served(tmp_path) as (address, _):
        for user_id in (".", ".."):
            httpx.post(f"{address}/v1/events", json={"user_id": user_id, "events": []})
            connection = http.client.HTTPConnection(address.removeprefix("http://"))
            connection.request("DELETE", f"/v1/users/{user_id}")
            assert json.loads(connection.getresponse().read()) == {"user_id": user_id, "deleted": True}
            connection.close()


def test_retention_of_a_server_begins_with_it(tmp_path: Path) -> None:
    now, ago = read_clocks(), 400 * 86_400.0
    then = Reading(now.boot, now.uptime - ago, now.wall - ago)
    with UserStore.open(tmp_path / "users.db", lambda: then) as store:
        store.append("old", [Event("a")])
    with UserStore.open(tmp_path / "users.db") as store:
        store.append("u", [Event(f"i{i}") for i in range(9)])
    with served(tmp_path, "--retain-days", "365", "--retain-events", "4") as (address, _):
        end = time.monotonic() + 20
        while [held(address, user_id) for user_id in ("old", "u")] != [0, 4]:
            assert time.monotonic() < end
            time.sleep(0.02)


def held(address: str, user_id: str) -> int:
    """Number of events."""
    response = httpx.get(f"{address}/v1/users/{user_id}")
    return 0 if response.status_code == 404 else len(response.json()["events"])


def test_a_store_that_another_server_uses_is_one_line_and_a_code(tmp_path: Path) -> None:
    with served(tmp_path), serve(tmp_path) as second:
        out, errors = second.communicate(timeout=30)
    store = tmp_path / "users.db"
    assert (second.returncode, out) == (2, "")
    assert errors == f"corella-edge: {store}: in use by another process; stop it or name another file\n"


def test_what_is_odd_about_new_events_is_told_or_refused(site: Any, store: UserStore) -> None:
    def send(*events: tuple[str, float, int]) -> Any:
        given = [{"item": item, "rating": rating, "time": time} for item, rating, time in events]
        return site.call("POST", "/v1/events", content=json.dumps({"user_id": "u", "events": given}).encode())

    site.ranker.rating_scale = (1.0, 5.0)
    now = 1_700_000_000
    plain = send(("a", 5, now), ("b", 4, now + 1))
    assert plain.json() == {"user_id": "u", "appended": 2, "events": 2}
    odd = send(("d", 5, now + 9), ("c2", 80, now + 5), ("c1", 4, now + 5), ("z", 4, 3))
    assert valid(SCHEMAS["Appended"], odd.json())
    assert odd.json()["notes"] == [
        "events[3].time: 3 is before 1995; times are Unix seconds",
        "events was newest first: it was turned round",
        "events[2].rating: 80 is outside the scale this bundle was trained on, 1 to 5",
    ]
    refused = send(("e", 5, now), ("f", 5, now * 1000))
    assert refused.status_code == 422
    assert message(refused).startswith("events[1].time: 1700000000000 looks like milliseconds")
    user = store.user("u", 10)
    assert user is not None
    assert [event.item for event in user.history] == ["z", "a", "b", "c1", "c2", "d"]


def test_a_store_whose_file_is_gone_is_503_one_log_line_and_a_metric(
    site: Any, store: UserStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert append(site, "u", "a").status_code == 200
    assert "corella_edge_store_lost 0.0" in site.metrics()
    store.path.rename(store.path.with_name("elsewhere"))
    answers = [append(site, "u", "b"), site.call("GET", "/v1/users/u"), site.call("DELETE", "/v1/users/u")]
    assert [answer.status_code for answer in answers] == [503] * 3
    assert [text for text in caplog.messages if "moved or deleted" in text] == caplog.messages[:1]
    assert len(caplog.messages) == 1
    assert "corella_edge_store_lost 1.0" in site.metrics()
    store.path.with_name("elsewhere").rename(store.path)
    assert append(site, "u", "c").json()["events"] == 2
    assert "corella_edge_store_lost 0.0" in site.metrics()
