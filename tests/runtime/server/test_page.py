"""The page at `/` in a real browser, against a real `corella-edge serve`: what people do, and what is shown then."""

from __future__ import annotations

import json
import re
import shlex
import subprocess

import httpx
import pytest

from browser import Watched, chromium, needs_chromium
from bundles import make_bundle, reseal
from corella_edge.bundle.artefact import Bundle
from corella_edge.routing.policy import RATIOS
from sessions import ONE, serving, start, succeed

pytestmark = needs_chromium
HOSTILE = '<img src=x onerror="alert(1)"><script>alert(2)</script>&lt;b&gt;\u202eevil'
SCORED = "#rows tr:not([data-state=waiting])"
# Sums up layout shifts that no click or key explains, as the browser itself does.
SHIFTS = """
window.shifts = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (!entry.hadRecentInput) window.shifts.push([entry.value, ...entry.sources.map((s) => s.node?.outerHTML ?? "")]);
  }
}).observe({ type: "layout-shift", buffered: true });
"""
# Keeps what was sent and answered: a browser drops the body of a stream that was read.
RECORD = """
window.answered = [];
const send = window.fetch;
window.fetch = async (path, options) => {
  const response = await send(path, options);
  const keep = (text) => window.answered.push([options.body, text]);
  if (String(path).startsWith("v1/rank")) response.clone().text().then(keep, () => {});
  return response;
};
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The tiny bundle with titles that want to be markup, and a measured curve."""
    root = make_bundle(tmp_path_factory.mktemp("page") / "bundle")
    catalog = (root / "catalog.jsonl").read_text("utf-8")
    titles = catalog.replace('"Film 1"', json.dumps(HOSTILE)).replace('"Film 2"', json.dumps("Ünïcode & Söhne"))
    (root / "catalog.jsonl").write_text(titles, "utf-8")
    routing = json.loads((root / "routing.json").read_text())
    routing["table"] = [
        {"ratio": r, "share": r, "auc": 0.7 + r / 10, "logloss": 0.6 - r / 10, "accuracy": 0.65} for r in RATIOS
    ]
    (root / "routing.json").write_text(json.dumps(routing))
    reseal(root)
    return root


@pytest.fixture(scope="module")
def served(bundle):
    with serving(start("serve", bundle, "--port", 0, "--threshold", "ratio:0.2", *ONE)) as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    with chromium() as running:
        yield running


@pytest.fixture
def watched(browser, served):
    """A tab that must end without an error on its console and without a word to any other host."""
    found = Watched(browser)
    found.context.add_init_script(SHIFTS + RECORD)
    yield found
    hosts = found.hosts
    found.close()
    assert found.errors == []
    assert hosts == {served.url.removeprefix("http://")}
    assert found.dialogs == []


@pytest.fixture
def tab(watched, served):
    watched.tab.goto(served.url)
    settle(watched.tab)
    return watched.tab


def settle(tab):
    """Wait for the last ranking to be complete."""
    tab.wait_for_timeout(250)
    tab.locator(SCORED).first.wait_for()  # first: a page that opens slowly is not busy yet
    tab.locator("#ranking:not([aria-busy])").wait_for()


def asked(tab, do):
    """The body and the final answer of the ranking that `do` leads to."""
    tab.evaluate("window.answered = []")
    do()
    for _ in range(400):
        if found := tab.evaluate("window.answered"):
            settle(tab)
            return json.loads(found[-1][0]), final(found[-1][1])
        tab.wait_for_timeout(50)
    raise AssertionError("nothing was ranked")


def final(text):
    events = dict(re.findall(r"event: (\w+)\ndata: (.*)\n", text))
    return json.loads(events["final"] if events else text)


def slide(tab, value):
    tab.locator("#share").evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", str(value))


def rows(tab):
    """What the table shows: item, state, rank, probability, the two scores, move."""
    return tab.locator("#rows tr").evaluate_all("""(rows) => rows.map((row) => ({
      item: row.dataset.key, state: row.dataset.state,
      rank: row.querySelector(".rank").textContent, final: row.querySelector(".final").textContent,
      crm: row.querySelector(".crm .figure").textContent, llm: row.querySelector(".llm .figure").textContent,
      moved: row.querySelector(".moved").textContent, why: row.querySelector(".why").textContent,
    }))""")


