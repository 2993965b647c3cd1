"""The page's routes without a browser: what `/` answers to whom, the files, and the data within its bounds."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bundles import ITEMS, USERS, make_bundle
from corella_edge.bundle.artefact import Bundle
from corella_edge.routing.forms import parse_threshold
from corella_edge_runtime.server.routes.page import FOLDER, POLICY, TYPES, wants_html
from corella_edge_runtime.showcase import Showcase

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.fixture(scope="module")
def showcase(tmp_path_factory):
    bundle = Bundle.open(make_bundle(tmp_path_factory.mktemp("page") / "bundle"))
    return Showcase(bundle, *bundle.schema(), parse_threshold("ratio:0.2", bundle.routing()))


@pytest.fixture
def shown(site, showcase):
    site.ranker.showcase = showcase
    return site


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (BROWSER, True), ("text/html", True), ("TEXT/HTML;level=1", True), ("text/html;q=0.5, */*", True),
        ("", False), ("*/*", False), ("application/json", False), ("text/html;q=0", False), ("text/htmlx", False),
        ("application/json, text/html;q=0.9", False), ("text/html, application/json;q=0.9", True),
        ("text/html;q=much", False), ("text/html;q=nan", False),
    ],
)  # fmt: skip
def test_html_is_for_those_who_name_it(accept, wanted):
    assert wants_html(accept) is wanted


@given(st.text(max_size=80))
def test_no_accept_header_is_too_strange(accept):
    assert wants_html(accept) in (True, False)


def test_browsers_get_the_page_and_programs_the_index(site):
    page = site.call("GET", "/", headers={"Accept": BROWSER})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == POLICY
    assert page.text.startswith("<!doctype html>")
    index = site.call("GET", "/")
    assert index.json()["bundle"] == "fake@1"
    assert page.headers["vary"] == index.headers["vary"] == "Accept"


def test_the_page_is_there_while_the_bundle_loads(make_site):
    site = make_site(ready=False)
    assert site.call("GET", "/", headers={"Accept": BROWSER}).status_code == 200
    assert site.call("GET", "/").json()["bundle"] is None
    refused = site.call("GET", "/page/live")
    assert refused.status_code == 503
    assert refused.json()["error"]["message"] == "the bundle is still loading"


def test_files_are_served_with_their_type_and_not_sent_again_when_unchanged(site):
    names = [path.name for path in FOLDER.iterdir() if path.suffix in TYPES]
    assert {"index.html", "page.css", "page.js"} <= set(names)
    for name in names:
        first = site.call("GET", f"/page/{name}")
        assert first.content == (FOLDER / name).read_bytes()
        assert first.headers["x-content-type-options"] == "nosniff"
        assert first.headers["cache-control"] == "no-cache"
        tag = first.headers["etag"]
        again = site.call("GET", f"/page/{name}", headers={"If-None-Match": f'"other", W/{tag}'})
        assert (again.status_code, again.content) == (304, b"")
        assert site.call("GET", f"/page/{name}", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("name", ["nothing.js", "page.py", "..%2Fpage.py", "%2e%2e/page.py", "", "page.js/"])
def test_nothing_else_is_served_from_there(site, name):
    assert site.call("GET", f"/page/{name}").status_code == 404


def test_the_page_holds_no_inline_script_or_style_and_names_no_other_host():
    for path in FOLDER.iterdir():
        text = path.read_text("utf-8").replace("http://www.w3.org/", "")
        assert "://" not in text, path.name
        if path.suffix == ".html":
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?! type=\"module\" src=)", text)
        if path.suffix == ".js":
            for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("):
                assert forbidden not in text, path.name


def test_items_users_and_the_curve_are_those_of_the_bundle(shown, showcase):
    found = shown.call("GET", "/page/items", params={"q": "film 3", "count": 2}).json()
    assert found == showcase.items("film 3", 2, 0)
    assert shown.call("GET", "/page/items", params={"seed": 5}).json() == showcase.items("", 24, 5)
    assert shown.call("GET", "/page/users", params={"count": 3}).json() == {
        **showcase.users("", 3), "stored": False,
    }  # fmt: skip
    assert shown.call("GET", "/page/user", params={"id": "u1"}).json() == showcase.user("u1")
    assert shown.call("GET", "/page/curve").json() == {**showcase.curve(), "target": None}
    assert len(shown.call("GET", "/page/items", params={"count": 500}).json()["items"]) == ITEMS
    assert len(shown.call("GET", "/page/users", params={"count": 200}).json()["users"]) == USERS


@pytest.mark.parametrize(
    ("path", "parameter", "value"),
    [
        ("items", "count", "0"), ("items", "count", "501"), ("items", "count", "-1"), ("items", "count", "1.5"),
        ("items", "count", "9" * 5000), ("items", "count", "٣"), ("items", "seed", str(2**32 + 1)),
        ("items", "seed", ""), ("items", "q", "x" * 201), ("users", "count", "201"), ("users", "q", "x" * 201),
    ],
)  # fmt: skip
def test_a_parameter_out_of_bounds_is_named(shown, path, parameter, value):
    answer = shown.call("GET", f"/page/{path}", params={parameter: value})
    assert answer.status_code == 422
    message = answer.json()["error"]["message"]
    assert message.startswith(f"{parameter}: ")
    assert len(message) < 200


def test_a_stranger_is_refused_by_name(shown):
    for parameters in ({"id": "nobody"}, {}):
        answer = shown.call("GET", "/page/user", params=parameters)
        assert answer.status_code == 422
        assert "is no user of the bundle's sample" in answer.json()["error"]["message"]


def test_live_tells_what_was_ranked_in_either_mode(shown):
    before = shown.call("GET", "/page/live").json()
    assert before["bundle"] == "fake@1"
    assert (before["requests"], before["share"], before["p50_ms"]) == (0, None, None)
    request = {"user": {}, "candidates": [{"item": "a"}, {"item": "b"}, {"item": "c"}], "threshold": "ratio:1"}
    assert shown.rank(request).json()["candidates"][0]["routed"]
    assert b"event: final" in shown.call("POST", "/v1/rank", params={"mode": "progressive"}, json=request).content
    live = shown.call("GET", "/page/live").json()
    assert (live["requests"], live["candidates"], live["asked"], live["share"]) == (2, 6, 6, 1.0)
    assert 0 < live["p50_ms"] <= live["p99_ms"]
