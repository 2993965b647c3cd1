"""The page's pure functions, in the browser that runs them; where Python has the same rule, the two are compared."""

from __future__ import annotations

import json
import random
import shlex
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from browser import Watched, chromium, needs_chromium
from corella_edge.routing.exploring import EXPLORE
from corella_edge.routing.forms import FORMS
from corella_edge.routing.measure import entropy
from corella_edge.routing.policy import RATIOS, Calibration
from corella_edge.routing.reasons import KEPT, NoAnswer
from corella_edge_runtime.server.routes.page import FOLDER, TYPES

pytestmark = needs_chromium
ORIGIN = "http://page.test"


@pytest.fixture(scope="module")
def tab():
    def answer(route, request):
        file = FOLDER / request.url.rpartition("/")[2]
        if file.suffix in TYPES:
            route.fulfill(path=file, content_type=TYPES[file.suffix])
        else:
            route.fulfill(body="<!doctype html><link rel=icon href=icon.svg>", content_type="text/html")

    with chromium() as browser:
        watched = Watched(browser)
        watched.context.route("**/*", answer)
        watched.tab.goto(f"{ORIGIN}/")
        yield watched.tab
        assert watched.errors == []
        watched.close()


def call(tab, module, expression, argument=None):
    """`expression`, a function of (exports of the module, argument), in the browser."""
    script = f"async (argument) => ({expression})(await import('/{module}.js'), argument)"
    return tab.evaluate(script, argument)


def test_the_axis_has_the_usual_shares(tab):
    assert call(tab, "scale", "(m) => m.GRID") == list(RATIOS)


def test_place_and_share_are_each_other_s_inverse_and_rise(tab):
    places = [i / 20 for i in range(161)]
    shares = call(tab, "scale", "(m, places) => places.map(m.shareAt)", places)
    assert shares == sorted(set(shares))
    assert [shares[20 * i] for i in range(9)] == list(RATIOS)
    assert call(tab, "scale", "(m, shares) => shares.map(m.placeOf)", shares) == pytest.approx(places, abs=1e-3)
    assert call(tab, "scale", "(m) => [m.shareAt(-1), m.shareAt(99), m.placeOf(0), m.placeOf(1)]") == [0, 1, 0, 8]


def test_nats_are_those_of_the_server_s_calibration(tab):
    rng = np.random.default_rng(1)
    fitted = Calibration.fit(entropy(rng.beta(0.7, 0.9, 500)))
    curve = {"shares": fitted.shares.tolist(), "nats": [None if n == np.inf else n for n in fitted.thresholds.tolist()]}
    shares = [0.0, 1.0, 0.0003, *rng.random(200).round(5).tolist(), *RATIOS]
    found = call(tab, "scale", "(m, [curve, shares]) => shares.map((s) => m.natsAt(curve, s))", [curve, shares])
    wanted = [fitted.threshold(share) for share in shares]
    assert [np.inf if nats is None else nats for nats in found] == pytest.approx(wanted)
    back = call(tab, "scale", "(m, [curve, nats]) => nats.map((n) => m.shareOf(curve, n))", [curve, found])
    again = [fitted.threshold(share) for share in back]
    assert again == pytest.approx(wanted, abs=2e-3)


def test_quality_is_the_table_s_at_its_shares_and_between_them_between(tab):
    table = [{"ratio": r, "auc": a} for r, a in ((0, 0.7), (0.1, 0.8), (1, 0.6), (0.5, None))]
    at = "(m, [table, share]) => m.qualityAt(table, 'auc', share)"
    assert [call(tab, "scale", at, [table, share]) for share in (0, 0.1, 1, 0.05)] == pytest.approx(
        [0.7, 0.8, 0.6, 0.75]
    )
    assert call(tab, "scale", at, [[], 0.5]) is None


