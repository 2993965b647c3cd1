"""`corella-edge tune` on small bundles: the plan it writes, and that it writes nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles import make_bundle, reseal, write_adapter
from corella_edge.bundle.artefact import Bundle, product_files, sha256
from corella_edge.routing.policy import AskCost
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm import ask_cost
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama import trust
from corella_edge_runtime.llm.llama.trust import Verdict
from corella_edge_runtime.machine import plan as plans
from corella_edge_runtime.machine.threads import Machine, read_machine
from corella_edge_runtime.setup import check_plan, fingerprint
from corella_edge_runtime.tune import decide, measure
from corella_edge_runtime.tune.run import tune

BRIEF = ("--seconds", "0")


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    return {str(path): (sha256(path), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def verified(root: Path, **metrics: dict[str, float]) -> None:
    """Give a bundle these quality figures."""
    data = json.loads((root / "verification.json").read_text())
    data["metrics"] |= metrics
    (root / "verification.json").write_text(json.dumps(data))
    reseal(root)


SAME = {"auc": 0.7, "logloss": 0.6}


@pytest.fixture(scope="session")
def many(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a good variant, one that lost accuracy, one without figures, and an INT8 CRM. Not to be changed."""
    root = Path(shutil.copytree(bundle, tmp_path_factory.mktemp("many") / "bundle"))
    for kind in ("BF16", "Q4_0", "F16"):
        shutil.copyfile(root / "llm.gguf", root / f"llm.{kind}.gguf")
    shutil.copyfile(root / "crm.onnx", root / "crm.int8.onnx")
    verified(root, torch=SAME, BF16=SAME, Q4_0={"auc": 0.6, "logloss": 0.6}, crm=SAME, crm_int8=SAME)
    return root


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def tuned(corella: Any, root: Path, *more: object) -> tuple[plans.Plan, Any]:
    done = corella("tune", root, *BRIEF, *more)
    assert done.code == 0, done.err
    return plans.read(Path(done.out.splitlines()[-1])), done


def test_the_plan_is_found_where_others_look_and_the_bundle_is_as_before(corella, many, state) -> None:
    before = contents(many)
    plan, done = tuned(corella, many)
    assert contents(many) == before
    files = Bundle.open(many).manifest.files
    found = plans.find(many, None, fingerprint(read_machine()), partial(check_plan, files=files), pytest.fail)
    assert found == plan
    assert [path.name for path in (state / "corella-edge" / "plans").iterdir()] == [
        f"{plan.bundle.manifest_sha256[:16]}.json"
    ]
    settings = LlmSettings.from_json(plan.llm.settings, "plan")
    assert settings.threads + plan.crm.threads <= max(2, len(read_machine().cores))
    assert not set(settings.cores) & set(plan.crm.cores)
    assert plan.bundle.label == "tiny@1"
    assert plan.llm.file in ("llm.gguf", "llm.BF16.gguf")  # the same bytes: either may be faster by chance
    assert "LLM: " in done.out


def test_the_plan_of_a_machine_with_cores_to_divide(bundle) -> None:
    """The search tries other thread counts, each against the plan's."""
    (core,) = sorted(os.sched_getaffinity(0))[:1]
    machine = Machine(tuple((core,) for _ in range(3)))  # three by name, all of them one that this test may use
    asked: list[str] = []
    plan, _ = tune(bundle, 0.0, lambda done, of, what: asked.append(f"{done} of {of}: {what}"), machine)
    assert asked[0] == "0 of 5: llm.gguf, 1 thread(s), batch 512 against llm.gguf, 2 thread(s), batch 512"
    assert len(asked) == 5
    assert plan.machine.cores == machine.cores


def test_what_was_measured_is_shown_and_kept(corella, many) -> None:
    plan, done = tuned(corella, many)
    against = [row["challenger"] for row in plan.table]
    assert against[0] == "crm.int8.onnx"
    assert sum("llm.BF16.gguf" in name for name in against) >= 1
    assert {int(name.rpartition(" ")[2]) for name in against[1:]} == {64, 128, 256, 512, 1024}
    assert all(row["turns"] >= 5 for row in plan.table)
    assert {name for row in plan.table[1:] for name in row["ms"]} == {"new user", "returning user"}
    assert "  new user " in done.out
    assert "crm.int8.onnx against crm.onnx: " in done.out


