"""API keys: what a file may hold, who is let in, and what happens when the file changes under a running server."""

from __future__ import annotations

import hashlib
import json
import logging
import multiprocessing
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge_runtime.server.guard import keys
from corella_edge_runtime.server.guard.keys import (
    KeyFile,
    KeyLimits,
    KeyRefusedError,
    Keys,
    add_key,
    new_key,
    read_keys,
    revoke_key,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
LIMITS = KeyLimits(2.5, 5, 4)


def add(path: Path, name: str = "shop", days: float | None = None) -> str:
    return add_key(path, name, ["rank", "metrics"], LIMITS, NOW, None if days is None else NOW + timedelta(days=days))


def refusal(found: Keys, text: str, now: datetime = NOW) -> str:
    with pytest.raises(KeyRefusedError) as caught:
        found.check(text, now)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_what_was_added_is_known_and_nothing_else_is(path: Path) -> None:
    first, second = add(path), add(path, "box")
    found = read_keys(path)
    for text, name in ((first, "shop"), (second, "box")):
        key = found.check(text, NOW)
        assert (key.name, key.scopes, key.limits, key.created) == (name, {"rank", "metrics"}, LIMITS, NOW)
        assert text.startswith(f"ce_{key.id}_")
    swapped = first[:12] + second[12:]
    for text in (
        swapped,
        first[:-1],
        first + "A",
        first.upper(),
        f" {first}",
        "",
        "ce_",
        "ce_00000000_" + "A" * 43,
        "é",
    ):
        assert refusal(found, text) == "the API key is not known"


def test_the_file_holds_hashes_alone_and_is_its_owners(path: Path) -> None:
    text = add(path)
    _, id, secret = text.split("_", 2)
    raw = path.read_text()
    assert secret not in raw
    assert hashlib.sha256(secret.encode()).hexdigest() in raw
    assert id in raw
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_the_file_stays_its_owners_whatever_the_umask_and_a_killed_writer_left(path: Path) -> None:
    path.with_name(".keys.json.partial").write_text("left by a killed run")
    old = os.umask(0)
    try:
        add(path)
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600


def test_whoever_could_read_the_file_still_can_after_a_change(path: Path) -> None:
    text = add(path)
    path.chmod(0o640)
    if os.getuid() == 0:
        os.chown(path, 12345, 54321)
    before = path.stat()
    add(path)
    revoke_key(path, text[3:11], NOW)
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_an_expired_key_is_refused_from_that_moment_on(path: Path) -> None:
    text = add(path, days=1)
    found = read_keys(path)
    assert found.check(text, NOW + timedelta(days=1, seconds=-1)).name == "shop"
    message = refusal(found, text, NOW + timedelta(days=1))
    assert message == f"the API key {text[3:11]} is expired"


def test_a_revoked_key_is_refused_and_still_listed(path: Path) -> None:
    text, other = add(path), add(path)
    assert revoke_key(path, text[3:11], NOW).state(NOW) == "revoked"
    found = read_keys(path)
    assert refusal(found, text) == f"the API key {text[3:11]} is revoked"
    assert found.check(other, NOW)
    assert [key.state(NOW) for key in found.entries] == ["revoked", "valid"]
    for id in (text[3:11], "nothing"):
        with pytest.raises(InputError, match=f"no valid key '{id}' \\(there are: {other[3:11]}\\)"):
            revoke_key(path, id, NOW)


def test_only_the_right_secret_of_a_revoked_key_tells_that_it_is_revoked(path: Path) -> None:
    text = add(path)
    revoke_key(path, text[3:11], NOW)
    assert refusal(read_keys(path), text[:12] + "A" * 43) == "the API key is not known"


def test_a_wrong_secret_and_an_unknown_id_are_compared_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    entry, text = new_key("shop", ["rank"], KeyLimits(), NOW)
    compared = []
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or a == b)
    for presented in (text, text[:12] + "A" * 43, "ce_00000000_" + "A" * 43, "nonsense"):
        if presented == text:
            Keys([entry]).check(presented, NOW)
        else:
            refusal(Keys([entry]), presented)
    assert compared == [(64, 64)] * 4


def test_refusals_hold_nothing_of_the_secret(path: Path) -> None:
    text = add(path)
    revoke_key(path, text[3:11], NOW)
    assert text[12:] not in refusal(read_keys(path), text)
    with pytest.raises(InputError) as caught:
        revoke_key(path, text, NOW)
    assert text[12:20] not in str(caught.value)


def _adds(path: Path, count: int) -> None:
    for _ in range(count):
        add(path)


