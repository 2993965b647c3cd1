"""A real server that follows a site, under load: swaps, rollbacks and bad bundles lose nothing and mix nothing up."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bundles import ITEMS, make_bundle
from corella_edge.request_message import parse_request
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.site import layout as sites
from corella_edge_runtime.site.deployment import promoted
from sessions import ONE, run, serving, start, succeed

BUNDLES, THREADS, ROLLBACKS = 3, 3, 2
# Quantised or not, llama.cpp's scores move with the batch a prompt is decoded in; the CRM's never do.
LLM_TOLERANCE = 5e-3


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("swaps")
    return [make_bundle(root / f"b{i}", seed=i, version=str(i)) for i in range(BUNDLES)]


@pytest.fixture
def site(bundles: list[Path], tmp_path: Path) -> Path:
    root = tmp_path / "site"
    sites.create(root, bundles[0])
    for bundle in bundles[1:]:
        sites.add(root, bundle)
    return root


@pytest.fixture(scope="module")
def requests(bundles: list[Path]) -> list[dict[str, Any]]:
    """Twenty requests of several candidates, some of which the LLM is asked about."""
    rng = random.Random(0)
    lines = (bundles[0] / "sample.jsonl").read_text().splitlines()
    asked = [json.loads(line)["request"] for line in rng.sample(lines, 20)]
    for i, request in enumerate(asked):
        request["candidates"] = [{"item": f"i{rng.randrange(ITEMS + 2)}"} for _ in range(rng.randrange(1, 8))]
        request["threshold"] = rng.choice(["ratio:0", "ratio:0.3", "ratio:1"])
        request["id"] = str(i)
    return asked


class Load:
    """Threads that ask again and again; every answer, or what came instead, is kept."""

    def __init__(self, url: str, requests: list[dict[str, Any]]) -> None:
        self.url, self.requests = url, requests
        self.answers: list[dict[str, Any]] = []
        self.lost: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(i,)) for i in range(THREADS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, seed: int) -> None:
        rng = random.Random(seed)
        with httpx.Client(timeout=60) as client:
            while not self._stop.wait(0.01):  # a swap takes long enough to meet many requests, and needs a core itself
                try:
                    answer = client.post(f"{self.url}/v1/rank", json=rng.choice(self.requests))
                except httpx.HTTPError as error:
                    self.lost.append(repr(error))
                    continue
                if answer.status_code == 200:
                    self.answers.append(answer.json())
                else:
                    self.lost.append(answer.text)

    def wait_for(self, count: int) -> None:
        """Until so many more are answered."""
        end, wanted = time.monotonic() + 60, len(self.answers) + count
        while len(self.answers) < wanted and not self.lost:
            assert time.monotonic() < end
            time.sleep(0.01)


class Offline:
    """What `Engine.rank` says of the same requests, by the label of the bundle."""

    def __init__(self, bundles: list[Path], requests: list[dict[str, Any]]) -> None:
        self.scores: dict[tuple[str, str], Any] = {}
        for bundle in bundles:
            with Engine.open(bundle, llm_threads=1, require_llm=True) as engine:
                for request in requests:
                    self.scores[engine.name, request["id"]] = engine.rank(parse_request(request))

    def differences(self, answer: dict[str, Any]) -> Iterator[str]:
        scores = self.scores[answer["bundle"], answer["id"]]
        for i, row in enumerate(answer["candidates"]):
            llm = row["llm"]
            if (row["item"], row["crm"], row["reason"]) != (scores.items[i], float(scores.crm[i]), scores.reason[i]):
                yield f"{row} is not {scores.items[i]}, {scores.crm[i]}, {scores.reason[i]!r}"
            if (llm is None) != math.isnan(scores.llm[i]) or (llm and abs(llm - scores.llm[i]) > LLM_TOLERANCE):
                yield f"{row} is not {scores.llm[i]}"


def serve(site: Path) -> subprocess.Popen[str]:
    return start("serve", site, "--port", 0, "--timeout-ms", 60_000, *ONE)


@pytest.mark.parametrize("swaps", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_swaps_and_rollbacks_under_load_lose_nothing_and_every_answer_is_of_the_version_it_names(
    site: Path, bundles: list[Path], requests: list[dict[str, Any]], swaps: int
) -> None:
    ids, offline, rng = sites.versions(site), Offline(bundles, requests), random.Random(2)
    with serving(serve(site)) as served, Load(served.url, requests) as load:
        load.wait_for(20)
        succeed("deploy", "use", site, ids[1])
        for step in rng.sample(["use"] * (swaps - 1) + ["rollback"] * ROLLBACKS, swaps - 1 + ROLLBACKS):
            others = [version for version in ids if version != sites.read(site).live]
            succeed("deploy", step, site, *([rng.choice(others)] if step == "use" else []))
            load.wait_for(10)
        canary = next(version for version in ids if version != sites.read(site).live)
        succeed("deploy", "canary", site, canary, "--share", "0.5")
        load.wait_for(40)
        named = httpx.get(f"{served.url}/admin/deployment").json()
    assert load.lost == []
    assert len(load.answers) > 100
    assert {answer["bundle"] for answer in load.answers} == {f"tiny@{i}" for i in range(BUNDLES)}
    assert [text for answer in load.answers for text in offline.differences(answer)] == []
    assert (named["live"]["version"], named["canary"]["version"]) == (sites.read(site).live, canary)
    assert named["ending"] == []


def test_a_bad_bundle_is_refused_and_the_old_one_serves_on(
    site: Path, bundles: list[Path], requests: list[dict[str, Any]]
) -> None:
    ids = sites.versions(site)
    with serving(serve(site)) as served, Load(served.url, requests) as load:
        load.wait_for(10)
        # Damaged after it was put in: only the server can notice.
        (site / "versions" / ids[1] / "crm.onnx").write_bytes(b"not a model")
        done = run("deploy", "use", site, ids[1])
        assert (done.code, done.err.count("\n")) == (3, 1)
        assert "crm.onnx" in done.err
        load.wait_for(10)
        assert sites.read(site).live == ids[0]
        succeed("deploy", "use", site, ids[2])
        load.wait_for(10)
        served.process.send_signal(signal.SIGHUP)
        load.wait_for(10)
    assert load.lost == []
    assert {answer["bundle"] for answer in load.answers} == {"tiny@0", "tiny@2"}
    assert "Traceback" not in served.errors
    assert served.says(f"{ids[1]} is refused, what served serves on: ")
    assert served.says(f"INFO corella_edge.serve: {ids[2]} serves now (was {ids[0]})\n")


def test_it_stops_cleanly_while_a_version_loads(site: Path) -> None:
    with serving(serve(site)) as served:
        sites.change(site, lambda now: promoted(now, sites.versions(site)[1]))
        end = time.monotonic() + 30
        while not (found := httpx.get(f"{served.url}/admin/deployment").json())["loading"] and found["serial"] < 2:
            assert time.monotonic() < end
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0
        assert "Traceback" not in served.errors
    assert not sites.server_runs(site)


PLANS = """
import json, os, sys
from pathlib import Path
from corella_edge.cli.serve import _load
engine = {"llm": "process", "require_llm": True, "crm_threads": None, "llm_threads": None, "plan": None, "tuned": False}
cores = os.sched_getaffinity(0)
for path in sys.argv[1:]:
    with _load(None, engine, cores, Path(path)) as opened:
        print(json.dumps([opened.setup.llm.threads, opened.setup.llm.cores, opened.setup.crm_cores]))
"""


def test_a_later_version_gets_the_same_cores_as_the_first(bundles: list[Path]) -> None:
    done = subprocess.run([sys.executable, "-c", PLANS, *bundles[:2]], capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == second
