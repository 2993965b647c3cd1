"""A bundle that release 0.1.0 exported opens, verifies and answers as it did then."""

from __future__ import annotations

import json
import re

import pytest

from corella_edge.bundle.artefact import Bundle, sha256
from corella_edge.request_message import parse_request
from corella_edge.scores import answer
from corella_edge_runtime.engine import Engine
from sessions import ONE, REPOSITORY, succeed

GOLDEN = REPOSITORY / "tests" / "golden"
BUNDLE = GOLDEN / "bundle-v1"
LINES = [json.loads(line) for line in (GOLDEN / "answers-v1.jsonl").read_text("utf-8").splitlines()]
# `llm` follows the processor's arithmetic; `probability` is one of the two.
ALLOWED = {"crm": 1e-5, "entropy": 1e-5, "llm": 5e-3, "probability": 5e-3}
EXACT = ("item", "rank", "routed", "reason", "unknown")


@pytest.fixture(scope="module")
def engine():
    with Engine.open(BUNDLE, llm_threads=1, require_llm=True) as engine:
        yield engine


def test_every_file_is_as_it_was_exported():
    manifest = Bundle.open(BUNDLE).manifest
    for name, entry in manifest.files.items():
        assert sha256(BUNDLE / name) == entry.sha256, f"{name}: did git change its line ends? See .gitattributes"
    assert sum(entry.size for entry in manifest.files.values()) < 300_000


def test_this_release_verifies_it():
    done = succeed("verify", BUNDLE, *ONE)
    assert done.out.endswith("golden@1: verified\n")
    assert "not checked" not in done.out


def with_defaults_of_0_1_0(request):
    """What a request over the whole catalogue meant when the answers were recorded, said in words."""
    return request if "candidates" in request else {**request, "exclude_seen": False, "order": "request"}


@pytest.mark.parametrize("line", LINES, ids=[line["request"]["id"] for line in LINES])
def test_the_answers_are_the_recorded_ones(engine, line):
    request, expected = parse_request(with_defaults_of_0_1_0(line["request"])), line["answer"]
    found = answer(request, engine.rank(request), engine.name)
    assert {**found, "candidates": 0} == {**expected, "candidates": 0}
    for new, old in zip(found["candidates"], expected["candidates"], strict=True):
        assert new.keys() == old.keys()
        assert {name: new[name] for name in EXACT} == {name: old[name] for name in EXACT}
        for name, allowed in ALLOWED.items():
            assert new[name] == (old[name] if old[name] is None else pytest.approx(old[name], rel=0, abs=allowed)), name


def test_the_recorded_answers_say_something():
    rows = [row for line in LINES for row in line["answer"]["candidates"]]
    assert len(LINES) == 5
    assert {row["routed"] for row in rows} == {True, False}
    assert {row["reason"] for row in rows} == {"", "ratio", "entropy", "no_text"}
    assert max(row["llm"] or 0 for row in rows) - min(row["llm"] or 1 for row in rows) > 0.2


def test_no_file_holds_a_path_of_a_machine():
    for path in GOLDEN.rglob("*"):
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            found = re.search(rb"/(?:home|root|tmp|work|Users|mnt|var|usr|opt)/|[A-Z]:\\\\", path.read_bytes())
            assert not found, path.name