def expected(answer):
    """What the table has to show for an answer."""
    shown = []
    for row in sorted(answer["candidates"], key=lambda row: row["rank"]):
        moved = row["crm_rank"] - row["rank"]
        shown.append({
            "item": row["item"], "state": "asked" if row["routed"] else "missed" if row["reason"] else "easy",
            "rank": str(row["rank"]), "final": f"{row['probability']:.3f}", "crm": f"{row['crm']:.3f}",
            "llm": "–" if row["llm"] is None else f"{row['llm']:.3f}",
            "moved": f"{'▲' if moved > 0 else '▼'} {abs(moved)}" if moved else "–",
        })  # fmt: skip
    return shown


def without_words(shown):
    return [{name: value for name, value in row.items() if name != "why"} for row in shown]


def test_the_page_shows_a_ranking_by_itself_and_nothing_jumps(tab):
    assert tab.locator("#bundle").inner_text() == "tiny@1"
    assert tab.locator("#person-search input").input_value().startswith("u")
    assert tab.locator("#rows tr").count() == 24
    assert [row["rank"] for row in rows(tab)] == [str(place) for place in range(1, 25)]
    assert tab.locator("#figures dd").first.inner_text() == "20 %"
    shifts = tab.evaluate("window.shifts")
    assert sum(shift[0] for shift in shifts) < 0.02, shifts


@pytest.mark.parametrize("place", [0, 100, 450, 640, 800])
def test_exactly_the_candidates_that_the_server_routes_are_marked_as_asked(tab, served, place):
    if place == 0:
        slide(tab, 300)
        settle(tab)
    body, answer = asked(tab, lambda: slide(tab, place))
    assert without_words(rows(tab)) == expected(answer)
    again = httpx.post(f"{served.url}/v1/rank", json=body, timeout=30).json()
    wanted = {row["item"] for row in again["candidates"] if row["reason"]}
    assert {row["item"] for row in rows(tab) if row["state"] != "easy"} == wanted
    share = float(body["threshold"].removeprefix("ratio:"))
    assert share not in (0, 1) or len(wanted) == 24 * share


def test_the_threshold_is_told_as_share_and_nats_and_quality(tab, bundle):
    calibration = Bundle.open(bundle).calibration()
    asked(tab, lambda: slide(tab, 450))
    share, _, threshold, unit, quality, gain = tab.locator("#figures dd").all_inner_texts()
    assert (share, unit) == ("15 %", "nats of entropy or more")
    assert threshold == f"{calibration.threshold(0.15):.4f}"
    assert (quality, gain) == ("0.7150", "+0.0150 against the base model")
    tab.get_by_label("log-loss").check()
    assert tab.locator("#figures dd").nth(4).inner_text() == "0.5850"
    assert "log-loss 0.5850" in tab.locator("#curve svg").get_attribute("aria-label")
    asked(tab, lambda: slide(tab, 0))
    assert tab.locator("#figures dd").nth(2).inner_text() == "never"


def test_another_user_is_found_and_asked_for(tab, served):
    tab.locator("#person-search input").click()
    tab.locator("#person-search input").fill("u17")
    body, _ = asked(tab, lambda: tab.get_by_role("option", name=re.compile("^u17")).first.click())
    known = httpx.get(f"{served.url}/page/user", params={"id": "u17"}).json()
    assert body["user"]["id"] == "u17"
    assert [event["item"] for event in body["user"]["history"]] == [event["item"] for event in known["history"]]
    assert tab.locator("#history li").count() == len(known["history"])
    latest = known["history"][-1]
    assert tab.locator("#history li .title").first.inner_text() == (latest["title"] or latest["item"])


def test_enter_takes_the_user_who_was_typed_and_never_a_new_one(tab):
    field = tab.locator("#person-search input")
    for typed in ("u2", "u17"):
        field.click()
        field.fill(typed)
        body, _ = asked(tab, lambda: field.press("Enter"))
        assert body["user"]["id"] == typed
    field.click()
    field.fill("zzzz")
    option = tab.get_by_role("option")
    field.press("Enter")
    option.filter(has_text="A new user").wait_for()
    tab.wait_for_timeout(400)
    assert option.all_inner_texts() == ["A new user\nno profile, no history"]
    field.blur()
    assert field.input_value() == "u17"
    assert tab.evaluate("window.answered.length") == 1


