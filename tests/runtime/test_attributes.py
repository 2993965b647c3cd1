"""Names of features in strict requests: what is read passes, what is misspelt is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.features.schema import Field, Schema, Vocabulary
from corella_edge.prompt import Template
from corella_edge.request import Candidate, Request, User
from corella_edge_runtime.attributes import FeatureNames

FIELDS = (
    Field("user", "categorical", "user", "id", "v"),
    Field("age", "numeric", "user", "age", args={"mean": 0, "scale": 1}),
    Field("item", "categorical", "item", "id", "v"),
    Field("genres", "multi", "item", "genres", "v", 2),
)
SCHEMA = Schema(FIELDS, {"v": Vocabulary("v", ["a"])})
NAMES = FeatureNames(SCHEMA, Template(profile={"gender": "{}"}, item="{title} {year}:"))


def request(user: dict[str, Any], *candidates: dict[str, Any] | None) -> Request:
    return Request(User("u", user), tuple([Candidate(f"i{n}", given) for n, given in enumerate(candidates)]))


def test_what_a_model_or_the_prompt_reads_passes() -> None:
    NAMES.check(request({"age": 3, "gender": "F"}, None, {"title": "T", "year": 1999, "genres": ["a"]}, {}))
    NAMES.check(Request(User("u")))
    FeatureNames(SCHEMA, None).check(request({"age": 3}, {"title": "T"}))


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (request({"gendre": "F"}), "user.features: no model reads 'gendre', .*; did you mean 'gender'"),
        (request({"id": "u"}), "user.features: no model reads 'id', and the request is strict"),
        (request({}, None, {"genre": "a"}), r"candidates\[1\].features: no model reads 'genre', .* mean 'genres'"),
        (request({}, {"age": 3}), r"candidates\[0\].features: no model reads 'age'"),
    ],
)
def test_what_nothing_reads_is_told_with_its_place(made: Request, told: str) -> None:
    with pytest.raises(InputError, match=f"^{told}"):
        NAMES.check(made)


@given(st.text(max_size=100).filter(lambda name: name not in ("age", "gender")))
def test_any_other_name_is_one_line(name: str) -> None:
    with pytest.raises(InputError) as caught:
        NAMES.check(request({name: 1}))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
