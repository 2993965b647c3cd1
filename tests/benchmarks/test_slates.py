"""What `slates.py` times is what a request chooses."""

from __future__ import annotations

from slates import FILTER, catalogue, measured


def test_a_catalogue_is_chosen_from_by_all_that_is_timed() -> None:
    catalog, found = catalogue(300), measured(300)
    passing = [
        item
        for item, known in zip(catalog.ids[30:], catalog.attributes[30:], strict=True)
        if known["category"] in FILTER["category"]  # type: ignore[operator]
        and known["brand"] not in FILTER["brand"]["not"]  # type: ignore[index, call-overload]
        and known["price"] <= 50
    ]
    # The user has seen every item, so that nothing is left of those.
    assert passing
    assert found["left"] == 0
    assert all(value >= 0 for value in found.values())
