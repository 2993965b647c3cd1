"""README.md and docs/: every command line parses, the first session and the README's code run, links resolve."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from corella_edge.cli import cli
from corella_edge.request_message import RequestMessage
from corella_edge.routing.exploring import EXPLORE
from corella_edge.routing.forms import FORMS, read_threshold
from corella_edge.routing.reasons import FAULT, KEPT, NoAnswer
from corella_edge.scores import Scored
from corella_edge_runtime.bench.reports.report import FILES
from corella_edge_runtime.bench.results.journal import FILE as SLICES
from pages import BLOCK, PAGES, README, blocks, read, section
from sessions import REPOSITORY, call, serving, start, succeed

RECIPES = REPOSITORY / "export" / "corella_edge_export" / "recipes"
COMMAND = re.compile(r"^\s*(?:\S*/)?corella-edge ((?!\[).+)$", re.MULTILINE)
# The sizes of the shipped recipe, made tiny; its [prompt] stays.
TINY = """
name = "ml-1m-tiny"
seed = 1
[crm]
kind = "sequence"
batch_size = 256
epochs = 1
evaluations = 1
[crm.features]
history = 12
[crm.sequence]
embedding_dim = 8
blocks = 1
heads = 2
inner = 8
[llm]
vocab_size = 600
hidden = 32
layers = 1
heads = 2
kv_heads = 1
intermediate = 32
rows = 400
batch_tokens = 2048
valid_rows = 60
evaluations = 1
[export]
calibration_rows = 60
sample_rows = 24
reference_rows = 8
"""


def command_lines():
    """(page, command line without its program) of every code block."""
    for page in PAGES:
        for text in blocks(page.read_text("utf-8")):
            for line in COMMAND.findall(text):
                if page.name != "cli.md":
                    yield pytest.param(line, id=f"{page.name}-{line}")


def mentioned():
    """Commands named in running text."""
    return {name for page in PAGES for name in re.findall(r"`corella-edge ([a-z]+)", page.read_text("utf-8"))}


def parsed(arguments):
    """The command that would run, with its values; nothing is run."""
    root = click.Context(cli, info_name="corella-edge")
    name, command, rest = cli.resolve_command(root, arguments)
    assert command is not None
    return command.make_context(name, rest, parent=root)


@pytest.mark.parametrize("line", list(command_lines()))
def test_every_command_line_is_one(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)
    for word in words:
        if word.endswith(".csv"):  # files of a person's own, which `init` wants to see
            Path(word).touch()
    for option, value in itertools.pairwise(words):
        if option == "--reuse":  # a run of an earlier line
            Path(value).mkdir(parents=True)
    parsed(words)


def test_every_command_that_is_mentioned_exists():
    assert len(mentioned()) > 5
    for name in mentioned():
        assert cli.get_command(click.Context(cli), name), name


def write_ml_1m(folder):
    """120 users, 80 movies, 40 ratings each, in the publisher's form."""
    draw = random.Random(0)
    genres = ["Drama", "Comedy", "Film-Noir", "Children's", "Sci-Fi"]
    words = ["Café", "Night", "Matrix, The", "Été"]
    movies = [
        f"{m}::{draw.choice(words)} {m} ({1940 + m % 60})::{'|'.join(draw.sample(genres, 2))}" for m in range(1, 81)
    ]
    users = [f"{u}::{draw.choice('FM')}::{draw.choice([1, 18, 25, 56])}::{u % 21}::{10000 + u}" for u in range(1, 121)]
    ratings = [
        f"{u}::{m}::{1 + (m + draw.randint(0, 2)) % 5}::{960000000 + draw.randint(0, 30_000_000)}"
        for u in range(1, 121)
        for m in draw.sample(range(1, 81), 40)
    ]
    folder.mkdir()
    for name, lines in {"movies": movies, "users": users, "ratings": ratings}.items():
        (folder / f"{name}.dat").write_bytes("".join(line + "\n" for line in lines).encode("latin-1"))


