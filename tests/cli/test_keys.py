"""`corella-edge keys`: the text of a key is shown once, and every mistake is one line."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from corella_edge_runtime.server.guard.keys import read_keys


def test_a_key_is_added_listed_and_revoked(corella, tmp_path):
    file = tmp_path / "keys.json"
    options = ["--scope", "rank", "--scope", "users", "--per-second", 2.5, "--concurrent", 4, "--days", 30]
    done = corella("keys", "add", file, "--name", "the shop", *options)
    text = done.out.strip()
    assert done.code == 0
    assert done.err == f"corella-edge: note: the key is shown this once; {file} holds only its hash\n"
    key = read_keys(file).check(text, datetime.now(UTC))
    assert (key.name, key.scopes) == ("the shop", {"rank", "users"})
    assert (key.limits.per_second, key.limits.burst, key.limits.concurrent) == (2.5, 3, 4)
    assert key.expires is not None
    assert 29.9 < (key.expires - datetime.now(UTC)).total_seconds() / 86400 <= 30
    listed = corella("keys", "list", file)
    assert text[12:] not in listed.out
    assert listed.out.startswith(f"{key.id}  valid    rank,users  2.5/s burst 3, 4 at once, expires ")
    assert listed.out.endswith("  the shop\n")
    done = corella("keys", "revoke", file, key.id)
    assert done.out == f"{key.id} (the shop): revoked\n"
    assert corella("keys", "list", file).out.startswith(f"{key.id}  revoked  ")


def test_a_key_without_options_may_rank_without_limit(corella, tmp_path):
    text = corella("keys", "add", tmp_path / "keys.json", "--name", "a").out.strip()
    key = read_keys(tmp_path / "keys.json").check(text, datetime.now(UTC))
    assert (key.scopes, key.expires) == ({"rank"}, None)
    assert "no limits" in corella("keys", "list", tmp_path / "keys.json").out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["list", "absent"], "absent: cannot be read (No such file or directory)"),
        (["revoke", "absent", "00000000"], "absent: cannot be read"),
        (["add", "nowhere/keys.json", "--name", "a"], "nowhere/keys.json: cannot be written (No such file"),
        (["add", "keys.json", "--name", "a\nb"], "name: expected a printable text"),
        (["add", "keys.json", "--name", "a", "--burst", "3"], "--burst needs --per-second"),
        (["add", "keys.json", "--name", "a", "--scope", "all"], "'all' is not one of"),
        (["add", "keys.json", "--name", "a", "--per-second", "nan"], "--per-second"),
        (["add", "keys.json", "--name", "a", "--days", "1e9"], "--days"),
    ],
)
def test_mistakes_are_told_and_write_nothing(corella, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    done = corella("keys", *args)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert not list(tmp_path.iterdir())
