"""Paths as clients and proxies write them: each is a route's own, or 404; never another user's or route's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corella_edge_runtime.store.users import UserStore

VALUES = {"id": "42", "model": "crm", "version": "1", "file": "page.js"}


@pytest.fixture
def store(site: Any, tmp_path: Path) -> Iterator[UserStore]:
    with UserStore.open(tmp_path / "users.db") as opened:
        site.service.store = opened
        yield opened


def ask(site: Any, method: str, raw: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """Exactly this path, as uvicorn hands it on: status, headers and body."""
    sent: list[Any] = []
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Any:
        return next(messages, None) or await asyncio.sleep(3600)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": method, "path": unquote(raw), "raw_path": raw.encode(),
        "root_path": "", "query_string": b"", "headers": [(b"host", b"localhost")], "client": ("127.0.0.1", 1),
    }  # fmt: skip
    asyncio.run(site.app(scope, receive, send))
    headers = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent)


def add(site: Any, user_id: str) -> None:
    assert ask(site, "POST", "/v1/events", json.dumps({"user_id": user_id, "events": []}).encode())[0] == 200


@pytest.mark.parametrize(
    "raw",
    ["42/", "/42", "42//", "./42", "../42", "42/.", "42/..", "../users/42", "x/42", "42/x", "/", "42%2F/", "a%2Fb/"],
)
def test_a_path_that_goes_on_is_nobody(site: Any, store: UserStore, raw: str) -> None:
    for user_id in ("42", "a/b"):
        add(site, user_id)
    for method in ("GET", "HEAD", "DELETE"):
        status, _, body = ask(site, method, f"/v1/users/{raw}")
        assert status == 404
        assert b"one segment" in body or method == "HEAD"
    assert ask(site, "DELETE", "//v1/users/42")[0] == ask(site, "DELETE", "/v1//users/42")[0] == 404
    for user_id in ("42", "a/b"):
        assert store.user(user_id, 1) is not None


def test_an_id_that_ends_with_a_slash_is_another_users(site: Any, store: UserStore) -> None:
    add(site, "42")
    add(site, "42/")
    assert json.loads(ask(site, "DELETE", "/v1/users/42%2F")[2]) == {"user_id": "42/", "deleted": True}
    assert store.user("42", 1) is not None
    assert store.user("42/", 1) is None


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text("42/.%+é\0? ", min_size=1, max_size=6), st.sampled_from(["", "/", "//", "/.", "/x"]), st.booleans())
def test_only_the_user_named_is_deleted(site: Any, store: UserStore, user_id: str, more: str, encoded: bool) -> None:
    add(site, "42")
    add(site, user_id)
    raw = quote(user_id, safe="" if encoded else "/") + more
    status, _, body = ask(site, "DELETE", f"/v1/users/{raw}")
    if "/" in raw:
        assert status == 404
        assert store.user(user_id, 1) is not None
    else:
        assert json.loads(body) == {"user_id": user_id, "deleted": True}
        assert store.user(user_id, 1) is None
    assert (store.user("42", 1) is not None) is (user_id != "42" or "/" in raw)


def routes(site: Any) -> list[Any]:
    return [(route, route.path_format.format(**VALUES)) for route in site.app.routes]


def test_a_slash_more_is_no_route(site: Any, store: UserStore) -> None:
    add(site, "42")
    for route, path in routes(site):
        for method in route.methods:
            for raw in (path + "/", "/" + path, path + "/.", path + "%2F"):
                known = raw in ("//", "/v1/users/42%2F")  # an id; nobody has it
                status, _, body = ask(site, method, raw)
                assert status == 404 or known, (method, raw, body)
    assert store.user("42", 1) is not None


def test_what_may_be_got_has_a_head(site: Any, store: UserStore) -> None:
    add(site, "42")
    for route, path in routes(site):
        if "GET" in route.methods and route.path != "/metrics":  # a dict of its own at each call
            assert ask(site, "HEAD", path)[:1] == ask(site, "GET", path)[:1]


def test_another_method_is_405_and_told_which(site: Any, store: UserStore) -> None:
    for route, path in routes(site):
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - route.methods:
            status, headers, body = ask(site, method, path)
            assert (status, set(headers["allow"].split(", "))) == (405, route.methods), (method, path)
            assert json.loads(body)["error"]["message"] == f"{method} is not allowed here; use {headers['allow']}"


def test_a_path_in_another_spelling_is_the_same_path(site: Any, store: UserStore) -> None:
    add(site, "42")
    assert json.loads(ask(site, "GET", "/v1/users/%34%32")[2])["user_id"] == "42"
    assert ask(site, "GET", "/v2/models/c%72m")[0] == 200
    assert ask(site, "GET", "/v1/%75sers/42")[0] == 422  # the id is taken from what was sent, which has none
    for raw in ("/v2/models/crm%00", "/v2/models/..", "/v2/models/%2e%2e/ready", "/page/..%2Fapp.py", "/page/%00"):
        assert ask(site, "GET", raw)[0] == 404
