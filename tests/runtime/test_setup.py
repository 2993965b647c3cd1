"""What is loaded and how it is run: wishes before the plan, the plan before the machine."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from msgspec.structs import replace

from corella_edge.bundle import artefact as bundles
from corella_edge.errors import InputError
from corella_edge.routing.policy import AskCost
from corella_edge_runtime.llm.contract.settings import MOST_BATCH, MOST_SEQUENCES, LlmSettings
from corella_edge_runtime.machine import plan as plans
from corella_edge_runtime.machine.plan import Fingerprint, Plan, PlanBundle, PlanCrm, PlanLlm
from corella_edge_runtime.machine.threads import Machine
from corella_edge_runtime.setup import (
    Setup,
    Wishes,
    check_plan,
    decide,
    llm_files,
    share_of,
    variants,
    without_cores,
)

FOUR = Machine(((0,), (1,), (2,), (3,)))
LLM = {"threads": 2, "cores": [2, 3], "batch": 256}
PLAN = Plan(
    format_version=1, bundle=PlanBundle("0" * 64, "b@1"), created="", machine=Fingerprint("", (), None, {}),
    crm=PlanCrm("crm.int8.onnx", 2, (0, 1)), llm=PlanLlm("llm.BF16.gguf", LLM), table=(),
)  # fmt: skip


def test_without_wish_or_plan_the_machine_decides() -> None:
    assert decide(Wishes(), None, FOUR) == Setup(
        "crm.onnx", 1, (0,), "llm.gguf", LlmSettings(threads=3, cores=(1, 2, 3))
    )


def test_a_plan_comes_before_the_machine() -> None:
    found = decide(Wishes(), PLAN, FOUR)
    assert found == Setup("crm.int8.onnx", 2, (0, 1), "llm.BF16.gguf", LlmSettings.from_json(LLM, "here"))


def test_what_asking_costs_by_a_plan_holds_for_what_was_measured_alone() -> None:
    priced = structs.replace(PLAN, llm=structs.replace(PLAN.llm, ask_ms=(9.5, 0.25)))
    assert decide(Wishes(), priced, FOUR).cost == AskCost(9.5, 0.25)
    others = {"llm_threads": 1, "crm_threads": 1, "llm_file": "llm.gguf", "deterministic": True}
    for name, value in others.items():
        assert decide(Wishes(**{name: value}), priced, FOUR).cost is None
    assert decide(Wishes(), PLAN, FOUR).cost is None
    assert decide(Wishes(), None, FOUR).cost is None


def test_a_wish_comes_before_a_plan_and_keeps_the_rest_of_it() -> None:
    found = decide(Wishes(llm_threads=1, llm_file="llm.gguf", deterministic=True), PLAN, FOUR)
    assert (found.crm_file, found.llm_file) == ("crm.int8.onnx", "llm.gguf")
    assert (found.llm.threads, found.llm.batch, found.llm.deterministic) == (1, 256, True)
    assert not set(found.llm.cores) & set(found.crm_cores)


@pytest.mark.parametrize("machine", [Machine(((0,),)), Machine(((0,), (1,)), quota=1.2)])
def test_too_little_for_two_binds_nothing(machine: Machine) -> None:
    found = decide(Wishes(), None, machine)
    assert (found.crm_threads, found.llm.threads, found.crm_cores, found.llm.cores) == (1, 1, (), ())


def test_more_threads_than_cores_share_them() -> None:
    found = decide(Wishes(crm_threads=3, llm_threads=4), None, FOUR)
    assert (found.crm_threads, found.llm.threads, found.crm_cores, found.llm.cores) == (3, 4, (), ())


@pytest.mark.parametrize(("cpus", "threads"), [(1, (1, 1)), (2, (1, 1)), (3, (1, 2)), (9, (1, 3))])
def test_a_share_of_a_machine_plans_its_threads_and_binds_nothing(cpus: int, threads: tuple[int, int]) -> None:
    found = without_cores(decide(Wishes(cpus=cpus), None, share_of(FOUR, cpus)))
    assert (found.crm_threads, found.llm.threads) == threads
    assert (found.crm_cores, found.llm.cores) == ((), ())


def test_a_quota_bounds_a_share_of_a_machine_too() -> None:
    found = decide(Wishes(cpus=4), None, share_of(Machine(FOUR.physical, quota=2.0), 4))
    assert (found.crm_threads, found.llm.threads) == (1, 1)


def test_a_plan_without_an_llm_leaves_it_to_the_machine() -> None:
    plan = replace(PLAN, crm=PlanCrm("crm.onnx", 1, (0,)), llm=None)
    found = decide(Wishes(), plan, FOUR)
    assert (found.llm_file, found.llm.threads) == ("llm.gguf", 3)


@pytest.mark.parametrize(("crm", "llm"), [(5, None), (None, 5000), (5, 5)])
def test_more_threads_of_one_model_than_cores_are_refused(crm: int | None, llm: int | None) -> None:
    with pytest.raises(InputError, match=r"threads of the (CRM: 5|LLM: 5000) is above 4, the CPUs"):
        decide(Wishes(crm_threads=crm, llm_threads=llm), PLAN, FOUR)


def test_variants_are_known_by_their_names() -> None:
    names = ["llm.gguf", "llm.Q4_K_M.gguf", "llm.BF16.gguf", "llm.x.y.gguf", "crm.onnx", "lora/llm.F16.gguf"]
    assert variants(names) == {"llm.Q4_K_M.gguf": "Q4_K_M", "llm.BF16.gguf": "BF16"}
    assert llm_files(names) == ["llm.gguf", "llm.BF16.gguf", "llm.Q4_K_M.gguf"]
    assert llm_files(["crm.onnx", "llm.F16.gguf"]) == ["llm.F16.gguf"]


def test_a_queue_that_no_frame_would_hold_is_refused() -> None:
    assert LlmSettings(queue_tokens=2**23).queue_tokens == 2**23
    with pytest.raises(InputError, match="queue_tokens: 8388609 is above 8388608"):
        LlmSettings(queue_tokens=2**23 + 1)


def test_llama_cpps_bound_on_sequences_is_named() -> None:
    with pytest.raises(InputError, match="sequences: 256 is above 255"):
        LlmSettings(sequences=256)


def test_no_decode_is_longer_than_the_longest_prompt() -> None:
    assert LlmSettings(batch=8192).batch == 8192
    with pytest.raises(InputError, match="batch: 8193 is above 8192"):
        LlmSettings(batch=8193)


FILES = ("catalog.jsonl", "crm.onnx", "crm.int8.onnx", "llm.gguf", "llm.BF16.gguf", "prompt.json")
HERE = Fingerprint("Model 7", FOUR.cores, None, {"onnxruntime": "1.20.0"})
KEY = hashlib.sha256(b"{}").hexdigest()
GOOD = Plan(
    format_version=1, bundle=PlanBundle(KEY, "b@1"), created="2024-01-01T00:00:00+00:00", machine=HERE,
    crm=PlanCrm("crm.int8.onnx", 1, (0,)),
    llm=PlanLlm("llm.BF16.gguf", LlmSettings(threads=3, cores=(1, 2, 3)).to_json()),
    table=({"challenger": "a", "ms": [1.5]},),
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all values of a JSON value, at any depth."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in inner:
        yield from places(below, (*path, key))


def changed(place: tuple[Any, ...], value: Any) -> Any:
    whole = {"": json.loads(json.dumps(GOOD.to_json()))}
    parent: Any = whole
    path = ("", *place)
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return whole[""]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the manifest that `find` asks for; the plan is written beside it."""
    root = tmp_path_factory.mktemp("plan") / "bundle"
    root.mkdir()
    (root / bundles.MANIFEST).write_text("{}")  # what KEY is the hash of
    return root


