"""The two prompts differ in the words around the candidate and in nothing else."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny_run
from corella_edge.catalog import Catalog
from corella_edge.errors import ExportError, InputError
from corella_edge.metrics import Bootstrap, Interval, Sampled, sampled_auc
from corella_edge.prompt import PromptEncoder, Template, Tokens
from corella_edge.request import Request
from corella_edge_export.crm.fitted.schema import catalog_of
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm.sequences import SequenceBuilder
from corella_edge_export.recipe import load_recipe
from harness.pairs import OURS, ratio_of, round_of
from harness.parts import merged
from scenarios.wording import quality, timing
from scenarios.wording.prompts import ITEMS, PAPER, TAIL, ShortLines, constant_tokens, longer_by
from scenarios.wording.quality import ScoredForm, compared, mean, verdict
from scenarios.wording.timing import CANDIDATES, mean_lengths, prompts_of, request_of
from scenarios.wording.training import form_recipe, with_batch
from template import WHAT, check, measured, numbers, words

ANSWERS = Tokens(1_200_001, 1_200_002, 1_200_003)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return tiny_run.prepared(tmp_path_factory.mktemp("template") / "data")


def letters(text: str) -> list[int]:
    return [ord(c) for c in text]


def short_lines(catalog: Catalog, name: str) -> ShortLines:
    template = Template(item=ITEMS[name], history_lines=4, block=3)
    return ShortLines(PromptEncoder(template, catalog, letters, ANSWERS))


def branches(data: PreparedData, form: ShortLines) -> SequenceBuilder:
    return SequenceBuilder(data, form, form.lines)


def both(data: PreparedData) -> tuple[ShortLines, ShortLines]:
    catalog = catalog_of(data)
    return short_lines(catalog, OURS), short_lines(catalog, PAPER)


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
        for sequence in branches(data, form).exact(split, users):
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
    own, theirs = (branches(data, form).training(split, users, 0) for form in both(data))
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
    ours, paper = (form_recipe(base, name, 500, 7) for name in (OURS, PAPER))
    assert ours.llm == paper.llm
    changed = {k for k, v in ours.prompt.to_json().items() if v != paper.prompt.to_json()[k]}
    assert changed == {"item"}
    assert not ours.llm.whole_items
    assert (ours.llm.rows, ours.llm.seed, ours.llm.epochs, ours.llm.evaluations) == (500, 7, 1, 1)
    assert with_batch(paper, 1.5).llm.batch_tokens == 1.5 * base.llm.batch_tokens


@pytest.mark.parametrize(("words_after", "fits"), [(26, False), (27, True), (33, True), (34, False)])
def test_the_papers_question_has_about_thirty_constant_tokens(words_after: int, fits: bool) -> None:
    catalog = Catalog(["1", "2"], [{"title": "Heat"}, {"title": "Babe"}])
    ours = PromptEncoder(Template(item="{title}:"), catalog, letters, ANSWERS)
    paper = PromptEncoder(Template(item="{title}" + "." * words_after), catalog, letters, ANSWERS)
    if fits:
        assert constant_tokens(ours, paper) == {OURS: 1, PAPER: words_after}
    else:
        with pytest.raises(ExportError, match=f"{words_after} tokens, not 30"):
            constant_tokens(ours, paper)


def scored(probability: Any, rows: int = 200) -> ScoredForm:
    index = np.arange(rows)
    return ScoredForm(index, (index % 2).astype(np.int8), (index // 10).astype(np.int32), probability, {"steps": 9})


def test_the_difference_is_ours_minus_the_papers_on_the_same_users() -> None:
    rng = np.random.default_rng(1)
    label = np.arange(200) % 2
    noise = rng.random(200)
    good, bad = scored(0.3 * label + noise), scored(noise)
    found = compared({1: {OURS: good, PAPER: bad}})
    assert found["verdict"] == "better"
    assert found["difference"]["value"] == pytest.approx(found[OURS]["value"] - found[PAPER]["value"])
    assert compared({1: {OURS: bad, PAPER: good}})["verdict"] == "worse"
    same = compared({1: {OURS: good, PAPER: good}})
    assert same["difference"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert (same["rows"], same["users"]) == (200, 20)


def test_opposite_seeds_cancel_and_each_is_told() -> None:
    rng = np.random.default_rng(2)
    good, bad = scored(0.3 * (np.arange(200) % 2) + rng.random(200)), scored(rng.random(200))
    found = compared({1: {OURS: good, PAPER: bad}, 2: {OURS: bad, PAPER: good}})
    assert found["difference"] == pytest.approx({"value": 0.0, "low": 0.0, "high": 0.0})
    first, second = (one["difference"]["value"] for one in found["seeds"])
    assert first == -second > 0
    assert [one["seed"] for one in found["seeds"]] == [1, 2]


def test_the_mean_over_seeds_keeps_the_draws_of_users_together() -> None:
    bootstrap = Bootstrap(np.arange(200) // 10)
    rng = np.random.default_rng(3)
    metrics = [sampled_auc(rng.random(200), np.arange(200) % 2, bootstrap) for _ in range(2)]
    found = mean(metrics)
    assert found.value == pytest.approx((metrics[0].value + metrics[1].value) / 2)
    np.testing.assert_allclose(found.draws, (metrics[0].draws + metrics[1].draws) / 2)
    one = mean(metrics[:1])
    assert isinstance(one, Sampled)
    np.testing.assert_array_equal(one.draws, metrics[0].draws)


def test_scores_of_other_rows_are_not_compared() -> None:
    with pytest.raises(InputError, match="validation rows"):
        compared({1: {OURS: scored(np.zeros(200)), PAPER: scored(np.zeros(190), 190)}})


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


@pytest.mark.parametrize(("low", "met"), [(-0.002, True), (-0.00201, False), (0.001, True)])
def test_no_worse_is_the_intervals_lower_end(low: float, met: bool) -> None:
    part = {"difference": {"value": 0.01, "low": low, "high": 0.02}, "seeds": [{}, {}], "users": 20}
    (found,) = quality.targets(part)
    assert found["met"] is met
    assert "2 training seeds" in found["target"]


def timed(lines: str = "short", ratio: float = 0.5, void: bool = False, pairs: int = 15) -> dict[str, Any]:
    tokens = {OURS: {"prefix": 300.0, "suffix": 10.0}, PAPER: {"prefix": 300.0, "suffix": 39.0}}
    return {"lines": lines, "user": "new", "ours_ms": 1.0, "paper_ms": 2.0, "tokens": tokens, "void": void,
            "ratio": ratio_of([ratio] * pairs).to_json()}  # fmt: skip


@pytest.mark.parametrize(("ratio", "met"), [(0.6, True), (0.601, False)])
def test_time_is_judged_by_the_intervals_upper_end(ratio: float, met: bool) -> None:
    (found,) = timing.targets({"rows": [timed(ratio=ratio)]})
    assert found["met"] is met


def test_a_few_timings_meet_no_target() -> None:
    (found,) = timing.targets({"rows": [timed(pairs=14)]})
    assert not found["met"]


def test_the_papers_form_is_judged_at_its_cheapest_only() -> None:
    assert len(timing.targets({"rows": [timed(), timed("repeated", 0.1)]})) == 1


def test_a_void_timing_is_shown_as_void() -> None:
    assert "VOID" in timing.line(timed(void=True))
    assert "VOID" not in timing.line(timed())
    assert timing.targets({"rows": [timed(void=True)]})[0]["void"]


def test_every_user_meets_sides_opened_anew_in_the_order_of_the_rounds(data: PreparedData) -> None:
    openings: list[list[tuple[str, int]]] = []
    forms = dict(zip((OURS, PAPER), both(data), strict=True))
    users = [request_of(data, forms[OURS].catalog, number) for number in range(16)]

    class Stand:
        def __init__(self, name: str) -> None:
            self.name = name

        def seconds(self, request: Request, returning: bool) -> float:
            openings[-1].append((self.name, users.index(request)))
            return 1.0 if self.name == OURS else 2.0

    @contextmanager
    def opened() -> Iterator[dict[str, Any]]:
        openings.append([])
        yield {name: Stand(name) for name in forms}

    row = timing.by_turns(opened, forms, users, False)
    assert row["ratio"] == {"median": 0.5, "low": 0.5, "high": 0.5, "pairs": 16}
    assert [asked[2:] for asked in openings] == [
        [(name, number) for name in round_of([PAPER], number)] for number in range(16)
    ]
    assert all(sorted(name for name, _ in asked[:2]) == sorted(forms) for asked in openings)


def test_the_papers_candidates_are_longer_by_the_words_after_them(data: PreparedData) -> None:
    ours, paper = (mean_lengths([prompts_of(form, request_of(data, form.catalog, 1))]) for form in both(data))
    assert paper["suffix"] - ours["suffix"] == pytest.approx(len(TAIL) - 1)
    assert paper["prefix"] == ours["prefix"]


USUAL = {"rows": 1, "valid_rows": 0, "threads": 1, "pairs": 15, "retries": 0, "parts": ("auc",), "seeds": (1,)}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("pairs", 14, "--pairs 14"),
        ("rows", 0, "--rows 0"),
        ("valid_rows", -1, "--valid-rows -1"),
        ("threads", 0, "--threads 0"),
        ("parts", ("speed",), "--parts 'speed'"),
        ("seeds", (), "--seeds"),
    ],
)
def test_options_that_do_not_fit_are_named(name: str, value: Any, message: str) -> None:
    check(argparse.Namespace(**USUAL))
    with pytest.raises(InputError, match=message):
        check(argparse.Namespace(**{**USUAL, name: value}))


def test_lists_on_the_command_line_stand_between_commas() -> None:
    assert words("auc,timing") == ("auc", "timing")
    assert numbers("3,1") == (3, 1)


def test_a_part_replaces_itself_and_keeps_the_other(tmp_path: Path) -> None:
    path = tmp_path / "template.json"
    for name, limit in (("auc", 1), ("timing", 2), ("auc", 3)):
        path.write_text(json.dumps(merged(path, name, {"targets": [{"limit": limit}]}, WHAT)), "utf-8")
    found = json.loads(path.read_text("utf-8"))
    assert found["what"] == WHAT
    assert found["targets"] == [{"part": "auc", "limit": 3}, {"part": "timing", "limit": 2}]


TINY = """
name = "tiny"
seed = 1
[crm.dcnv2]
embedding_dim = 4
cross_layers = 2
hidden = [8]
[llm]
vocab_size = 700
hidden = 16
layers = 2
heads = 2
kv_heads = 1
intermediate = 24
batch_tokens = 2048
text_weight = 0.3
"""


@pytest.fixture
def options(data: PreparedData, tmp_path: Path) -> argparse.Namespace:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY, "utf-8")
    given = {"rows": 200, "recipe": str(recipe), "data": data.root, "work": tmp_path / "work", "step": "rows"}
    return argparse.Namespace(**{**USUAL, **given, "note": "", "parts": ("auc", "timing")})


@pytest.mark.slow
def test_both_parts_are_measured_and_what_is_trained_is_not_trained_again(
    options: argparse.Namespace, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = dict(measured(options))
    auc, times = first["auc"], first["timing"]
    assert auc["rows"] == len(data.split("valid").users)
    assert {one["seed"] for one in auc["seeds"]} == {1}
    steps = {name: one["steps"] for name, one in auc["seeds"][0]["training"].items()}
    assert abs(steps[OURS] - steps[PAPER]) <= 1
    assert [(row["lines"], row["user"]) for row in times["rows"]] == [
        ("short", "new"), ("short", "returning"), ("repeated", "new"), ("repeated", "returning")
    ]  # fmt: skip
    for row in times["rows"]:
        ours, paper = row["tokens"][OURS], row["tokens"][PAPER]
        assert paper["suffix"] - ours["suffix"] == auc["constant_tokens"][PAPER] - auc["constant_tokens"][OURS]
        assert (paper["prefix"] == ours["prefix"]) is (row["lines"] == "short")
    monkeypatch.setattr(quality, "predict", None)
    before = written(options.work)
    assert dict(measured(argparse.Namespace(**{**vars(options), "parts": ("auc",)}))) == {"auc": auc}
    after = written(options.work)
    assert before.keys() == after.keys()
    assert {path.name for path in after if after[path] != before[path]} <= {"stage.json"}


def written(folder: Path) -> dict[Path, int]:
    """When each file was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