def test_a_long_history_fades_where_it_goes_on(tab):
    style = "(list) => { const { position, bottom, backgroundImage } = getComputedStyle(list, '::after'); "
    fade = style + "return [position, bottom, backgroundImage]; }"
    position, bottom, image = tab.locator("#history").evaluate(fade)
    assert (position, bottom) == ("sticky", "0px")
    assert image.startswith("linear-gradient")


def test_a_history_can_be_shortened_rated_and_lengthened(tab):
    before = tab.locator("#history li").count()
    body, _ = asked(tab, lambda: tab.locator("#history .remove").first.click())
    assert len(body["user"]["history"]) == before - 1
    rating = tab.locator("#history li input").first
    body, _ = asked(tab, lambda: (rating.fill("1.5"), rating.blur()))
    assert body["user"]["history"][-1]["rating"] == 1.5
    tab.locator("#history-search input").fill("söhne")
    body, _ = asked(tab, lambda: tab.get_by_role("option", name="Söhne").click())
    assert (body["user"]["history"][-1]["item"], body["user"]["history"][-1]["rating"]) == ("i2", None)
    assert len(body["user"]["history"]) == before == tab.locator("#history li").count()


def test_a_new_user_has_no_id_and_no_history(tab):
    tab.locator("#person-search input").click()
    body, answer = asked(tab, lambda: tab.get_by_role("option", name="A new user").click())
    assert body["user"] == {"id": None, "features": {}, "history": []}
    assert all("user" in row["unknown"] for row in answer["candidates"])
    assert tab.locator("#history li").count() == 0


def test_candidates_are_added_removed_and_sampled_anew(tab):
    first = {row["item"] for row in rows(tab)}
    gone = rows(tab)[3]["item"]
    body, _ = asked(tab, lambda: tab.locator("#rows .remove").nth(3).click())
    assert {candidate["item"] for candidate in body["candidates"]} == first - {gone}
    tab.locator("#item-search input").fill(gone)
    body, _ = asked(tab, lambda: tab.locator("#item-search input").press("Enter"))
    assert body["candidates"][0] == {"item": gone}
    held_out = tab.locator("#held-out")
    assert held_out.inner_text() == "Add 8 held-out items"
    body, _ = asked(tab, held_out.click)
    assert len({candidate["item"] for candidate in body["candidates"]}) == len(body["candidates"])
    assert tab.locator("#rows .label").count() == 8
    body, _ = asked(tab, tab.locator("#sample").click)
    assert {candidate["item"] for candidate in body["candidates"]} != first
    assert len(body["candidates"]) == 24


def test_a_new_item_is_typed_in_as_text_and_its_text_stays_text(tab):
    slide(tab, 800)
    settle(tab)
    tab.locator("#new-item").click()
    form = tab.locator("#new-item-form")
    form.get_by_label("title").fill(HOSTILE)
    form.get_by_label("genres").fill("Comedy, Never Seen")
    body, answer = asked(tab, lambda: form.get_by_role("button", name="Add").click())
    assert body["candidates"][0] == {
        "item": "new-item-1",
        "features": {"title": HOSTILE, "genres": ["Comedy", "Never Seen"]},
    }
    found = next(row for row in answer["candidates"] if row["item"] == "new-item-1")
    assert (found["routed"], found["unknown"]) == (True, ["item", "genres"])
    row = tab.locator('#rows tr[data-key="new-item-1"]')
    assert row.locator(".title").inner_text() == HOSTILE
    assert "New to the base model: item, genres" in row.inner_text()
    inert(tab)


def test_a_hostile_title_of_the_catalogue_is_inert_wherever_it_is_shown(tab):
    for search in ("#item-search input", "#history-search input"):
        tab.locator(search).fill("onerror")
        option = tab.get_by_role("option").filter(has_text="onerror")
        assert HOSTILE in option.text_content()
        asked(tab, option.click)
    assert tab.locator('#rows tr[data-key="i1"] .title').text_content() == HOSTILE
    assert tab.locator("#history .title").first.text_content() == HOSTILE
    inert(tab)


def inert(tab):
    assert tab.locator("img, script:not([src]), b:has-text('evil')").count() == 0
    assert tab.locator("script").count() == 1


def test_an_item_without_a_title_has_the_reason_in_words(tab):
    slide(tab, 800)
    settle(tab)
    tab.locator("#item-search input").fill("i39")
    asked(tab, lambda: tab.locator("#item-search input").press("Enter"))
    row = next(row for row in rows(tab) if row["item"] == "i39")
    assert row["state"] == "missed"
    assert "no title to ask about" in row["why"]
    assert "for 1 the base model's score stands" in tab.locator("#status").inner_text()


