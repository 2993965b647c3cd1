"""Recipes: TOML files that name the models, sizes and schedules of a training run."""

from __future__ import annotations

import difflib
import math
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from corella_edge.errors import InputError, RecipeError
from corella_edge.formats.text_files import TextFile, UnreadableError
from corella_edge.prompt import Template
from corella_edge.routing.policy import read_threshold
from corella_edge_export.recipe_text import Place, parse

_TYPES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
_PLAIN = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false")
_SHARES = ("dropout", "oov_rate", "warmup", "spell_rate")
_POSITIVE = ("embedding_std", "learning_rate", "crm_learning_rate", "align_learning_rate", "exponent")
_MAY_BE_ZERO = (
    "cross_layers", "cross_rank", "item_vectors", "rows", "valid_rows", "weight_decay", "epochs", "seed", "text_weight",
    "llm_weight", "crm_weight", "align_weight", "pairs", "blocks",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CrmRecipe:
    """DCNv2 (arXiv 2008.13535) and stage 1, its warm-up on all training rows; `epochs` 0 switches the stage off.

    `cross_rank` 0 means full-rank cross layers. `oov_rate` is the share of user and item ids replaced by OOV in
    training, so that unseen ids have a trained row. `history` events are pooled, evenly or by `attention` of the
    candidate; derived statistics look back on `window` events, whose ratings count from the `centre`: the mean of
    all training ratings, or of the event's item. `item_quality` adds how liked the candidate and the history's items
    are in training rows, where `item_text` names attributes whose words speak for items of few rows; `item_vectors`
    (their width) adds how far the same users like both, `user_level` how much more than others a known user likes,
    `user_leaning` whether that is so of good and of old films, and `history_pace` how quickly event follows event.
    Embeddings begin at random with the deviation `embedding_std`. The CRM is the mean of `members` DCNv2.
    A metric is looked at after every `epoch / evaluations` rows.
    """

    embedding_dim: int = 32
    embedding_std: float = 0.05
    cross_layers: int = 3
    cross_rank: int = 0
    structure: Literal["parallel", "stacked"] = "parallel"
    hidden: tuple[int, ...] = (200, 80)
    dropout: float = 0.1
    history: int = 30
    pooling: Literal["mean", "attention"] = "mean"
    window: int = 256
    centre: Literal["all", "item"] = "all"
    item_quality: bool = False
    item_text: tuple[str, ...] = ()
    item_vectors: int = 0
    user_level: bool = False
    user_leaning: bool = False
    history_pace: bool = False
    members: int = 1
    oov_rate: float = 0.1
    batch_size: int = 1024
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    epochs: int = 5
    evaluations: int = 2
    patience: int = 3


@dataclass(frozen=True, slots=True)
class LoraRecipe:
    """Low-rank adapters (peft) on a checkpoint; ReLLa's settings by default."""

    r: int = 8
    alpha: int = 16
    dropout: float = 0.05
    targets: tuple[str, ...] = ("q_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class TextRecipe:
    """Language modelling on plain text before a scratch model sees any interaction.

    `files` are .txt, .jsonl or .parquet with a column `text` (or `abstract`). Batches hold blocks of `block` tokens;
    `blocks` of them are drawn at random, 0 = all.
    """

    files: tuple[str, ...] = ()
    blocks: int = 0
    epochs: int = 1
    block: int = 256
    batch_tokens: int = 8192
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.02
    evaluations: int = 4
    patience: int = 4


@dataclass(frozen=True, slots=True)
class StageRecipe:
    """What every stage of the LLM has: `epochs` over `rows` rows, in batches of about `batch_tokens` tokens."""

    epochs: int = 0
    rows: int = 25_000
    batch_tokens: int = 8192
    accumulate: int = 1
    learning_rate: float = 5e-4
    weight_decay: float = 0.01
    warmup: float = 0.05
    evaluations: int = 2
    patience: int = 4


@dataclass(frozen=True, slots=True)
class LlmRecipe(StageRecipe):
    """The Yes/No model, `scratch` (sizes below) or `checkpoint` (a local Hugging Face directory, LoRA), and its
    own training on answered questions; `epochs` 0 leaves that to the joint stage, as the paper does.

    `whole_items` gives every item of the training rows a token of its own for its question; `spell_rate` of the
    questions are spelled out in training all the same, so that the words of new items are trained. `text_weight`
    adds the next-token loss over the whole sequence. `rows` limits the training rows (0 = all); whole users are
    drawn. A batch holds about `batch_tokens` tokens, worked off in `accumulate` pieces. `seed` is the model's
    own: like a downloaded checkpoint, it is the same for every seed of the recipe. `gradient_checkpointing`
    computes every block twice and keeps its input only.
    """

    source: Literal["scratch", "checkpoint"] = "scratch"
    path: str = ""
    vocab_size: int = 4096
    whole_items: bool = False
    spell_rate: float = 0.1
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 768
    context: int = 1024
    seed: int = 1
    rows: int = 0
    epochs: int = 1
    learning_rate: float = 2e-3
    text_weight: float = 0.0
    valid_rows: int = 4000
    evaluations: int = 4
    precision: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False
    text: TextRecipe = field(default_factory=TextRecipe)
    lora: LoraRecipe = field(default_factory=LoraRecipe)


@dataclass(frozen=True, slots=True)
class JointRecipe(StageRecipe):
    """Stage 2 (arXiv 2403.16378): both models and the projections on the same `rows` random rows.

    The loss is llm_weight * L_llm + crm_weight * L_crm + align_weight * L_align, where L_align sums over `pairs`
    (LLM block, cross layer), counted from 1, the `exponent`-th power of the L2 distance between both hidden
    states, projected to `width` numbers, divided by `width`. No pairs = every cross layer with one of the last
    blocks. The paper gives the weights; pairs, exponent and width it leaves open. The projections start at random
    and must follow the models, not pull them along: they have a learning rate of their own.
    """

    crm_learning_rate: float = 2e-4
    align_learning_rate: float = 1e-3
    llm_weight: float = 1.0
    crm_weight: float = 1.0
    align_weight: float = 0.1
    pairs: tuple[tuple[int, ...], ...] = ()
    exponent: float = 2.0
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
    fusion: Literal["replace", "blend", "stack"] = "replace"
    crm_int8: bool = False


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides a training run besides its data."""

    name: str
    seed: int = 1
    crm: CrmRecipe = field(default_factory=CrmRecipe)
    llm: LlmRecipe = field(default_factory=LlmRecipe)
    joint: JointRecipe = field(default_factory=JointRecipe)
    continuation: ContinuationRecipe = field(default_factory=ContinuationRecipe)
    prompt: Template = field(default_factory=Template)
    export: ExportRecipe = field(default_factory=ExportRecipe)


def shipped() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("corella_edge_export") / "recipes"
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_recipe(name_or_path: str) -> Recipe:
    """A shipped recipe by name, or a TOML file (- is standard input); `base` names a shipped one that it changes.

    Raises:
        RecipeError: no such recipe, not TOML, an unknown key, or a value of the wrong type.
    """
    text = _text(name_or_path)
    return _recipe(_table(text, name_or_path), Place(name_or_path, text))


def _table(text: str, name: str) -> dict[str, Any]:
    """A recipe's decoded table, over that of its base."""
    table = parse(text, name)
    base = table.pop("base", None)
    if base is None:
        return table
    if base not in shipped():
        raise RecipeError(f"{Place(name, text, ('base',))}: {base!r} is none of {', '.join(shipped())}")
    return _over({key: value for key, value in _table(_text(base), base).items() if key != "name"}, table)


def _over(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A table's own values over another's, key by key in every table."""
    both = {key for key in own if isinstance(own[key], Mapping) and isinstance(base.get(key), Mapping)}
    return {**base, **own, **{key: _over(base[key], own[key]) for key in both}}


def recipe_from(table: Mapping[str, Any], where: str) -> Recipe:
    """A recipe from its decoded table; `where` names it in errors."""
    return _recipe(table, Place(where))


def _recipe(table: Mapping[str, Any], where: Place) -> Recipe:
    recipe: Recipe = _section(Recipe, table, where)
    for keys, section in _sections(recipe):
        _check_numbers(section, where.at(*keys))
    if recipe.seed < 0:
        raise RecipeError(f"{where.at('seed')}: {recipe.seed} is below 0")
    _check_threshold(recipe.export.threshold, where.at("export", "threshold"))
    _check_crm(recipe.crm, where.at("crm"))
    _check_llm(recipe.llm, where)
    _check_stages(recipe, where)
    return recipe


def at_checkpoint(recipe: Recipe, folder: Path | None) -> Recipe:
    """The recipe with its checkpoint in another folder. Raises InputError for a recipe that trains from scratch."""
    if folder is None:
        return recipe
    if recipe.llm.source != "checkpoint":
        raise InputError(f"--checkpoint: the recipe {recipe.name} trains a model from scratch")
    return replace(recipe, llm=replace(recipe.llm, path=str(folder.resolve())))


def _sections(recipe: Recipe) -> tuple[tuple[tuple[str, ...], Any], ...]:
    return (
        (("crm",), recipe.crm), (("llm",), recipe.llm), (("llm", "text"), recipe.llm.text),
        (("llm", "lora"), recipe.llm.lora), (("joint",), recipe.joint), (("continuation",), recipe.continuation),
        (("export",), recipe.export),
    )  # fmt: skip


def _check_crm(crm: CrmRecipe, where: Place) -> None:
    for name in ("item_text", "user_level"):
        if getattr(crm, name) and not crm.item_quality:
            raise RecipeError(f"{where}: {name} rests on the items' quality; set item_quality = true")
    if crm.user_leaning and not crm.user_level:
        raise RecipeError(f"{where}: user_leaning goes with the users' levels; set user_level = true")


def _check_llm(llm: LlmRecipe, where: Place) -> None:
    if llm.hidden % llm.heads or llm.heads % llm.kv_heads:
        raise RecipeError(f"{where}: llm.hidden must divide by heads, and heads by kv_heads")
    if llm.hidden // llm.heads % 2:
        raise RecipeError(f"{where}: llm.hidden / heads must be even, positions turn pairs of numbers")
    if llm.source == "scratch":
        return
    if not llm.path:
        raise RecipeError(f"{where}: llm.source is 'checkpoint', so llm.path must name its directory")
    if llm.whole_items or llm.text.files:
        raise RecipeError(f"{where}: llm.whole_items and llm.text are for a model from scratch")


def _check_stages(recipe: Recipe, where: Place) -> None:
    """Every model is trained somewhere, and the pairs name layers that there are."""
    if not recipe.crm.epochs and not recipe.joint.epochs:
        raise RecipeError(f"{where}: the CRM is never trained; crm.epochs or joint.epochs must be above 0")
    if not recipe.llm.epochs and not recipe.joint.epochs and not recipe.continuation.epochs:
        raise RecipeError(f"{where}: the LLM is never trained; llm, joint or continuation needs epochs above 0")
    if recipe.joint.epochs and recipe.continuation.epochs and not recipe.joint.rows:
        raise RecipeError(f"{where.at('joint', 'rows')}: 0 takes all rows, and the continuation wants others")
    for pair in recipe.joint.pairs:
        if len(pair) != 2 or min(pair) < 1 or pair[1] > recipe.crm.cross_layers:
            place = where.at("joint", "pairs")
            raise RecipeError(f"{place}: {list(pair)} is no [LLM block, cross layer], counted from 1")


def _check_numbers(section: Any, where: Place) -> None:
    """Counts are at least 1, some may be 0, shares lie in [0, 1]."""
    for item in fields(section):
        value = getattr(section, item.name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            low, high = (0, 1) if item.name in _SHARES else (0 if item.name in _MAY_BE_ZERO else 1, math.inf)
            right = 0 < number < math.inf if item.name in _POSITIVE else low <= number <= high
            if not right or math.isinf(number):
                raise RecipeError(f"{where.at(item.name)}: {number} is out of range")


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
        raise RecipeError(f"recipe {name_or_path}: neither a file nor one of {', '.join(shipped())}")
    try:
        return TextFile(None if name_or_path == "-" else path).read()
    except UnreadableError as error:
        raise RecipeError(f"recipe {error}") from None


def _section(cls: Any, table: Any, where: Place) -> Any:
    """A dataclass from a TOML table: unknown keys, wrong types and missing keys are named."""
    if not isinstance(table, Mapping):
        raise RecipeError(f"{where}: expected a table")
    hints = get_type_hints(cls)
    known = {item.name for item in fields(cls)}
    for key in table:
        if key not in known:
            raise RecipeError(f"{where.at(key)}: unknown key {key!r}; {_meant(key, sorted(known))}")
    values = {key: _value(hints[key], value, where.at(key)) for key, value in table.items()}
    for item in fields(cls):
        if item.name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise RecipeError(f"{where}: the key {item.name!r} is missing")
    return cls(**values)


def _meant(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key.lower(), known, 1)
    return f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"


def _value(hint: Any, value: Any, where: Place) -> Any:
    origin = get_origin(hint)
    if is_dataclass(hint):
        return _section(hint, value, where)
    if origin is Literal:
        return _checked(value, value in get_args(hint), where, f"one of {', '.join(map(repr, get_args(hint)))}")
    if origin is tuple:
        _checked(value, isinstance(value, (list, tuple)), where, "a list")
        return tuple(_value(get_args(hint)[0], entry, where) for entry in value)
    if origin in (Mapping, Union, types.UnionType) or hint is Mapping or origin is not None:
        return _checked(value, isinstance(value, Mapping), where, "a table")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    if hint is str and right and "\0" in value:
        raise RecipeError(f"{where}: holds a NUL character")
    quoted = isinstance(value, str) and _PLAIN.fullmatch(value)
    return _checked(value, right, where, _TYPES[hint], "; write it without quotes" if quoted else "")


def _checked(value: Any, right: bool, where: Place, expected: str, remedy: str = "") -> Any:
    if not right:
        raise RecipeError(f"{where}: expected {expected}, got {value!r}{remedy}")
    return value
