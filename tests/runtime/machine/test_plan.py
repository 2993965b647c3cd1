"""The plan file: there and back, refused when damaged or foreign, passed over on another machine."""

from __future__ import annotations

import json
import os
import pwd
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from corella_edge.bundle import artefact as bundles
from corella_edge.errors import BundleError, InputError
from corella_edge_runtime import box
from corella_edge_runtime.machine import plan as plans
from corella_edge_runtime.machine.plan import Fingerprint, Plan, PlanBundle, PlanCrm, PlanLlm

BOX = Fingerprint("Model 7", (0, 1), None, {"onnxruntime": "1.20.0", "llama-cpp-python": "0.3.36"})
PLAN = Plan(
    format_version=1, bundle=PlanBundle("ab" * 32, "films@1"), created="2024-01-01T00:00:00+00:00", machine=BOX,
    crm=PlanCrm("crm.onnx", 1, (0,)), llm=PlanLlm("llm.gguf", {"threads": 1, "cores": [1]}),
    table=({"what": "llm.gguf", "ms": 4.5},),
)  # fmt: skip
# Format 1, written out: a release that reads it otherwise breaks what users have on disk.
GOLDEN: dict[str, Any] = {
    "format_version": 1,
    "bundle": {"manifest_sha256": "ab" * 32, "label": "films@1"},
    "created": "2024-01-01T00:00:00+00:00",
    "machine": {"cpu": "Model 7", "cores": [0, 1], "quota": None,
                "versions": {"onnxruntime": "1.20.0", "llama-cpp-python": "0.3.36"}},
    "crm": {"file": "crm.onnx", "threads": 1, "cores": [0]},
    "llm": {"file": "llm.gguf", "settings": {"threads": 1, "cores": [1]}},
    "table": [{"what": "llm.gguf", "ms": 4.5}],
}  # fmt: skip


def test_what_asking_costs_is_there_and_back() -> None:
    priced = replace(PLAN, llm=replace(PLAN.llm, ask_ms=(9.5, 0.25)))
    made = json.loads(json.dumps(priced.to_json()))
    assert made["llm"]["ask_ms"] == [9.5, 0.25]
    assert Plan.from_json(made) == priced
    for wrong in ([9.5], [9.5, -1.0], "9.5", [9.5, None]):
        with pytest.raises(InputError, match=r"llm\.ask_ms"):
            Plan.from_json({**made, "llm": {**made["llm"], "ask_ms": wrong}})


def test_golden() -> None:
    assert json.loads(json.dumps(PLAN.to_json())) == GOLDEN
    assert Plan.from_json(GOLDEN) == PLAN


texts = st.text(st.characters(exclude_categories=["Cs"]))
cores = st.lists(st.integers(0, 4096), max_size=5).map(tuple)
boxes = st.builds(
    Fingerprint, texts, cores, st.none() | st.floats(0.01, 1e6), st.dictionaries(texts, texts, max_size=3)
)
values = (
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | texts
)
names = st.from_regex(r"[a-z][a-zA-Z0-9_.]{0,20}", fullmatch=True)
objects = st.dictionaries(texts, values, max_size=3)
whole = st.builds(
    Plan, format_version=st.just(1), bundle=st.builds(PlanBundle, st.just("0f" * 32), texts), created=texts,
    machine=boxes, crm=st.builds(PlanCrm, names, st.integers(1, 512), cores),
    llm=st.none() | st.builds(PlanLlm, names, objects), table=st.lists(objects, max_size=3).map(tuple),
)  # fmt: skip