def test_both_modes_end_in_the_same_table(tab):
    slide(tab, 700)
    settle(tab)
    refined = rows(tab)
    with tab.expect_request(re.compile("/v1/rank$")):
        tab.get_by_label("Base model first, then refined").uncheck()
    settle(tab)
    assert [(row["item"], row["state"]) for row in rows(tab)] == [(row["item"], row["state"]) for row in refined]
    assert re.match(r"The LLM (was asked about|scored) \d+ of 24", tab.locator("#status").inner_text())


def test_the_crm_s_ranking_is_shown_while_the_llm_is_asked(watched, served):
    """The stream is stopped after its first event, as by a slow LLM."""
    watched.context.add_init_script("""
      const real = window.fetch;
      window.fetch = async (path, options) => {
        const response = await real(path, options);
        if (!String(path).startsWith("v1/rank")) return response;
        const whole = await response.text();
        const cut = whole.indexOf("event: final");
        let go;
        window.finish = new Promise((done) => { go = done; });
        window.refine = go;
        const body = new ReadableStream({ async start(out) {
          out.enqueue(new TextEncoder().encode(whole.slice(0, cut + 9)));
          await window.finish;
          out.enqueue(new TextEncoder().encode(whole.slice(cut + 9)));
          out.close();
        } });
        return new Response(body, { headers: response.headers });
      };
    """)
    tab = watched.tab
    tab.goto(served.url)
    tab.locator("#rows tr[data-state=waiting] .final:not(:text('–'))").first.wait_for()
    first = rows(tab)
    waiting = [row for row in first if row["state"] == "waiting"]
    assert all("Being asked" in row["why"] for row in waiting)
    assert all(row["llm"] == "–" and row["final"] == row["crm"] for row in first)
    assert "the LLM is being asked" in tab.locator("#status").inner_text()
    tab.evaluate("window.refine()")
    settle(tab)
    assert {row["item"] for row in rows(tab) if row["state"] == "asked"} == {row["item"] for row in waiting}


def test_the_time_line_names_the_steps_of_the_server(tab):
    asked(tab, lambda: slide(tab, 800))
    legend = tab.locator("#timeline .legend").inner_text()
    for step in ("parse request", "encode", "base model", "build prompts", "LLM", "write answer"):
        assert re.search(rf"{step} \d+(\.\d+)? ms", legend), legend
    assert tab.locator("#timeline .step.prompt").count() == 1
    widths = tab.locator("#timeline .step").evaluate_all("(all) => all.map((one) => one.clientWidth)")
    assert all(width >= 2 for width in widths)


@pytest.mark.slow
def test_live_figures_are_asked_for_only_while_the_page_is_seen(tab):
    calls = []
    tab.on("request", lambda request: calls.append(request.url) if request.url.endswith("/page/live") else None)
    with tab.expect_response(re.compile("/page/live")):
        pass
    assert re.search(r"\d+ %", tab.locator("#live").inner_text())
    hide = "(hidden) => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true }); " \
           "document.dispatchEvent(new Event('visibilitychange')); }"  # fmt: skip
    tab.evaluate(hide, True)
    tab.wait_for_timeout(300)
    calls.clear()
    tab.wait_for_timeout(2600)
    assert calls == []
    with tab.expect_request(re.compile("/page/live")):
        tab.evaluate(hide, False)


@pytest.mark.slow
def test_the_strip_says_that_nothing_answers_until_something_does(watched, tab):
    silent = tab.locator("#live.silent")
    assert silent.count() == 0
    watched.context.route("**/page/live", lambda route: route.abort())
    silent.wait_for()
    assert silent.inner_text().split("\n")[-2:] == ["server", "no answer"]
    assert tab.locator("#status.wrong").count() == 0
    watched.context.unroute("**/page/live")
    silent.wait_for(state="detached")
    assert "no answer" not in tab.locator("#live").inner_text()
    held = []
    watched.context.route("**/page/live", lambda route: held.append(route))
    silent.wait_for()
    assert held
    watched.context.unroute("**/page/live")
    silent.wait_for(state="detached")
    # The browser itself notes what the first route did.
    watched.errors[:] = [line for line in watched.errors if "Failed to load resource" not in line]


