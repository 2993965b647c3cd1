"""A filter passes what a plain look at each item's attributes passes."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.catalog import Catalog
from corella_edge.errors import InputError
from corella_edge.features.schema import value_key
from corella_edge.request_message import parse_request
from corella_edge.selection import Condition
from corella_edge_runtime.slate.filters import Filters, passes

WORDS = st.sampled_from(["tea", "coffee", "7", "True", ""])
NUMBERS = st.sampled_from([-1, 0, 7, 7.0, 2.5, 10**9])
ONE = WORDS | NUMBERS | st.booleans()
VALUE = st.none() | ONE | st.lists(ONE, max_size=3)
ITEM = st.dictionaries(st.sampled_from(["kind", "price"]), VALUE)
CONDITION = st.fixed_dictionaries({}, optional={
    "min": NUMBERS, "max": NUMBERS, "any": st.lists(ONE, max_size=3), "not": st.lists(ONE, max_size=3),
})  # fmt: skip


def plainly(value: Any, condition: dict[str, Any]) -> bool:
    """Whether a value passes, without an array."""
    listed = value if isinstance(value, list) else [] if value is None else [value]
    words = {value_key(one) for one in listed if one is not None}
    if "any" in condition and not words & set(map(value_key, condition["any"])):
        return False
    if words & set(map(value_key, condition.get("not", []))):
        return False
    if "min" in condition or "max" in condition:
        number = value if type(value) in (int, float) else None
        if number is None:
            return False
        return bool(condition.get("min", number) <= number <= condition.get("max", number))
    return True


def conditions(given: dict[str, Any]) -> Any:
    return parse_request({"user": {}, "filter": given}).selection.filter


@given(st.lists(ITEM, max_size=8), CONDITION)
def test_a_filter_passes_what_a_plain_look_does(items: list[dict[str, Any]], condition: dict[str, Any]) -> None:
    filters = Filters(Catalog([f"i{n}" for n in range(len(items))], items))
    (parsed,) = conditions({"kind": condition}).values()
    found = filters.passing({"kind": parsed})
    assert found.tolist() == [plainly(item.get("kind"), condition) for item in items]
    assert [passes(item.get("kind"), parsed) for item in items] == found.tolist()


@given(st.lists(ITEM, min_size=1, max_size=8), ONE, st.lists(ONE, min_size=1, max_size=3))
def test_all_attributes_must_pass_and_a_value_is_a_list_of_one(
    items: list[dict[str, Any]], value: Any, values: list[Any]
) -> None:
    items = [{"kind": "tea", "price": 1}, *items]
    filters = Filters(Catalog([f"i{n}" for n in range(len(items))], items))
    both = filters.passing(filters.checked(conditions({"kind": value, "price": values})))
    assert both.tolist() == [
        plainly(item.get("kind"), {"any": [value]}) and plainly(item.get("price"), {"any": values}) for item in items
    ]


@pytest.fixture
def shop() -> Filters:
    items = [{"category": "tea", "price": 3.5}, {"category": "coffee", "price": 12}, {"title": "no more"}]
    return Filters(Catalog(["a", "b", "c"], items))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"categry": "tea"}, "filter: no item has an attribute 'categry'; nearest: category"),
        ({"colour": "red"}, "filter: no item has an attribute 'colour'; known: category, price, title"),
        ({"category": {"max": 3}}, "filter.category: holds no numbers; ask for values, such as 'tea', 'coffee'"),
    ],
)
def test_a_filter_that_cannot_be_meant_is_one_clear_error(shop: Filters, given: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        shop.checked(conditions(given))
    assert str(error.value) == message


def test_a_value_that_no_item_has_is_a_note(shop: Filters) -> None:
    checked = shop.checked(conditions({"category": ["te", "coffee"]}))
    assert list(shop.notes(checked)) == ["filter.category: no item has 'te'; nearest: tea"]
    assert shop.passing(checked).tolist() == [False, True, False]
    many = shop.checked(conditions({"category": {"any": ["te", *map(str, range(1000))]}}))
    assert list(shop.notes(many)) == ["filter.category: no item has 'te' (nor 1000 others); nearest: tea"]


def test_bounds_are_inclusive_and_what_is_no_number_is_out(shop: Filters) -> None:
    def passing(**bounds: float) -> list[bool]:
        return list(shop.passing(shop.checked(conditions({"price": bounds}))).tolist())

    assert passing(max=3.5) == [True, False, False]
    assert passing(min=3.5, max=12) == [True, True, False]
    assert passing(min=13) == [False, False, False]
    assert shop.passing({"price": Condition(without=[12])}).tolist() == [True, False, True]
    assert shop.passing({}).dtype == np.bool_


def test_a_misspelt_value_of_very_many_costs_little() -> None:
    titles = [f"{n:05} {'lorem ipsum dolor sit amet ' * 3}" for n in range(10_000)]
    brands = [f"brand number {n:05} of very many" for n in range(10_000)]
    items = [{"title": title, "brand": brand} for title, brand in zip(titles, brands, strict=True)]
    filters = Filters(Catalog([f"i{n}" for n in range(len(items))], items))
    asked = filters.checked(conditions({"title": "lorem " * 15, "brand": "brand number of very many"}))
    began = time.process_time()
    notes = [*filters.notes(asked)]
    assert time.process_time() - began < 0.5  # with all of them: 3 s
    assert "nearest: brand number 0" in notes[1]
