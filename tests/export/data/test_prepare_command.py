"""`corella-edge prepare` and the registry behind it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from corella_edge.cli import main
from corella_edge_export.data import readers
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.registry import known, read
from corella_edge_export.generic.recipe import recipe_for
from corella_edge_export.training.checks import check_labels
from pages import read as read_page
from pages import section

Writer = Callable[..., Path]
LIKES = """
name = "likes"
events = { files = ["events.csv"], user = "user", item = "item", time_unit = "none" }
label = { positives_only = true }
negatives = { per_positive = 4 }
items = { missing_title = "id" }
split = { rule = "leave-one-out" }
"""


def run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stop:
        main(["prepare", *arguments])
    output = capsys.readouterr()
    return int(stop.value.code or 0), output.out, output.err


def test_an_unknown_reader_lists_those_that_the_documents_explain(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, errors = run(["ml-2m", "--out", "data"], capsys)
    listed = re.search(r"unknown reader 'ml-2m'; known readers: (.*?); did you mean 'ml-1m'\?", errors)
    assert code == 2
    assert listed is not None, errors
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", section(read_page("data.md"), "Publishers' readers"), re.MULTILINE)
    assert listed[1].split(", ") == rows
    assert all(reader.summary for reader in known().values())


def test_a_reader_is_one_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in the readers' folder is all it takes."""
    (tmp_path / "mine.py").write_text(
        "from corella_edge_export.data.contract import Reader\n"
        "from corella_edge_export.data.readers.synthetic import SyntheticConfig, generate\n"
        "def read(source, options):\n"
        "    return generate(SyntheticConfig(seed=3, users=40, items=50, genres=2, events=16.0))\n"
        "READERS = {'my-shop': Reader(read, 'what my shop sold', needs_source=False)}\n"
    )
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(tmp_path)])
    before = set(known())
    known.cache_clear()
    try:
        assert set(known()) == {*before, "my-shop"}
        assert read("my-shop", None, {"seed": 0}).name == "synthetic"
    finally:
        sys.modules.pop("corella_edge_export.data.readers.mine", None)
        known.cache_clear()


def test_synthetic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    code, text, _ = run(["synthetic", "--out", str(out), "--seed", "2"], capsys)
    assert code == 0
    assert "1,000 users with 600 items" in text
    assert f"{out}: written in" in text
    assert "note: synthetic data" in text
    assert (out / "dataset.json").is_file()


@pytest.mark.parametrize(("negatives", "share"), [(0, 1.0), (1, 0.5)])
def test_the_last_line_names_a_recipe_that_learns_from_what_was_prepared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], negatives: int, share: float
) -> None:
    """Also where no row is drawn beside the likes, and so there is no label to learn."""
    lines = [f"u{user},i{(user * 7 + 3 * time) % 30}" for user in range(30) for time in range(8)]
    (tmp_path / "events.csv").write_text("\n".join(["user,item", *lines, ""]), "utf-8")
    (tmp_path / "data.toml").write_text(LIKES, "utf-8")
    out = tmp_path / "data"
    options = ["--config", str(tmp_path / "data.toml"), "--negatives", str(negatives), "--out", str(out)]
    code, _, errors = run(["table", *options], capsys)
    assert code == 0, errors
    words = shlex.split(errors.splitlines()[-1])
    assert words == ["next:", "corella-edge", "train", "generic", "--data", str(out), "--out", "runs/data"]
    data = PreparedData.open(out)
    assert data.split("train").labels.mean() == pytest.approx(share, abs=0.01)
    recipe = recipe_for("generic", data)
    check_labels(recipe, data)
    assert recipe.crm.family.ranks == (share == 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ml-1m"], "needs --source DIR"),
        (["ml-1m", "--source", "absent"], "--source absent: does not exist"),
        (["ml-1m", "--source", __file__], "is a file; unpack it and name the folder"),
        (["synthetic", "--source", "."], "reads no files; leave --source out"),
        (
            ["synthetic", "--hide-items", "0.1"],
            "--hide-items: the reader synthetic splits its data by rules of its own",
        ),
        (["synthetic", "--negatives", "0"], "--negatives: the reader synthetic splits its data by rules of its"),
        (["synthetic", "--hide-items", "1"], "Invalid value for '--hide-items'"),
        (["other"], "known readers"),
        ([__file__], f"begin with `corella-edge init {__file__}`"),
        (["collm-ml-1m", "--extra", "rated"], "--extra rated: the reader collm-ml-1m has disliked-train, disliked"),
        (["synthetic", "--extra", "disliked"], "--extra disliked: the reader synthetic has no such rows, leave it out"),
    ],
)
def test_wrong_options_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, text, errors = run([*arguments, "--out", str(tmp_path / "out")], capsys)
    assert (code, text) == (2, "")
    assert message in errors.splitlines()[-1]
    assert errors.count("\n") == 1 or errors.startswith("Usage")
    assert list(tmp_path.iterdir()) == []


def test_a_bad_file_is_one_line(official: Writer, capsys: pytest.CaptureFixture[str]) -> None:
    source = official(ratings=b"1::2::9::9\n")
    out = source.parent / "out"
    code, _, errors = run(["ml-1m", "--source", str(source), "--out", str(out)], capsys)
    assert code == 2
    assert "ratings.dat line 1: Rating '9' is not an integer from 1 to 5" in errors
    assert not out.exists()


def test_a_missing_extra_is_named(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['polars'] = None\n"
        "from corella_edge.cli import main\n"
        f"main(['prepare', 'synthetic', '--out', {str(tmp_path / 'out')!r}])"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert process.returncode == 5
    assert process.stderr == "corella-edge: prepare needs the extra [export]: pip install 'corella-edge[export]'\n"


def test_what_was_prepared_can_be_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "data"
    _, told, _ = run(["synthetic", "--out", str(out)], capsys)
    with pytest.raises(SystemExit):
        main(["inspect", str(out), "--all"])
    page = capsys.readouterr().out
    assert page.startswith(told.split("note:")[0].rstrip("\n"))
    assert "attributes of items: genres (multi), minutes (numeric)" in page
    with (out / "train.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SystemExit) as stop:
        main(["inspect", str(out)])
    output = capsys.readouterr()
    assert stop.value.code == 3
    assert "train.parquet differs from what dataset.json records" in output.out
    assert output.err.count("\n") == 1
