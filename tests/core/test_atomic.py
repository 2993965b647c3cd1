"""Folders that several runs fill: begun once, locked, and told apart from foreign ones."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from corella_edge.atomic import locked_folder, resumable_folder
from corella_edge.errors import InputError


def test_a_folder_goes_on_with_the_same_settings_only(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with resumable_folder(out, "run.json", {"recipe": 1}, {"note": "a"}):
        (out / "half").write_text("done")
    with resumable_folder(out, "run.json", {"recipe": 1}, {"note": "b"}):
        assert (out / "half").exists()
    with pytest.raises(InputError, match="begun with another recipe"), resumable_folder(out, "run.json", {"recipe": 2}):
        pass


def test_what_settles_nothing_may_differ_and_the_last_run_says_it(tmp_path: Path) -> None:
    def settled(about: dict[str, Any]) -> dict[str, Any]:
        return {**about, "recipe": about["recipe"]["crm"]}

    label = tmp_path / "run.json"
    for export, note in ((1, "a"), (2, "b")):
        recipe = {"crm": 1, "export": export}
        with resumable_folder(tmp_path, "run.json", {"recipe": recipe}, {"note": note}, settled):
            assert json.loads(label.read_text()) == {"recipe": recipe, "note": note}
    last = label.read_bytes()
    other = {"recipe": {"crm": 2, "export": 3}}
    with (
        pytest.raises(InputError, match="begun with another recipe"),
        resumable_folder(tmp_path, "run.json", other, {}, settled),
    ):
        pass
    assert label.read_bytes() == last
    label.write_text('{"recipe": 1}')
    with (
        pytest.raises(InputError, match="cannot be read"),
        resumable_folder(tmp_path, "run.json", other, {}, settled),
    ):
        pass


def test_a_kill_at_the_first_write_can_be_continued(tmp_path: Path) -> None:
    (tmp_path / ".run.json.partial").write_text('{"rec')
    with resumable_folder(tmp_path, "run.json", {"recipe": 1}):
        assert (tmp_path / "run.json").exists()


def test_foreign_folders_files_and_second_writers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="has no run"), resumable_folder(tmp_path, "run.json", {}):
        pass
    with pytest.raises(InputError, match="cannot be written"), resumable_folder(tmp_path / "thesis.txt", "l", {}):
        pass
    out = tmp_path / "run"
    second = resumable_folder(out, "run.json", {})
    with resumable_folder(out, "run.json", {}), pytest.raises(InputError, match="another run is writing"):
        second.__enter__()
    (out / "run.json").write_text("[]")
    with pytest.raises(InputError, match="cannot be read"), resumable_folder(out, "run.json", {"a": 1}):
        pass


def test_a_patient_writer_gets_the_folder_of_one_who_removes_it_at_the_end(tmp_path: Path) -> None:
    out, begun, got = tmp_path / "work", threading.Event(), list[bool]()

    def first() -> None:
        with locked_folder(out):
            begun.set()
            time.sleep(0.2)
            shutil.rmtree(out)

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    with pytest.raises(InputError, match="another run is writing it"), locked_folder(out):
        pass
    with locked_folder(out, patience=20.0):
        got.append(out.is_dir())
        with pytest.raises(InputError, match="another run is writing it"), locked_folder(out):
            pass
    thread.join()
    assert got == [True]
