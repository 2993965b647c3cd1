"""The base model's codes in the prompt: how they are made, where they are missing, and that a bundle has the same."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import tiny_run
from corella_edge.catalog import CODE, Catalog
from corella_edge.errors import InputError, RecipeError
from corella_edge.prompt import Template
from corella_edge.request import Candidate
from corella_edge_export.bundling.write import ExportOptions, export
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm import codes
from corella_edge_export.recipe import Recipe
from corella_edge_export.training import stages
from corella_edge_export.training.run import Run
from corella_edge_export.training.tasks.llm import LlmTask

FORM = re.compile(r"\d{1,3}(\.\d{1,3})?")
OFF = {"epochs": 0}


def recipe(**changes: Any) -> Recipe:
    llm = {"whole_items": False, "text_weight": 0.0, "codes": {"bits": 8, "hide": 0.25}, "batch_tokens": 512}
    return tiny_run.recipe(
        crm={"embedding_dim": 8}, llm={**llm, **changes.pop("llm", {})}, joint=OFF, continuation=OFF,
        prompt={"item": "[{title}] {code}:"}, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "coded"
    stages.train(folder, recipe(), data, quiet=True)
    return Run.open(folder, data)


@given(st.integers(0, 2**32 - 1), st.integers(30, 60), st.sampled_from([8, 16]))
def test_each_bit_parts_the_known_items_in_halves(seed: int, n: int, bits: int) -> None:
    rng = np.random.default_rng(seed)
    vectors, known = rng.normal(size=(n, 20)), np.arange(n) < n - 2
    found = codes.binary(vectors, known, bits)
    assert found.shape == (n, bits)
    assert (found[known].sum(axis=0) == known.sum() // 2).all()
    np.testing.assert_array_equal(codes.binary(vectors + rng.normal(size=20), known, bits), found)


def test_a_direction_in_which_nothing_varies_has_no_bit() -> None:
    vectors = np.zeros((20, 12))
    vectors[:, 3] = np.arange(20)
    found = codes.binary(vectors, np.ones(20, np.bool_), 8)
    assert found[:, 0].tolist() == [False] * 10 + [True] * 10
    assert not found[:, 1:].any()


def test_items_alike_share_the_first_number() -> None:
    rng = np.random.default_rng(1)
    kinds = np.repeat([0, 1], 20)
    vectors = 0.05 * rng.normal(size=(40, 12))
    vectors[:, :2] += kinds[:, None] * [3.0, -2.0]
    first = codes.binary(vectors, np.ones(40, np.bool_), 8)[:, 0]
    assert len(set(first[kinds == 0])) == len(set(first[kinds == 1])) == 1
    assert first[0] != first[-1]


def test_bits_are_numbers_with_dots_between() -> None:
    bits = np.zeros((2, 16), np.bool_)
    bits[0, [0, 2, 11]] = True
    assert codes.dotted(bits) == ["160.16", "0.0"]
    made = codes.stand_ins(["a", "b", "ü"], 24)
    assert all(re.fullmatch(r"\d{1,3}\.\d{1,3}\.\d{1,3}", code or "") for code in made)
    assert len(set(made)) == 3


def test_items_of_training_rows_have_a_code_and_others_none(trained: Run, data: PreparedData) -> None:
    catalog = trained.fit_inputs()[1]
    known = set(data.split("train").items.tolist())
    assert 0 < len(known) < len(catalog)
    for row, attributes in enumerate(catalog.attributes):
        assert bool(attributes[CODE]) == (row in known)
        assert attributes[CODE] is None or FORM.fullmatch(attributes[CODE])
    assert len({attributes[CODE] for attributes in catalog.attributes}) > 5


def test_words_give_new_items_a_code(data: PreparedData, sentence_encoder: Path, tmp_path: Path) -> None:
    words = {"text": {"source": "encoder", "path": str(sentence_encoder)}}
    own = recipe()
    crm = replace(own.crm, text=replace(own.crm.text, **words["text"]))
    stages.train(tmp_path / "run", replace(own, crm=crm), data, quiet=True)
    catalog = Run.open(tmp_path / "run", data).fit_inputs()[1]
    assert all(FORM.fullmatch(attributes[CODE]) for attributes in catalog.attributes)


def test_training_leaves_a_share_of_the_codes_out(trained: Run) -> None:
    task, _ = stages.Stages(trained, quiet=True).task("llm")
    assert isinstance(task, LlmTask)
    batches = task.batches(0)
    text = "".join(trained.tokenizer().decode(s.tokens) for batch in batches for s in task._batches.chosen(0, batch))
    told, bare = len(re.findall(r"\] \d{1,3}:", text)), len(re.findall(r"\] :", text))
    assert told + bare > 200
    assert 0.15 < bare / (told + bare) < 0.4  # a quarter, and the items without a code
    asked = "".join(trained.tokenizer().decode(s.tokens) for s in task.valid)
    assert re.search(r"\] \d{1,3}:", asked)


def test_a_bundle_asks_with_the_same_codes(trained: Run, tmp_path: Path) -> None:
    bundle = export(trained, tmp_path / "bundle", ExportOptions(("F16",), threads=1))
    kept, own = Catalog.read(bundle.root / "catalog.jsonl"), trained.fit_inputs()[1]
    assert [a[CODE] for a in kept.attributes] == [a[CODE] for a in own.attributes]
    lines = [json.loads(line) for line in (bundle.root / "reference.jsonl").read_text().splitlines()]
    texts = [trained.tokenizer().decode(line["prompt"]) for line in lines]
    assert any(re.search(r"\] \d{1,3}:$", text) for text in texts)
    encoder = trained.prompt_encoder(kept)
    new = encoder.suffix(Candidate("typed in", {"title": "A New Film"}))
    assert new is not None
    assert trained.tokenizer().decode(new) == "[A New Film] :"


def test_the_llms_key_hangs_on_the_base_model_with_codes_alone(data: PreparedData) -> None:
    plain = recipe(llm={"codes": {"bits": 0, "hide": 0.1}})
    plain = replace(plain, prompt=replace(plain.prompt, item="[{title}]:"))
    for chosen, differs in ((recipe(), True), (plain, False)):
        one, other = (stages.keys(replace(chosen, seed=seed), data) for seed in (1, 2))
        assert one["crm"] != other["crm"]
        assert (one["llm"] != other["llm"]) == differs


def test_an_interrupted_training_ends_in_the_same_weights(
    trained: Run, data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, calls = LlmTask.losses, iter(range(2))

    def broken(*args: Any) -> Any:
        if next(calls, None) is None:
            raise RuntimeError("the power is gone")
        return losses(*args)

    with monkeypatch.context() as patch:
        patch.setattr(LlmTask, "losses", broken)
        with pytest.raises(RuntimeError, match="power"):
            stages.train(tmp_path / "run", recipe(), data, quiet=True)
    (tmp_path / "run" / "codes.json").unlink(missing_ok=True)  # made again
    stages.train(tmp_path / "run", recipe(), data, quiet=True)
    for name in ("codes.json", "llm/best.safetensors"):
        first, second = (folder / name for folder in (trained.folder, tmp_path / "run"))
        if name.endswith("json"):
            assert first.read_bytes() == second.read_bytes()
        else:
            tensors = load_file(first), load_file(second)
            assert all(bool((tensors[0][key] == tensors[1][key]).all()) for key in tensors[0])


def test_a_damaged_file_of_codes_is_named(trained: Run, data: PreparedData, tmp_path: Path) -> None:
    path = trained.folder / "codes.json"
    kept = path.read_bytes()
    path.write_bytes(b"[")
    with pytest.raises(InputError, match=r"codes\.json: cannot be read .* remove it"):
        trained.fit_inputs()
    path.write_bytes(kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"llm": {"codes": {"bits": 12, "hide": 0.1}}}, "a code is numbers of 8 bits"),
        ({"llm": {"codes": {"bits": 72, "hide": 0.1}}}, "out of range"),
        ({"llm": {"codes": {"bits": 16, "hide": 0.1}}}, "an item has 4 numbers, so at most as many bits"),
        ({"llm": {"whole_items": True}}, "exclude each other"),
        ({"prompt": {"item": "{title}:"}}, r"must have \{code\} somewhere"),
        ({"crm": {"epochs": 0}, "joint": {"epochs": 1}}, "crm.epochs must be above 0"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    table = {"llm": {"whole_items": False, "codes": {"bits": 8, "hide": 0.1}}, "prompt": {"item": "[{title}] {code}:"}}
    merged = {name: {**table.get(name, {}), **changes.get(name, {})} for name in {*table, *changes}}
    with pytest.raises(RecipeError, match=message):
        tiny_run.recipe(**merged)


def test_an_item_without_a_code_has_nothing_there() -> None:
    assert Template(item="{title} {code}:").item_text({"title": "A", CODE: None}) == "A :"
