"""Recipes: TOML files that name the models, sizes and schedules of a training run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from corella_edge.catalog import CODE
from corella_edge.errors import InputError, RecipeError, meant
from corella_edge.formats.text_files import TextFile, UnreadableError
from corella_edge.prompt import Template
from corella_edge.routing.forms import read_threshold
from corella_edge_export.crm.recipe import FAMILIES, CrmRecipe, nested, section_of
from corella_edge_export.llm import hub
from corella_edge_export.llm.recipe import LlmRecipe, StageRecipe
from corella_edge_export.recipe_keys import CHECKS_ITSELF, check_numbers, checked, from_zero, positive, read_section
from corella_edge_export.toml_text import Place, parse


@dataclass(frozen=True, slots=True)
class JointRecipe(StageRecipe):
    """Stage 2 (arXiv 2403.16378): both models and the projections on the same `rows` random rows.

    The loss is llm_weight * L_llm + crm_weight * L_crm + align_weight * L_align, where L_align sums over `pairs`
    (LLM block, CRM layer), counted from 1, the `exponent`-th power of the L2 distance between both hidden
    states, projected to `width` numbers, divided by `width`. No pairs = every CRM layer with one of the last
    blocks. The paper gives the weights; pairs, exponent and width it leaves open. The projections start at random
    and must follow the models, not pull them along: they have a learning rate of their own.
    """

    crm_learning_rate: float = positive(2e-4)
    align_learning_rate: float = positive(1e-3)
    llm_weight: float = from_zero(1.0)
    crm_weight: float = from_zero(1.0)
    align_weight: float = from_zero(0.1)
    pairs: tuple[tuple[int, ...], ...] = ()
    exponent: float = positive(2.0)
    width: int = 128


@dataclass(frozen=True, slots=True)
class ContinuationRecipe(StageRecipe):
    """Stage 3: the LLM alone on `rows` other random rows."""


@dataclass(frozen=True, slots=True)
class ExportRecipe:
    """Row counts of what a bundle carries along, the default policy, and how both scores of a routed row become one."""

    calibration_rows: int = 10_000
    sample_rows: int = 2_000
    reference_rows: int = 64
    threshold: str = "ratio:0.05"
    fusion: Literal["replace", "blend", "stack", "best"] = "replace"
    measure: Literal["entropy", "centred"] = "entropy"
    crm_int8: bool = False
    text_int8: bool = False
    neighbours: int = from_zero(20, 100)  # of an item, in popular.jsonl; 0 = the bundle goes without that file


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a training run besides its data.

    Where neither `llm` nor `joint` nor `continuation` has epochs, the base model is all that is trained.
    """

    name: str
    seed: int = from_zero(1)
    crm: CrmRecipe = field(default_factory=CrmRecipe)
    llm: LlmRecipe = field(default_factory=LlmRecipe)
    joint: JointRecipe = field(default_factory=JointRecipe)
    continuation: ContinuationRecipe = field(default_factory=ContinuationRecipe)
    prompt: Template = field(default_factory=Template, metadata=CHECKS_ITSELF)
    export: ExportRecipe = field(default_factory=ExportRecipe)

    @property
    def trains_llm(self) -> bool:
        """Whether some stage trains the LLM."""
        return any(part.epochs > 0 for part in (self.llm, self.joint, self.continuation))

    @property
    def computes_llm(self) -> bool:
        """Whether training runs an LLM backwards at all: for itself, or one from scratch for the items' vectors."""
        return self.trains_llm or (self.crm.text.source == "said" and self.llm.source == "scratch")


GENERIC = "generic"  # the recipe that is made for the data at hand
Make = Callable[[str], Mapping[str, Any]]  # of the family that a file over it names, "" where none does


def shipped() -> list[str]:
    """Names of the recipes that come with the package as files."""
    folder = resources.files("corella_edge_export") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def names() -> list[str]:
    """Names that a recipe may be asked for by."""
    return sorted([*shipped(), GENERIC])