@given(whole)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, plan: Plan) -> None:
    path = tmp_path_factory.mktemp("plan") / "deep" / "plan.json"
    plans.write(plan, path)
    assert plans.read(path) == plan
    assert [entry.name for entry in path.parent.iterdir()] == ["plan.json"]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all fields of an object, at any depth, that the format fixes."""
    if not isinstance(value, dict) or path in (("llm", "settings"), ("machine", "versions")):
        return []
    return [place for key, below in value.items() for place in [(*path, key), *places(below, (*path, key))]]


def changed(place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    data = json.loads(json.dumps(GOLDEN))
    parent = data
    for key in place[:-1]:
        parent = parent[key]
    if value is KeyError:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return data


@pytest.mark.parametrize("place", places(GOLDEN), ids=".".join)
def test_every_field_is_needed_and_checked(place: tuple[Any, ...]) -> None:
    name = re.escape(".".join(place))
    with pytest.raises(InputError, match=f"^{name}: is missing$"):
        Plan.from_json(changed(place, KeyError))
    with pytest.raises(InputError, match=f"^{name}.*(expected|not known)"):
        Plan.from_json(changed(place, True))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("format_version",), 2, "format_version 2 is not known, this release reads 1"),
        (("more",), 1, "unknown field 'more'"),
        (("crm", "file"), "../crm.onnx", "crm.file: expected the name of a bundle's file"),
        (("llm", "file"), "", "llm.file: expected"),
        (("crm", "threads"), 0, "crm.threads: expected a whole number of at least 1, got 0"),
        (("crm", "cores"), [0, -1], r"crm.cores\[1\]: expected a whole number of at least 0, got -1"),
        (("bundle", "manifest_sha256"), "AB" * 32, "64 hexadecimal digits"),
        (("machine", "quota"), 0, "machine.quota: expected a number above 0, got 0"),
        (("machine", "versions"), {"onnxruntime": 1}, "machine.versions.onnxruntime: expected text, got 1"),
        (("table",), [1], r"table\[0\]: expected an object, got 1"),
    ],
)
def test_wrong_values_are_named(place: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Plan.from_json(changed(place, value))


json_values = st.recursive(values, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=10)


@given(st.one_of(st.binary(), json_values.map(lambda value: json.dumps(value).encode())))
def test_other_files_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"plan\.json: .*tune") as caught:
        plans.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_folder_and_a_huge_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        plans.read(tmp_path / "none.json")
    (tmp_path / "big.json").write_bytes(b" " * (plans.MAX_BYTES + 1))
    with pytest.raises(InputError, match=r"big\.json: larger than"):
        plans.read(tmp_path / "big.json")
    with pytest.raises(InputError, match="folder cannot be made"):
        plans.write(PLAN, tmp_path / "big.json" / "plan.json")


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a manifest; plans go to a state folder of the test's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / bundles.MANIFEST).write_text("{}")
    return folder


def of(bundle: Path) -> Plan:
    return replace(PLAN, bundle=PlanBundle(plans.bundle_key(bundle), "films@1"))


def refuse(warning: str) -> None:
    pytest.fail(f"unexpected warning: {warning}")


def accept(_: Plan) -> None:
    """Finds nothing wrong in a plan."""


def object_to(_: Plan) -> None:
    raise InputError("llm.file: there is none")


def test_the_usual_place_is_found_and_may_be_empty(bundle: Path, tmp_path: Path) -> None:
    assert plans.find(bundle, None, BOX, accept, refuse) is None
    plan = of(bundle)
    place = plans.default_path(plan.bundle.manifest_sha256)
    assert place == tmp_path / "state/corella-edge/plans" / f"{plan.bundle.manifest_sha256[:16]}.json"
    plans.write(plan, place)
    assert plans.find(bundle, None, BOX, accept, refuse) == plan


def test_home_is_used_where_no_state_folder_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/path"):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert plans.default_path("ab" * 32) == tmp_path / ".local/state/corella-edge/plans/abababababababab.json"


def test_a_usual_place_that_can_not_be_reached_is_no_plan_and_one_warning(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "loop").symlink_to("loop")  # fails for root, too
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "loop"))
    told: list[str] = []
    assert plans.find(bundle, None, BOX, accept, told.append) is None
    assert len(told) == 1
    assert "loop" in told[0]
    assert "cannot be reached" in told[0]
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    assert plans.find(bundle, None, BOX, accept, refuse) is None


@pytest.mark.skipif(os.geteuid() == 0, reason="root may search any folder")
def test_a_home_that_can_not_be_searched_is_no_plan_and_one_warning(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(closed))
    told: list[str] = []
    assert plans.find(bundle, None, BOX, accept, told.append) is None
    assert len(told) == 1
    assert "Permission denied" in told[0]


def test_a_user_without_a_home_is_told_what_to_set(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(_: int) -> None:
        raise KeyError

    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    told: list[str] = []
    assert plans.find(bundle, None, BOX, accept, told.append) is None
    assert told == ["no plan is used: this user has no home folder; set HOME or XDG_STATE_HOME"]


def test_a_plan_of_another_bundle_is_an_error(bundle: Path, tmp_path: Path) -> None:
    plans.write(PLAN, tmp_path / "p.json")
    with pytest.raises(InputError, match=r"p\.json: is of another bundle \(films@1, manifest abababababababab\)"):
        plans.find(bundle, tmp_path / "p.json", BOX, accept, refuse)
    with pytest.raises(InputError, match=r"q\.json: cannot be read"):
        plans.find(bundle, tmp_path / "q.json", BOX, accept, refuse)
    with pytest.raises(BundleError, match="not a bundle"):
        plans.find(tmp_path, None, BOX, accept, refuse)


@pytest.mark.parametrize(
    ("contents", "check", "problem"),
    [
        (lambda plan: "{", accept, "not JSON"),
        (lambda plan: json.dumps({**plan.to_json(), "format_version": 2}), accept, "format_version 2 is not known"),
        (lambda plan: json.dumps({**plan.to_json(), "crm": 5}), accept, "crm: expected an object"),
        (lambda plan: json.dumps(PLAN.to_json()), accept, "is of another bundle (films@1, manifest abababababababab)"),
        (lambda plan: json.dumps(plan.to_json()), object_to, "llm.file: there is none"),
        (None, accept, "cannot be read (Is a directory)"),
    ],
)
def test_a_damaged_plan_stops_whoever_named_it_and_nobody_else(
    bundle: Path, contents: Callable[[Plan], str] | None, check: Callable[[Plan], None], problem: str
) -> None:
    plan = of(bundle)
    path = plans.default_path(plan.bundle.manifest_sha256)
    (path.parent if contents else path).mkdir(parents=True)
    if contents:
        path.write_text(contents(plan))
    told: list[str] = []
    assert plans.find(bundle, None, BOX, check, told.append) is None
    with pytest.raises(InputError) as caught:
        plans.find(bundle, path, BOX, check, refuse)
    assert str(caught.value).startswith(f"{path}: {problem}")
    assert str(caught.value).endswith("; remove it or run `corella-edge tune` again")
    assert told == [f"no plan is used: {caught.value}"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (replace(BOX, cpu="Model 8"), "another CPU (Model 7, this is Model 8)"),
        (replace(BOX, cores=(0, 1, 2)), "made with the core(s) 0, 1, now it is the core(s) 0, 1, 2"),
        (replace(BOX, quota=1.5), "now it is the core(s) 0, 1 and a CPU quota of 1.5"),
        (replace(BOX, versions={**BOX.versions, "onnxruntime": "2"}), "made with onnxruntime 1.20.0, now it is 2"),
        (replace(BOX, versions={"onnxruntime": "1.20.0"}), "llama-cpp-python 0.3.36, now it is missing"),
    ],
)
def test_another_machine_passes_it_over_and_says_so(bundle: Path, other: Fingerprint, message: str) -> None:
    plan = of(bundle)
    plans.write(plan, plans.default_path(plan.bundle.manifest_sha256))
    told: list[str] = []
    assert plans.find(bundle, None, other, accept, told.append) is None
    assert len(told) == 1
    assert message in told[0]
    assert "run `corella-edge tune` again" in told[0]


def test_the_cpu_is_named_with_and_without_a_model_name(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: A: B\n\nprocessor\t: 1\nmodel name\t: C\n")
    assert box.cpu_model(info) == "A: B"
    info.write_text("processor : 0\nCPU implementer : 0x41\nCPU part : 0xd0c\n")
    assert box.cpu_model(info).endswith(" 0x41 0xd0c")
    assert box.cpu_model(tmp_path / "none")
    assert plans.fingerprint([1, 3], 2.0).cores == (1, 3)
