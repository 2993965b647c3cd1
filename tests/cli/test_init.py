"""`corella-edge init`: what a person sees of it."""

from __future__ import annotations

from pathlib import Path

from shop_tables import as_csv, changed, events, put

from .conftest import Corella


def test_it_shows_rows_questions_and_the_next_command(corella: Corella, tmp_path: Path) -> None:
    source = put(tmp_path, "e.csv", as_csv(changed(events(), rating_service=lambda i, r: i % 5)))
    done = corella("init", source, "--out", tmp_path / "data.toml")
    assert done.code == 0
    assert "user_id  item_id  rating" in done.out
    assert "  line " in done.out.partition("To decide in")[2]
    assert done.out.splitlines()[-1] == f"  corella-edge prepare table --config {tmp_path / 'data.toml'} --dry"
    assert (tmp_path / "data.toml").read_text().splitlines()[-1].endswith("--dry")
    assert "reading" in done.err
    again = corella("init", source, "--out", tmp_path / "data.toml")
    assert (again.code, again.out) == (2, "")
    assert "exists, and init replaces nothing" in again.err


def test_quiet_says_nothing_on_the_way(corella: Corella, tmp_path: Path) -> None:
    done = corella("init", "-q", put(tmp_path, "e.csv", as_csv(events())), "--out", tmp_path / "data.toml")
    assert (done.code, done.err) == (0, "")


def test_a_bad_file_is_one_line(corella: Corella, tmp_path: Path) -> None:
    done = corella("init", put(tmp_path, "e.csv", ""), "--out", tmp_path / "data.toml")
    assert (done.code, done.out) == (2, "")
    assert done.err.strip().splitlines()[-1].endswith("e.csv: the file is empty; get it again")
    assert not (tmp_path / "data.toml").exists()
