"""Following a site: what is loaded when, what is refused, and what the operator is told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from corella_edge.errors import BundleError, InputError
from corella_edge_runtime.server.fleet import Fleet
from corella_edge_runtime.server.following import Follower, VersionSource, open_source
from corella_edge_runtime.server.service import Service
from corella_edge_runtime.site import layout as sites
from corella_edge_runtime.site.deployment import promoted, rolled_back, with_canary, without_canary
from corella_edge_runtime.site.layout import RunningVersion, Serving, VersionRefusal
from fake_versions import Shelf, toy_bundle


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Four versions, the first is live."""
    root = tmp_path / "site"
    sites.create(root, toy_bundle(tmp_path / "b0", "0"))
    for i in range(1, 4):
        sites.add(root, toy_bundle(tmp_path / f"b{i}", str(i)))
    return root


@pytest.fixture
def ids(site: Path) -> list[str]:
    return sites.versions(site)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


class Server:
    """A fleet that follows a site, as `serve SITE` would."""

    def __init__(self, site: Path, shelf: Shelf, source: VersionSource, fleet: Fleet, follower: Follower) -> None:
        self.site, self.shelf, self.source, self.fleet, self.follower = site, shelf, source, fleet, follower

    def change(self, step: Callable[..., object], *args: object) -> int:
        """Deploy; the serial."""
        return sites.change(self.site, lambda now: step(now, *args))[1].serial

    async def dealt_with(self, serial: int) -> None:
        await self.until(lambda: (found := sites.read_serving(self.site)) is not None and found.serial >= serial)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.005)

    @property
    def says(self) -> Serving:
        """serving.json."""
        found = sites.read_serving(self.site)
        assert found is not None
        return found

    @property
    def serves(self) -> tuple[str | None, str | None]:
        live, canary = self.fleet.live, self.fleet.canary
        return live.version if live else None, canary.version if canary else None


@contextlib.asynccontextmanager
async def serving(site: Path, shelf: Shelf) -> AsyncIterator[Server]:
    source, fleet = open_source(site, shelf.load), Fleet()
    try:
        fleet.install(*await asyncio.to_thread(source.first))
        follower = Follower(site, fleet, shelf.load, seconds=0.02)
        following = asyncio.create_task(follower.run())
        yield Server(site, shelf, source, fleet, follower)
        shelf.gate.set()
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await following
        async with asyncio.timeout(20):
            await fleet.close()
    finally:
        source.close()
    made = [ranker for rankers in shelf.made.values() for ranker in rankers]
    assert [ranker.closed for ranker in made] == [1] * len(made)
    assert shelf.problems == []