@pytest.mark.slow
def test_the_first_session_runs_as_printed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    write_ml_1m(tmp_path / "ml-1m")
    shipped = (RECIPES / "ml-1m-tiny.toml").read_text("utf-8")
    (tmp_path / "tiny.toml").write_text(TINY + shipped[shipped.index("[prompt]") :], "utf-8")
    session, request, *rest = blocks(section(read("start.md"), "First session, with real data"), "bash")
    lines = [shlex.split(line)[1:] for line in session.splitlines()]
    names = [line[0] for line in lines]
    steps = ["prepare", "train", "export", "verify", "inspect", "score", "evaluate", "benchmark", "tune", "serve"]
    assert names == steps
    lines[steps.index("tune")] += ["--seconds", "1"]
    lines[steps.index("benchmark")] += ["--budget", "5s"]
    ended = {line[0]: succeed(*("tiny.toml" if arg == "ml-1m-tiny" else arg for arg in line)) for line in lines[:-1]}
    assert len(list((tmp_path / "state").rglob("plans/*.json"))) == 1
    check_outputs(ended)
    with serving(start(*lines[-1], "--port", "0")) as served:
        answer = call(request.strip(), served.url)
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0, served.errors
    first = json.loads(Path("scores.jsonl").read_text("utf-8").partition("\n")[0])
    assert [row["item"] for row in answer["candidates"]] == [row["item"] for row in first["candidates"]]
    assert answer["bundle"] == "ml-1m-tiny@1"
    on_the_box(*rest)


def on_the_box(begin, rest):
    """A site is served; users are remembered; a version with another catalogue comes and goes."""
    init, serve = (shlex.split(line)[1:] for line in begin.splitlines())
    append, rank, update, push, rollback = rest.splitlines()
    Path("new-items.jsonl").write_text('{"item": "9001", "title": "A new film", "genres": ["Drama"]}\n')
    succeed(*init)
    with serving(start(*serve, "--port", "0")) as served:
        assert call(append, served.url) == {"user_id": "42", "appended": 1, "events": 1}
        assert len(call(rank, served.url)["candidates"]) == 3
        succeed(*shlex.split(update)[1:])
        succeed(*shlex.split(push)[1:])
        assert call(rank, served.url)["bundle"].startswith("ml-1m-tiny@1+items.")
        succeed(*shlex.split(rollback)[1:])
        assert call(rank, served.url)["bundle"] == "ml-1m-tiny@1"
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0, served.errors


def check_outputs(ended):
    """What the commands of the session left behind and said."""
    requests = Path("data/ml-1m/requests.jsonl").read_text("utf-8").splitlines()
    assert len(Path("scores.jsonl").read_text("utf-8").splitlines()) == len(requests) > 10
    assert ended["verify"].out.endswith("ml-1m-tiny@1: verified\n")
    assert "PROBLEMS" not in ended["inspect"].out
    assert "AUC" in ended["evaluate"].out
    assert {path.name for path in Path("report").iterdir()} == {*FILES, SLICES}


@pytest.fixture
def demo(tiny, tmp_path):
    """A folder in which a small bundle stands where `make demo` puts its own."""
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "bundle").symlink_to(tiny.bundle)
    return tmp_path


def test_the_shell_lines_of_the_readme_run_as_printed(demo, monkeypatch):
    monkeypatch.chdir(demo)
    lines = blocks(README.read_text("utf-8"), "bash")[0]
    make, serve, request = lines.splitlines()
    assert make == "make demo"
    assert re.search(rf"^{make.partition(' ')[2]}:", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE)
    (shown,) = blocks(README.read_text("utf-8"), "json")
    with serving(start(*shlex.split(serve)[1:], "--port", "0")) as served:
        answer = call(request, served.url)
    expected = json.loads(shown)
    assert [row["item"] for row in answer["candidates"]] == [row["item"] for row in expected["candidates"]]
    for found, row in zip(answer["candidates"], expected["candidates"], strict=True):
        assert set(row) <= set(found)


