from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.errors import RecipeError
from corella_edge_export.recipe import Recipe, load_recipe, recipe_from, shipped
from corella_edge_export.training.stage import enabled

DEFAULT = Recipe("r")


def leaves(section: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(place, default) of every setting."""
    for item in fields(section):
        value = getattr(section, item.name)
        if is_dataclass(value):
            yield from leaves(value, (*path, item.name))
        else:
            yield (*path, item.name), value


def table(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """A recipe's table with one setting."""
    inner: Any = value
    for key in reversed(path):
        inner = {key: inner}
    return {"name": "r", **inner}


LEAVES = list(leaves(DEFAULT))
WRONG: dict[type, list[Any]] = {
    str: [3, True, ["x"]], int: ["3", 1.5, True, None], float: ["x", True, []],
    bool: [1, "true"], tuple: [3, "x", [None], [[1]]], dict: [3, "x", {"a": 3}],
}  # fmt: skip


def refusal(tmp_path: Path, text: str) -> str:
    """What is said of a recipe that is none."""
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    return str(caught.value)


@pytest.mark.parametrize(("path", "default"), LEAVES, ids=[".".join(path) for path, _ in LEAVES])
def test_a_setting_of_the_wrong_type_is_named(path: tuple[str, ...], default: Any) -> None:
    for wrong in WRONG[type(default)]:
        with pytest.raises(RecipeError) as caught:
            recipe_from(table(path, wrong), "mine.toml")
        assert path[-1] in str(caught.value), wrong
        assert "mine.toml" in str(caught.value) or path[0] == "prompt"


@pytest.mark.parametrize("section", [(), ("crm",), ("llm",), ("llm", "lora"), ("prompt",), ("export",)])
def test_an_unknown_key_and_a_section_that_is_none_are_named(section: tuple[str, ...]) -> None:
    with pytest.raises(RecipeError, match="unknown key 'epoch'"):
        recipe_from(table((*section, "epoch"), 3), "r")
    if section:
        with pytest.raises(RecipeError, match=f"{section[-1]}: expected a table"):
            recipe_from(table(section, 3), "r")


SIGNED = {("item_number", "mean"), ("item_number", "first")}  # may be below 0


@pytest.mark.parametrize(("path", "default"), LEAVES, ids=[".".join(path) for path, _ in LEAVES])
def test_every_number_has_a_range(path: tuple[str, ...], default: Any) -> None:
    first = next(iter(default), "") if isinstance(default, tuple) else default
    if isinstance(first, str) or not isinstance(first, (int, float)) or path[-1] == "like_above":
        return
    below = [] if path[-2:] in SIGNED else [-1]
    for number in (*below, *([float("nan"), float("inf")] if isinstance(first, float) else [])):
        with pytest.raises(RecipeError) as caught:
            recipe_from(table(path, [number] if isinstance(default, tuple) else number), "r")
        assert path[-1] in str(caught.value)


def test_a_default_recipe_survives_its_own_table() -> None:
    assert recipe_from(asdict(DEFAULT), "r") == DEFAULT


@pytest.mark.parametrize("name", shipped())
def test_shipped_recipes_load_under_their_name(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe_from(asdict(recipe), name) == recipe


def test_the_shipped_recipes_are_there() -> None:
    assert {"demo", "ml-1m-tiny"} <= set(shipped())


@pytest.mark.parametrize(
    ("text", "part"),
    [("name = ", "not TOML"), ("", "'name'"), ("name = 3", "name"), ("x = " + "[" * 5000, "not TOML"),
     ('name = "r"\n[crm.dcnv2]\nstructure = "both"', "structure"),
     ('name = "r"\n[llm]\nsource = "checkpoint"', "llm.path"),
     ('name = "r"\n[llm]\nheads = 3', "heads"), ('name = "r"\n[llm]\nkv_heads = 3', "kv_heads"),
     ('name = "r"\n[llm]\nhidden = 36\nheads = 4\n', "even"), ('name = "r"\n[prompt]\nitem = "{name}"', "title"),
     ('name = "r"\n[crm.dcnv2]\nhidden = [8, 0]', "hidden"),
     ('name = "r"\n[export]\nthreshold = "ratio:2"', "threshold"),
     ('name = "r"\n[export]\nthreshold = "margin:0.6"', "threshold"),
     ('name = "r"\n[export]\nthreshold = "0.9"', "threshold"), ('name = "r"\n[crm]\nlearning_rate = 0', "_rate"),
     ('name = "r"\n[crm]\noov_rate = 1.5', "oov_rate"), ("name = 2020-01-01", "name"), ("[[name]]\nx=1", "name")],
)  # fmt: skip
def test_an_impossible_recipe_is_refused(tmp_path: Path, text: str, part: str) -> None:
    assert part in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("sections", "part"),
    [({"joint": {"pairs": [[1]]}}, "[1] is no [LLM block"), ({"joint": {"pairs": [[1, 4]]}}, "[1, 4]"),
     ({"joint": {"pairs": [[0, 1]]}}, "joint, pairs"), ({"joint": {"pairs": [[1, 2, 3]]}}, "joint, pairs"),
     ({"joint": {"exponent": 0}}, "exponent"), ({"joint": {"crm_learning_rate": 0.0}}, "crm_learning_rate"),
     ({"joint": {"align_weight": -0.1}}, "align_weight"), ({"joint": {"width": 0}}, "width"),
     ({"joint": {"accumulate": 0}}, "accumulate"), ({"continuation": {"batch_tokens": 0}}, "batch_tokens"),
     ({"joint": {"epochs": 1, "rows": 0}, "continuation": {"epochs": 1}}, "joint, rows"),
     ({"crm": {"epochs": 0}}, "the CRM is never trained"),
     ({"llm": {"epochs": 0, "text": {"files": ["a.txt"]}}}, "answers nothing after it"),
     ({"crm": {"dcnv2": {"pooling": "max"}}}, "pooling"), ({"crm": {"features": {"centre": "user"}}}, "centre"),
     ({"crm": {"kind": "fm"}}, "crm, kind: expected one of 'dcnv2', 'din', 'sequence', 'text-sequence', got 'fm'"),
     ({"crm": {"kind": "din"}, "joint": {"pairs": [[1, 2]]}}, "[1, 2] is no [LLM block, CRM layer]"),
     ({"llm": {"spell_rate": 1.5}}, "spell_rate"), ({"llm": {"text": {"block": 0}}}, "block"),
     ({"llm": {"text": {"files": [3]}}}, "files"), ({"llm": {"text": {"warmup": 2}}}, "warmup"),
     ({"llm": {"source": "checkpoint", "path": "x", "whole_items": True}}, "from scratch"),
     ({"llm": {"source": "checkpoint", "path": "x", "text": {"files": ["a.txt"]}}}, "from scratch")],
)  # fmt: skip
def test_a_bad_value_of_a_stage_is_one_clear_error(sections: dict[str, Any], part: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from({"name": "r", **sections}, "mine.toml")
    assert part in str(caught.value)
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_recipe_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"neither a file nor one of .*ml-1m-tiny"):
        load_recipe("ml-2m")
    with pytest.raises(RecipeError, match="neither"):
        load_recipe(str(tmp_path))
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    with pytest.raises(RecipeError, match="UTF-8"):
        load_recipe(str(tmp_path / "latin.toml"))


def test_a_recipe_over_another_differs_in_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "ml-1m-small"\nname = "mine"\n[joint]\nepochs = 0\n[llm.text]\nblock = 64\n')
    found, base = load_recipe(str(path)), load_recipe("ml-1m-small")
    assert found == replace(
        base,
        name="mine",
        joint=replace(base.joint, epochs=0),
        llm=replace(base.llm, text=replace(base.llm.text, block=64)),
    )


@pytest.mark.parametrize(
    ("text", "part"),
    [('base = "demo"', "the key 'name' is missing"), ('base = 3\nname = "r"', "base: 3 is none of"),
     ('base = "x"\nname = "r"', "base: 'x'"), ('base = "demo"\nname = "r"\njoint = 3', "joint: expected a table"),
     ('base = "demo"\nname = "r"\n[joint]\nepoch = 3', "unknown key 'epoch'"), ('base = ["demo"]', "base: ['demo']")],
)  # fmt: skip
def test_a_bad_base_is_one_clear_error(tmp_path: Path, text: str, part: str) -> None:
    message = refusal(tmp_path, text)
    assert part in message
    assert "mine.toml" in message


def test_in_the_papers_regime_stages_2_and_3_have_the_only_answers() -> None:
    found, small = load_recipe("ml-1m-stages"), load_recipe("ml-1m-small")
    assert [stage.name for stage in enabled(found)] == ["text", "crm", "joint", "continuation"]
    assert (found.crm, found.prompt) == (small.crm, small.prompt)
    assert all(20_000 <= stage.rows <= 30_000 for stage in (found.joint, found.continuation))
    assert found.joint.align_weight == small.joint.align_weight == 0.1


def test_whole_numbers_are_numbers() -> None:
    recipe = recipe_from({"name": "r", "crm": {"learning_rate": 1, "dcnv2": {"hidden": [4]}}}, "r")
    assert (recipe.crm.learning_rate, type(recipe.crm.learning_rate), recipe.crm.dcnv2.hidden) == (1.0, float, (4,))


BASE = 'base = "demo"\nname = "x"\n'


@pytest.mark.parametrize(
    ("base", "text", "left"),
    [
        ("demo", "[prompt]\nprofile = {}", set()),
        ("demo", "[prompt.profile]", set()),
        ("demo", '[prompt.profile]\ninterests = ""', set()),
        ("demo", '[prompt.profile]\nage = "age {}"', {"age", "interests"}),
        ("ml-1m-small", '[prompt.profile]\ngender = ""', {"age", "occupation"}),
        ("demo", "[prompt]", {"interests"}),
    ],
)
def test_an_attribute_of_the_base_can_be_left_out(base: str, text: str, left: set[str], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'base = "{base}"\nname = "x"\n{text}\n')
    found = load_recipe(str(path))
    assert set(found.prompt.profile) == left
    assert replace(found, name=base, prompt=load_recipe(base).prompt) == load_recipe(base)


@pytest.mark.parametrize(
    ("clear", "gone"),
    [(["prompt.profile"], ("prompt", "profile")), (["llm"], ("llm",)), (["crm.features"], ("crm", "features")),
     (["crm.oov_rate"], ("crm", "oov_rate"))],
)  # fmt: skip
def test_what_is_cleared_has_its_default(clear: list[str], gone: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'base = "ml-1m-small"\nname = "x"\nclear = {clear}\n[joint]\nepochs = 2\n')
    found, base = asdict(load_recipe(str(path))), asdict(load_recipe("ml-1m-small"))
    for place, default in LEAVES:
        left, inherited = found, base
        for key in place:
            left, inherited = left[key], inherited[key]
        if place not in (("name",), ("joint", "epochs")):
            assert left == (default if place[: len(gone)] == gone else inherited), place


def test_what_is_cleared_may_be_set_anew(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'{BASE}clear = ["prompt.profile", "llm"]\n[prompt.profile]\nage = "{{}}"\n[llm]\nepochs = 2\n')
    found = load_recipe(str(path))
    assert dict(found.prompt.profile) == {"age": "{}"}
    assert found.llm == replace(DEFAULT.llm, epochs=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [(BASE + 'clear = ["profile"]', " line 3, clear: 'profile' is nothing that the base sets; there it has "),
     (BASE + 'clear = ["prompt.profil"]', " line 3, clear: 'prompt.profil' is nothing that the base sets"),
     (BASE + 'clear = ["crm.epochs.x"]', " line 3, clear: 'crm.epochs.x' is nothing that the base sets"),
     (BASE + 'clear = "prompt"', " line 3, clear: expected a list of tables and keys"),
     (BASE + "clear = [3]", " line 3, clear: expected a list of tables and keys"),
     ('name = "x"\nclear = ["prompt"]', " line 2, clear: there is no base to clear anything of")],
)  # fmt: skip
def test_a_clearing_of_nothing_is_named(text: str, message: str, tmp_path: Path) -> None:
    assert refusal(tmp_path, text).startswith(f"recipe {tmp_path / 'mine.toml'}{message}")


def test_the_recipe_for_the_data_at_hand_can_be_a_base(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "generic"\nname = "mine"\nclear = ["prompt"]\n[crm]\nepochs = 3\n')
    found = load_recipe(
        str(path), lambda kind: {"name": "generic", "crm": {"epochs": 9}, "prompt": {"item": "{title}?"}}
    )
    assert found == replace(DEFAULT, name="mine", crm=replace(DEFAULT.crm, epochs=3))
    with pytest.raises(RecipeError, match="line 1, base: the recipe 'generic' is made for the data at hand"):
        load_recipe(str(path))


def test_an_empty_section_keeps_the_base_s(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"{BASE}llm = {{}}\n[crm]\n")
    assert replace(load_recipe(str(path)), name="demo") == load_recipe("demo")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_recipe_is_read_as_any_editor_saves_it(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(f"{BASE}[crm]\nepochs = 3\n".replace("\n", end).encode(encoding))
    assert load_recipe(str(path)).crm.epochs == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [(BASE + '[crm]\nlearning_rate = "1e-3"', " line 4, crm, learning_rate: expected a number, got '1e-3'; write it"),
     (BASE + '[crm]\nlearning_rate = "fast"', " line 4, crm, learning_rate: expected a number, got 'fast'"),
     (BASE + "[llm.text]\nepochs = true", " line 4, llm, text, epochs: expected a whole number, got True"),
     (BASE + "[llm]\ntext.epochs = -1", " line 4, llm, text, epochs: -1 is out of range"),
     (BASE + "[joint]\n\npairs = [\n [1, 9],\n]", " line 5, joint, pairs: [1, 9]"),
     (BASE + "[CRM]\nepochs = 2", " line 3, CRM: unknown key 'CRM'; did you mean 'crm'?"),
     (BASE + "[crm]\nepoch = 2", " line 4, crm, epoch: unknown key 'epoch'; did you mean 'epochs'?"),
     (BASE + "[crm]\nwindow = 9", " line 4, crm, window: unknown key 'window'; it belongs in [crm.features]"),
     (BASE + "[crm]\nhidden = [9]", " line 4, crm, hidden: unknown key 'hidden'; it belongs in [crm.dcnv2] or "),
     (BASE + '[llm]\npath = "a\\u0000"', " line 4, llm, path: holds a NUL character"),
     (BASE + "[crm.din]\nattention = 8", " line 3, crm, din: the CRM is of kind = 'dcnv2', which does not read this"),
     (BASE + '[crm]\nkind = "din"\n[crm.dcnv2]', " line 5, crm, dcnv2: the CRM is of kind = 'din', which does not"),
     (BASE + "[crm]\nepochs = 2\n[llm]\n[crm]", " line 6, column 5: not TOML (the table [crm] stands twice"),
     (BASE + "[crm]\nepochs = 2\nepochs = 3", " line 5, column 11: not TOML (the key stands twice"),
     ("name = \u201cx\u201d", " line 1, column 8: not TOML (Invalid value; \u201c is a typographic quotation mark"),
     (BASE + 'x = """', ": not TOML (Unterminated string at its end)")],
)  # fmt: skip
def test_what_is_wrong_in_a_recipe_is_named_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    found = refusal(tmp_path, text)
    assert found.startswith(f"recipe {tmp_path / 'mine.toml'}{message}")
    assert "\n" not in found


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([path for path, _ in LEAVES] + [("crm",), ("prompt",), ("llm", "lora")]), VALUES)
def test_any_value_is_a_recipe_or_a_recipe_error(path: tuple[str, ...], value: Any) -> None:
    try:
        found = recipe_from(table(path, value), "r")
    except RecipeError:
        return
    assert recipe_from(asdict(found), "r") == found
