"""The training report: its numbers come from the logs, and it is one page that any browser reads offline."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

from corella_edge.cli import common, main
from corella_edge.errors import InputError
from corella_edge_export.report import log, page, plots, write_report

RECIPE = {"name": "small", "seed": 7, "crm": {"hidden": [200, 80], "dropout": 0.1},
          "joint": {"pairs": [[1, 2], [4, 3]]},
          "prompt": {"item": "{title}\n", "profile": {"age": "age {}"}}}  # fmt: skip
BINS = [[0.05, 0.1, 40], [0.5, 0.4625, 900], [None, None, 0]]


def train(step: int, loss: float, **more: Any) -> dict[str, Any]:
    return {"kind": "train", "step": step, "loss": loss, "rate": 1e-3, "seconds": step / 4, **more}


def valid(step: int, **more: Any) -> dict[str, Any]:
    return {"kind": "valid", "step": step, "loss": 0.5, "seconds": step / 4, **more}


def judged(step: int, auc: float, **more: Any) -> dict[str, Any]:
    return valid(step, auc=auc, logloss=auc - 0.25, accuracy=auc - 0.07, ece=0.8 - auc, calibration=BINS, **more)


def both(step: int, auc: float) -> dict[str, Any]:
    models = {"crm_auc": auc + 0.01, "llm_auc": auc - 0.01, "crm_logloss": 0.5432, "llm_calibration": BINS,
              "crm_calibration": BINS, "distance": [0.5, 0.75]}  # fmt: skip
    return judged(step, auc, **models)


LINES: dict[str, list[dict[str, Any]]] = {
    "text": [train(10, 9.0), train(20, 6.5), valid(20, perplexity=64.125), train(30, 6.25), valid(30, perplexity=51.5)],
    "crm": [train(100, 0.69), judged(200, 0.7512), train(300, 0.6), judged(400, 0.7634), judged(600, 0.7611)],
    "llm": [train(50, 0.7), judged(1234, 0.7433)],
    "joint": [train(8, 1.2, llm_loss=0.6, crm_loss=0.55, align_loss=2.0, distance=[1.5, 2.5]),
              train(16, 1.1, llm_loss=0.5, crm_loss=0.5, align_loss=1.0, distance=[0.5, 1.0]),
              both(16, 0.7701), both(32, 0.7655)],
    "continuation": [train(4, 0.55), judged(28_810, 0.7588)],
}  # fmt: skip
SUMMARY = {"text": LINES["text"][-1], "crm": LINES["crm"][3], "llm": LINES["llm"][1], "joint": LINES["joint"][2],
           "continuation": LINES["continuation"][1]}  # fmt: skip


def run_folder(
    folder: Path, stages: tuple[str, ...] = tuple(LINES), recipe: Any = RECIPE, summary: Any = None, **about: Any
) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"recipe": recipe, "data": "c0ffee", **about}))
    for name in stages:
        (folder / name).mkdir()
        (folder / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES[name]))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


class Page(HTMLParser):
    """Table rows as text, all text, all tags; fails on a tag left open."""

    VOID = ("meta",)

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)

    def labels(self) -> list[str]:
        return [str(attrs["aria-label"]) for tag, attrs in self.tags if tag == "svg"]


def read(folder: Path) -> Page:
    path = write_report(folder)
    assert path == folder / "report.html"
    return Page(path.read_text("utf-8"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("report") / "run"
    return read(run_folder(folder, summary=SUMMARY, versions={"torch": "2.4"}))


def test_every_number_of_the_table_comes_from_the_lines(whole: Page) -> None:
    start = next(place for place, row in enumerate(whole.rows) if row[0] == "stage")
    assert whole.rows[start : start + 8] == [
        ["stage", "steps", "time", "evaluations", "kept at step", "AUC", "log-loss", "accuracy", "ECE", "perplexity",
         "state"],
        ["text", "30", "7.5 s", "2", "30", "", "", "", "", "51.50", "finished"],
        ["crm", "600", "2 min 30 s", "3", "400", "0.7634", "0.5134", "0.6934", "0.0366", "", "finished"],
        ["llm", "1,234", "5 min 08 s", "1", "1,234", "0.7433", "0.4933", "0.6733", "0.0567", "", "finished"],
        ["joint", "32", "8.0 s", "2", "16", "0.7701", "0.5201", "0.7001", "0.0299", "", "finished"],
        ["CRM", "", "", "", "", "0.7801", "0.5432", "", "", "", ""],
        ["LLM", "", "", "", "", "0.7601", "", "", "", "", ""],
        ["continuation", "28,810", "2 h 00 min", "1", "28,810", "0.7588", "0.5088", "0.6888", "0.0412", "", "finished"],
    ]  # fmt: skip


def test_the_head_says_what_was_trained(whole: Page) -> None:
    assert "Training report: small" in whole.text
    # 7.5 + 150 + 308.5 + 8 + 7202.5 seconds
    for said in ("c0ffee", "30,706 steps in 2 h 07 min, 5 stages", "finished"):
        assert said in whole.texts
    assert "unfinished" not in whole.text


def test_every_stage_has_its_plots(whole: Page) -> None:
    labels = whole.labels()
    starts = [
        *("Training loss of text", "Validation perplexity of text"),
        *("Training loss of crm", "Validation AUC of crm", "Calibration of crm at step 400"),
        *("Training loss of llm", "Validation AUC of llm", "Calibration of llm at step 1,234"),
        *("Training loss of joint", "Parts of the loss of joint", "Validation AUC of joint", "Alignment distance"),
        *("Calibration of joint at step 16", "Training loss of continuation", "Validation AUC of continuation"),
        "Calibration of continuation at step 28,810",
    ]
    assert len(labels) == len(starts)
    assert all(label.startswith(start) for label, start in zip(labels, starts, strict=True))
    assert "kept: CRM 0.7801, LLM 0.7601" in labels[10]
    assert "block 1, layer 2 from 1.5 at step 8 to 0.5 at step 16; block 4, layer 3 from 2.5" in labels[11]
    assert "CRM at most 0.050 off in 2 bins" in labels[12]
    texts = " ".join(whole.texts)
    assert "The ring marks what was kept: step 400." in texts


def test_the_recipe_is_shown_as_it_is(whole: Page) -> None:
    for row in (["name", '"small"'], ["hidden", "[200, 80]"], ["dropout", "0.1"], ["item", '"{title}\\n"'],
                ["profile.age", '"age {}"'], ["torch", '"2.4"']):  # fmt: skip
        assert row in whole.rows


def test_one_file_without_scripts_whose_ids_are_unique(whole: Page) -> None:
    assert not {tag for tag, _ in whole.tags} & {"script", "link", "img", "iframe", "object", "metadata"}
    ids = [attrs["id"] for _, attrs in whole.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for _, attrs in whole.tags:
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name.endswith("href"):
                assert str(value)[0] == "#"
                assert str(value)[1:] in ids
            for target in re.findall(r"url\((.*?)\)", value or ""):
                assert target[1:] in ids
    assert sum(tag == "style" for tag, _ in whole.tags) == 1


@pytest.mark.slow
def test_the_same_logs_make_the_same_bytes(tmp_path: Path) -> None:
    import matplotlib as mpl

    first = write_report(run_folder(tmp_path / "a", summary=SUMMARY)).read_bytes()
    with mpl.rc_context({"font.size": 20, "axes.grid": False, "svg.hashsalt": None}):
        again = write_report(run_folder(tmp_path / "b", summary=SUMMARY)).read_bytes()
    assert first == again
    assert write_report(tmp_path / "a").read_bytes() == first
    assert [path.name for path in (tmp_path / "a").iterdir() if path.name.endswith(".partial")] == []


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    found = read(run_folder(tmp_path / "run", ("crm", "joint")))
    rows = {row[0]: row for row in found.rows if len(row) > 2}
    assert rows["crm"][-1] == "finished"  # a later stage was begun
    assert rows["joint"][-1] == "unfinished"
    assert rows["crm"][4] == "400"  # by AUC, without a summary
    assert "unfinished (joint)" in found.texts
    assert "llm" not in rows
    assert "perplexity" not in rows["stage"]


def test_a_run_before_its_first_line(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", (), recipe={})
    assert "unfinished (nothing logged yet)" in read(folder).texts
    (folder / "crm").mkdir()
    (folder / "crm" / "metrics.jsonl").write_text("")
    found = read(folder)
    assert ["crm", "0", "0.0 s", "0", "–", "unfinished"] in found.rows
    assert found.labels() == []


def test_what_is_missing_or_not_a_number_is_left_out(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", ())
    (folder / "crm").mkdir()
    lines = [
        {"kind": "train", "step": 1, "loss": float("nan")},
        {"kind": "train", "step": 2, "loss": 1e300, "distance": None},
        {"kind": "train", "step": 3, "loss": float("inf"), "seconds": float("inf")},
        {"kind": "valid", "step": 4, "auc": float("nan"), "logloss": None, "other": {"a": [1]}},
        {"kind": "valid", "step": 5, "auc": 0.5, "distance": [None, 1], "calibration": [[0.5, float("nan"), 3]]},
    ]
    (folder / "crm" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = read(folder)
    assert ["crm", "5", "0.0 s", "2", "5", "0.5000", "unfinished"] in found.rows
    assert [label.split(" of ")[0] for label in found.labels()] == [
        "Training loss", "Validation AUC",
        "Alignment distance per pair: block 4, layer 3 from 1 at step 5 to 1 at step 5",
    ]  # fmt: skip
    lines[-1]["auc"] = float("nan")
    (folder / "crm" / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert ["crm", "5", "0.0 s", "2", "4", "–", "–", "unfinished"] in read(folder).rows


def test_the_summary_decides_what_was_kept(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", ("crm",), summary={"crm": {"step": 200}})
    assert log.read(folder).stages[0].kept == LINES["crm"][1]


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    text = '</title><script>alert(1)</script> "><img src=x onerror=alert(1)> a & <b> \ud800'
    recipe = {"name": text, "seed": text, text: {text: text}, "joint": {"pairs": [[text, text]] * 2}}
    found = read(run_folder(tmp_path / "run", recipe=recipe, data=text, versions={text: text}))
    assert not [attrs for tag, attrs in found.tags if tag in ("script", "img", "b")]
    assert text.replace("\ud800", "�") in found.text


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (b"{", "line 3: "),
        (b"\xff{}", "line 3: "),
        (b"", "line 3: "),
        (b"[" * 100_000, "line 3: "),
        (b"7", 'line 3: expected an object with "kind"'),
        (b'{"kind": "test", "step": 1}', 'line 3: expected an object with "kind"'),
        (b'{"kind": "train", "loss": 0.1}', "line 3: step must be a count"),
        (b'{"kind": "train", "loss": 0.1, "step": true}', "line 3: step must be a count"),
        (b'{"kind": "train", "loss": 0.1, "step": -1}', "line 3: step must be a count"),
        (b'{"kind": "train", "step": 1}', "line 3: loss is missing"),
        (b'{"kind": "valid", "step": 1, "llm_auc": "0.7"}', "line 3: llm_auc must be a number"),
        (b'{"kind": "valid", "step": 1, "auc": 1' + b"0" * 400 + b"}", "line 3: auc must be a number"),
        (b'{"kind": "valid", "step": 1, "distance": [1, "2"]}', "line 3: distance must be"),
        (b'{"kind": "valid", "step": 1, "distance": 3}', "line 3: distance must be"),
        (b'{"kind": "valid", "step": 1, "calibration": [[1, 2]]}', "line 3: calibration must be"),
        (b'{"kind": "valid", "step": 1, "crm_calibration": {"a": 1}}', "line 3: crm_calibration must be"),
    ],
)
def test_a_malformed_line_is_named(tmp_path: Path, bad: bytes, told: str) -> None:
    folder = run_folder(tmp_path / "run", ("crm",))
    path = folder / "crm" / "metrics.jsonl"
    rows = path.read_bytes().splitlines()
    path.write_bytes(b"\n".join([*rows[:2], bad, *rows[2:], b""]))
    with pytest.raises(InputError) as caught:
        write_report(folder)
    assert f"{path}, {told}" in str(caught.value)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
@pytest.mark.parametrize("contents", [b"{", b"[]", b"\xff"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, contents: bytes) -> None:
    folder = run_folder(tmp_path / "run", ("crm",))
    (folder / name).write_bytes(contents)
    with pytest.raises(InputError, match=re.escape(str(folder / name))):
        write_report(folder)


def test_settings_must_be_objects(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="recipe and versions must be objects"):
        write_report(run_folder(tmp_path / "run", recipe=["small"]))


def test_smoothing_keeps_the_mean_and_the_steps() -> None:
    points = [(10 * place, float(place % 2)) for place in range(400)]
    smooth = plots.smoothed(points)
    assert [step for step, _ in smooth] == [step for step, _ in points]
    assert all(abs(value - 0.5) < 0.05 for _, value in smooth)
    assert plots.smoothed(points[:5]) == points[:5]


def test_a_long_log_is_thinned(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run", ())
    (folder / "crm").mkdir()
    lines = (json.dumps(train(step, 0.5 + step % 7)) for step in range(9000))
    (folder / "crm" / "metrics.jsonl").write_text("\n".join(lines))
    assert "Grey: one line of the log in 5; coloured: smoothed." in read(folder).text
    assert (folder / "report.html").stat().st_size < 400_000


def test_times_are_said_as_a_person_says_them() -> None:
    assert [page.duration(seconds) for seconds in (0.04, 61.25, 125.0, 7199.4, 7199.6, 90_000.0)] == [
        "0.0 s", "61.2 s", "2 min 05 s", "119 min 59 s", "2 h 00 min", "25 h 00 min",
    ]  # fmt: skip


def call(*args: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(arg) for arg in args])
    return int(left.value.code or 0)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(tmp_path / "run", ("crm",))
    assert call("report", folder) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}: written\n"
    assert call("report", tmp_path) == 2
    assert capsys.readouterr().err == f"corella-edge: {tmp_path}: not a training run (run.json is missing)\n"


def test_the_command_without_matplotlib(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folder(tmp_path / "run", ("crm",))
    monkeypatch.setattr(common, "find_spec", lambda name: None if name == "matplotlib" else object())
    assert call("report", folder) == 5
    assert "pip install 'corella-edge[report]'" in capsys.readouterr().err
    assert not (folder / "report.html").exists()