def test_the_python_block_runs_as_printed(demo):
    (program,) = blocks(README.read_text("utf-8"), "python")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=demo, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "'bundle': 'tiny@1'" in done.stdout
    assert "'rank': 2" in done.stdout


def test_the_readme_is_one_that_is_read_to_its_end():
    assert len(README.read_text("utf-8").splitlines()) <= 160


def test_the_extras_are_those_of_the_project():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    named = re.findall(r"`\[(\w+)\]`", "\n".join(re.findall(r"^\| (`\[.*?) \|", read("start.md"), re.MULTILINE)))
    assert set(named) == set(project["optional-dependencies"]) - {"dev"}


def test_no_page_installs_from_an_index_what_is_not_released():
    for page in PAGES:
        for line in page.read_text("utf-8").splitlines():
            if re.search(r"pip (install|wheel|download)\b.*corella-edge\b(?! wheel)", line):
                assert "--find-links" in line, (page.name, line)


def test_every_reason_is_explained():
    rows = re.findall(r"^\| (`.*?`) \| (\d* ?)\|", section(read("serve.md"), "Reasons"), re.MULTILINE)
    told = {reason: int(status or 0) for reasons, status in rows for reason in re.findall(r"`(\w+)`", reasons)}
    # What is pending is not the final answer, which alone a strict request is judged by.
    fails = {reason: reason.status for reason in NoAnswer if reason.status >= FAULT and reason != NoAnswer.PENDING}
    asked = [*(form.reason for form in FORMS), KEPT, EXPLORE]
    assert told == dict.fromkeys(asked, 0) | dict.fromkeys(NoAnswer, 0) | fails


def test_every_field_of_a_request_is_explained():
    rows = [line for line in read("serve.md").splitlines() if line.startswith("| ")]
    told = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])} | {"user_id"}
    assert set(RequestMessage.__struct_fields__) <= told
    assert set(Scored.__struct_fields__) - {"crm_rank"} <= told


def test_every_form_of_a_threshold_is_explained():
    written = re.findall(r"^\| `([^`]*)` \|", section(read("serve.md"), "Thresholds"), re.MULTILINE)
    assert [read_threshold(text)[0] for text in written] == list(FORMS)


def test_the_metric_of_outcomes_lists_every_reason():
    (row,) = re.findall(r"^\| `corella_edge_candidates_total`.*$", read("serve.md"), re.MULTILINE)
    listed = row.rpartition("(")[2]
    assert set(re.findall(r"`(\w+)`", listed)) == {*NoAnswer} - {NoAnswer.PENDING}


def test_tab_completion_is_as_documented():
    pages = "".join(page.read_text("utf-8") for page in PAGES)
    (line,) = re.findall(r'eval "\$\((\S+=bash_source .*?)\)"', pages)
    variable, program = line.split()
    done = subprocess.run(
        [Path(sys.executable).with_name(program)], env={**os.environ, **dict([variable.split("=")])},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "_corella_edge_completion" in done.stdout


@pytest.mark.slow  # `make check` says the same
def test_generated_parts_are_current():
    done = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def anchors(page):
    """The names that a page's headings have as targets of links."""
    titles = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_resolves(page):
    text = BLOCK.sub("", page.read_text("utf-8"))
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        if anchor:
            assert anchor in anchors(found), target


def test_every_file_of_the_tree_exists():
    (tree,) = blocks(read("tree.md"))
    folders, files = [], 0
    for line in tree.splitlines():
        name = line.split()[0]
        folders = folders[: (len(line) - len(line.lstrip())) // 2]
        path = REPOSITORY.joinpath(*folders, name)
        assert path.is_dir() if name.endswith("/") else path.is_file(), path
        folders += [name]
        files += not name.endswith("/")
    assert files > 50
