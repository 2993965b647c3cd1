"""Installing less: what the light extras run, and the section Install of docs/operate.md followed to the letter."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from pages import blocks, read, section
from sessions import REPOSITORY, Session, serving

pytestmark = pytest.mark.slow

# In the order of the page: on the box, a first try of the server, the folder of wheels with the sources and without.
INSTALL = section(read("operate.md"), "Install")
ON_THE_BOX, TRY, FROM_SOURCES, FROM_A_WHEEL = blocks(INSTALL, "bash")[:4]
BOX = "/opt/corella"
HEAVY = ("torch", "transformers", "polars", "matplotlib", "optimum", "onnx", "gguf")
FOLDERS, FILES = ("corella_edge", "export", "runtime"), ("pyproject.toml", "README.md", "LICENSE", "constraints.txt")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as somebody who cloned them has them."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in FOLDERS:
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(REPOSITORY / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheels(checkout: Path) -> Path:
    """The folder of wheels, with the sources at hand: they are built once."""
    shell(FROM_SOURCES, checkout)
    return checkout / "wheels"


@pytest.fixture(scope="module")
def box(wheels: Path, tiny: Session, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An offline box with no compiler on the path; `verify` is its last line."""
    folder = tmp_path_factory.mktemp("box") / "corella"
    folder.mkdir()
    shutil.copytree(wheels, folder / "wheels")
    shutil.copytree(tiny.bundle, folder / "my-bundle")
    tools = folder / "tools"
    tools.mkdir()
    (tools / "python3.11").symlink_to(sys.executable)
    shell(ON_THE_BOX.replace(BOX, str(folder)), folder, path=str(tools))
    return folder


def shell(script: str, folder: Path, path: str | None = None) -> str:
    """Run a block as it stands; `path` replaces the search path, and then no package index is reachable."""
    python = Path(sys.executable).resolve().parent
    # The versions of the tests: with others, llama.cpp would be compiled again.
    pinned = {"PIP_CONSTRAINT": str(REPOSITORY / "constraints.txt")}
    env = {"PATH": path or f"{python}:/usr/bin:/bin", "HOME": str(Path.home()), **pinned}
    if path:
        env |= {"PIP_NO_INDEX": "1", "CC": "/nonexistent", "CXX": "/nonexistent"}
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-ec", script], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_folder_of_wheels_needs_no_sources(wheels: Path, tmp_path: Path) -> None:
    """The same from a wheel of corella-edge alone; llama.cpp comes from the user's cache."""
    (tmp_path / "wheels").mkdir()
    for path in wheels.glob("corella_edge-*.whl"):
        shutil.copy(path, tmp_path / "wheels")
    shell(FROM_A_WHEEL, tmp_path)
    assert {path.name for path in (tmp_path / "wheels").iterdir()} >= {path.name for path in wheels.iterdir()}


def test_no_wheel_wants_a_newer_glibc_than_the_page_says(wheels: Path) -> None:
    """A wheel with several tags needs the oldest of them."""
    names = [path.name for path in wheels.iterdir()]
    assert len(names) > 15
    oldest = {name: min(map(int, re.findall(r"manylinux_2_(\d+)_", name)), default=0) for name in names}
    assert f"glibc 2.{max(oldest.values())} or later" in " ".join(INSTALL.split())
    assert all(re.search(r"-any\.whl$|manylinux", name) for name in names)


def corella(box: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [str(box / "bin" / "corella-edge"), *args]
    return subprocess.run(command, cwd=box, capture_output=True, text=True, check=False)


def test_a_box_scores_measures_and_tells_what_it_lacks(box: Path, tiny: Session) -> None:
    python = str(box / "bin" / "python")
    probe = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    found = subprocess.run([python, "-c", probe, *HEAVY], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
    requests = str(tiny.data / "requests.jsonl")
    for command in (
        ["verify", "my-bundle"],
        ["inspect", "my-bundle"],
        ["score", "my-bundle", requests, "--out", "scores.jsonl", "--threshold", "ratio:0.5"],
        ["benchmark", "my-bundle", "--ratios", "0,1", "--budget", "2s", "--out", "report"],
    ):
        done = corella(box, *command)
        assert done.returncode == 0, (command, done.stderr)
        assert "Traceback" not in done.stderr
    first = json.loads((box / "scores.jsonl").read_text("utf-8").splitlines()[0])
    assert first["candidates"]
    assert (box / "report" / "benchmark.svg").exists()
    lacking = corella(box, "train", "demo", "--data", ".", "--out", "run")
    assert lacking.returncode == 5
    assert "[export]" in lacking.stderr
    assert "Traceback" not in lacking.stderr


def test_a_box_serves(box: Path) -> None:
    command = [*shlex.split(TRY.replace(BOX, str(box))), "--port", "0"]
    process = subprocess.Popen(command, cwd=box, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with serving(process) as served:
        body = {"user": {}, "candidates": [{"item": "nothing known"}]}
        answer = httpx.post(f"{served.url}/v1/rank", json=body)
        assert answer.status_code == 200
        assert "item" in answer.json()["candidates"][0]["unknown"]
        page = httpx.get(served.url, headers={"Accept": "text/html"}).text
        for file in re.findall(r'(?:src|href)="(page/[^"]+)"', page):
            assert httpx.get(f"{served.url}/{file}").status_code == 200, file
        process.terminate()
        assert served.end() == 0


def test_without_any_extra(wheels: Path, tiny: Session, tmp_path: Path) -> None:
    """numpy and click alone: help and `inspect` work, the rest says what it lacks."""
    python = tmp_path / "corella" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--no-index", "--find-links", str(wheels), "corella-edge"]
    subprocess.run(pip, check=True, capture_output=True)
    assert corella(tmp_path / "corella", "--help").returncode == 0
    found = corella(tmp_path / "corella", "inspect", str(tiny.bundle), "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["problems"] == []
    requests = str(tiny.data / "requests.jsonl")
    bundle = str(tiny.bundle)
    lacking = {
        "score": ["score", bundle, requests, "--out", "scores.jsonl"], "verify": ["verify", bundle],
        "benchmark": ["benchmark", bundle], "serve": ["serve", bundle, "--port", "0"],
        "evaluate": ["evaluate", bundle, "--data", "."], "train": ["train", "demo", "--data", ".", "--out", "o"],
        "prepare": ["prepare", "synthetic", "--out", "data"], "export": ["export", str(tiny.run), "--out", "b"],
        "demo": ["demo"],
    }  # fmt: skip
    for name, args in lacking.items():
        done = corella(tmp_path / "corella", *args)
        assert done.returncode == 5, (name, done.stderr)
        assert re.fullmatch(r"corella-edge: .* needs the extra \[\w+\]: pip install '.*'", done.stderr.splitlines()[-1])
        assert "Traceback" not in done.stderr
