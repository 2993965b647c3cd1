"""Bundles that release 0.1.0 exported open, verify and answer as they did then: one of each format."""

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
BUNDLE, WITH_ADAPTERS = GOLDEN / "bundle-v1", GOLDEN / "bundle-v2"
LINES, BY_ADAPTERS = (
    [json.loads(line) for line in (GOLDEN / f"answers-{name}.jsonl").read_text("utf-8").splitlines()]
    for name in ("v1", "v2")
)
# `llm` follows the processor's arithmetic; `probability` is one of the two.
ALLOWED = {"crm": 1e-5, "entropy": 1e-5, "llm": 5e-3, "probability": 5e-3}
EXACT = ("item", "rank", "routed", "reason", "unknown")


@pytest.fixture(scope="module")
def engine():
    with Engine.open(BUNDLE, llm_threads=1, require_llm=True) as engine:
        yield engine


@pytest.mark.parametrize(("bundle", "version"), [(BUNDLE, 1), (WITH_ADAPTERS, 2)])
def test_every_file_is_as_it_was_exported(bundle, version):
    manifest = Bundle.open(bundle).manifest
    for name, entry in manifest.files.items():
        assert sha256(bundle / name) == entry.sha256, f"{name}: did git change its line ends? See .gitattributes"
    assert sum(entry.size for entry in manifest.files.values()) < 300_000
    assert json.loads((bundle / "manifest.json").read_text("utf-8"))["format_version"] == version


@pytest.mark.parametrize(("bundle", "name"), [(BUNDLE, "golden"), (WITH_ADAPTERS, "first")])
def test_this_release_verifies_it(bundle, name):
    done = succeed("verify", bundle, *ONE)
    assert done.out.endswith(f"{name}@1: verified\n")
    assert "not checked" not in done.out
    assert ("LLM, adapter second: " in done.out) == (bundle == WITH_ADAPTERS)


def with_defaults_of_0_1_0(request):
    """What a request over the whole catalogue meant when the answers were recorded, said in words."""
    return request if "candidates" in request else {**request, "exclude_seen": False, "order": "request"}


@pytest.mark.parametrize("line", LINES, ids=[line["request"]["id"] for line in LINES])
def test_the_answers_are_the_recorded_ones(engine, line):
    check(engine, line)


def test_the_answers_by_adapters_are_the_recorded_ones():
    with Engine.open(WITH_ADAPTERS, llm_threads=1, require_llm=True) as engine:
        for line in BY_ADAPTERS:
            check(engine, line)
    usual, first, *others = ([row["llm"] for row in line["answer"]["candidates"]] for line in BY_ADAPTERS)
    assert usual == pytest.approx(first, abs=ALLOWED["llm"])
    for found in others:
        assert max(abs(one - other) for one, other in zip(usual, found, strict=True)) > 2 * ALLOWED["llm"]


def check(engine, line):
    """One recorded answer."""
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