def test_a_page_opened_before_the_bundle_is_loaded_begins_by_itself_when_it_is(watched, served):
    loading = {"error": {"message": "the bundle is still loading"}}
    watched.context.route(
        "**/page/*",
        lambda route: (
            route.fulfill(status=503, json=loading) if route.request.resource_type == "fetch" else route.continue_()
        ),
    )
    watched.tab.goto(served.url)
    watched.tab.get_by_text("the bundle is still loading.").wait_for()
    assert watched.tab.locator("#rows tr").count() == 0
    watched.context.unroute("**/page/*")
    settle(watched.tab)
    assert watched.tab.locator("#status.wrong").count() == 0
    assert watched.tab.locator("#person-search input").input_value()
    # The browser itself notes what the route did.
    watched.errors[:] = [line for line in watched.errors if "Failed to load resource" not in line]


def test_a_deadline_below_zero_is_not_sent(tab):
    deadline = tab.locator("#deadline")
    tab.evaluate("window.answered = []")
    deadline.fill("-5")
    deadline.blur()
    tab.get_by_text("The deadline must be 0 ms or more.").wait_for()
    tab.wait_for_timeout(300)
    assert tab.evaluate("window.answered") == []
    tab.locator("#curl").click()
    tab.wait_for_timeout(300)
    assert tab.locator("#curl").inner_text() == "Copy as curl"
    assert tab.locator("#status").inner_text() == "The deadline must be 0 ms or more."
    body, _ = asked(tab, lambda: (deadline.fill("5000"), deadline.blur()))
    assert body["timeout_ms"] == 5000


def test_a_server_without_keys_has_no_button_for_one(tab):
    assert not tab.locator("#key-button").is_visible()


def test_everything_can_be_done_with_the_keyboard(tab):
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "To the ranking"
    for _ in range(8):
        if tab.evaluate("document.activeElement.id") == "person-search-input":
            break
        tab.keyboard.press("Tab")
    tab.get_by_role("option").nth(3).wait_for()
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowDown")
    chosen = tab.get_by_role("option", selected=True)
    assert chosen.get_attribute("id") == tab.locator("#person-search-input").get_attribute("aria-activedescendant")
    name = chosen.locator("span").first.inner_text()
    body, _ = asked(tab, lambda: tab.keyboard.press("Enter"))
    assert body["user"]["id"] == name
    tab.locator("#share").focus()
    before = float(body["threshold"].removeprefix("ratio:"))
    body, _ = asked(tab, lambda: tab.keyboard.press("ArrowRight"))
    assert float(body["threshold"].removeprefix("ratio:")) > before
    body, _ = asked(tab, lambda: tab.keyboard.press("End"))
    assert body["threshold"] == "ratio:1"
    tab.locator("#person-search-input").focus()
    tab.get_by_role("option").first.wait_for()
    tab.keyboard.press("Escape")
    assert tab.get_by_role("option").count() == 0


def test_the_focus_stays_where_it_was_when_rows_are_drawn_anew(tab):
    focused = "document.activeElement.getAttribute('aria-label')"
    second = rows(tab)[1]["item"]
    tab.locator("#rows .remove").first.focus()
    asked(tab, lambda: tab.keyboard.press("Enter"))
    assert tab.evaluate("document.activeElement.closest('tr').dataset.key") == second
    tab.locator("#history input").nth(1).focus()
    name = tab.evaluate(focused)
    asked(tab, lambda: (tab.keyboard.type("3.5"), tab.keyboard.press("Enter")))
    assert tab.evaluate(focused) == name


def test_without_candidates_nothing_is_asked(tab):
    for _ in range(24):
        tab.locator("#rows .remove").first.click()
    tab.get_by_text("No candidates.").wait_for()
    assert tab.locator("#rows tr").count() == 0


def test_every_control_has_a_name(tab):
    tab.locator("#new-item").click()
    nameless = tab.locator("input, button").evaluate_all("""(all) => all.filter((one) =>
      !(one.labels?.length || one.getAttribute("aria-label") || one.textContent.trim())).map((one) => one.outerHTML)""")
    assert nameless == []