def load_recipe(name_or_path: str, generic: Make | None = None) -> Recipe:
    """A recipe by name, or a TOML file (- is standard input); `base` names one that it changes.

    Args:
        generic: makes the table of the recipe `generic` for the data at hand; None where there are no data. It is
            told the family that a file over it names, so that `kind` alone needs to be written.

    Raises:
        RecipeError: no such recipe, not TOML, an unknown key, a value of the wrong type, or `generic` without data.
    """
    if name_or_path == GENERIC:
        return _recipe(_made(generic, "", Place(f"recipe {GENERIC}")), Place(f"recipe {GENERIC}"))
    text = _text(name_or_path)
    return _recipe(_table(text, name_or_path, generic), Place(f"recipe {name_or_path}", text))


def _made(generic: Make | None, kind: str, where: Place) -> dict[str, Any]:
    if generic is None:
        raise RecipeError(f"{where}: the recipe {GENERIC!r} is made for the data at hand; name them with --data DIR")
    return dict(generic(kind))


def _kind(table: Mapping[str, Any]) -> str:
    """The family that a recipe names, where it names one that there is."""
    crm = table.get("crm")
    kind = crm.get("kind") if isinstance(crm, Mapping) else None
    return kind if isinstance(kind, str) and kind in FAMILIES else ""


def _table(text: str, name: str, generic: Make | None = None) -> dict[str, Any]:
    """A recipe's decoded table, over that of its base without what it clears."""
    table, where = parse(text, f"recipe {name}", RecipeError), Place(f"recipe {name}", text)
    base, clear = table.pop("base", None), table.pop("clear", None)
    if base is None:
        if clear is not None:
            raise RecipeError(f"{where.at('clear')}: there is no base to clear anything of")
        return table
    if base not in names():
        raise RecipeError(f"{where.at('base')}: {base!r} is none of {', '.join(names())}")
    below = _made(generic, _kind(table), where.at("base")) if base == GENERIC else _table(_text(base), base)
    kept = {key: value for key, value in below.items() if key != "name"}
    return _over(_cleared(kept, clear, where.at("clear")) if clear is not None else kept, table)


def _cleared(base: Mapping[str, Any], clear: Any, where: Place) -> dict[str, Any]:
    """The base's table without the named tables and keys, which then have their defaults."""
    checked(clear, isinstance(clear, list) and all(isinstance(name, str) for name in clear), where,
            'a list of tables and keys, such as ["prompt.profile"]')  # fmt: skip
    found = dict(base)
    for name in clear:
        found = _without(found, name.split("."), f"{where}: {name!r}")
    return found


def _without(table: Mapping[str, Any], keys: Sequence[str], what: str) -> dict[str, Any]:
    first, *rest = keys
    if first not in table or (rest and not isinstance(table[first], Mapping)):
        raise RecipeError(f"{what} is nothing that the base sets; there it has {', '.join(table) or 'nothing'}")
    others = {key: value for key, value in table.items() if key != first}
    return {**others, first: _without(table[first], rest, what)} if rest else others


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A table's own values over another's, key by key in every table."""
    both = {key for key in own if isinstance(own[key], Mapping) and isinstance(base.get(key), Mapping)}
    return {**base, **own, **{key: (_profile if key == "profile" else _over)(base[key], own[key]) for key in both}}


def _profile(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Its keys are the attributes of the data: an empty table leaves out all of the base's, an empty text one."""
    return {name: text for name, text in {**base, **own}.items() if text != ""} if own else {}


