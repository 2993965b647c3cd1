"""The turns of benchmarks/adapter_switch.py compute what they say: all of a new user, then the candidate alone."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import adapter_switch
from bundles import make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("switch") / "bundle", adapters=("a", "b"))


def test_a_returning_user_is_read_once_and_a_change_does_not_lose_what_is_kept(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    timed = adapter_switch.milliseconds

    def counting(scorer: adapter_switch.YesNoScorer, prompts: adapter_switch.Prompts) -> float:
        before = scorer.counters.evaluated_tokens
        took = timed(scorer, prompts)
        computed.append(scorer.counters.evaluated_tokens - before)
        return took

    monkeypatch.setattr(adapter_switch, "milliseconds", counting)
    options = argparse.Namespace(bundle=bundle, prefix=40, turns=2, threads=1)
    found = adapter_switch.measured(options)
    assert computed == [40 + adapter_switch.SUFFIX, adapter_switch.SUFFIX, adapter_switch.SUFFIX] * 6
    assert found["ms"].keys() == {"none", "one", "two"}
    assert all(of.keys() == {"new", "returning", "changed"} for of in found["ms"].values())
    assert all(figure["pairs"] == 2 for of in found["ms"].values() for figure in of.values())