def test_an_error_is_one_clear_line_and_the_next_answer_clears_it(watched, tab, served):
    watched.context.route("**/v1/rank*", lambda route: route.abort())
    tab.locator("#again").click()
    status = tab.locator("#status.wrong")
    status.wait_for()
    assert status.inner_text() == "The server does not answer."
    watched.context.unroute("**/v1/rank*")
    failure = {"error": {"message": "threshold: 0.9 is <b>not</b> an entropy"}}
    watched.context.route("**/v1/rank*", lambda route: route.fulfill(status=422, json=failure))
    tab.locator("#again").click()
    tab.get_by_text("is <b>not</b> an entropy.").wait_for()
    watched.context.unroute("**/v1/rank*")
    asked(tab, tab.locator("#again").click)
    assert tab.locator("#status.wrong").count() == 0
    # The browser itself notes what the two routes above did.
    watched.errors[:] = [line for line in watched.errors if "Failed to load resource" not in line]


@pytest.fixture
def secured(bundle, tmp_path, browser):
    """A server with keys and a store of users, and a tab before it."""
    keys = tmp_path / "keys"
    key = succeed("keys", "add", keys, "--name", "people", "--scope", "rank", "--scope", "users").out.split()[-1]
    options = ("--keys", keys, "--store", tmp_path / "users.db", *ONE)
    with serving(start("serve", bundle, "--port", 0, *options)) as server:
        watched = Watched(browser)
        yield server, key, watched
        watched.close()


def test_a_server_with_keys_asks_for_one_and_takes_it(secured):
    server, key, watched = secured
    tab = watched.tab
    tab.goto(server.url)
    field = tab.get_by_label("API key, kept until this tab is closed")
    field.wait_for()
    tab.locator("#status").filter(has_text=re.compile("^Type an API key above.$")).wait_for()
    assert tab.locator("#key-form [role=alert]").inner_text() == ""
    field.fill("ce_wrong")
    field.press("Enter")
    tab.locator("#key-form").get_by_text("the API key is not known.").wait_for()
    assert tab.locator("#status").inner_text() == "Type another API key above."
    field.fill(key)
    field.press("Enter")
    settle(tab)
    assert tab.locator("#rows tr").count() == 24
    assert not field.is_visible()
    assert tab.locator("#key-button").is_visible()
    assert tab.evaluate("Object.entries(sessionStorage).length") == 1
    assert tab.evaluate("localStorage.length + document.cookie.length") == 0
    tab.reload()
    settle(tab)
    assert tab.locator("#rows tr").count() == 24
    assert {line for line in watched.errors if "401" not in line} == set()


def test_a_user_of_the_store_is_asked_for_by_id_alone(secured):
    server, key, watched = secured
    event = {"user_id": "visitor/7", "events": [{"item": "i3", "rating": 5, "time": 1}]}
    sent = httpx.post(f"{server.url}/v1/events", json=event, headers={"Authorization": f"Bearer {key}"})
    assert sent.status_code == 200, sent.text
    watched.context.add_init_script(f"{RECORD} sessionStorage.setItem('corella-edge-key', {json.dumps(key)});")
    tab = watched.tab
    tab.goto(server.url)
    settle(tab)
    tab.locator("#person-search input").fill("visitor/7")
    body, answer = asked(tab, lambda: tab.get_by_role("option", name="Look for visitor/7 in the store").click())
    assert body["user_id"] == "visitor/7"
    assert "user" not in body
    assert len(answer["candidates"]) == 24
    assert tab.locator("#history li").count() == 0
    assert "server's own store" in tab.locator("#person-note").inner_text()
    assert watched.errors == []


def test_another_version_s_curve_is_fetched_when_the_server_changes_over(watched, tab, served):
    live = httpx.get(f"{served.url}/page/live").json()
    canary = {**live, "bundle": "tiny@2", "versions": [
        {"bundle": "tiny@2", "share": 0.9}, {"bundle": "tiny@3", "share": 0.1},
    ]}  # fmt: skip
    watched.context.route("**/page/live", lambda route: route.fulfill(json=canary))
    with tab.expect_request(re.compile("/page/curve")):
        tab.wait_for_timeout(2500)
    assert tab.locator("#bundle").inner_text() == "tiny@2 · 10 % of the users: tiny@3"


@pytest.mark.parametrize(("rule", "told"), [("stack", True), ("replace", False)])
def test_a_rule_that_makes_one_of_both_scores_is_told(watched, served, rule, told):
    curve = {**httpx.get(f"{served.url}/page/curve").json(), "fusion": rule}
    watched.context.route("**/page/curve", lambda route: route.fulfill(json=curve))
    watched.tab.goto(served.url)
    settle(watched.tab)
    words = watched.tab.locator("#status").inner_text()
    assert words.startswith("The LLM was asked about ")
    assert ("Its score and the base model's count together (stack)." in words) == told