def followed(folder: Path, data: Any) -> Setup | None:
    """The setup by a plan of this JSON, which is named; None if it is another machine's."""
    path = folder.parent / "named.json"
    path.write_text(json.dumps(data))
    found = plans.find(folder, path, HERE, partial(check_plan, files=FILES), lambda _: None)
    return None if found is None else decide(Wishes(), found, FOUR)


def outcome(folder: Path, data: Any) -> Setup | str | None:
    """What `followed` returns, or the refusal."""
    try:
        return followed(folder, data)
    except InputError as error:
        return str(error)


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9) | st.sampled_from(FILES)
numbers = (
    st.integers(-3, 5)
    | st.integers()
    | st.sampled_from([256, 8193, 10**9, 10**400])
    | st.floats(allow_nan=False, allow_infinity=False)
)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(places(json.loads(json.dumps(GOOD.to_json()))), key=str)), json_values)
def test_any_value_anywhere_in_a_plan_is_followed_within_bounds_or_refused_by_the_files_name(
    folder: Path, place: tuple[Any, ...], value: Any
) -> None:
    found = outcome(folder, changed(place, value))
    if isinstance(found, str):
        assert re.fullmatch(
            re.escape(str(folder.parent / "named.json")) + ": .*; remove it or run `corella-edge tune` again", found
        )
        # `machine.cores` is what both models' cores are held to.
        assert not place or place[0] in found or place[:2] == ("machine", "cores")
    elif found is not None:
        assert {found.crm_file, found.llm_file} <= set(FILES)
        assert 1 <= found.crm_threads <= 4
        assert 1 <= found.llm.threads <= 4
        assert 1 <= found.llm.batch <= MOST_BATCH
        assert 1 <= found.llm.sequences <= MOST_SEQUENCES
        assert {*found.crm_cores, *found.llm.cores} <= set(FOUR.cores)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("crm", "file"), "llm.gguf", "crm.file: 'llm.gguf' is no CRM of this bundle, which has crm.onnx, crm"),
        (("crm", "file"), "crm.fp8.onnx", "crm.file: 'crm.fp8.onnx' is no CRM"),
        (("crm", "file"), "catalog.jsonl", "crm.file: 'catalog.jsonl' is no CRM"),
        (("llm", "file"), "crm.onnx", "llm.file: 'crm.onnx' is no LLM"),
        (("llm", "file"), "llm.Q4_0.gguf", "llm.file: 'llm.Q4_0.gguf' is no LLM of this bundle, which has llm.gguf"),
        (("crm", "threads"), 5, "crm.threads: 5 is above 4, the CPUs in machine.cores"),
        (("crm", "cores"), [0, 77], "crm.cores: 77 is not in machine.cores"),
        (("llm", "settings", "threads"), 500, "llm.settings.threads: 500 is above 4, the CPUs in machine.cores"),
        (("llm", "settings", "cores"), [-1], "llm.settings.cores: -1 is not in machine.cores"),
        (("llm", "settings", "batch"), "many", "llm.settings.batch: expected a value of type int, got 'many'"),
        (("llm", "settings", "batch"), 10**9, "llm.settings.batch: 1000000000 is above 8192"),
        (("llm", "settings", "sequences"), 0, "llm.settings.sequences: 0 is below 1"),
        (("llm", "settings", "kept_tokens"), -1, "llm.settings.kept_tokens: -1 is below 0"),
        (("llm", "settings", "max_wait"), 1e999, "Infinity is not JSON"),
        (("llm", "settings", "zzz"), 1, "llm.settings: unknown LLM setting 'zzz'"),
    ],
)  # fmt: skip
def test_what_a_plan_can_not_mean_is_named(folder: Path, place: tuple[Any, ...], value: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        followed(folder, changed(place, value))
    assert str(caught.value).startswith(f"{folder.parent / 'named.json'}: {message}")


def test_a_number_beyond_all_floats_is_no_time_to_wait(folder: Path) -> None:
    path = folder.parent / "large.json"
    text = json.dumps(GOOD.to_json())
    path.write_text(text.replace('"max_wait": 10.0', '"max_wait": 1e999'))
    with pytest.raises(InputError, match=r"large\.json: llm\.settings\.max_wait: inf is not a finite number"):
        plans.find(folder, path, HERE, partial(check_plan, files=FILES), lambda _: None)


def test_the_good_plan_is_followed(folder: Path) -> None:
    found = followed(folder, GOOD.to_json())
    assert found == Setup("crm.int8.onnx", 1, (0,), "llm.BF16.gguf", LlmSettings(threads=3, cores=(1, 2, 3)))
