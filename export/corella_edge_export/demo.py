"""The whole path on synthetic data: prepare, train, export, verify, score, measure; each step may be resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError
from corella_edge.formats.text_files import TextFile
from corella_edge_export.bundling.verify import repeat
from corella_edge_export.bundling.write import ExportOptions, export
from corella_edge_export.data.prepare import prepare
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.evaluation.evaluate import evaluate
from corella_edge_export.recipe import load_recipe
from corella_edge_export.training import stages
from corella_edge_export.training.run import Run
from corella_edge_runtime import batch
from corella_edge_runtime.bench.reports import report
from corella_edge_runtime.bench.run import run as measure
from corella_edge_runtime.bench.settings import BenchSettings
from corella_edge_runtime.engine import Engine

BENCHMARK = BenchSettings(
    thresholds=("ratio:0", "ratio:0.05", "ratio:0.2", "ratio:0.5", "ratio:1"), scenarios=("single",), users=("new",),
    budget=30.0, repeats=6, max_labelled=500, controls=False,
)  # fmt: skip
Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


def demo(out: Path, seed: int, say: Say, progress: Progress, quiet: bool = False) -> dict[str, Any]:
    """Run (or finish) the demo in `out`; returns {"evaluation", "benchmark"}. `quiet`: as in `stages.train`."""
    _check_folder(out)
    data = _data(out / "data", seed, say)
    bundle = out / "bundle"
    if not bundle.exists():
        say("training the CRM, then the LLM")
        recipe = replace(load_recipe("demo"), seed=seed + 1)
        stages.train(out / "run", recipe, data, quiet)
        say("exporting")
        export(Run.open(out / "run", data), bundle, ExportOptions(name="demo"), say)
    with Engine.open(bundle, require_llm=True) as engine:
        _verify(engine, say)
        _score(engine, TextFile(out / "data" / "requests.jsonl"), out / "answers.jsonl", say)
        say("measuring quality on the test rows")
        found = evaluate(engine, data, "test", out / "evaluation", 0, 0, progress)
        say("measuring latency")
        report.check_folder(out / "benchmark")
        timed = measure(engine, None, BENCHMARK, progress, out / "benchmark")
    report.write(timed, out / "benchmark")
    return {"evaluation": found, "benchmark": timed}


def _check_folder(out: Path) -> None:
    """Raises InputError for a folder of somebody else's files; beside a demo's own data there may be others."""
    if not out.is_dir() or (out / "data").exists():
        return
    foreign = sorted(path.name for path in out.iterdir() if path.name != ".data.partial")
    if foreign:
        raise InputError(f"--out {out}: holds {foreign[0]!r}, which `demo` did not write; name another folder")


def _data(folder: Path, seed: int, say: Say) -> PreparedData:
    if not folder.exists():
        say("generating synthetic data")
        prepare("synthetic", None, folder, seed=seed, requests=200)
    data = PreparedData.open(folder)
    if data.info.get("seed") != seed:
        raise InputError(f"--out {folder.parent}: holds a demo of seed {data.info.get('seed')}; name another folder")
    return data


def _verify(engine: Engine, say: Say) -> None:
    found = repeat(engine)
    say(f"verified {found.rows} reference rows: CRM within {found.crm:.1e}, LLM within {found.llm:.1e} of torch")


def _score(engine: Engine, source: TextFile, out: Path, say: Say) -> None:
    """Answer the prepared requests at the bundle's own threshold."""
    tally = batch.check_requests(source)
    same = batch.identity(engine.bundle.root, source, {"policy": engine.policy.key})
    batch.score_file(engine, source, out, tally, same, lambda tally: None)
    rate = tally.candidates / tally.seconds
    say(f"scored {tally.requests} requests: {rate:,.0f} candidates/s, {tally.routed / tally.candidates:.1%} routed")
