"""`corella-edge calibrate`: the new bundle, the report's three files, and every way in which a log is refused."""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from corella_edge.bundle.artefact import Bundle
from corella_edge.cli.calibrate import _tell
from corella_edge.routing.forms import OWN, parse_threshold
from corella_edge.routing.labelled import LabelledRows
from corella_edge_runtime.calibrate import log, plots
from corella_edge_runtime.calibrate.report import FILES
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.partitions import parquet
from logs import labelled_log

ROWS = labelled_log(500, 8, 150)
QUICK = ("--no-cost", "--no-verify", "--gain", "0.05", "--ratios", "0.1")


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log as JSON lines."""
    path = tmp_path_factory.mktemp("log") / "rows.jsonl"
    log.write(ROWS, path)
    return path


def as_csv(rows: LabelledRows, path: Path) -> Path:
    columns = rows.columns()
    with path.open("w", newline="") as file:
        made = csv.writer(file)
        made.writerow(columns)
        made.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    return path


class Elements(HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        self.ids += [value for name, value in attrs if name == "id" and value]


def test_the_new_bundle_routes_as_the_report_says(corella, bundle, logged, tmp_path):
    out = tmp_path / "new"
    done = corella("calibrate", bundle, "--log", logged, "--out", out, "--share", "0.1", "--gain", "0.05")
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "new-report" / "report.json").read_text())
    opened, parent = Bundle.open(out), Bundle.open(bundle)
    assert opened.label == result["bundle"]
    assert re.fullmatch(r"tiny@1\+policy\.[0-9a-f]{8}", opened.label)
    assert {path.name for path in (tmp_path / "new-report").iterdir()} == set(FILES)
    routing = opened.routing()
    policy = parse_threshold(OWN.prefix, routing)
    assert policy.threshold == result["policy"]["threshold"]
    held = ROWS.take(ROWS.time >= min(ROWS.time[len(ROWS) // 2 :]))
    share = len(policy.route(held.crm)[0]) / len(held)
    assert share == pytest.approx(result["policy"]["share"]["value"], abs=0.01)
    for name in parent.manifest.files.keys() - {"routing.json"}:
        assert (out / name).stat().st_ino == (bundle / name).stat().st_ino
        assert opened.manifest.files[name] == parent.manifest.files[name]
    assert opened.manifest.about["calibrated"]["parent"]["version"] == "1"
    assert opened.json("routing.json")["calibrated"]["parts"] == result["parts"]
    with Engine.open(out, llm=None, tuned=False) as engine:
        assert engine.policy.measure.to_json() == {"name": "entropy"}
    assert result["cost"]["first_ms"] >= 0.0
    assert "ms of the LLM a request" in done.out


def test_the_new_bundle_verifies_and_shows_its_policy(corella, bundle, logged, tmp_path):
    assert corella("calibrate", bundle, "--log", logged, "--out", tmp_path / "new", *QUICK[:1], *QUICK[2:]).code == 0
    assert corella("verify", tmp_path / "new").code == 0
    shown = corella("inspect", tmp_path / "new").out
    assert "ratio:0.05" in shown  # the share of the parent's own policy
    assert "later rows of a log)" in shown


@pytest.mark.parametrize("form", ["parquet", "csv"])
def test_every_form_of_a_log_gives_the_same_bundle(corella, bundle, logged, tmp_path, form):
    other = tmp_path / f"rows.{form}"
    if form == "parquet":
        parquet.write_labelled(ROWS, other)
    else:
        as_csv(ROWS, other)
    for name, path in (("one", logged), ("two", other)):
        done = corella("calibrate", bundle, "--log", path, "--out", tmp_path / name, "--share", "0.1", *QUICK)
        assert done.code == 0, done.err
    one, two = ((tmp_path / name / "manifest.json").read_bytes() for name in ("one", "two"))
    assert one == two
    assert (tmp_path / "one-report/report.md").read_text() == (tmp_path / "two-report/report.md").read_text()


def test_the_page_needs_nothing_else_and_says_what_the_text_says(corella, bundle, logged, tmp_path):
    report = tmp_path / "said"
    done = corella("calibrate", bundle, "--log", logged, "--out", tmp_path / "new", "--report", report, "--share",
                   "knee", "--no-verify", "--gain", "0.05")  # fmt: skip
    assert done.code == 0, done.err
    page, text = ((report / name).read_text() for name in ("report.html", "report.md"))
    found = Elements(page)
    assert not {"script", "link", "img", "iframe"} & set(found.tags)
    assert found.links == []
    assert len(set(found.ids)) == len(found.ids)
    assert "@media print" in page
    svgs = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(svgs) == 6 + 2 + 1 + 2  # each metric by share, two by time, the top, two of deciles
    for svg in svgs:
        ElementTree.fromstring(svg)
    for sentence in done.out.splitlines()[:4]:
        assert sentence in text
        assert sentence in page
    assert len(re.findall("<table", page)) == len(re.findall(r"^\| ---", text, re.MULTILINE))


def test_lines_of_a_plot_differ_without_colour(corella, bundle, logged, tmp_path):
    corella("calibrate", bundle, "--log", logged, "--out", tmp_path / "new", "--share", "0.1", *QUICK[:-2])
    result = json.loads((tmp_path / "new-report" / "report.json").read_text())
    drawn = ElementTree.fromstring(plots.quality(result, "auc"))
    lines = [line for line in drawn.iter() if line.tag.endswith("polyline")]
    assert len({line.get("stroke-dasharray") for line in lines}) == len(lines) == 3
    names = [text.text for text in drawn.iter() if text.tag.endswith("text")]
    assert {"policy", "random", "oracle"} <= set(names)


def test_json_is_the_report(corella, bundle, logged, tmp_path):
    done = corella("calibrate", bundle, "--log", logged, "--out", tmp_path / "new", "--share", "0.1", "--json", *QUICK)
    assert json.loads(done.out) == json.loads((tmp_path / "new-report" / "report.json").read_text())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give --log FILE or --data DIR"),
        (("--log", "rows.jsonl", "--data", "there"), "give --log FILE or --data DIR"),
        (("--data", "there", "--held-out", "rows.jsonl"), "--held-out belongs to --log"),
        (("--log", "nowhere.csv"), "nowhere.csv: no such file"),
        (("--log", "empty.csv"), "empty.csv: holds no row"),
        (("--log", "bad.csv"), "bad.csv line 2: label: 3.0 is neither 0 nor 1"),
        (("--log", "rows.jsonl", "--share", "2"), "corella-edge: --share: 2 is not a share of the candidates"),
        (("--log", "rows.jsonl", "--share", "nan"), "--share: 'nan' is not a share of the candidates (0 to 1); give"),
        (("--log", "rows.jsonl", "--share", "ratio:x", "--risk", "0.1"), "--share: 'x' is not a share"),
        (("--log", "rows.jsonl", "--measure", "mood"), "--measure: 'mood' is not one of entropy, margin"),
        (("--log", "rows.jsonl", "--measure", "band:0.4-0.6", "--centre"), "--centre: the measure band has no centre"),
        (("--log", "few.jsonl", "--no-cost"), "too few rows: "),
        (("--log", "rows.jsonl", "--fit-part", "1"), "--fit-part"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(
    corella, bundle, logged, tmp_path, monkeypatch, options, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").hardlink_to(logged)
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "bad.csv").write_text("request,user,item,time,label,crm,llm\nr,u,i,1,3,0.5,0.5\n")
    log.write(labelled_log(20, 5, 9), tmp_path / "few.jsonl")
    before = set(tmp_path.iterdir())
    done = corella("calibrate", bundle, "--out", "new", *options)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""
    assert set(tmp_path.iterdir()) == before


def test_the_advice_to_ask_about_nothing_can_be_followed(corella, bundle, tmp_path):
    log.write(labelled_log(40, 8, 30), tmp_path / "few.jsonl")
    options = ("--log", tmp_path / "few.jsonl", "--out", tmp_path / "new", "--no-cost", "--no-verify")
    assert "too few rows" in corella("calibrate", bundle, *options, "--share", "0.3").err
    done = corella("calibrate", bundle, *options, "--share", "0")
    assert done.code == 0, done.err
    assert Bundle.open(tmp_path / "new").routing().threshold == "ratio:0"
    assert "so no gain was looked for" in (tmp_path / "new-report/report.md").read_text()
    assert "deploy push SITE" in done.err


def test_no_next_step_is_named_where_nothing_is_gained(corella, bundle, logged, tmp_path):
    log.write(replace(ROWS, llm=ROWS.crm), tmp_path / "same.jsonl")
    same, helped = (
        corella("calibrate", bundle, "--log", path, "--out", tmp_path / name, "--share", "0.1", *QUICK)
        for name, path in (("same", tmp_path / "same.jsonl"), ("helped", logged))
    )
    assert same.code == helped.code == 0, same.err + helped.err
    assert "warning: on the later rows the policy shows no gain" in same.err
    assert "deploy push" not in same.err
    assert "no gain" not in helped.err
    assert "deploy push SITE" in helped.err


def test_where_positives_are_rare_a_centre_is_offered(corella, bundle, tmp_path):
    log.write(ROWS.take((ROWS.label == 0.0) | (np.arange(len(ROWS)) % 15 == 0)), tmp_path / "rare.jsonl")
    options = ("--log", tmp_path / "rare.jsonl", "--share", "0.1", *QUICK, "--gain", "0.5")
    offered = "% of the rows are positive, so few probabilities are near one half: `--centre` orders candidates"
    plain = corella("calibrate", bundle, "--out", tmp_path / "plain", *options)
    centred = corella("calibrate", bundle, "--out", tmp_path / "centred", *options, "--centre")
    assert plain.code == centred.code == 0, plain.err + centred.err
    assert offered in plain.err
    assert offered in (tmp_path / "plain-report" / "report.md").read_text()
    assert "near one half" not in centred.err


def test_without_its_report_there_is_no_bundle(corella, bundle, logged, tmp_path, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("corella_edge_runtime.calibrate.report.write", interrupted)
    before = set(tmp_path.iterdir())
    done = corella("calibrate", bundle, "--log", logged, "--out", tmp_path / "new", "--share", "0.1", *QUICK)
    assert done.code != 0
    assert set(tmp_path.iterdir()) == before


def test_taken_folders_are_refused(corella, bundle, logged, tmp_path):
    (tmp_path / "new-report").mkdir()
    (tmp_path / "new-report" / "mine").touch()
    done = corella("calibrate", bundle, "--log", logged, "--out", tmp_path / "new")
    assert done.code == 2
    assert "--report" in done.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("out", "report", "said"),
    [
        ("new", "new", "--report new: overlaps with --out"),
        ("new", "new/report", "--report new/report: overlaps with --out"),
        ("there/new", "report", "--out there/new: overlaps with BUNDLE"),
        ("new", "there/report", "--report there/report: overlaps with BUNDLE"),
        ("new", "rows.jsonl/report", "--report rows.jsonl/report: cannot be written: Not a directory"),
    ],
)
def test_a_bundle_holds_neither_the_new_one_nor_the_report(
    corella, bundle, logged, tmp_path, monkeypatch, out, report, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").symlink_to(bundle)
    (tmp_path / "rows.jsonl").hardlink_to(logged)
    files = set(bundle.iterdir())
    done = corella("calibrate", "there", "--log", "rows.jsonl", "--out", out, "--report", report, *QUICK)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert {path.name for path in tmp_path.iterdir()} == {"there", "rows.jsonl"}
    assert set(bundle.iterdir()) == files


def test_a_bundle_without_an_llm_has_nothing_to_calibrate(corella, crm_bundle, logged, tmp_path):
    done = corella("calibrate", crm_bundle, "--log", logged, "--out", tmp_path / "new")
    assert done.code == 2
    assert "the bundle has no LLM" in done.err


def test_parquet_without_pyarrow_names_the_extra(corella, bundle, tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    parquet.write_labelled(ROWS, path)
    monkeypatch.setattr(log, "find_spec", lambda name: None)
    done = corella("calibrate", bundle, "--log", path, "--out", tmp_path / "new")
    assert done.code == 5
    assert "needs the extra [parquet]: pip install 'corella-edge[parquet]'" in done.err


def test_it_needs_no_heavy_library(bundle, logged, tmp_path):
    """From the light install: none of torch, polars, matplotlib, pyarrow, onnxruntime, llama_cpp is loaded."""
    import subprocess

    blocked = "torch polars matplotlib pyarrow onnxruntime llama_cpp transformers onnx sklearn scipy"
    code = (
        f"import sys\nfor name in {blocked!r}.split(): sys.modules[name] = None\n"
        "from corella_edge.cli import main\nmain(sys.argv[1:])"
    )
    args = ["calibrate", bundle, "--log", logged, "--out", tmp_path / "new", "--share", "0.1", *QUICK]
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new-report" / "report.html").exists()


@pytest.mark.parametrize(("low", "high", "proposed"), [(-0.03, -0.01, False), (-0.03, 0.01, True)])
def test_a_bundle_that_asks_nothing_and_orders_worse_is_not_proposed_for_a_site(capsys, tmp_path, low, high, proposed):
    gain = {"value": -0.02, "low": low, "high": high}
    policy = {"threshold": None, "over_crm": {"auc": gain, "logloss": {**gain, "high": 0.1}}}
    _tell("new@1", {"warnings": [], "policy": policy}, tmp_path / "new", tmp_path / "report", json=True)
    assert ("deploy push" in capsys.readouterr().err) == proposed
