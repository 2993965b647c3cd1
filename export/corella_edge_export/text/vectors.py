"""The text vectors of a run: made once, kept in its folder, and taken over from other runs that have the same.

text.safetensors             float16 [items, width], as a bundle has it
text.projection.safetensors  what takes the encoder's vectors to these: the principal components, where the recipe asks
                             for fewer numbers, or SAID's map for new items
text.json                    written last: a hash of all that decides the vectors
text.partial                 what a run that was interrupted goes on with
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from corella_edge import atomic
from corella_edge.errors import InputError, meant
from corella_edge.features.derived import Floats
from corella_edge.features.schema import Field, Schema
from corella_edge.features.vectors import VECTORS, as_float16, item_text, map_vectors, write_vectors
from corella_edge.formats.arrays import Array, map_arrays, write_arrays
from corella_edge_export.crm.text_recipe import TextVectorsRecipe
from corella_edge_export.data.prepared import PreparedData, fingerprint
from corella_edge_export.recipe import Recipe

KEY, PARTIAL = "text.json", "text.partial"
PROJECTION, LAYOUT = "text.projection.safetensors", "corella-edge projection 2"
FILES = (VECTORS, PROJECTION, KEY, PARTIAL)
CHUNK = 512  # texts between two places where an interrupted run can go on
# `source` in a recipe → the module of the exporter with its `identity` and `raw`; that of SAID trains.
SOURCES = {"encoder": "text.sentences", "llm": "text.hidden", "said": "training.said"}


def source_of(recipe: Recipe) -> Any:
    """The module of the recipe's source, which has

    identity(recipe) -> str: a hash of the weights and settings, beside those of [crm.text], that decide the vectors;
    raw(recipe, data, texts, folder, quiet) -> float32 [n, w]: the vectors of the items' texts, zeros for an empty one;
    text_model(recipe, folder) -> (module, tokenizer) or None: what makes vectors of new items, see `to_onnx.write`;

    and, where these are not the sentence encoder's own, `projection` with the arguments of `raw` and the vectors.
    """
    return importlib.import_module(f"corella_edge_export.{SOURCES[recipe.crm.text.source]}")


def identity(recipe: Recipe) -> str:
    """A hash of what the recipe's source is made of; empty where there is none."""
    return str(source_of(recipe).identity(recipe)) if recipe.crm.text.source else ""


def check(recipe: Recipe, data: PreparedData) -> None:
    """Raises InputError for attributes that the data have not, or an encoder or LLM that cannot be used."""
    text, known = recipe.crm.text, ["title", *data.item_attributes]
    if not text.source:
        return
    for name in text.attributes:
        if name not in known:
            raise InputError(
                f"recipe {recipe.name}, crm, text, attributes: {data.root} has no attribute {name!r} of an item, only "
                f"{', '.join(known)}{meant(name, known)}"
            )
    if "text" in data.item_attributes:
        raise InputError(f"{data.root}: an item attribute is named 'text', as the field of the text vectors; rename it")
    identity(recipe)


def texts_of(data: PreparedData, text: TextVectorsRecipe) -> list[str]:
    """The words of every item, in the order of the catalogue."""
    present = [name for name in text.attributes if name in data.items]
    columns = [data.items[name] for name in present]
    rows = zip(*columns, strict=True) if columns else ((),) * len(data.item_ids)
    return [item_text(dict(zip(present, row, strict=True)), present, text.form) for row in rows]


def item_vectors(
    folder: Path, recipe: Recipe, data: PreparedData, reuse: Sequence[Path] = (), quiet: bool = False
) -> Array:
    """float16 [items, width] of a run, mapped: made now, as far as neither it nor a run of `reuse` has them.

    Raises:
        InputError: see `check`; or a file of theirs is damaged.
    """
    texts = texts_of(data, recipe.crm.text)
    key = _key(recipe, data, texts)
    if _key_of(folder) != key:
        other = next((place for place in reuse if _key_of(place) == key), None)
        if other is None:
            _make(folder, recipe, data, texts, quiet)
        else:
            for name in (VECTORS, PROJECTION):
                (folder / name).unlink(missing_ok=True)
                if (other / name).exists():
                    atomic.link_or_copy(other / name, folder / name)
        atomic.write_file(folder / KEY, json.dumps({"key": key}).encode())
    return map_vectors(folder / VECTORS, len(texts))


def with_text(schema: Schema, recipe: Recipe, width: int) -> Schema:
    """The schema with the fields of the items' vectors, of the candidates and of the history's events."""
    (items,) = (f for f in schema.of("sequence") if f.source == "item")
    text = recipe.crm.text
    args: dict[str, Any] = {"attributes": list(text.attributes)}
    if text.form != "values":
        args["form"] = text.form
    one = Field("item_text", "vector", "item", "text", length=width, args=args)
    events = replace(items, name="history_text", kind="vectors", source="text", vocab="",
                     args={**items.args, "width": width})  # fmt: skip
    return Schema((*schema.fields, one, events), schema.vocabularies)