def run(site: Path, shelf: Shelf, test: Callable[[Server], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with serving(site, shelf) as server:
            await test(server)

    asyncio.run(whole())


def test_a_bundle_is_served_for_good_and_a_site_is_followed(site: Path, tmp_path: Path, shelf: Shelf) -> None:
    source = open_source(tmp_path / "b1", shelf.load)
    ranker, version = source.first()
    assert (ranker.name, version, ranker.warmed) == ("b1", "b1", 1)
    assert source.follower(Fleet()) is None
    followed = open_source(site, shelf.load)
    assert isinstance(followed.follower(Fleet()), Follower)
    followed.close()


def test_what_a_start_begins_with_is_loaded_in_its_own_way(site: Path, ids: list[str], tmp_path: Path) -> None:
    later, first = Shelf(), Shelf()
    for path in (site, tmp_path / "b1"):
        source = open_source(path, later.load, first.load)
        source.first()
        source.close()
    assert later.made == {}
    sites.change(site, lambda now: promoted(now, ids[1]))
    first.spoil(ids[1], "crm.onnx: missing")
    source = open_source(site, later.load, first.load)
    assert (source.first()[1], later.made) == (ids[0], {})
    source.close()


def test_it_begins_with_the_live_version_and_says_so(site: Path, ids: list[str], shelf: Shelf) -> None:
    async def test(server: Server) -> None:
        await server.dealt_with(1)
        state, live = server.says, server.fleet.live
        since = live.since.isoformat(timespec="milliseconds")
        assert state == Serving(os.getpid(), 1, RunningVersion(ids[0], "toy@0", since))
        assert live.ranker.warmed == 1
        assert sites.server_runs(site)

    run(site, shelf, test)
    assert not sites.server_runs(site)


def test_a_new_version_is_loaded_beside_the_old_one_and_takes_its_place(
    site: Path, ids: list[str], shelf: Shelf
) -> None:
    async def test(server: Server) -> None:
        await server.dealt_with(1)
        shelf.gate.clear()
        serial = server.change(promoted, ids[1])
        await server.until(lambda: server.follower.loading)
        with server.fleet.hold("u") as held:
            assert held.label == "toy@0"
            shelf.gate.set()
            await server.dealt_with(serial)
            assert server.serves == (ids[1], None)
            assert not shelf.made[ids[0]][0].closed
        assert [(made.warmed, made.measured) for made in (shelf.made[ids[0]][0], shelf.made[ids[1]][0])] == [(1, 1)] * 2
        await server.until(lambda: shelf.made[ids[0]][0].closed == 1)

    run(site, shelf, test)
    assert shelf.loads == [ids[0], ids[1]]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(BundleError("crm.onnx:\nmissing"), "crm.onnx: missing"), (ValueError("x"), "ValueError: x"),
     (SystemExit(3), "RuntimeError: SystemExit(3)")],
)  # fmt: skip
def test_a_version_that_can_not_be_loaded_is_refused_and_the_old_one_serves_on(
    site: Path, ids: list[str], shelf: Shelf, caplog: pytest.LogCaptureFixture, error: BaseException, reason: str
) -> None:
    shelf.broken[ids[1]] = error

    async def test(server: Server) -> None:
        serial = server.change(promoted, ids[1])
        await server.dealt_with(serial)
        state = server.says
        assert state.live.version == ids[0]
        assert state.refused == VersionRefusal(ids[1], serial, state.refused.at, reason)
        assert sites.outcome(state, sites.read(site)) == "refused"
        assert f"{ids[1]} is refused, what served serves on: {reason}" in caplog.messages
        await server.dealt_with(server.change(rolled_back))
        assert sites.outcome(server.says, sites.read(site)) == "serving"
        assert server.says.refused is None  # nobody asks for it any more
        assert server.serves == (ids[0], None)

    run(site, shelf, test)
    assert shelf.loads == [ids[0], ids[1]]


def test_a_refused_version_that_loads_later_is_refused_no_more(site: Path, ids: list[str], shelf: Shelf) -> None:
    shelf.spoil(ids[1], "crm.onnx: missing")

    async def test(server: Server) -> None:
        await server.dealt_with(server.change(promoted, ids[1]))
        await server.dealt_with(server.change(with_canary, ids[2], 0.5))
        assert server.says.refused.version == ids[1]  # it is still asked for
        shelf.broken.clear()
        await server.dealt_with(server.change(without_canary))
        assert (server.says.live.version, server.says.refused) == (ids[1], None)

    run(site, shelf, test)


def test_the_gauge_is_1_while_what_is_asked_for_is_refused(site: Path, ids: list[str], shelf: Shelf) -> None:
    shelf.spoil(ids[1], "crm.onnx: missing")
    gauges: list[bool] = []

    async def test(server: Server) -> None:
        service = Service()
        for step, *more in ((with_canary, ids[1], 0.5), (without_canary,)):
            await server.dealt_with(server.change(step, *more))
            service.follower = server.follower
            gauges.append("corella_edge_version_refused 1.0" in service.metrics.text("")[0].decode())
        service.close()

    run(site, shelf, test)
    assert gauges == [True, False]


