"""A row is the request that the same JSON is, and its answers are those of JSON; errors name columns."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.request_message import parse_request
from corella_edge.scores import answered
from corella_edge_runtime.batch import parse_checked
from corella_edge_runtime.partitions.columns import AnswerColumns, chosen, request_of
from request_tables import row_of

IDS = st.text(min_size=1, max_size=5) | st.text(min_size=255, max_size=258)
RATINGS = st.floats(-2e6, 2e6) | st.integers(1, 5)
TIMES = st.integers(978_300_760, 978_300_770) | st.integers(-(10**13), 10**13)
EVENTS = st.lists(
    st.fixed_dictionaries({"item": IDS}, optional={"rating": RATINGS, "time": TIMES}), max_size=4
) | st.lists(
    st.fixed_dictionaries({"item": IDS, "rating": st.integers(1, 5), "time": st.just(978_300_760)}), max_size=4
)
VALUES = st.text(max_size=3) | st.integers() | st.floats(-9, 9) | st.lists(st.text(max_size=2) | st.integers())
FEATURES = st.dictionaries(st.sampled_from(["gender", "age"]), VALUES)
OWN = st.dictionaries(st.sampled_from(["title", "genres"]), st.text(max_size=3) | st.lists(st.text(max_size=2)))
CANDIDATES = st.lists(st.fixed_dictionaries({"item": IDS}, optional={"features": OWN}), max_size=4)
MESSAGES = st.fixed_dictionaries(
    {"user": st.fixed_dictionaries({}, optional={"id": IDS, "features": FEATURES, "history": EVENTS})},
    optional={"id": IDS, "candidates": CANDIDATES, "threshold": st.sampled_from([0.5, 0.7, "ratio:0.1", "x"]),
              "top_k": st.integers(-1, 5), "timeout_ms": st.floats(-1, 10),
              "adapter": st.sampled_from(["films", "", "x" * 65])},
)  # fmt: skip


def outcome(make: Any) -> Any:
    try:
        return make()
    except InputError:
        return "refused"


@given(MESSAGES)
@example(
    {"user": {"id": "u", "history": [{"item": "i", "rating": 5, "time": 978_300_760}]}, "candidates": [{"item": "j"}]}
)
@example({"user": {"id": "u"}, "candidates": [{"item": "j"}, {"item": ""}]})
def test_a_row_is_the_request_that_json_is(message: dict[str, Any]) -> None:
    # A struct of a candidate's features is there, empty, for who brings none; an empty one says nothing, too.
    for candidate in message.get("candidates", ()):
        if not candidate.get("features", {"": 0}):
            del candidate["features"]
    features = sorted(message["user"].get("features", {}))
    expected = outcome(lambda: parse_checked(message))
    found = outcome(lambda: request_of(row_of(message), features))
    assert found == expected
    if expected != "refused":
        assert found.user.history.ratings == expected.user.history.ratings


def test_nan_is_a_number_that_is_left_out() -> None:
    row = {"user_id": "u", "history_items": ["a", "b"], "history_ratings": [math.nan, 3.0], "age": math.nan,
           "candidates": ["c"], "threshold": math.nan}  # fmt: skip
    request = request_of(row, ["age"])
    assert request.user.history.ratings == [None, 3.0]
    assert (dict(request.user.features), request.threshold) == ({}, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"history_ratings": [1.0]}, "history_ratings: expected 2 values, as many as history_items has, got 1"),
        ({"history_ratings": [1.0, math.inf]}, "history_ratings[1]: inf is not a finite number"),
        ({"history_ratings": [1.0, 1e7]}, "history_ratings[1]: expected a number of at most 1000000, got 10000000.0"),
        ({"history_times": [1.0, 978300760000]}, "history_times[1]: 978300760000 looks like milliseconds"),
        ({"history_items": ["a", None]}, "history_items[1]: expected a whole number or text, got nothing"),
        ({"candidates": ["c", ""]}, "candidates[1]: expected text of at least 1 character, got 0 characters"),
        ({"candidates": []}, "candidates: the list is empty"),
        ({"user_id": "x" * 257}, "user_id: expected text of at most 256 characters"),
        ({"gender": "x" * 17000}, "gender: expected text of at most 16384 characters"),
        ({"candidate_features": [{"title": "x" * 17000}]}, "candidate_features[0].title: expected text of at most"),
        ({"candidate_features": []}, "candidate_features: expected 1 values, as many as candidates has, got 0"),
        ({"top_k": 0}, "top_k: expected a whole number of at least 1, got 0"),
        ({"threshold": "ratio:2"}, "ratio: 2 is not a share"),
        ({"adapter": ""}, "adapter: expected text of at least 1 character"),
    ],
)
def test_what_is_wrong_is_named_by_column_place_and_value(change: dict[str, Any], message: str) -> None:
    row = {"user_id": "u", "history_items": ["a", "b"], "candidates": ["c"], "gender": "F", **change}
    with pytest.raises(InputError) as told:
        request_of(row, ["gender"])
    assert str(told.value).startswith(message)


def test_columns_that_nothing_reads_are_told() -> None:
    read, left = chosen(["user_id", "candidates", "gender", "label", "day"], ["gender"])
    assert (read, left) == (["user_id", "candidates", "gender"], ["label", "day"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["user_id", "item_id"], "column 'item_id': a row is a request: collect the items of each user into lists"),
        (["user_id", "history"], "column 'history': not known; the columns of a request are id, user_id"),
        (["user_id", "histroy_items"], "column 'histroy_items': not known; did you mean 'history_items'?"),
        (["user_id", "Candidate"], "column 'Candidate': not known; did you mean 'candidates'?"),
        (["user_id", "adapters"], "column 'adapters': a row asks one adapter, by its name in the column 'adapter'"),
        (["user_id", "adaptor"], "column 'adaptor': not known; did you mean 'adapter'?"),
        (["user_id", "filter"], "column 'filter': tables select no items; score JSON lines"),
        (["a", "b"], "is no table of requests: it has neither user_id nor history_items; its columns are a, b"),
        (["user_id", "day", "day"], "column 'day': occurs twice; rename one, or leave it out"),
        (["user_id", "history_times"], "column 'history_times': the column 'history_items' that it belongs to"),
        (["user_id", "candidate_features"], "column 'candidate_features': the column 'candidates' that it belongs"),
    ],
)
def test_a_table_of_another_shape_is_refused_by_column(names: list[str], message: str) -> None:
    with pytest.raises(InputError) as told:
        chosen(names, ["gender"])
    assert str(told.value).startswith(message)


@pytest.mark.parametrize("top_k", [None, 1, 2, 7])
def test_answers_are_those_of_json(engine: Any, messages: list[dict], top_k: int | None) -> None:
    requests = [parse_request({**message, "top_k": top_k}) for message in messages[:20]]
    made = AnswerColumns()
    expected: list[Any] = []
    for row, request in enumerate(requests):
        scores = engine.rank(request)
        made.add(row, request, scores)
        expected += [(row, request.id, scored) for scored in answered(request, scores, "").candidates]
    assert len(made) == len(expected)
    assert [*zip(made.row, made.id, strict=True)] == [(row, request) for row, request, _ in expected]
    for name in ("rank", "probability", "crm", "entropy", "routed"):
        values = [value for column in getattr(made, name) for value in column.tolist()]
        assert values == [getattr(scored, name) for *_, scored in expected]
    assert made.item == [scored.item for *_, scored in expected]
    assert [tuple(names) for names in made.unknown] == [tuple(scored.unknown or ()) for *_, scored in expected]
