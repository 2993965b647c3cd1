"""The page of a server that holds a share: the calibrated curve, and on its axis the share of late."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from browser import Watched, chromium, needs_chromium
from bundles import ITEMS, make_bundle
from sessions import ONE, Served, serving, start

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    bundle: Path = make_bundle(tmp_path_factory.mktemp("held") / "bundle")
    options = ("--target-ratio", 0.2, "--window", "1h", "--timeout-ms", 20_000)
    with serving(start("serve", bundle, "--port", 0, *options, *ONE)) as server:
        yield server


@pytest.fixture
def tab(served: Served) -> Iterator[Any]:
    with chromium() as browser:
        watched = Watched(browser)
        watched.tab.goto(served.url)
        watched.tab.locator("#rows tr:not([data-state=waiting])").first.wait_for()
        yield watched.tab
        watched.close()
        assert watched.errors == []


def shown(tab: Any) -> float:
    """The held share that stands in the curve."""
    told = re.fullmatch(r"held by the server: ([\d.]+) %", tab.locator("#curve .held-name").text_content())
    assert told is not None
    return float(told[1]) / 100


def test_the_slider_begins_at_what_is_held_and_the_share_of_late_stands_beside_it(tab: Any, served: Served) -> None:
    assert tab.locator("#share").input_value() == "500"  # ratio:0.2 on the axis of the usual shares
    assert tab.locator("#curve .held").count() == 0
    assert re.search(r"target held\s*– of 20 %, waiting", tab.locator("#live").inner_text())
    rng = random.Random(1)
    for _ in range(30):
        items = [{"item": f"i{n}"} for n in rng.sample(range(ITEMS - 1), 20)]
        body = {"user": {"id": f"u{rng.randrange(400)}"}, "candidates": items}
        assert httpx.post(f"{served.url}/v1/rank", json=body, timeout=60).status_code == 200
    tab.locator("#curve .held-name").wait_for()
    live = httpx.get(f"{served.url}/page/live").json()["target"]
    end = time.monotonic() + 20.0  # the page asks from time to time, and may show what was held a moment ago
    while (found := abs(shown(tab) - live["held_share"])) > 0.006 and time.monotonic() < end:
        time.sleep(0.2)
    assert found <= 0.006
    assert re.search(r"target held\s*[\d.]+ % of 20 %\s", tab.locator("#live").inner_text())
    # On the axis of the slider, between the usual shares 0.1 and 0.3.
    at = float(tab.locator("#curve .held").get_attribute("x1"))
    low, high = (float(tab.locator(".grid").nth(place).get_attribute("x1")) for place in (4, 6))
    assert low < at < high


def test_the_slider_is_of_this_ranking_alone(tab: Any, served: Served) -> None:
    before = httpx.get(f"{served.url}/page/live").json()["target"]
    tab.locator("#share").evaluate("(e) => { e.value = 800; e.dispatchEvent(new Event('input')); }")
    tab.locator("#rows tr[data-state=easy]").first.wait_for(state="detached")
    after = httpx.get(f"{served.url}/page/live").json()["target"]
    assert (after["held_share"], after["level"]) == (before["held_share"], before["level"])