def test_the_plan_tells_what_asking_costs_and_no_start_measures_it(corella, many, monkeypatch) -> None:
    plan, done = tuned(corella, many)
    first, further = plan.llm.ask_ms
    assert first > 0.0
    assert further >= 0.0
    assert f"asking it: {first:.1f} ms for a request's first candidate" in done.out
    monkeypatch.setattr(ask_cost, "measure", lambda *args: pytest.fail("measured again"))
    with Engine.open(many, threshold="ms:40", require_llm=True) as engine:
        assert engine.routing.cost == AskCost(first, further)
        engine.warm_up()
        assert any(f"asking the LLM costs {first:.1f} ms" in line for line in engine.told())


def test_files_that_lost_accuracy_are_named_and_never_tried(corella, many) -> None:
    plan, done = tuned(corella, many)
    assert "llm.Q4_0.gguf is not tried: its AUC is 0.1000 lower" in done.err
    assert "llm.F16.gguf is not tried: no quality figures" in done.err
    assert not [
        row for row in plan.table if "Q4_0" in row["challenger"] or "F16.gguf" in row["challenger"].replace("BF16", "")
    ]


def test_quiet_prints_where_the_plan_is_and_nothing_else(corella, many) -> None:
    _, done = tuned(corella, many, "--quiet")
    assert (done.out.count("\n"), done.err) == (1, "")


def test_what_does_not_compute_here_is_named_and_never_tried(corella, many, monkeypatch) -> None:
    def judge(path: Path) -> Verdict:
        return Verdict(trust.NONE if "BF16" in path.name else trust.PLAIN, "F32: wrong", "haswell")

    monkeypatch.setattr(trust, "judge_file", judge)
    plan, done = tuned(corella, many)
    assert "warning: llm.BF16.gguf: the installed llama.cpp does not compute here: F32: wrong" in done.err
    assert "warning: llm.gguf: llama.cpp's faster kernels (AMX, repacked weights) are left out: F32: wrong" in done.err
    assert not [row for row in plan.table if "BF16" in row["challenger"]]
    monkeypatch.setattr(trust, "judge_file", lambda path: Verdict(trust.NONE, "F32: wrong"))
    plan, done = tuned(corella, many)
    assert plan.llm is None
    assert "only the CRM is tuned" in done.err


def test_a_bad_int8_crm_is_not_tried(corella, many, tmp_path) -> None:
    root = Path(shutil.copytree(many, tmp_path / "bundle"))
    verified(root, crm_int8={"auc": 0.7, "logloss": 0.7})
    plan, done = tuned(corella, root)
    assert plan.crm.file == "crm.onnx"
    assert "crm.int8.onnx is not tried: its log-loss is 0.1000 higher" in done.err


def test_int8_is_not_tried_where_the_catalogue_is_ranked_by_a_product(corella, many, tmp_path) -> None:
    root = Path(shutil.copytree(many, tmp_path / "bundle"))
    for name in product_files("crm.onnx"):
        shutil.copyfile(root / "crm.onnx", root / name)
    verified(root, torch=SAME, crm=SAME, crm_int8=SAME)
    plan, done = tuned(corella, root)
    assert plan.crm.file == "crm.onnx"
    assert "crm.int8.onnx is not tried: it ranks a catalogue item by item, crm.onnx by one product" in done.err


def test_a_bundle_without_llm_or_sample_has_its_crm_tuned(corella, crm_bundle, tmp_path) -> None:
    plan, done = tuned(corella, crm_bundle, "--plan", tmp_path / "own" / "p.json")
    assert (plan.llm, plan.crm.file, plan.table) == (None, "crm.onnx", ())
    assert "the bundle has no LLM" in done.err
    assert done.out.splitlines()[-1] == str(tmp_path / "own" / "p.json")


