"""The recipe `generic` as a whole: valid for any facts, explained, and a base like any other."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shapes
from corella_edge.cli.recipe import toml
from corella_edge.errors import InputError, RecipeError
from corella_edge_export import report
from corella_edge_export.crm.fitted import users as user_fit
from corella_edge_export.data.table.description import Label, SplitPlan
from corella_edge_export.generic.choice import reasons, values
from corella_edge_export.generic.facts import AttributeFacts, Facts, look
from corella_edge_export.generic.recipe import explained, recipe_for, table
from corella_edge_export.recipe import load_recipe, recipe_from, table_of
from corella_edge_export.training import stages
from corella_edge_export.training.checks import check_labels, check_rule
from sessions import run, succeed
from tables import Event, prepared

KIND = st.sampled_from(["", "dcnv2", "din", "sequence"])
COUNT = st.integers(1, 10**8)
SHARE = st.floats(0, 1)
NAME = st.text(min_size=1, max_size=12)
ATTRIBUTE = st.builds(
    AttributeFacts,
    NAME,
    st.sampled_from(["categorical", "multi", "numeric", "text", "sequence"]),
    st.integers(0, 2000),
    st.floats(0, 5000),
    SHARE,
    SHARE,
)
FACTS = st.builds(
    Facts, train=COUNT, valid=COUNT, test=COUNT, liked=SHARE, users=COUNT, items=COUNT, people=COUNT, catalogue=COUNT,
    events=st.floats(0, 10**6), new_users=SHARE, new_items=SHARE,
    told_by=st.sampled_from(["ratings", "labels", "being there"]),
    ratings=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=16).map(tuple), steps=st.integers(1, 10**6),
    like_above=st.floats(-1e6, 1e6), timed=st.booleans(), title_chars=st.floats(0, 10_000), rows_in_log=st.booleans(),
    user_attributes=st.lists(ATTRIBUTE, max_size=8).map(tuple),
    item_attributes=st.lists(ATTRIBUTE, max_size=8).map(tuple),
)  # fmt: skip
SMALL = Facts(train=240, valid=30, test=30, liked=0.5, users=20, items=20, people=20, catalogue=20, events=9.0,
              new_users=0.0, new_items=0.0)  # fmt: skip


@settings(max_examples=20)
@given(FACTS, KIND)
def test_any_facts_make_a_recipe_that_the_data_can_fill(facts: Facts, kind: str) -> None:
    made = values(table(facts, kind))
    recipe = recipe_from(made, "generic")
    assert recipe.crm.kind == (kind or made["crm"]["kind"])
    assert recipe.trains_llm == (not facts.likes_alone)
    assert recipe_from(table_of(recipe), "again") == recipe
    later = [stage for stage in (recipe.joint, recipe.continuation) if stage.epochs]
    assert sum(stage.rows for stage in later) <= facts.train
    assert recipe.llm.rows <= facts.train
    assert recipe.export.calibration_rows <= facts.valid
    assert recipe.export.sample_rows <= facts.test
    assert not recipe.crm.features.history_pace
    assert recipe.prompt.like_above == facts.like_above
    if facts.told_by == "being there":
        assert (recipe.crm.features.centre, recipe.prompt.rating) == ("all", "")
    words = json.dumps(made["prompt"]["instruction"]).lower()
    assert not {"film", "movie", "genre"} & set(words.split())


@settings(max_examples=20)
@given(FACTS)
def test_it_is_shown_as_a_recipe_with_reasons(facts: Facts) -> None:
    made = table(facts)
    recipe = recipe_from(values(made), "generic")
    text = "\n".join(toml(table_of(recipe), reasons(made)))
    assert "  # " in text
    assert recipe_from(tomllib.loads(text), "shown") == recipe


@pytest.mark.parametrize("kind", ["dcnv2", "din", "sequence"])
@pytest.mark.parametrize("liked", [0.5, 1.0])
@pytest.mark.parametrize("rows", [240, 4_000, 80_000, 1_000_000, 50_000_000])
def test_more_rows_never_make_smaller_models(rows: int, liked: float, kind: str) -> None:
    facts = (replace(SMALL, train=n, items=n // 5 + 1, liked=liked) for n in (rows, 4 * rows))
    less, more = (recipe_from(values(table(each, kind)), "r") for each in facts)
    assert less.crm.family.embedding_dim <= more.crm.family.embedding_dim
    assert less.llm.hidden <= more.llm.hidden
    assert less.crm.batch_size <= more.crm.batch_size
    assert less.crm.sequence.batch_events <= more.crm.sequence.batch_events
    assert less.crm.epochs >= more.crm.epochs
    assert less.llm.epochs >= more.llm.epochs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("shapes")
    return {name: shapes.prepared(name, folder / name) for name in shapes.SHAPES}


@pytest.mark.parametrize(
    ("name", "told", "item", "instruction"),
    [("ratings", "ratings", "[{title}] {kind} {uses}:", "rated from 1 to 10. Would they rate the next one above 6?"),
     ("clicks", "labels", "[{title}] {section}:", "Would they take the next one?"),
     ("purchases", "being there", "[{title}]:", "Would they choose the next one?"),
     ("bare", "ratings", "[{title}]:", "rated from 1 to 5. Would they rate the next one above 2?"),
     ("untimed", "ratings", "[{title}]:", "above 2?")],
)  # fmt: skip
def test_the_prompt_says_what_the_data_are(
    data: dict[str, Any], name: str, told: str, item: str, instruction: str
) -> None:
    facts, recipe = look(data[name]), recipe_for("generic", data[name])
    assert (facts.told_by, facts.timed) == (told, name != "untimed")
    assert recipe.name == name
    assert recipe.prompt.item == item
    assert instruction in recipe.prompt.instruction
    assert set(recipe.prompt.profile) == ({"town", "age"} if name == "ratings" else set())


def test_a_file_names_another_family_in_one_word(data: dict[str, Any], tmp_path: Path) -> None:
    """The rest, its sizes and its history with it, is made for the family; no section of another stands in the way."""
    for kind, settings_of in (("sequence", "batch_events"), ("din", "in_order"), ("dcnv2", "cross_layers")):
        (tmp_path / "mine.toml").write_text(f'base = "generic"\nname = "mine"\n[crm]\nkind = "{kind}"\n', "utf-8")
        recipe, why = explained(str(tmp_path / "mine.toml"), data["ratings"])
        assert recipe == recipe_from(values(table(look(data["ratings"]), kind)) | {"name": "mine"}, "mine")
        assert settings_of in table_of(recipe)["crm"][kind]
        assert ("crm", "kind") not in why
        assert ("crm", kind, "embedding_dim") in why
    (tmp_path / "mine.toml").write_text('base = "generic"\nname = "mine"\n[crm]\nkind = "dcn"\n', "utf-8")
    with pytest.raises(RecipeError, match="kind"):
        recipe_for(str(tmp_path / "mine.toml"), data["ratings"])


LONG = replace(SMALL, train=80_000, valid=9_000, events=200.0, new_users=0.8)


@pytest.mark.parametrize(
    ("change", "kind", "why"),
    [({}, "sequence", "80,000 training rows, nine in ten with at most 200 earlier events: enough"),
     ({"train": 4_000}, "dcnv2", "too few rows"), ({"events": 4.0}, "dcnv2", "too short histories"),
     ({"timed": False}, "dcnv2", "without times"),
     ({"liked": 1.0, "train": 300, "events": 2.0}, "sequence", "every training row is a like")],
)  # fmt: skip
def test_the_facts_choose_the_family_and_say_why(change: dict[str, Any], kind: str, why: str) -> None:
    made = table(replace(LONG, **change))
    assert values(made)["crm"]["kind"] == kind
    assert why in reasons(made)["crm", "kind"]


def test_who_reads_in_order_has_a_longer_history_that_moves_on_in_steps() -> None:
    ordered, rows = (recipe_from(values(table(LONG, kind)), "r").crm.features for kind in ("sequence", "dcnv2"))
    assert (ordered.history, ordered.history_block, ordered.window) == (100, 40, 200)
    assert (rows.history, rows.history_block, rows.window) == (50, 1, 100)
    assert (ordered.user_ids, rows.user_ids) == (False, True)
    known = recipe_from(values(table(replace(LONG, new_users=0.1), "sequence")), "r").crm.features
    assert known.user_ids


@pytest.mark.parametrize(
    ("change", "weights"),
    [({}, (1.0, 0.1)), ({"train": 80_000}, (0.0, 0.0)), ({"told_by": "labels", "steps": 2}, (0.0, 0.1)),
     ({"rows_in_log": False}, (1.0, 0.0)), ({"liked": 1.0}, (0.0, 0.0))],
)  # fmt: skip
def test_events_learn_more_than_labels_where_there_is_more(change: dict[str, Any], weights: tuple[float, ...]) -> None:
    facts = replace(LONG, train=900_000, told_by="ratings", ratings=(1.0, 2.0, 3.0, 4.0, 5.0), steps=5)
    own = recipe_from(values(table(replace(facts, **change))), "r").crm.sequence
    assert (own.rating_weight, own.next_weight) == weights


def test_what_a_file_changes_has_no_reason(data: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "generic"\nname = "mine"\n[crm]\nbatch_size = 7\n', "utf-8")
    recipe, why = explained(str(tmp_path / "mine.toml"), data["ratings"])
    plain, all_of_them = explained("generic", data["ratings"])
    assert recipe == replace(plain, name="mine", crm=replace(plain.crm, batch_size=7))
    assert all_of_them.keys() - why.keys() == {("crm", "batch_size")}
    assert explained("ml-1m-small", data["ratings"]) == (load_recipe("ml-1m-small"), {})


def test_the_command_prints_it_for_the_data_only(data: dict[str, Any], tmp_path: Path) -> None:
    shown = succeed("recipe", "show", "generic", "--data", data["clicks"].root).out
    (tmp_path / "saved.toml").write_text(shown, "utf-8")
    assert load_recipe(str(tmp_path / "saved.toml")) == recipe_for("generic", data["clicks"])
    done = run("recipe", "show", "generic")
    assert done.code
    assert "the recipe 'generic' is made for the data at hand; name them with --data DIR" in done.err
    with pytest.raises(RecipeError, match="--data DIR"):
        load_recipe("generic")
    assert "generic" in succeed("recipe", "list").out


def test_train_says_which_family_was_chosen_and_why(
    data: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it was: not of a file that names one, and not where nothing is to be said."""
    monkeypatch.setattr(stages, "train", lambda *_: {})
    monkeypatch.setattr(report, "report_if_possible", lambda _: None)
    (tmp_path / "mine.toml").write_text('base = "generic"\nname = "mine"\n[crm]\nkind = "din"\n', "utf-8")
    (tmp_path / "other.toml").write_text('base = "generic"\nname = "other"\n[crm]\nmembers = 2\n', "utf-8")
    for recipe, options, told in (("generic", [], True), (tmp_path / "other.toml", [], True),
                                  (tmp_path / "mine.toml", [], False), ("generic", ["-q"], False)):  # fmt: skip
        done = succeed("train", recipe, "--data", data["ratings"].root, "--out", tmp_path / "run", *options)
        lines = [line for line in done.err.splitlines() if line.startswith("base model: ")]
        rows = f"{look(data['ratings']).train:,} training rows"
        assert len(lines) == told
        assert all(line.startswith(f'base model: kind = "dcnv2" ({rows}, nine in ten with at most') for line in lines)
        assert all(line.endswith("too few rows (below 5,000) to read the events in their order)") for line in lines)