def recipe_from(table: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from its decoded table; `where` names it in errors."""
    return _recipe(table, Place(f"recipe {where}"))


def _recipe(table: Mapping[str, Any], where: Place) -> Recipe:
    recipe: Recipe = read_section(Recipe, table, where)
    check_numbers(recipe, where)
    _check_threshold(recipe.export.threshold, where.at("export", "threshold"))
    _check_crm(recipe.crm, where.at("crm"))
    _check_llm(recipe.llm, where)
    _check_stages(recipe, where)
    return recipe


def recipe_of_run(table: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that a run was begun with, also by a release whose [crm] had no sections."""
    return recipe_from({**table, "crm": nested(table.get("crm", {}))}, where)


def recipe_of(run: Path) -> Recipe:
    """The recipe that a run's own file, run.json, holds. Raises InputError if the file is damaged."""
    try:
        table = json.loads(run.read_bytes())["recipe"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{run}: cannot be read as a run's own file: {error!r}") from None
    return recipe_of_run(table, str(run))


def table_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe as JSON, for a run's own file; without the sections of families that it does not train."""
    table = {**asdict(recipe), "crm": recipe.crm.table()}
    found: dict[str, Any] = json.loads(json.dumps(table, default=dict))
    return found


def at_checkpoint(recipe: Recipe, folder: Path | None) -> Recipe:
    """The recipe with its checkpoint in another folder. Raises InputError for a recipe that trains from scratch."""
    if folder is None:
        return recipe
    if recipe.llm.source != "checkpoint":
        raise InputError(f"--checkpoint: the recipe {recipe.name} trains a model from scratch")
    return replace(recipe, llm=replace(recipe.llm, path=str(folder.resolve())))


def fetched(recipe: Recipe, at_hand: Callable[[str, str], str]) -> Recipe:
    """The recipe with its models on this machine. `at_hand`: a path and its key → the path here."""
    llm, crm = recipe.llm, recipe.crm
    text = replace(crm.text, path=at_hand(crm.text.path, f"recipe {recipe.name}, crm, text, path"))
    llm = replace(llm, path=at_hand(llm.path, f"recipe {recipe.name}, llm, path"))
    return replace(recipe, llm=llm, crm=replace(crm, text=text))


def _check_path(path: str, where: Place, file: bool = True) -> None:
    """Raises RecipeError for a malformed id of the hub; `file`: whether it may be of a GGUF file."""
    try:
        found = hub.parse(path) if hub.is_id(path) else None
    except InputError as error:
        raise RecipeError(f"{where}: {error}") from None
    if found and found.file and not file:
        raise RecipeError(f"{where}: {path}: a sentence encoder is no GGUF file; leave {found.file} out of the id")


def _check_crm(crm: CrmRecipe, where: Place) -> None:
    known = ", ".join(map(repr, FAMILIES))
    checked(crm.kind, crm.kind in FAMILIES, where.at("kind"), f"one of {known}", meant(crm.kind, FAMILIES))
    for other in FAMILIES:
        if other != crm.kind and where.at(section_of(other)).stands:
            raise RecipeError(
                f"{where.at(section_of(other))}: the CRM is of kind = {crm.kind!r}, which does not read this section; "
                f"remove it, or set kind = {other!r} in [crm]"
            )
    for problem in crm.features.problems():
        raise RecipeError(f"{where.at('features')}: {problem}")
    for problem in crm.text.problems():
        raise RecipeError(f"{where.at('text')}: {problem}")
    _check_path(crm.text.path, where.at("text", "path"), file=crm.text.source == "llm")
    if crm.text.tuned and crm.members > 1:
        raise RecipeError(f"{where.at('text', 'tuned')}: a bundle has one table of vectors, so members must be 1")
    if crm.text.map_start == "cosine" and not crm.family.multiplies:
        place = where.at("text", "map_start")
        raise RecipeError(
            f"{place}: 'cosine' is for scores that are products; set head = 'dot', or map_start = 'random'"
        )
    for key, problem in _text_problems(crm):
        raise RecipeError(f"{where.at(*key.split('.'))}: {problem}")
    for problem in crm.family.problems():
        raise RecipeError(f"{where.at(section_of(crm.kind))}: {problem}")


def _text_problems(crm: CrmRecipe) -> Iterator[tuple[str, str]]:
    """What a family that knows items by their words alone needs, and what would bring ids back: (key, why)."""
    if crm.knows_ids:
        return
    features, tunes = crm.features, crm.text_sequence.trains
    if not crm.text.source:
        yield "text.source", f"kind = {crm.kind!r} knows items by their words alone; set it to 'encoder' or 'llm'"
    if crm.text.source == "said" or crm.text.tuned:
        yield "text", f"a vector learned of each item is an id in other clothes; kind = {crm.kind!r} takes none"
    for name in ("item_quality", "item_vectors", "user_level", "unknown", "event_attributes"):
        if getattr(features, name):
            yield f"features.{name}", f"is of ids or attributes, which kind = {crm.kind!r} does not read; leave it out"
    if tunes and (crm.text.source != "encoder" or crm.text.width):
        yield "text", "encoder_epochs above 0 tunes an encoder with its own width; set source = 'encoder', width = 0"


def _check_llm(llm: LlmRecipe, where: Place) -> None:
    if llm.hidden % llm.heads or llm.heads % llm.kv_heads:
        raise RecipeError(f"{where}: llm.hidden must divide by heads, and heads by kv_heads")
    if llm.hidden // llm.heads % 2:
        raise RecipeError(f"{where}: llm.hidden / heads must be even, positions turn pairs of numbers")
    if llm.codes.bits % 8:
        raise RecipeError(
            f"{where.at('llm', 'codes', 'bits')}: a code is numbers of 8 bits, so 8, 16, 24 …, or 0 for none"
        )
    if llm.codes.bits and llm.whole_items:
        raise RecipeError(
            f"{where}: llm.codes and llm.whole_items exclude each other: a token of its own knows the item"
        )
    if llm.source == "scratch":
        return
    if not llm.path:
        raise RecipeError(f"{where}: llm.source is 'checkpoint', so llm.path must name its directory")
    _check_path(llm.path, where.at("llm", "path"))
    if llm.whole_items or llm.text.files:
        raise RecipeError(f"{where}: llm.whole_items and llm.text are for a model from scratch")


def _check_stages(recipe: Recipe, where: Place) -> None:
    """Every model is trained somewhere, and the pairs name layers that there are."""
    if not recipe.crm.epochs and not recipe.joint.epochs:
        raise RecipeError(f"{where}: the CRM is never trained; crm.epochs or joint.epochs must be above 0")
    if recipe.llm.codes.bits and CODE not in recipe.prompt.item_fields:
        raise RecipeError(f"{where.at('prompt', 'item')}: must have {{{CODE}}} somewhere, as llm.codes.bits is above 0")
    if recipe.llm.codes.bits and recipe.trains_llm and not recipe.crm.epochs:
        raise RecipeError(
            f"{where}: llm.codes are read off the base model after stage 1, so crm.epochs must be above 0"
        )
    numbers = recipe.crm.family.embedding_dim * recipe.crm.members
    if recipe.llm.codes.bits > numbers:
        place = where.at("llm", "codes", "bits")
        raise RecipeError(f"{place}: the base model's vector of an item has {numbers} numbers, so at most as many bits")
    if recipe.llm.text.trains and not recipe.trains_llm:
        raise RecipeError(f"{where}: the LLM reads plain text and answers nothing after it; llm, joint or continuation "
                          "needs epochs above 0, or llm.text no files")  # fmt: skip
    if recipe.joint.epochs and recipe.continuation.epochs and not recipe.joint.rows:
        raise RecipeError(f"{where.at('joint', 'rows')}: 0 takes all rows, and the continuation wants others")
    for pair in recipe.joint.pairs:
        if len(pair) != 2 or min(pair) < 1 or pair[1] > recipe.crm.family.layers:
            place = where.at("joint", "pairs")
            layers = recipe.crm.family.layers
            raise RecipeError(
                f"{place}: {list(pair)} is no [LLM block, CRM layer], counted from 1; this {recipe.crm.model} has "
                f"{layers} layer{'' if layers == 1 else 's'} to align"
            )


def _check_threshold(text: str, where: Place) -> None:
    try:
        read_threshold(text)
    except InputError as error:
        raise RecipeError(f"{where}: {error}") from None


def _text(name_or_path: str) -> str:
    if name_or_path in shipped():
        return (resources.files("corella_edge_export") / "recipes" / f"{name_or_path}.toml").read_text("utf-8")
    path = Path(name_or_path)
    if name_or_path != "-" and (path.is_dir() or not path.exists()):
        raise RecipeError(f"recipe {name_or_path}: neither a file nor one of {', '.join(names())}"
                          + meant(name_or_path, names()))  # fmt: skip
    try:
        return TextFile(None if name_or_path == "-" else path).read()
    except UnreadableError as error:
        raise RecipeError(f"recipe {error}") from None
