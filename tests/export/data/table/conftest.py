"""A small shop: users with baskets, items that come and go."""

from __future__ import annotations

import random

import pytest

from tables import Event


@pytest.fixture(scope="session")
def shop() -> list[Event]:
    """1,200 events of 40 users with 60 items in time order; a third share their user's moment; labels by chance."""
    draws = random.Random(4)
    events, time = [], 1_500_000_000
    while len(events) < 1200:
        user, time = f"u{draws.randrange(40)}", time + draws.randrange(3)
        newest = 20 + 40 * len(events) // 1200
        for _ in range(draws.choice((1, 1, 2))):
            item = f"i{min(int(draws.expovariate(0.08)), newest - 1)}"
            events.append(Event(user, item, time, int(draws.random() < 0.6), draws.choice((1.0, 4.0, None))))
    return events[:1200]