def test_labels_are_told_as_ratings_of_0_and_1(data: dict[str, Any]) -> None:
    clicks, bought = data["clicks"], data["purchases"]
    assert set(clicks.log.ratings.tolist()) == {0.0, 1.0}
    assert (clicks.log.ratings == clicks.log.labels).all()
    assert all(event.rating in (0.0, 1.0) for event in clicks.request(0, 5, [0]).user.history)
    assert all(event.rating is None for event in bought.request(0, 2, [0]).user.history)
    assert all(event.time is None for event in data["untimed"].request(0, 5, [0]).user.history)


def test_a_rule_that_contradicts_the_labels_is_refused(data: dict[str, Any]) -> None:
    recipe = recipe_for("generic", data["ratings"])
    check_rule(recipe, data["ratings"])
    for above in (5.5, 8.0):
        wrong = replace(recipe, prompt=replace(recipe.prompt, like_above=above))
        with pytest.raises(InputError, match=r"prompt.like_above: .* labels, which go by a rating above 6; set `like"):
            check_rule(wrong, data["ratings"])
    check_rule(replace(recipe, prompt=replace(recipe.prompt, like_above=6.5)), data["ratings"])  # the same answers


def test_labels_of_one_kind_are_refused_where_they_are_learnt(tmp_path: Path) -> None:
    events = [Event(user, item, time) for user in "abcde" for time, item in enumerate("pqrstu")]
    alone = prepared(tmp_path / "alone", events, SplitPlan("leave-one-out"), label=Label(positives_only=True))
    pointwise = recipe_from({"name": "mine", "crm": {"kind": "din"}}, "mine")
    with pytest.raises(InputError, match=r"every training row of .* has label 1, from which DIN .* --negatives 4"):
        check_labels(pointwise, alone)
    check_labels(replace(pointwise, crm=replace(pointwise.crm, epochs=0)), alone)
    dot = {"kind": "sequence", "sequence": {"head": "dot", "loss": "softmax"}}
    check_labels(recipe_from({"name": "next", "crm": dot}, "next"), alone)
    chosen = recipe_for("generic", alone)
    check_labels(chosen, alone)
    own = chosen.crm.sequence
    assert (chosen.crm.kind, own.head, own.loss, chosen.trains_llm) == ("sequence", "dot", "softmax", False)
    both = prepared(tmp_path / "both", [replace(e, label=e.time % 2) for e in events], SplitPlan("leave-one-out"))
    check_labels(pointwise, both)


def test_without_times_every_row_is_a_sitting_of_its_own(data: dict[str, Any]) -> None:
    rows = data["untimed"].split("train")
    logits = np.zeros(len(rows.users))
    apart = user_fit.fit(rows, logits, len(data["untimed"].user_ids), timed=False)
    together = user_fit.fit(rows, logits, len(data["untimed"].user_ids))
    assert (together.rows[:, 2] == 0).all()  # one sitting holds all of a user's rows: nothing is left to learn from
    assert (apart.rows[:, 2] == 1).all()
    np.testing.assert_array_equal(apart.users, together.users)
