"""Train rows → Schema: vocabularies, lengths and constants, from the training rows alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.catalog import Catalog
from corella_edge.errors import InputError, meant
from corella_edge.features.derived import is_number
from corella_edge.features.schema import REFUSE, Field, Schema, Vocabulary, value_key
from corella_edge_export.crm.fitted import items as item_fit
from corella_edge_export.crm.recipe import FeaturesRecipe, buckets_of
from corella_edge_export.data.prepared import PreparedData

MULTI_MAX = 16
MEAN_STRENGTH = 5.0
MEAN_RATING = "mean_rating"  # an attribute that the catalogue gets of rated data
PLAIN = FeaturesRecipe()


def catalog_of(
    data: PreparedData, features: FeaturesRecipe = PLAIN, without: npt.NDArray[np.bool_] | None = None
) -> Catalog:
    """Every item of the data, in the order of its local indices (so a local index is a catalogue row).

    Where the recipe asks for them, `quality` and `likeness` are an item's numbers of `item_fit`, of all users or
    of those outside the mask `without`. An attribute of that name is an InputError, and so is a text of the recipe
    that the data lack.

    Where there are ratings, `mean_rating` is the mean of the item's training ratings, `MEAN_STRENGTH` ratings of
    the general mean counted in, so that a single one does not decide; it is None where there is none.
    """
    check_features(data, features)
    columns = {name: data.items[name] for name in ("title", *data.item_attributes) if name in data.items}
    if MEAN_RATING not in columns and rated(data):
        columns[MEAN_RATING] = _mean_ratings(data)
    users = np.ones(len(data.user_ids), dtype=np.bool_) if without is None else ~without
    fitted: dict[str, list[Any]] = {}
    if features.item_quality:
        fitted["quality"] = item_fit.quality(data, users, features).round(4).tolist()
    if features.item_vectors:
        fitted["likeness"] = item_fit.vectors(data, users, features.item_vectors).round(4).tolist()
    if taken := sorted(fitted.keys() & columns.keys()):
        raise InputError(
            f"{data.root}: an item attribute is named {taken[0]!r}, as a number fitted for the CRM; rename it"
        )
    columns |= fitted
    records = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Catalog(data.item_ids, records)


def check_features(data: PreparedData, features: FeaturesRecipe, where: str = "recipe") -> None:
    """Raises InputError, which begins with `where`, for attributes of items that the recipe reads and the data lack."""
    kinds = {"title": "text", **data.item_attributes}
    usable = [name for name, kind in kinds.items() if kind != "numeric"]
    for name in features.item_text:
        if name not in usable:
            raise InputError(
                f"{where}, crm, features, item_text: {data.root} has no text {name!r} of an item, only "
                f"{', '.join(usable)}; prepare the data with it, or leave it out of the recipe"
            )

    kinds_read = {
        kind for name, kind in data.item_attributes.items() if kind == "multi" or name not in features.item_text
    }
    if features.event_attributes and not kinds_read & {"categorical", "multi"}:
        raise InputError(
            f"{where}, crm, features, event_attributes: {data.root} has no categorical or multi-valued attribute of an "
            "item that the model reads; set event_attributes = false"
        )

    number = features.item_number.attribute
    if number and number not in data.item_attributes:
        known = ", ".join(data.item_attributes)
        raise InputError(
            f"{where}, crm, features, item_number: {data.root} has no attribute {number!r} of an item, "
            f"{f'only {known}' if known else 'the data have no item attributes'}; "
            'set `attribute = ""` under [crm.features.item_number]'
        )


def rated(data: PreparedData) -> bool:
    """Whether a training row has a rating."""
    return not bool(np.isnan(data.split("train").ratings).all())


def _mean_ratings(data: PreparedData) -> list[float | None]:
    split = data.split("train")
    known = ~np.isnan(split.ratings)
    items, ratings = split.items[known], split.ratings[known].astype(np.float64)
    general = float(ratings.mean()) if len(ratings) else 0.0
    count = np.bincount(items, minlength=len(data.item_ids))
    total = np.bincount(items, weights=ratings, minlength=len(data.item_ids))
    means = (total + MEAN_STRENGTH * general) / (count + MEAN_STRENGTH)
    return [round(m, 4) if n else None for m, n in zip(means.tolist(), count.tolist(), strict=True)]


def fit_schema(data: PreparedData, features: FeaturesRecipe) -> Schema:
    """Fields for every attribute of the data; only values that occur in training rows get an index.

    A categorical attribute of the recipe's `item_text` is a text, not a category, and has no field.
    """
    split = data.split("train")
    users, items = np.unique(split.users), np.unique(split.items)
    fields = [_id_field("user"), _id_field("item")]
    vocabularies = {
        "user_id": Vocabulary("user_id", [data.user_ids[u] for u in users]),
        "item_id": Vocabulary("item_id", [data.item_ids[i] for i in items]),
        "rating": Vocabulary("rating", _rating_values(split.ratings)),
    }
    for side, kinds, table, rows in (
        ("user", data.user_attributes, data.users, users),
        ("item", data.item_attributes, data.items, items),
    ):
        for name, kind in kinds.items():
            is_text = kind == "text" and not features.text_buckets
            if is_text or (side == "item" and kind in ("categorical", "text") and name in features.item_text):
                continue
            column = [table[name][row] for row in rows]
            made, vocab = _attribute(name, kind, side, column, features)
            fields.append(made)
            if vocab is not None:
                vocabularies[vocab.name] = vocab
    _check_policies(data, fields, features)
    fields = [_with_policy(f, vocabularies, features.unknown.get(f.name)) for f in fields]
    return Schema((*fields, *_history_fields(data, features, split.ratings, vocabularies)), vocabularies)


def events_schema(data: PreparedData, features: FeaturesRecipe) -> Schema:
    """A schema that knows no id and no attribute: that there were events, and their ratings where there are any.

    For a family that knows items by their words. The vocabulary of items is empty, so that each event is one of an
    unknown item.
    """
    ratings = data.split("train").ratings
    vocabularies = {"item_id": Vocabulary("item_id", []), "rating": Vocabulary("rating", _rating_values(ratings))}
    fields = [f for f in _history_fields(data, features, ratings, vocabularies) if f.kind == "sequence"]
    read = {f.vocab for f in fields}
    return Schema(tuple(fields), {name: vocab for name, vocab in vocabularies.items() if name in read})


def apart(schema: Schema) -> Schema:
    """The schema for a family that multiplies a user with an item: without what is derived of both at once."""
    kept = tuple(f for f in schema.fields if f.side == "user" or f.kind != "derived")
    return replace(schema, fields=kept)


def _check_policies(data: PreparedData, fields: list[Field], features: FeaturesRecipe) -> None:
    """Raises InputError for a policy of a field that there is not, or that has no values to know."""
    usable = [f.name for f in fields if f.kind not in ("numeric", "text")]
    for name in features.unknown:
        if name not in usable:
            raise InputError(
                f"recipe, crm, features, unknown: {data.root} has no field {name!r} with known values, only "
                f"{', '.join(usable)}{meant(name, usable)}"
            )


def _with_policy(item: Field, vocabularies: dict[str, Vocabulary], policy: str | None) -> Field:
    """The field with its policy for unknown values; its vocabulary gets the buckets."""
    if policy is None:
        return item
    if buckets := buckets_of(policy):
        vocabularies[item.vocab] = Vocabulary(item.vocab, vocabularies[item.vocab].values, buckets)
    return replace(item, args={**item.args, "unknown": REFUSE}) if policy == REFUSE else item


def _id_field(side: Any) -> Field:
    return Field(f"{side}_id", "categorical", side, "id", vocab=f"{side}_id")


def _attribute(
    name: str, kind: str, side: Any, column: list[Any], features: FeaturesRecipe
) -> tuple[Field, Vocabulary | None]:
    full = f"{side}_{name}"
    if kind == "numeric":
        return Field(full, "numeric", side, name, args=_number_args(column)), None
    if kind == "text":
        vocab = Vocabulary(full, [], features.text_buckets)
        return Field(full, "text", side, name, full, features.text_words), vocab
    lists = [v if isinstance(v, (list, tuple)) else [v] for v in column if v is not None]
    vocab = Vocabulary(full, sorted({value_key(v) for values in lists for v in values}))
    if kind == "categorical":
        return Field(full, "categorical", side, name, full), vocab
    most = features.sequence_length if kind == "sequence" else MULTI_MAX
    length = max(1, min(most, max((len(values) for values in lists), default=1)))
    return Field(full, "ordered" if kind == "sequence" else "multi", side, name, full, length), vocab


def _number_args(column: list[Any]) -> dict[str, Any]:
    """Mean and scale; where a training row lacks the number, that it is missing is an input of its own."""
    numbers = np.asarray([v for v in column if is_number(v)] or [0.0], dtype=np.float64)
    args = {"mean": float(numbers.mean()), "scale": float(numbers.std()) or 1.0}
    return args if all(map(is_number, column)) else {**args, "missing": True}


def _rating_values(ratings: Any) -> list[str]:
    # The shortest text that reads back as the same float32.
    return [value_key(float(str(r))) for r in np.unique(ratings[~np.isnan(ratings)])]


def _history_fields(
    data: PreparedData, features: FeaturesRecipe, ratings: Any, vocabularies: dict[str, Vocabulary]
) -> list[Field]:
    """The pooled history and its derived statistics (general, and per multi-valued item attribute)."""
    known = ratings[~np.isnan(ratings)].astype(np.float64)
    mean, scale = (float(known.mean()), float(known.std()) or 1.0) if len(known) else (0.0, 1.0)
    args: dict[str, Any] = {"mean": mean, "scale": scale, "strength": 5.0}
    if features.centre == "item":
        args["centre"] = MEAN_RATING
    block = {"block": features.history_block} if features.history_block > 1 else {}
    fields = [Field("history_items", "sequence", "user", "item", "item_id", features.history, block)]
    if len(known):
        fields.append(Field("history_ratings", "sequence", "user", "rating", "rating", features.history, block))
    fields.append(Field("history_profile", "derived", "user", "history_profile", length=features.window, args=args))
    if features.history_pace:
        pace = {"mean": 0.55, "scale": 0.15, "strength": 2.0}
        fields.append(Field("history_pace", "derived", "user", "history_pace", length=features.window, args=pace))
    for name, kind in data.item_attributes.items():
        if kind == "multi":
            match = {**args, "attribute": name, "vocab": f"item_{name}"}
            length = features.window
            fields.append(Field(f"history_match_{name}", "derived", "item", "history_match", "", length, match))
    return fields + _fitted_fields(data, features)


def _fitted_fields(data: PreparedData, features: FeaturesRecipe) -> list[Field]:
    """What rests on the items' fitted numbers."""
    fields = []
    if features.item_quality:
        numbers = {"quality": {"mean": 0.0, "scale": 1.0}}
        if features.item_number.attribute:
            own = features.item_number
            numbers[own.attribute] = {"mean": own.mean, "scale": own.scale}
        for name, constants in numbers.items():
            args = {**constants, "strength": 3.0, "attribute": name}
            fields.append(
                Field(f"history_number_{name}", "derived", "item", "history_number", "", features.window, args)
            )
    if features.item_vectors:
        args = {"mean": 0.0, "scale": 0.25, "strength": 1.0, "attribute": "likeness"}
        args["width"] = features.item_vectors
        fields.append(Field("history_similarity", "derived", "item", "history_similarity", "", features.window, args))
    return fields