def test_a_sentence_says_what_the_page_is_and_leads_to_its_words(tab):
    assert "base model scores every candidate" in tab.locator("#what").inner_text()
    tab.get_by_role("link", name="What the words mean").click()
    assert tab.evaluate("location.hash") == "#help"
    tab.wait_for_function("document.querySelector('#help').getBoundingClientRect().top < innerHeight")
    assert "conventional recommendation model (CRM)" in tab.locator("#terms").inner_text()


def test_every_term_is_explained_on_hover_and_at_the_end(tab):
    explained = "(all) => all.map((one) => one.textContent)"
    listed = tab.locator("#terms dd").evaluate_all(explained)
    hints = tab.locator("abbr").evaluate_all("(all) => all.map((one) => one.title)")
    assert len(hints) >= 15
    assert set(hints) <= set(listed)
    told = " ".join(tab.locator(f"#{part}").inner_text() for part in ("live", "figures", "ranking"))
    for word in ("p50", "Threshold", "AUC", "Entropy", "Probability", "Moved"):
        assert word in told
        assert tab.locator("abbr").filter(has_text=word).first.get_attribute("title")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["#figures abbr >> nth=1", "#live abbr >> nth=0", ".why span[title] >> nth=0"])
def test_what_is_told_on_hover_is_told_on_a_click_and_stays_while_figures_change(tab, place):
    asked(tab, lambda: slide(tab, 400))
    bubble = "(one) => getComputedStyle(one, '::after').content"
    one = tab.locator(place)
    told = one.get_attribute("title")
    assert told
    assert one.evaluate(bubble) == "none"
    one.click()
    assert one.evaluate(bubble) in (f'"{told}"', "attr(title)")
    tab.wait_for_timeout(2500)  # the strip is drawn again every two seconds
    assert tab.evaluate("document.activeElement.title") == told
    tab.locator("#what").click()
    assert one.evaluate(bubble) == "none"


def test_the_minute_of_all_and_this_ranking_are_told_apart(tab):
    """The strip shows what everybody asked for; the slider what this ranking asks for. Each says so."""
    asked(tab, lambda: slide(tab, 800))
    assert tab.locator("#figures dt").first.inner_text() == "Asked in this ranking"
    assert tab.locator("#figures dd").first.inner_text() == "100 %"
    assert tab.locator(".minute").inner_text().startswith("The last minute, all clients")
    assert "in this ranking" in tab.locator("#threshold-title").inner_text()


def test_why_the_llm_was_not_asked_is_told(tab):
    asked(tab, lambda: slide(tab, 400))
    words = {row["why"] for row in rows(tab) if row["state"] == "easy"}
    assert {one.partition("New")[0] for one in words} == {"Below the threshold: the LLM was not asked"}
    spans = tab.locator("#rows tr[data-state=easy] .why span[title]")
    hints = spans.evaluate_all("(all) => all.map((one) => one.title)")
    assert len(hints) == sum(row["state"] == "easy" for row in rows(tab))
    assert all("entropy is below the threshold" in hint for hint in hints)
    asked(tab, lambda: slide(tab, 0))
    assert {row["why"].partition("New")[0] for row in rows(tab)} == {"Not asked: none is"}


def test_titles_have_more_room_than_reasons(tab):
    """At the width of a small laptop, where the columns have to share."""
    tab.set_viewport_size({"width": 1280, "height": 900})
    asked(tab, lambda: slide(tab, 400))
    cells = {name: tab.locator(f"#rows {name}").first.bounding_box() for name in ("th", ".why")}
    assert cells["th"]["width"] > cells[".why"]["width"]
    cut = "(all) => all.filter((one) => one.scrollHeight > one.clientHeight + 1).length"
    assert tab.locator("#rows .title").evaluate_all(cut) == 0