def test_each_swap_canary_and_end_has_a_line_in_the_log(
    site: Path, ids: list[str], shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(server: Server) -> None:
        await server.dealt_with(1)
        assert caplog.messages == []
        await server.dealt_with(server.change(promoted, ids[1]))
        await server.until(lambda: f"{ids[0]} is closed" in caplog.messages)
        await server.dealt_with(server.change(with_canary, ids[2], 0.3))
        await server.dealt_with(server.change(without_canary))
        await server.until(lambda: f"{ids[2]} is closed" in caplog.messages)
        assert caplog.messages == [
            f"{ids[1]} is loaded: threshold ratio:0.05", f"{ids[1]} serves now (was {ids[0]})", f"{ids[0]} is closed",
            f"{ids[2]} is loaded: threshold ratio:0.05", f"{ids[2]} answers 0.3 of the users", f"{ids[2]} is closed",
        ]  # fmt: skip
        await server.dealt_with(server.change(rolled_back))
        assert f"{ids[0]} serves now (was {ids[1]})" in caplog.messages

    with caplog.at_level(logging.INFO, "corella_edge.serve"):
        run(site, shelf, test)


def test_a_version_that_fails_to_warm_up_is_closed_again(site: Path, ids: list[str], shelf: Shelf) -> None:
    shelf.cold.add(ids[1])

    async def test(server: Server) -> None:
        await server.dealt_with(server.change(promoted, ids[1]))
        assert server.serves == (ids[0], None)
        assert server.says.refused.reason == "too little memory"
        assert shelf.made[ids[1]][0].closed == 1

    run(site, shelf, test)


def test_a_folder_that_holds_another_bundle_is_refused(site: Path, ids: list[str], shelf: Shelf) -> None:
    async def test(server: Server) -> None:
        await server.dealt_with(1)
        serial = server.change(promoted, ids[1])
        await server.dealt_with(serial)
        folder = site / "versions" / ids[2]
        folder.rename(folder.with_name(".aside"))
        (site / "versions" / ids[3]).rename(folder)
        await server.dealt_with(server.change(promoted, ids[2]))
        assert server.serves == (ids[1], None)
        assert f"holds {ids[3]}" in server.says.refused.reason

    run(site, shelf, test)


def test_two_changes_in_quick_succession_end_at_the_last_one(site: Path, ids: list[str], shelf: Shelf) -> None:
    async def test(server: Server) -> None:
        await server.dealt_with(1)
        shelf.gate.clear()
        server.change(promoted, ids[1])
        await server.until(lambda: server.follower.loading)
        server.change(promoted, ids[2])
        serial = server.change(promoted, ids[3])
        shelf.gate.set()
        await server.dealt_with(serial)
        assert server.serves == (ids[3], None)
        await server.until(lambda: shelf.made[ids[1]][0].closed == 1)

    run(site, shelf, test)
    assert shelf.loads == [ids[0], ids[1], ids[3]]


def test_a_change_back_while_the_new_one_loads_loads_nothing_twice(site: Path, ids: list[str], shelf: Shelf) -> None:
    async def test(server: Server) -> None:
        await server.dealt_with(1)
        shelf.gate.clear()
        server.change(promoted, ids[1])
        await server.until(lambda: server.follower.loading)
        serial = server.change(rolled_back)
        shelf.gate.set()
        await server.dealt_with(serial)
        assert server.serves == (ids[0], None)

    run(site, shelf, test)
    assert shelf.loads == [ids[0], ids[1]]


def test_a_rollback_to_a_version_that_still_ends_its_requests_takes_it_as_it_is(
    site: Path, ids: list[str], shelf: Shelf
) -> None:
    async def test(server: Server) -> None:
        await server.dealt_with(1)
        with server.fleet.hold("u"):
            await server.dealt_with(server.change(promoted, ids[1]))
            await server.dealt_with(server.change(rolled_back))
            assert server.serves == (ids[0], None)
        await server.until(lambda: shelf.made[ids[1]][0].closed == 1)
        assert not shelf.made[ids[0]][0].closed

    run(site, shelf, test)
    assert shelf.loads == [ids[0], ids[1]]


def test_a_canary_gets_its_share_is_changed_stopped_and_promoted_without_loading_again(
    site: Path, ids: list[str], shelf: Shelf
) -> None:
    async def test(server: Server) -> None:
        await server.dealt_with(server.change(with_canary, ids[1], 0.25))
        live, canary = server.says.live, server.says.canary
        assert (live.version, live.share, canary.version, canary.share) == (ids[0], 0.75, ids[1], 0.25)
        await server.dealt_with(server.change(with_canary, ids[1], 0.5))
        assert (server.serves, server.fleet.share) == ((ids[0], ids[1]), 0.5)
        await server.dealt_with(server.change(promoted, ids[1]))
        assert (server.serves, server.fleet.share) == ((ids[1], None), 0.0)
        await server.dealt_with(server.change(with_canary, ids[2], 0.5))
        await server.dealt_with(server.change(without_canary))
        assert server.serves == (ids[1], None)
        await server.until(lambda: shelf.made[ids[2]][0].closed == 1)

    run(site, shelf, test)
    assert shelf.loads == [ids[0], ids[1], ids[2]]


def test_a_canary_that_can_not_be_loaded_leaves_everyone_with_the_live_version(
    site: Path, ids: list[str], shelf: Shelf
) -> None:
    shelf.spoil(ids[1], "llm.gguf: missing")

    async def test(server: Server) -> None:
        serial = server.change(with_canary, ids[1], 0.5)
        await server.dealt_with(serial)
        assert server.serves == (ids[0], None)
        refused = server.says.refused
        assert (refused.version, refused.serial) == (ids[1], serial)

    run(site, shelf, test)


def test_it_begins_with_a_canary_too(site: Path, ids: list[str], shelf: Shelf) -> None:
    sites.change(site, lambda now: with_canary(now, ids[1], 0.5))

    async def test(server: Server) -> None:
        await server.dealt_with(2)
        assert server.serves == (ids[0], ids[1])

    run(site, shelf, test)


def test_a_start_with_a_bad_live_version_serves_the_previous_one(site: Path, ids: list[str], shelf: Shelf) -> None:
    serial = sites.change(site, lambda now: promoted(now, ids[1]))[1].serial
    shelf.spoil(ids[1], "crm.onnx: missing")

    async def test(server: Server) -> None:
        await server.dealt_with(serial)
        assert server.serves == (ids[0], None)
        refused = server.says.refused
        assert refused.reason == "crm.onnx: missing"

    run(site, shelf, test)
    shelf.spoil(ids[0], "also")
    source = open_source(site, shelf.load)
    with pytest.raises(BundleError, match="also"):
        source.first()


def test_a_damaged_deployment_changes_nothing_until_it_is_mended(site: Path, ids: list[str], shelf: Shelf) -> None:
    async def test(server: Server) -> None:
        await server.dealt_with(1)
        good = (site / "deployment.json").read_bytes()
        (site / "deployment.json").write_text("{")
        await server.until(lambda: server.says.refused is not None)
        assert server.serves == (ids[0], None)
        assert "not JSON" in server.says.refused.reason
        (site / "deployment.json").write_bytes(good)
        await server.dealt_with(server.change(promoted, ids[1]))
        assert (server.serves, server.says.refused) == ((ids[1], None), None)

    run(site, shelf, test)


def test_a_reload_tries_again_what_was_refused(site: Path, ids: list[str], shelf: Shelf) -> None:
    shelf.spoil(ids[1], "no memory")

    async def test(server: Server) -> None:
        serial = server.change(promoted, ids[1])
        await server.dealt_with(serial)
        loads = len(shelf.loads)
        await asyncio.sleep(0.1)
        assert len(shelf.loads) == loads  # nobody tries again by himself
        shelf.broken.clear()
        await server.follower.reload()
        assert server.serves == (ids[1], None)
        assert sites.outcome(sites.read_serving(site), sites.read(site)) == "serving"

    run(site, shelf, test)


def test_a_stop_lets_go_of_who_waits_for_a_reload(site: Path, ids: list[str], shelf: Shelf) -> None:
    async def stopped() -> None:
        fleet = Fleet()
        fleet.install(shelf.load(site / "versions" / ids[0]), ids[0])
        follower = Follower(site, fleet, shelf.load)
        following = asyncio.create_task(follower.run())
        shelf.gate.clear()
        sites.change(site, lambda now: promoted(now, ids[1]))
        waiting = [asyncio.create_task(follower.reload()) for _ in range(2)]
        while not follower.loading:
            await asyncio.sleep(0.005)
        waiting.append(asyncio.create_task(follower.reload()))
        await asyncio.sleep(0)
        following.cancel()
        async with asyncio.timeout(20):
            await asyncio.gather(*waiting)
            await follower.reload()
        shelf.gate.set()
        await fleet.close()

    asyncio.run(stopped())


def test_after_a_fault_it_is_followed_again_and_reloads(
    site: Path, ids: list[str], shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def faulty() -> None:
        fleet = Fleet()
        fleet.install(shelf.load(site / "versions" / ids[0]), ids[0])
        follower = Follower(site, fleet, shelf.load)
        with monkeypatch.context() as patch:
            patch.setattr(follower, "_turn", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                await follower.run()
        following = asyncio.create_task(follower.run())
        await asyncio.sleep(0)
        sites.change(site, lambda now: promoted(now, ids[1]))
        async with asyncio.timeout(20):
            await follower.reload()
        assert fleet.live is not None
        assert fleet.live.version == ids[1]
        following.cancel()
        await fleet.close()

    asyncio.run(faulty())


def test_whoever_asks_has_the_file_read_at_once(site: Path, ids: list[str], shelf: Shelf) -> None:
    shelf.spoil(ids[1], "no memory")

    async def test(server: Server) -> None:
        await server.dealt_with(server.change(promoted, ids[1]))
        shelf.broken.clear()
        server.follower.ask()
        await server.until(lambda: server.serves == (ids[1], None))

    run(site, shelf, test)


def test_where_signals_do_not_come_a_site_is_followed_all_the_same(site: Path, ids: list[str], shelf: Shelf) -> None:
    async def test(server: Server) -> None:
        await server.dealt_with(server.change(promoted, ids[1]))
        assert server.serves == (ids[1], None)

    errors: list[BaseException] = []

    def whole() -> None:
        try:
            run(site, shelf, test)
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    thread = threading.Thread(target=whole)
    thread.start()
    thread.join()
    assert not errors


def test_what_is_still_loading_when_the_server_stops_is_closed_by_its_own_thread(
    site: Path, ids: list[str], shelf: Shelf
) -> None:
    async def stopped_while_loading() -> None:
        fleet = Fleet()
        fleet.install(shelf.load(site / "versions" / ids[0]), ids[0])
        shelf.gate.clear()
        sites.change(site, lambda now: promoted(now, ids[1]))
        follower = Follower(site, fleet, shelf.load)
        following = asyncio.create_task(follower.run())
        while not follower.loading:
            await asyncio.sleep(0.005)
        following.cancel()
        await asyncio.wait([following])
        await fleet.close()

    asyncio.run(stopped_while_loading())
    loading = [thread for thread in threading.enumerate() if thread.name == "load"]
    assert len(loading) == 1
    shelf.gate.set()
    loading[0].join(20)
    assert shelf.made[ids[1]][0].closed == 1


def test_a_site_that_can_not_be_written_is_served(
    site: Path, ids: list[str], shelf: Shelf, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise InputError("serving.json: writing failed: Read-only file system")

    monkeypatch.setattr(sites, "write_serving", refuse)

    async def test(server: Server) -> None:
        server.change(promoted, ids[1])
        await server.until(lambda: server.serves == (ids[1], None))

    run(site, shelf, test)
    assert any("Read-only" in message for message in caplog.messages)


def test_a_second_server_of_a_site_is_refused(site: Path, shelf: Shelf) -> None:
    source = open_source(site, shelf.load)
    with pytest.raises(InputError, match="another server"):
        open_source(site, shelf.load)
    source.close()
    open_source(site, shelf.load).close()