def test_without_a_sample_users_are_made_from_the_catalogue(corella, copy) -> None:
    (copy / "sample.jsonl").unlink()
    reseal(copy)
    plan, _ = tuned(corella, copy)
    assert len(plan.table) >= 4
    assert all(row["turns"] >= 5 for row in plan.table)


def test_no_batch_is_tried_that_a_long_title_would_not_fit(corella, copy) -> None:
    lines = (copy / "catalog.jsonl").read_text().splitlines()
    first = {**json.loads(lines[0]), "title": "A long title " * 8}
    (copy / "catalog.jsonl").write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    reseal(copy)
    plan, _ = tuned(corella, copy)
    tried = {int(row["challenger"].rpartition(" ")[2]) for row in plan.table}
    assert 1024 in tried
    assert not {64, 128} & tried  # the title has 100 tokens or more


def test_a_sample_that_fits_no_context_is_named(corella, copy) -> None:
    rows = [json.loads(line) for line in (copy / "sample.jsonl").read_text().splitlines()]
    for row in rows:
        row["request"]["user"]["history"] *= 1 + 400 // len(row["request"]["user"]["history"])
    data = json.loads((copy / "prompt.json").read_text())
    data["template"]["history_lines"] = 300
    (copy / "prompt.json").write_text(json.dumps(data))
    (copy / "sample.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reseal(copy)
    done = corella("tune", copy, *BRIEF)
    assert done.code == 3
    assert "llm.gguf: no prompt of the sample fits its context of 512 tokens" in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_without_llama_the_crm_is_tuned_and_the_extra_named(bundle, tmp_path) -> None:
    code = "import sys; sys.modules['llama_cpp'] = None; from corella_edge.cli import main; main(sys.argv[1:])"
    args = ["tune", bundle, "--plan", tmp_path / "p.json", *BRIEF]
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "'corella-edge[llm]'" in done.stderr
    assert plans.read(tmp_path / "p.json").llm is None


def test_a_bad_place_is_told_before_anything_is_measured(corella, bundle, tmp_path) -> None:
    before = contents(bundle)
    for place, message in ((bundle / "plan.json", "inside the bundle"), (tmp_path, "is a folder")):
        done = corella("tune", bundle, "--plan", place)
        assert done.code == 2
        assert message in done.err
    assert contents(bundle) == before
    done = corella("tune", tmp_path)
    assert (done.code, "not a bundle" in done.err) == (3, True)


def test_ctrl_c_leaves_the_earlier_plan(bundle, tmp_path) -> None:
    path = tmp_path / "p.json"
    path.write_text("earlier")
    command = [sys.executable, "-m", "corella_edge", "tune", str(bundle), "--plan", str(path), "--seconds", "600"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    # Interrupted while it measures: then the LLM is mapped.
    maps = Path(f"/proc/{process.pid}/maps")
    end = time.monotonic() + 60
    while "llm.gguf" not in maps.read_text() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in told
    assert "Traceback" not in told
    assert path.read_text() == "earlier"
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["p.json"]


def test_an_llm_is_measured_with_the_adapters_that_answer_by_default(corella, tmp_path, monkeypatch) -> None:
    asked: list[object] = []
    opened = measure.open_scorer

    def watched(spec: Any) -> Any:
        model, scorer = opened(spec)
        score = scorer.score
        monkeypatch.setattr(scorer, "score", lambda prompts: asked.append(prompts.adapters) or score(prompts))
        return model, scorer

    monkeypatch.setattr(measure, "open_scorer", watched)
    monkeypatch.setattr(decide, "BATCHES", (256,))
    root = make_bundle(tmp_path / "bundle", adapters=("a", "b"))
    plan, done = tuned(corella, root)
    assert set(asked) == {(("a", 1.0),)}
    assert plan.llm.adapters == {"a": 1.0}
    assert "measured with the adapters that answer where a request names none: a (1)\n" in done.out
    write_adapter(root / "adapters" / "a.gguf", np.random.default_rng(1), 64)
    reseal(root)
    other = corella("tune", root, *BRIEF)
    assert (other.code, "a.gguf: not an adapter that this release can run" in other.err) == (3, True)
