"""Which attributes the prompt shows, how long its history is, and what an event's rating adds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from corella_edge.prompt import Template
from corella_edge_export.generic.choice import values
from corella_edge_export.generic.facts import AttributeFacts, Facts
from corella_edge_export.generic.words import history_lines, in_line, item_attributes, prompt, user_attributes

FACTS = Facts(train=9000, valid=900, test=900, liked=0.5, users=90, items=80, people=100, catalogue=99, events=50.0,
              new_users=0.0, new_items=0.0)  # fmt: skip
KIND = AttributeFacts("kind", "categorical", values=5, chars=8.0)


@pytest.mark.parametrize(
    ("change", "shown"),
    [({}, True), ({"kind": "multi", "chars": 55.0}, True), ({"kind": "text"}, True),
     ({"kind": "text", "chars": 80.0}, False), ({"kind": "sequence"}, False), ({"kind": "numeric"}, False),
     ({"values": 1}, False), ({"shared": 0.1}, False), ({"known": 0.05}, False), ({"chars": 0.0}, False),
     ({"name": "a.b"}, False), ({"name": "a{b"}, False), ({"name": "7"}, False), ({"name": "a\0"}, False),
     ({"name": "Product group"}, True)],
)  # fmt: skip
def test_an_item_s_line_has_what_is_short_and_shared(change: dict[str, object], shown: bool) -> None:
    one = replace(KIND, **change)
    assert in_line(one) == shown
    made = values(prompt(replace(FACTS, item_attributes=(one,)), True))
    assert (f"{{{one.name}}}" in made["item"]) == shown
    assert Template(**made).item_text({"title": "x", one.name: "v"}) == ("[x] v:" if shown else "[x]:")


def test_a_line_takes_only_so_many_characters() -> None:
    many = tuple(replace(KIND, name=f"kind{i}", chars=30.0) for i in range(9))
    assert [one.name for one in item_attributes(replace(FACTS, item_attributes=many))] == ["kind0", "kind1", "kind2"]


def test_a_profile_has_numbers_too() -> None:
    age = AttributeFacts("age", "numeric", values=60, chars=2.0)
    found = user_attributes(replace(FACTS, user_attributes=(KIND, age, replace(age, name="income", values=900))))
    assert [one.name for one in found] == ["kind", "age"]


@pytest.mark.parametrize(
    ("told_by", "steps", "rating"),
    [("ratings", 5, " {}"), ("ratings", 2, ""), ("ratings", 500, ""), ("labels", 2, ""), ("being there", 0, "")],
)
def test_a_rating_stands_behind_an_answer_where_it_says_more(told_by: str, steps: int, rating: str) -> None:
    facts = replace(FACTS, told_by=told_by, steps=steps, ratings=(1.0, 5.0))
    assert values(prompt(facts, True))["rating"] == rating


def test_histories_are_as_long_as_the_data_s_and_as_the_words_allow() -> None:
    few, _ = history_lines(replace(FACTS, events=3.0), [], True)
    many, _ = history_lines(replace(FACTS, events=5000.0), [], True)
    wordy, _ = history_lines(replace(FACTS, events=5000.0, title_chars=100.0), [], False)
    assert (few, many) == (2, 60)
    assert 2 <= wordy < 20