def test_cost_joins_its_two_parts_without_a_jump(tab):
    at = "(m, [cost, share]) => m.costAt(cost, share, 10)"
    full, no_crm, no_llm = ({"crm": 1, "llm": 5, "asked": 2} | other for other in ({}, {"crm": None}, {"llm": None}))
    assert [call(tab, "scale", at, [full, share]) for share in (0, 0.05, 0.1, 1)] == [1, 4, 7, 25]
    assert [call(tab, "scale", at, [no_crm, share]) for share in (0, 0.1)] == [None, 7]
    assert [call(tab, "scale", at, [no_llm, share]) for share in (0, 0.1)] == [1, None]
    assert call(tab, "scale", at, [None, 0.1]) is None


COLLECT = """async (m, pieces) => {
  const found = [];
  for await (const event of m.events(pieces)) found.push([event.event, event.data]);
  return found;
}"""


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_events_are_the_same_wherever_the_stream_is_cut(tab, newline):
    text = 'event: crm\ndata: {"a": "é:\\u2028"}\n\n: a comment\n\nevent: final\nid: 3\ndata: 1\ndata:2\n\n'
    text = (text + "data\n\nevent: x\n\n").replace("\n", newline)
    wanted = [["crm", '{"a": "é:\\u2028"}'], ["final", "1\n2"]]
    rng = random.Random(0)
    cuts = [[c] for c in range(len(text) + 1)] + [sorted(rng.sample(range(len(text)), 6)) for _ in range(60)]
    for places in [[], *cuts, list(range(len(text)))]:
        edges = [0, *places, len(text)]
        pieces = [text[a:b] for a, b in pairwise(edges)]
        assert call(tab, "api", COLLECT, pieces) == wanted, pieces


def test_server_timing_is_read_and_what_is_not_of_its_form_is_left_out(tab):
    header = (
        'parse;dur=0.12, encode;dur=3, prefill;desc="evaluated=1,reused=2; a \\"word\\"";dur=5.5,queue ; dur=0 '
        ',broken;dur=x, negative;dur=-1, "quoted";dur=1, nothing, total;dur=1e1'
    )
    found = call(tab, "api", "(m, header) => m.serverTiming(header)", header)
    assert {step["name"]: step["ms"] for step in found} == {
        "parse": 0.12, "encode": 3, "prefill": 5.5, "queue": 0, "total": 10,
    }  # fmt: skip
    assert {step["name"]: step["words"] for step in found}["prefill"] == 'evaluated=1,reused=2; a "word"'
    for strange in ("", ",,,", ";", '"', "\x00", "a" * 10_000, 'a;desc="' + "\\" * 999):
        assert call(tab, "api", "(m, header) => m.serverTiming(header)", strange) == []


def test_the_steps_of_a_request_stand_in_their_order(tab):
    header = [{"name": n, "ms": 1, "words": ""} for n in ("total", "serialise", "new", "crm", "encode", "parse")]
    explained = {"milliseconds": {"crm": 9, "queue": 2, "prefill": 3}, "tokens": {"evaluated": 5, "reused": 7}}
    found = call(tab, "words", "(m, [header, told]) => m.steps(header, told)", [header, explained])
    assert [step["name"] for step in found] == ["parse", "encode", "crm", "queue", "prefill", "serialise", "new"]
    assert [step["ms"] for step in found] == [1, 1, 1, 2, 3, 1, 1]
    assert found[4]["words"] == "5 tokens computed, 7 reused"
    assert call(tab, "words", "(m) => m.steps([], undefined)") == []


def test_every_reason_that_the_server_describes_has_words(tab):
    reasons = set(call(tab, "words", "(m) => Object.keys(m.REASONS)"))
    assert reasons - {""} == {form.reason for form in FORMS} | {EXPLORE, KEPT, *NoAnswer}
    states = call(tab, "words", "(m, reasons) => reasons.map((reason) => m.why({ reason }).state)", list(NoAnswer))
    assert dict(zip(NoAnswer, states, strict=True)) == {
        reason: "waiting" if reason == NoAnswer.PENDING else "missed" for reason in NoAnswer
    }


