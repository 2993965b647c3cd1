"""The time that keys expire by: it does not go back with the clock; an early expiry ends when the clock is right."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from corella_edge_runtime.machine.timekeeping import FLOOR, PROBATION, Reading
from corella_edge_runtime.server.guard.key_time import KeyTime
from corella_edge_runtime.server.guard.keys import KeyFile, KeyLimits, KeyRefusedError, add_key

DAY = 86_400.0
START = FLOOR + 100 * DAY


class Clocks:
    """What the test sets."""

    def __init__(self) -> None:
        self.boot, self.uptime, self.wall = "a", 100.0, START

    def __call__(self) -> Reading:
        return Reading(self.boot, self.uptime, self.wall)

    def run(self, seconds: float) -> None:
        self.uptime += seconds
        self.wall += seconds


def settle(time: KeyTime) -> None:
    """Wait until what was written is on the disk."""
    assert time._writing is not None
    time._writing.join()


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def test_a_clock_of_1970_after_a_restart_does_not_bring_an_expired_key_back(tmp_path: Path) -> None:
    clocks, kept = Clocks(), tmp_path / "state" / "time.json"
    expires = at(START + DAY)
    text = add_key(tmp_path / "keys.json", "a", ["rank"], KeyLimits(), at(START), expires)
    first = KeyTime(kept, clocks)
    file = KeyFile(tmp_path / "keys.json", every=0.0, time_now=first.now)
    assert file.keys().check(text, file.now())
    settle(first)
    clocks.run(DAY + 10)
    with pytest.raises(KeyRefusedError, match="expired"):
        file.keys().check(text, file.now())
    settle(first)
    clocks.boot, clocks.uptime, clocks.wall = "b", 20.0, 20.0
    after = KeyTime(kept, clocks)
    assert after.now() >= expires
    assert KeyTime(None, clocks).now() == at(FLOOR)  # what nothing is known of
    with pytest.raises(KeyRefusedError, match="expired"):
        file.keys().check(text, after.now())


def test_a_clock_ahead_expires_keys_as_long_as_it_is_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    time = KeyTime(None, clocks)
    clocks.wall += 3650 * DAY
    assert time.now() == at(clocks.wall)
    assert "3650.0 days ahead" in caplog.text
    clocks.run(PROBATION / 2)
    clocks.wall -= 3650 * DAY
    assert time.now() == at(clocks.wall)
    assert "set back by 3650.0 days" in caplog.text


def test_even_a_clock_that_was_ahead_for_long_is_forgiven(caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    time = KeyTime(None, clocks)
    clocks.wall += 3650 * DAY
    for _ in range(60):
        clocks.run(3600.0)
        time.now()
    clocks.wall -= 3650 * DAY
    assert time.now() > at(clocks.wall + 3000 * DAY)
    for _ in range(60):
        clocks.run(3600.0)
        time.now()
    assert time.now() == at(clocks.wall)
    assert "taken as right from now on" in caplog.messages[-1]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"now": {"stamp": 1}, "past": []}', b'{"now": 3, "past": 4}'])
def test_a_damaged_file_is_replaced(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    kept = tmp_path / "time.json"
    kept.write_bytes(content)
    time = KeyTime(kept, Clocks())
    assert time.now() == at(START)
    settle(time)
    assert "cannot be read" in caplog.text
    assert KeyTime(kept, Clocks()).now() == at(START)
    assert len(caplog.messages) == 1


def test_where_it_can_not_be_kept_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    time = KeyTime(tmp_path / "file" / "time.json", Clocks())
    assert time.now() - at(START) < timedelta(seconds=1)
    settle(time)
    assert "not kept from one start to the next" in caplog.text


def test_it_is_kept_in_the_state_folder_a_file_for_each_keys_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for name in ("a", "b"):
        time = KeyTime.of(tmp_path / name)
        time.now()
        settle(time)
    assert len(list((tmp_path / "corella-edge" / "keys").iterdir())) == 2