def test_every_axis_of_the_chart_has_a_title(tab):
    titles = tab.locator("#curve text.axis").all_text_contents()
    assert titles == [
        "Share of candidates that the LLM is asked about, in %",
        "AUC on the bundle's validation rows",
        "Milliseconds for 24 candidates, measured here",
    ]
    boxes = tab.locator("#curve text").evaluate_all("""(all) => all.map((one) => {
      const { left, top, right, bottom } = one.getBoundingClientRect();
      return [left, top, right, bottom];
    })""")
    frame = tab.locator("#curve").bounding_box()
    for left, top, right, bottom in boxes:
        assert frame["x"] <= left
        assert right <= frame["x"] + frame["width"] + 1
        assert frame["y"] <= top + 1
        assert bottom <= frame["y"] + frame["height"] + 1


def test_on_a_phone_the_ranking_comes_first(browser, served):
    watched = Watched(browser, viewport={"width": 400, "height": 860})
    watched.tab.goto(served.url)
    settle(watched.tab)
    parts = ("what", "jump", "ranking", "threshold", "person", "help", "live")
    tops = [watched.tab.locator(f"#{part}").bounding_box()["y"] for part in parts]
    assert tops == sorted(tops)
    # On the first screen; how far its rows lie below its heading depends on what there is to say about the ranking.
    assert watched.tab.locator("#ranking").bounding_box()["y"] < 860 / 2
    watched.tab.locator("#jump").get_by_role("link", name="LLM share").click()
    watched.tab.wait_for_function("Math.abs(document.querySelector('#threshold').getBoundingClientRect().top) < 5")
    assert watched.errors == []
    watched.close()


@pytest.mark.parametrize("clipboard", [True, False])
def test_a_ranking_is_copied_as_a_command_for_a_terminal(watched, served, clipboard):
    """Without a clipboard, as over http from another machine, the browser copies a selection: here it is pasted."""
    watched.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=served.url)
    if not clipboard:
        watched.context.add_init_script("Object.defineProperty(navigator, 'clipboard', { value: undefined });")
    tab = watched.tab
    tab.goto(served.url)
    settle(tab)
    tab.locator("#new-item").click()
    tab.locator("#new-item-form").get_by_label("title").fill('It\'s $HOME `and` \\ "more"\n')
    body, answer = asked(tab, lambda: tab.locator("#new-item-form").get_by_role("button", name="Add").click())
    tab.locator("#curl").click()
    tab.locator("#curl").filter(has_text="Copied").wait_for()
    assert tab.locator("#copied").inner_text() == "Copied"
    assert tab.evaluate("document.activeElement.id") == "curl"
    tab.evaluate("document.body.append(Object.assign(document.createElement('textarea'), { id: 'paste' }))")
    tab.locator("#paste").focus()
    tab.keyboard.press("Control+V")
    command = tab.locator("#paste").input_value()
    words = shlex.split(command.replace("\\\n", ""))
    assert words[:5] == ["curl", "-s", f"{served.url}/v1/rank", "-H", "Content-Type: application/json"]
    assert json.loads(words[-1]) == body
    printed = command.replace("curl -s", "printf '%s\\n'", 1)
    typed = subprocess.run(["sh", "-c", printed], capture_output=True, text=True)
    assert json.loads(typed.stdout.splitlines()[-1]) == body
    again = httpx.post(words[2], content=words[-1], headers={"Content-Type": "application/json"}, timeout=30).json()
    assert [row["item"] for row in again["candidates"]] == [row["item"] for row in answer["candidates"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_width_needs_sideways_scrolling_and_texts_can_be_read(browser, served, scheme):
    watched = Watched(browser, color_scheme=scheme)
    watched.tab.goto(served.url)
    settle(watched.tab)
    widths, wide, contrasts = [400, 700, 1000, 1400, 2000], [], []
    for width in widths:
        watched.tab.set_viewport_size({"width": width, "height": 900})
        wide.append(watched.tab.evaluate("document.documentElement.scrollWidth"))
        contrasts += watched.tab.evaluate(CONTRASTS)
    watched.close()
    assert wide == widths
    assert watched.errors == []
    assert [entry for entry in contrasts if entry[0] < 4.5] == []


# The contrast (WCAG 2) of every text against the nearest background behind it.
CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (let at = node; at; at = at.parentElement) {
      const found = numbers(getComputedStyle(at).backgroundColor);
      if (found[3] !== 0) return found;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll("body *")].filter((node) => node.checkVisibility()
    && [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()));
  return texts.map((node) => {
    const style = getComputedStyle(node);
    const [a, b] = [light(numbers(node.closest("svg") ? style.fill : style.color)), light(behind(node))];
    return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.outerHTML.slice(0, 80)];
  });
}"""
