"""Deployments as values: every step keeps what must always hold, and files of them are read strictly."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge_runtime.site.deployment import (
    Canary,
    Deployment,
    parse,
    promoted,
    rolled_back,
    undone,
    with_canary,
    without_canary,
)

VERSIONS = [f"toy@{i}+{i:012x}" for i in range(4)]
A, B, C, D = VERSIONS
STEPS = st.sampled_from(["use", "rollback", "canary", "stop"])


def stepped(now: Deployment, step: str, version: str, share: float) -> Deployment:
    if step == "use":
        return promoted(now, version)
    if step == "canary":
        return with_canary(now, version, share)
    return rolled_back(now) if step == "rollback" else without_canary(now)


@given(st.lists(st.tuples(STEPS, st.sampled_from(VERSIONS), st.sampled_from([0.1, 0.5])), max_size=12))
def test_whatever_is_done_no_version_has_two_serving_roles_and_the_file_is_readable(steps: list[Any]) -> None:
    now = Deployment(A)
    for step, version, share in steps:
        before = now
        try:
            now = stepped(now, step, version, share)
        except InputError:
            continue
        assert now.live not in (now.previous, now.canary and now.canary.version)
        assert now.serial == before.serial + (now != before)
        assert parse(json.loads(json.dumps(asdict(now)))) == now


def test_a_rollback_undoes_a_promotion_and_can_itself_be_undone() -> None:
    second = promoted(Deployment(A), B)
    assert (second.live, second.previous) == (B, A)
    back = rolled_back(second)
    assert (back.live, back.previous, back.serial) == (A, B, 3)
    assert rolled_back(back).live == B
    with pytest.raises(InputError, match="nothing to roll back to"):
        rolled_back(Deployment(A))


def test_a_promoted_canary_is_none_any_more_and_another_one_stays() -> None:
    tried = with_canary(Deployment(A), B, 0.25)
    assert tried.canary == Canary(B, 0.25)
    assert promoted(tried, B).canary is None
    assert promoted(tried, C).canary == Canary(B, 0.25)
    assert rolled_back(promoted(with_canary(promoted(Deployment(A), B), A, 0.5), C)).canary == Canary(A, 0.5)
    assert without_canary(tried).canary is None
    assert with_canary(tried, C, 0.5).canary == Canary(C, 0.5)


def test_what_changes_nothing_has_the_same_serial() -> None:
    now = with_canary(promoted(Deployment(A), B), C, 0.1)
    assert promoted(now, B) is now
    assert with_canary(now, C, 0.1) is now
    assert without_canary(without_canary(now)) == without_canary(now)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_an_impossible_share_is_told(share: float) -> None:
    with pytest.raises(InputError, match="--share"):
        with_canary(Deployment(A), B, share)


def test_the_live_version_is_no_canary() -> None:
    with pytest.raises(InputError, match="live already"):
        with_canary(Deployment(A), A, 0.1)


def test_a_step_is_undone_unless_somebody_came_after() -> None:
    before = promoted(Deployment(A), B)
    mine = promoted(before, C)
    assert undone(mine, mine, before) == Deployment(B, A, None, mine.serial + 1)
    later = promoted(mine, D)
    assert undone(later, mine, before) is later


GOOD = {"live": A, "previous": None, "canary": None, "serial": 1}


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"live": None}, "live"), ({"live": "../../etc"}, "live"), ({"live": ".toy@1+000000000000"}, "live"),
        ({"live": "toy@1"}, "live"), ({"live": A + "\n"}, "live"), ({"previous": A}, "previous"),
        ({"previous": 3}, "previous"), ({"canary": B}, "canary"), ({"canary": {"version": B}}, "canary"),
        ({"canary": {"version": B, "share": 1}}, "share"), ({"canary": {"version": A, "share": 0.1}}, "live"),
        ({"canary": {"version": "a/b", "share": 0.1}}, "canary.version"), ({"serial": True}, "serial"),
        ({"serial": 0}, "serial"), ({"more": 1}, "fields"),
    ],
)  # fmt: skip
def test_a_file_that_no_step_could_have_written_is_refused_by_field(change: dict[str, Any], part: str) -> None:
    assert parse(GOOD) == Deployment(A)
    with pytest.raises(InputError) as caught:
        parse({**GOOD, **change})
    assert part in str(caught.value)


FIELDS = st.sampled_from([A, B, None, 1, {"version": C, "share": 0.5}])
NEAR = st.dictionaries(st.sampled_from(["live", "previous", "canary", "serial", "x"]), FIELDS)


@given(NEAR | st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_anything_else_is_an_input_error(value: Any) -> None:
    try:
        found = parse(value)
    except InputError:
        return
    assert parse(json.loads(json.dumps(asdict(found)))) == found