def test_keys_that_several_processes_add_at_once_are_all_kept(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_adds, args=(path, 10)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(read_keys(path).entries) == 30


def entry(**changes: Any) -> dict[str, Any]:
    made = new_key("shop", ["rank"], LIMITS, NOW)[0].to_json()
    return {**made, **changes}


def write(path: Path, data: Any) -> None:
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    path.chmod(0o600)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("\x00", "not JSON"),
        ({"format_version": 1}, "expected an object with format_version and keys"),
        ({"format_version": 2, "keys": []}, "format_version 2 is not known"),
        ({"format_version": True, "keys": []}, "format_version True is not known"),
        ('{"format_version": 1, "keys": [], "keys": []}', "the name 'keys' occurs twice"),
        ({"format_version": 1, "keys": [3]}, r"keys\[0\]: expected an object"),
        ({"format_version": 1, "keys": [entry(more=1)]}, r"keys\[0\]: unknown field 'more'"),
        ({"format_version": 1, "keys": [entry(id="00000001"), entry(id="00000001")]}, "an id occurs twice"),
    ],
)
def test_a_damaged_file_is_refused_by_its_name_and_place(path: Path, data: Any, message: str) -> None:
    write(path, data)
    with pytest.raises(InputError, match=f"{path}: .*{message}"):
        read_keys(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [("id", "short"), ("id", 3), ("id", "ABCDEF01"), ("name", ""), ("name", "a\nb"), ("name", None),
     ("name", "x" * 101), ("sha256", "0" * 63), ("sha256", "Z" * 64), ("scopes", []), ("scopes", ["root"]),
     ("scopes", "rank"), ("scopes", [["rank"]]), ("created", None), ("created", "yesterday"),
     ("created", "2026-01-01T00:00:00"),
     ("expires", 3), ("revoked", True), ("limits", None), ("limits", {"per_second": 1}),
     ("limits", {"per_second": 0, "burst": 1, "concurrent": None}),
     ("limits", {"per_second": 1e300, "burst": 1, "concurrent": None}),
     ("limits", {"per_second": True, "burst": 1, "concurrent": None}),
     ("limits", {"per_second": 1, "burst": None, "concurrent": None}),
     ("limits", {"per_second": None, "burst": 1, "concurrent": None}),
     ("limits", {"per_second": 1, "burst": 1.5, "concurrent": None}),
     ("limits", {"per_second": None, "burst": None, "concurrent": 0})],
)  # fmt: skip
def test_a_wrong_value_is_named(path: Path, field: str, value: Any) -> None:
    write(path, {"format_version": 1, "keys": [entry(**{field: value})]})
    with pytest.raises(InputError, match=rf"keys\[0\]\.{field}"):
        read_keys(path)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([*entry(), "limits.per_second", "limits.burst", "limits.concurrent"]), JUNK)
def test_any_value_is_read_back_or_refused(tmp_path_factory: pytest.TempPathFactory, field: str, value: Any) -> None:
    path = tmp_path_factory.mktemp("keys") / "keys.json"
    outer, _, inner = field.partition(".")
    made = entry()
    made[outer] = {**made[outer], inner: value} if inner else value
    write(path, {"format_version": 1, "keys": [made]})
    try:
        found = read_keys(path)
    except InputError as error:
        assert f"{path}: keys[0]" in str(error)  # noqa: PT017 - both outcomes are right
        return
    again = [key.to_json() for key in found.entries]
    write(path, {"format_version": 1, "keys": again})
    assert read_keys(path).entries == found.entries


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    add(path)
    path.chmod(mode)
    with pytest.raises(InputError, match=f"others than its owner may write it \\(mode {mode:o}\\); chmod 600 it"):
        read_keys(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_keys(tmp_path / "absent")
    with pytest.raises(InputError, match="not a keys file"):
        read_keys(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a keys file"):
        read_keys(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"No such file.*`corella-edge keys add` makes one"):
        KeyFile(tmp_path / "absent")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_file_in_use_follows_its_changes_within_a_second(path: Path) -> None:
    clock = Clock()
    text = add(path)
    file = KeyFile(path, clock=clock)
    assert file.keys().check(text, NOW)
    revoke_key(path, text[3:11], NOW)
    later = add(path)
    assert file.keys().check(text, NOW)
    clock.now = 1.0
    assert refusal(file.keys(), text).endswith("is revoked")
    assert file.keys().check(later, NOW)


@pytest.mark.parametrize("damage", ["", '{"format_version": 1, "keys": [', None])
def test_a_damaged_file_in_use_keeps_the_last_good_keys_and_is_logged_once(
    path: Path, damage: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    text = add(path)
    whole = path.read_text()
    file = KeyFile(path, clock=clock)
    path.unlink() if damage is None else path.write_text(damage)
    for second in range(1, 4):
        clock.now = float(second)
        assert file.keys().check(text, NOW)
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == ["the API keys stay as they were"]
    assert str(path) in caplog.text
    write(path, whole)
    revoke_key(path, text[3:11], NOW)
    clock.now = 9.0
    with caplog.at_level(logging.WARNING):
        assert refusal(file.keys(), text).endswith("is revoked")
    assert caplog.messages[-1] == f"{path} was read again; valid keys: 0"


def test_a_change_back_and_forth_of_the_same_size_is_seen(path: Path) -> None:
    clock = Clock()
    text = add(path)
    file = KeyFile(path, clock=clock)
    found = path.stat()
    raw = path.read_text()
    path.write_text(raw.replace(json.loads(raw)["keys"][0]["sha256"], "0" * 64))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    clock.now = 1.0
    assert refusal(file.keys(), text) == "the API key is not known"