def projection(folder: Path) -> tuple[Floats, Floats] | None:
    """(components [w, width], offset [width]) of a run's vectors; None where they have their own width."""
    if not (folder / PROJECTION).exists():
        return None
    arrays = map_arrays(folder / PROJECTION, LAYOUT)
    return arrays["components"], arrays["offset"]


def training_items(data: PreparedData, texts: Sequence[str]) -> npt.NDArray[np.int64]:
    """int64 [m]: items of training rows that have words."""
    items = np.unique(data.split("train").items)
    return items[[bool(texts[item]) for item in items.tolist()]].astype(np.int64)


def resumed(make: Callable[[Sequence[str]], Floats], width: int, texts: Sequence[str], partial: Path, key: str,
            quiet: bool) -> Floats:  # fmt: skip
    """float32 [n, width] of the texts in their order, a chunk at a time; what `partial` holds of this key is not made
    again."""
    head = f"{key[:32]:32}".encode()
    row = 4 * width
    whole = 0
    if partial.exists() and partial.read_bytes()[: len(head)] == head:
        whole = (partial.stat().st_size - len(head)) // row // CHUNK * CHUNK
    else:
        partial.write_bytes(head)
    with partial.open("r+b") as file, tqdm(
        total=len(texts), initial=whole, desc="text vectors", unit="item", disable=True if quiet else None
    ) as bar:  # fmt: skip
        file.truncate(len(head) + whole * row)
        file.seek(0, 2)
        for start in range(whole, len(texts), CHUNK):
            file.write(np.ascontiguousarray(make(texts[start : start + CHUNK]), np.float32).tobytes())
            file.flush()
            bar.update(min(CHUNK, len(texts) - start))
    found: Floats = np.fromfile(partial, np.float32, offset=len(head)).reshape(len(texts), width)
    return found


def _make(folder: Path, recipe: Recipe, data: PreparedData, texts: Sequence[str], quiet: bool) -> None:
    source = source_of(recipe)
    raw = source.raw(recipe, data, texts, folder, quiet)
    for name in (KEY, PROJECTION):
        (folder / name).unlink(missing_ok=True)
    if recipe.crm.text.source == "said" and recipe.crm.text.path:
        _write_projection(folder, *source.projection(recipe, data, texts, folder, quiet, raw))
    if recipe.crm.text.width:
        raw = _projected(folder, raw, recipe.crm.text.width, training_items(data, texts), texts)
    if not np.isfinite(raw).all():
        raise InputError(f"recipe {recipe.name}, crm, text: the source gives vectors that are not finite")
    write_vectors(folder / PARTIAL, as_float16(raw))
    atomic.publish_file(folder / PARTIAL, folder / VECTORS)


def _projected(folder: Path, raw: Floats, width: int, items: npt.NDArray[np.int64], texts: Sequence[str]) -> Floats:
    """The first principal components, fitted on the given items; an item without words keeps zeros."""
    if width > raw.shape[1]:
        raise InputError(f"recipe, crm, text, width: {width} is more than the {raw.shape[1]} numbers of a vector")
    chosen = raw[items].astype(np.float64)
    mean = chosen.mean(axis=0) if len(items) else np.zeros(raw.shape[1])
    _, vectors = np.linalg.eigh((chosen - mean).T @ (chosen - mean))
    components = np.ascontiguousarray(vectors[:, ::-1][:, :width]).astype(np.float32)
    offset = (-mean @ components).astype(np.float32)
    _write_projection(folder, components, offset)
    there = np.array([bool(text) for text in texts])[:, None]
    found: Floats = np.where(there, raw @ components + offset, np.float32(0.0))
    return found


def _write_projection(folder: Path, components: Floats, offset: Floats) -> None:
    with (folder / PROJECTION).open("wb") as file:
        write_arrays(file, LAYOUT, {"components": components, "offset": offset})


def _key(recipe: Recipe, data: PreparedData, texts: Sequence[str]) -> str:
    text = recipe.crm.text
    parts = [text.source, identity(recipe), text.tokens, text.width, texts]
    if text.width or text.source != "encoder":  # then training rows have a say
        parts.append(fingerprint(data))
    return hashlib.sha256(json.dumps(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _key_of(folder: Path) -> str:
    try:
        found = str(json.loads((folder / KEY).read_text("utf-8"))["key"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return found if (folder / VECTORS).exists() else ""