def test_where_all_are_asked_none_is_called_uncertain(tab):
    words = "(m) => ['ratio', 'no_text', ''].map((reason) => m.why({ reason }, 1).words)"
    everybody = call(tab, "words", words)
    assert everybody[0] == "Asked: all are"
    assert everybody[1:] == call(tab, "words", "(m) => ['no_text', ''].map((reason) => m.why({ reason }).words)")
    assert call(tab, "words", "(m) => m.why({ reason: 'ratio' }).words") == "Asked: among the least certain"


def test_where_none_is_asked_none_is_called_certain(tab):
    assert call(tab, "words", "(m) => m.why({ reason: '' }, 0).words") == "Not asked: none is"
    sure = "(m) => [null, 0.2, 1].map((share) => m.why({ reason: '' }, share).words)"
    assert call(tab, "words", sure) == ["Below the threshold: the LLM was not asked"] * 3


@given(st.text(max_size=30), st.booleans())
def test_a_copied_command_is_one_command_of_a_shell_whatever_it_holds(tab, text, keyed):
    found = call(tab, "curl", "(m, [body, keyed]) => m.curl('http://x/v1/rank', body, keyed)", [{"id": text}, keyed])
    words = shlex.split(found.replace("\\\n", ""))  # as a shell goes on in the next line
    assert json.loads(words[-1]) == {"id": text}
    assert words[:3] == ["curl", "-s", "http://x/v1/rank"]
    assert ("Authorization: Bearer $CORELLA_EDGE_KEY" in words) == keyed
    assert len(words) == 7 + 2 * keyed


@pytest.mark.parametrize("stored", [False, True])
def test_users_are_offered_before_a_new_one_and_the_store_only_where_there_is_one(tab, stored):
    users = [{"id": name, "events": 3, "latest": []} for name in ("u1", "u12")]
    offered = "(m, a) => m.offered(...a).map(({ label, chosen }) => [label, Boolean(chosen)])"
    found, fresh = [["u1", False], ["u12", False]], ["A new user", True]
    store = [["Look for zz in the store", False]] if stored else []
    assert call(tab, "person", offered, ["", users, stored]) == [fresh, *found]
    assert call(tab, "person", offered, ["u1", users, stored]) == [*found, fresh]
    assert call(tab, "person", offered, ["zz", [], stored]) == [*store, fresh]


def test_an_unknown_reason_is_told_by_its_name(tab):
    found = call(tab, "words", "(m) => m.why({ reason: 'novelty' })")
    assert found == {"state": "missed", "words": "The base model's score stands: novelty"}


def test_movement_is_against_the_ranking_of_the_crm_with_ties_in_request_order(tab):
    rows = [
        {"item": "a", "crm": 0.5, "rank": 3},
        {"item": "b", "crm": 0.9, "rank": 1},
        {"item": "c", "crm": 0.5, "rank": 2},
        {"item": "d", "crm": 0.1, "rank": 4},
    ]
    assert call(tab, "ranking", "(m, rows) => [...m.movement(rows)]", rows) == [["b", 0], ["a", -1], ["c", 1], ["d", 0]]


def test_figures_are_short_and_of_a_fixed_form(tab):
    shown = "(m) => [0, 0.0005, 0.05, 0.123, 0.5, 1, null].map(m.percent)"
    assert call(tab, "dom", shown) == ["0 %", "0.1 %", "5 %", "12 %", "50 %", "100 %", "–"]
    assert call(tab, "dom", "(m) => [0.123, 12.34, 123.4, null].map(m.milliseconds)") == [
        "0.12 ms", "12.3 ms", "123 ms", "–",
    ]  # fmt: skip
    texts = call(tab, "dom", "(m) => [null, 'a', 3, ['x', 2, null], true].map(m.text)")
    assert texts == ["", "a", "3", "x, 2, ", "true"]
