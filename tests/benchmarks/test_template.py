"""The two prompts differ in the words around the candidate and in nothing else."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corella_edge.catalog import Catalog
from corella_edge.errors import ExportError, InputError
from corella_edge.metrics import Interval
from corella_edge.prompt import PromptEncoder, Template, Tokens
from corella_edge_export.data.prepare import write_prepared
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.synthetic import SyntheticConfig, generate
from corella_edge_export.fit import catalog_of
from corella_edge_export.recipe import load_recipe
from scoring.pairs import OURS, ratio_of
from template import (
    CANDIDATES,
    ITEMS,
    PAPER,
    TAIL,
    Branches,
    ShortLines,
    Trained,
    check,
    compared,
    form_recipe,
    longer_by,
    mean_lengths,
    prompts_of,
    request_of,
    timing_line,
    verdict,
    with_batch,
)

ANSWERS = Tokens(1_200_001, 1_200_002, 1_200_003)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("template") / "data"
    write_prepared(generate(SyntheticConfig(seed=3, users=40, items=50, genres=2, events=16.0)), folder, requests=5)
    return PreparedData.open(folder)


def letters(text: str) -> list[int]:
    return [ord(c) for c in text]


def encoder(catalog: Catalog, name: str) -> ShortLines:
    template = Template(item=ITEMS[name], history_lines=4, block=3)
    return ShortLines(PromptEncoder(template, catalog, letters, ANSWERS))


def both(data: PreparedData) -> tuple[ShortLines, ShortLines]:
    catalog = catalog_of(data)
    return encoder(catalog, OURS), encoder(catalog, PAPER)


def test_users_have_one_prefix_in_both_forms_and_only_the_papers_candidates_have_words_after_them(
    data: PreparedData,
) -> None:
    ours, paper = both(data)
    histories = 0
    for number in range(12):
        request = request_of(data, ours.catalog, number)
        histories += len(request.user.history)
        own, theirs = prompts_of(ours, request), prompts_of(paper, request)
        assert {p.prefix for p in own} == {p.prefix for p in theirs} == {tuple(ours.prefix(request.user))}
        for mine, other in zip(own, theirs, strict=True):
            assert [*mine.suffix[:-1], *letters(TAIL)] == list(other.suffix)
            assert mine.suffix[-1:] == (ord(":"),)
    assert histories


def test_ours_is_the_prompt_of_the_product(data: PreparedData) -> None:
    ours, _ = both(data)
    plain = PromptEncoder(ours.template, ours.catalog, letters, ANSWERS)
    for number in range(12):
        request = request_of(data, ours.catalog, number)
        assert prompts_of(ours, request) == prompts_of(plain, request)


@pytest.mark.parametrize("split_name", ["train", "valid"])
def test_what_a_trained_question_sees_is_the_prompt_that_is_asked(data: PreparedData, split_name: str) -> None:
    split = data.split(split_name)
    users = np.unique(split.users).tolist()
    for form in both(data):
        seen: list[int] = []
        for sequence in Branches(data, form).exact(split, users):
            for (start, visible), place, row in zip(sequence.branches, sequence.positions, sequence.rows, strict=True):
                request = data.request(int(split.users[row]), int(split.positions[row]), [int(split.items[row])])
                (prompt,) = prompts_of(form, request)
                tokens = sequence.tokens.tolist()
                assert tokens[:visible] == list(prompt.prefix)
                assert tokens[start : place + 1] == list(prompt.suffix)
            seen += sequence.rows.tolist()
        assert sorted(seen) == list(range(len(split.users)))


def test_the_two_forms_train_on_the_same_lines(data: PreparedData) -> None:
    split = data.split("train")
    users = np.unique(split.users).tolist()
    own, theirs = (Branches(data, form).training(split, users, 0) for form in both(data))
    for mine, other in zip(own, theirs, strict=True):
        np.testing.assert_array_equal(mine.tokens[: mine.trunk], other.tokens[: other.trunk])
        np.testing.assert_array_equal(mine.rows, other.rows)
        assert len(other.tokens) - len(mine.tokens) == (len(TAIL) - 1) * len(mine.rows)


def test_the_papers_question_is_longer_by_the_same_for_every_item(data: PreparedData) -> None:
    ours, paper = both(data)
    assert longer_by(ours, paper) == len(TAIL) - 1


def test_words_whose_tokens_merge_with_some_titles_are_refused() -> None:
    catalog = Catalog(["1", "2"], [{"title": "Heat"}, {"title": "Babe"}])
    merging = PromptEncoder(Template(), catalog, lambda text: letters(text.replace("t:", "?")), ANSWERS)
    plain = PromptEncoder(Template(), catalog, letters, ANSWERS)
    with pytest.raises(ExportError, match=r"\[0, 1\].*TAIL"):
        longer_by(merging, plain)


def test_a_request_has_two_lists_of_other_candidates_and_the_seed_decides_it(data: PreparedData) -> None:
    catalog = catalog_of(data)
    request = request_of(data, catalog, 1)
    items = [candidate.item for candidate in request.candidates or ()]
    assert len(set(items)) == len(items) == 2 * CANDIDATES
    assert request == request_of(data, catalog, 1)
    assert request != request_of(data, catalog, 2)


def test_the_recipes_differ_in_the_question_alone() -> None:
    base = load_recipe("ml-1m-small")
    ours, paper = (form_recipe(base, name, 500, 400) for name in (OURS, PAPER))
    assert ours.llm == paper.llm
    changed = {k for k, v in ours.prompt.to_json().items() if v != paper.prompt.to_json()[k]}
    assert changed == {"item"}
    assert not ours.llm.whole_items
    assert (ours.llm.rows, ours.llm.valid_rows, ours.llm.epochs) == (500, 400, 1)
    assert with_batch(paper, 1.5).llm.batch_tokens == 1.5 * base.llm.batch_tokens


def trained(probability: Any, rows: int = 200) -> Trained:
    index = np.arange(rows)
    return Trained({}, index, (index % 2).astype(np.int8), (index // 10).astype(np.int32), probability)


def test_the_difference_is_ours_minus_the_papers_on_the_same_users() -> None:
    rng = np.random.default_rng(1)
    label = np.arange(200) % 2
    noise = rng.random(200)
    good, bad = trained(0.3 * label + noise), trained(noise)
    found = compared({OURS: good, PAPER: bad})
    assert found["verdict"] == "better"
    assert found["difference"]["value"] == pytest.approx(found[OURS]["value"] - found[PAPER]["value"])
    assert compared({OURS: bad, PAPER: good})["verdict"] == "worse"
    same = compared({OURS: good, PAPER: good})
    assert same["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert (same["rows"], same["users"]) == (200, 20)


def test_scores_of_other_rows_are_not_compared() -> None:
    with pytest.raises(InputError, match="validation rows"):
        compared({OURS: trained(np.zeros(200)), PAPER: trained(np.zeros(190), 190)})


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.001, 0.01, "better"),
        (-0.01, -0.001, "worse"),
        (-0.01, 0.01, "no difference seen"),
        (0.0, 0.01, "no difference seen"),
    ],
)
def test_an_interval_that_holds_zero_shows_no_difference(low: float, high: float, word: str) -> None:
    assert verdict(Interval((low + high) / 2, low, high)) == word


def test_a_void_timing_is_shown_as_void(data: PreparedData) -> None:
    ours, paper = both(data)
    asked = {name: mean_lengths([prompts_of(form, request_of(data, form.catalog, 1))])
             for name, form in ((OURS, ours), (PAPER, paper))}  # fmt: skip
    row = {"lines": "short", "user": "new", "ours_ms": 1.0, "paper_ms": 2.0, "ratio": ratio_of([0.5] * 15).to_json(),
           "tokens": asked, "target": 0.6, "met": True, "void": True}  # fmt: skip
    assert asked[PAPER]["suffix"] - asked[OURS]["suffix"] == pytest.approx(len(TAIL) - 1)
    assert " void " in timing_line(row)
    assert " met " in timing_line({**row, "void": False})
    assert " NOT MET " in timing_line({**row, "void": False, "met": False})


@pytest.mark.parametrize(("name", "value"), [("pairs", 14), ("rows", 0), ("valid_rows", 0), ("threads", 0)])
def test_numbers_that_are_too_small_are_named(name: str, value: int) -> None:
    usual = {"rows": 1, "valid_rows": 1, "threads": 1, "pairs": 15, "retries": 0, "work": Path()}
    check(argparse.Namespace(**usual))
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')} {value}"):
        check(argparse.Namespace(**{**usual, name: value}))
