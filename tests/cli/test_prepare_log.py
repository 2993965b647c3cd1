"""`corella-edge prepare log`, as a person types it."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from corella_edge.cli import cli


def test_prepare_log_is_a_command_of_its_own_beside_the_readers(tmp_path: Path) -> None:
    rows = [{"item": item, "rank": rank} for rank, item in ((1, "a"), (2, "b"))]
    (tmp_path / "d.jsonl").write_text(
        json.dumps({"id": "r", "user": "u", "time": 1_700_000_000, "candidates": rows}) + "\n"
    )
    (tmp_path / "c.csv").write_text("request,item,time\nr,b,1700000060\nr,b,1700000060\n")
    (tmp_path / "i.jsonl").write_text('{"item": "a", "title": "A"}\n{"item": "b", "title": "B"}\n')
    args = ["--decisions", "d.jsonl", "--clicks", "c.csv", "--items", "i.jsonl", "--out", "out"]
    named = [str(tmp_path / arg) if not arg.startswith("-") else arg for arg in args]
    done = CliRunner().invoke(cli, ["prepare", "log", *named])
    assert done.exit_code == 0, done.output
    assert "1 decisions; 2 items shown, 2 rows kept, 1 of them chosen (50.00%)" in done.output
    assert "2 clicks, 1 joined\n  1 dropped: told twice\n" in done.output
    assert CliRunner().invoke(cli, ["prepare", "log"]).exit_code == 2
    assert "--decisions" not in CliRunner().invoke(cli, ["prepare", "--help"]).output
