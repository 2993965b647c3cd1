"""The fleet: who gets which version, and that none is closed too early, too late or twice."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge_runtime.server.fleet import Fleet, gets_canary
from fake_versions import Versioned


def set_canary(fleet: Fleet, ranker: Any, version: str = "", share: float = 0.0) -> None:
    """Let `ranker` answer a share of the users; None = nobody."""
    assert fleet.live is not None
    fleet.arrange(fleet.live, None if ranker is None else fleet.member(ranker, version), share)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


def run(test: Callable[[Fleet], Awaitable[None]]) -> None:
    async def whole() -> None:
        fleet = Fleet()
        try:
            await test(fleet)
        finally:
            async with asyncio.timeout(20):
                await fleet.close()
        assert fleet.members == ()

    asyncio.run(whole())


def test_nothing_is_held_before_something_is_loaded() -> None:
    async def test(fleet: Fleet) -> None:
        with pytest.raises(LookupError), fleet.hold("u"):
            pass

    run(test)


def test_requests_begun_on_the_old_version_end_there_and_it_is_closed_after_the_last() -> None:
    async def test(fleet: Fleet) -> None:
        old, new = Versioned("toy@1"), Versioned("toy@2")
        fleet.install(old, "v1")
        with ExitStack() as requests:
            first = requests.enter_context(fleet.hold("u"))
            requests.enter_context(fleet.hold(None))
            fleet.install(new, "v2")
            with fleet.hold("u") as held:
                assert (held.ranker, held.label, held.version, held.canary) == (new, "toy@2", "v2", False)
            assert (first.ranker, first.label, first.version) == (old, "toy@1", "v1")
            await asyncio.sleep(0.05)
            assert not old.closed
            assert [member.version for member in fleet.members] == ["v1", "v2"]
        await until(lambda: old.closed == 1)
        assert not new.closed
        assert old.closed_in == "close"
        assert [member.version for member in fleet.members] == ["v2"]

    run(test)


def test_a_version_nobody_uses_is_closed_at_once_and_never_in_the_loop() -> None:
    async def test(fleet: Fleet) -> None:
        slow = threading.Event()

        class Slow(Versioned):
            def close(self) -> None:
                assert slow.wait(20)
                super().close()

        old = Slow("toy@1")
        fleet.install(old, "v1")
        fleet.install(Versioned("toy@2"), "v2")
        with fleet.hold("u") as held:
            assert held.label == "toy@2"
        closing = asyncio.create_task(fleet.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        slow.set()
        await closing
        assert old.closed == 1

    run(test)


def test_what_can_not_be_closed_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    class Stuck(Versioned):
        def close(self) -> None:
            super().close()
            raise OSError("secret")

    async def test(fleet: Fleet) -> None:
        fleet.install(Stuck("toy@1"), "v1")
        fleet.install(Versioned("toy@2"), "v2")

    run(test)
    errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["closing v1 failed: OSError"]


def test_a_version_that_was_to_be_closed_can_come_back() -> None:
    async def test(fleet: Fleet) -> None:
        old, new = Versioned("toy@1"), Versioned("toy@2")
        fleet.install(old, "v1")
        with fleet.hold("u"):
            fleet.install(new, "v2")
            found = fleet.find("v1")
            assert found
            fleet.arrange(found)
        await until(lambda: new.closed == 1)
        with fleet.hold("u") as held:
            assert held.ranker is old
        assert not old.closed
        assert fleet.find("v2") is None

    run(test)


def test_a_thread_that_works_on_for_a_request_given_up_keeps_its_version() -> None:
    async def test(fleet: Fleet) -> None:
        old = Versioned("toy@1")
        fleet.install(old, "v1")
        work: Future[None] = Future()
        with fleet.hold("u") as held:
            held.until(work)
            held.until(done := asyncio.get_running_loop().create_future())
        fleet.install(Versioned("toy@2"), "v2")
        done.set_result(None)
        await asyncio.sleep(0.05)
        assert not old.closed
        threading.Thread(target=work.set_result, args=(None,)).start()
        await until(lambda: old.closed == 1)

    run(test)


def test_the_same_ranker_in_both_places_is_one_and_live() -> None:
    async def test(fleet: Fleet) -> None:
        only = Versioned("toy@1")
        fleet.install(only, "v1")
        set_canary(fleet, only, "v1", 0.5)
        assert fleet.canary is None
        assert len(fleet.members) == 1

    run(test)


def test_a_promoted_canary_keeps_its_requests_and_a_stopped_one_ends_them() -> None:
    async def test(fleet: Fleet) -> None:
        old, new, third = Versioned("toy@1"), Versioned("toy@2"), Versioned("toy@3")
        fleet.install(old, "v1")
        set_canary(fleet, new, "v2", 0.999999)
        with fleet.hold("u") as held:
            assert (held.label, held.canary) == ("toy@2", True)
            fleet.install(new, "v2")
            assert fleet.canary is None
            await until(lambda: old.closed == 1)
        assert not new.closed
        set_canary(fleet, third, "v3", 0.5)
        set_canary(fleet, None)
        await until(lambda: third.closed == 1)

    run(test)


SHARES = st.floats(0.01, 0.99)


@settings(max_examples=40)
@given(st.text(max_size=20), SHARES)
def test_the_canary_share_is_what_was_asked_for_within_chance(salt: str, share: float) -> None:
    users = 4000
    got = sum(gets_canary(salt, f"user {i}", share) for i in range(users))
    # Six standard deviations: one run in a thousand million.
    assert abs(got - users * share) <= 6 * math.sqrt(users * share * (1 - share)) + 1


@given(st.text(max_size=20), st.text(max_size=20), SHARES, SHARES)
def test_a_user_always_gets_the_same_and_a_larger_share_keeps_who_had_it(
    salt: str, user: str, a: float, b: float
) -> None:
    small, large = sorted((a, b))
    assert gets_canary(salt, user, small) == gets_canary(salt, user, small)
    assert gets_canary(salt, user, small) <= gets_canary(salt, user, large)


def test_another_canary_meets_other_users() -> None:
    first, second = ({i for i in range(4000) if gets_canary(salt, f"user {i}", 0.2)} for salt in ("v2", "v3"))
    assert 0.02 < len(first & second) / 4000 < 0.06  # 0.04 if the two are independent


def test_users_stick_and_anonymous_requests_are_spread() -> None:
    async def test(fleet: Fleet) -> None:
        fleet.install(Versioned("toy@1"), "v1")
        set_canary(fleet, Versioned("toy@2"), "v2", 0.3)

        def version(user: str | None) -> str:
            with fleet.hold(user) as held:
                return held.version

        first = {user: version(user) for user in map(str, range(500))}
        assert 90 < Counter(first.values())["v2"] < 210
        assert all(version(user) == first[user] for user in random.Random(0).sample(sorted(first), 500))
        assert 90 < Counter(version(None) for _ in range(500))["v2"] < 210

    run(test)


def test_swaps_under_load_lose_nothing_and_close_every_version_once() -> None:
    problems: list[str] = []
    made: list[Versioned] = []
    answers: Counter[bool] = Counter()

    async def request(fleet: Fleet, pool: ThreadPoolExecutor, rng: random.Random) -> None:
        with fleet.hold(str(rng.randrange(50))) as held:
            for _ in range(rng.randrange(3)):
                work = asyncio.get_running_loop().run_in_executor(pool, held.ranker.work)
                answers[await work == held.label] += 1
                await asyncio.sleep(rng.random() * 0.004)

    async def swaps(fleet: Fleet, rng: random.Random) -> None:
        for i in range(1, 60):
            made.append(Versioned(f"toy@{i}", problems))
            if rng.random() < 0.3:
                set_canary(fleet, made[-1], f"v{i}", rng.random())
            else:
                fleet.install(made[-1], f"v{i}")
            await asyncio.sleep(rng.random() * 0.01)

    async def test(fleet: Fleet) -> None:
        rng = random.Random(1)
        made.append(Versioned("toy@0", problems))
        fleet.install(made[0], "v0")
        with ThreadPoolExecutor(4) as pool:
            swapping = asyncio.create_task(swaps(fleet, rng))
            requests: list[Any] = []
            while not swapping.done():
                requests.append(asyncio.create_task(request(fleet, pool, rng)))
                await asyncio.sleep(0.0005)
            await asyncio.gather(swapping, *requests)

    run(test)
    assert problems == []
    assert answers[True] > 100
    assert not answers[False]
    assert [version.closed for version in made] == [1] * 60


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["install", "canary", "stop", "begin", "end"]), st.integers(0, 3)), max_size=30)
)
def test_after_any_course_of_events_what_is_loaded_is_wanted_or_busy(events: list[tuple[str, int]]) -> None:
    problems: list[str] = []

    async def test(fleet: Fleet) -> None:
        running: list[ExitStack] = []
        fleet.install(Versioned("toy@first", problems), "first")
        for what, number in events:
            known = fleet.find(f"v{number}")
            ranker = known.ranker if known else Versioned(f"toy@{number}", problems)
            if what == "install":
                fleet.install(ranker, f"v{number}")
            elif what == "canary":
                set_canary(fleet, ranker, f"v{number}", 0.5)
            elif what == "stop":
                set_canary(fleet, None)
            elif what == "begin":
                running.append(ExitStack())
                running[-1].enter_context(fleet.hold(str(number)))
            elif running:
                running.pop(number % len(running)).close()
            for member in fleet.members:
                assert member.in_flight or member in (fleet.live, fleet.canary)
                assert not member.ranker.closed  # type: ignore[attr-defined]
            assert len({member.version for member in fleet.members}) == len(fleet.members)
        for request in running:
            request.close()

    run(test)
    assert problems == []
