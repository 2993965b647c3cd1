"""schema.json of a bundle with its vocabularies and its catalogue: written and read; what is large is mapped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from corella_edge.atomic import write_file
from corella_edge.bundle.files import NAME, decode, read_bytes, read_json, shown
from corella_edge.catalog import LAYOUT, LINES, TABLES, Catalog
from corella_edge.errors import BundleError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import Schema, Vocabulary, bucket_counts, vocabulary_names
from corella_edge.features.tables import stored_form
from corella_edge.features.vectors import VECTORS, map_vectors
from corella_edge.formats.arrays import map_arrays, write_arrays
from corella_edge.formats.text_table import LARGE, TextTable, table_arrays

MAX_VOCABULARY_BYTES = 4 * 2**30
MAPPED, VOCABULARY = ".safetensors", "corella-edge vocabulary 1"


def write_schema(folder: Path, schema: Schema, catalog: Catalog) -> None:
    """schema.json (written last), the vocabularies and catalog.jsonl; the items' vectors are written by themselves."""
    (folder / "vocab").mkdir(exist_ok=True)
    for vocab in schema.vocabularies.values():
        _write_vocabulary(folder / "vocab", vocab)
    with (folder / LINES).open("w", encoding="utf-8") as file:
        file.writelines(catalog.lines())
    write_file(folder / "schema.json", json.dumps(schema.to_json(), ensure_ascii=False, indent=1).encode())


def _write_vocabulary(folder: Path, vocab: Vocabulary) -> None:
    """NAME.safetensors of `LARGE` values and more, NAME.json of fewer."""
    try:
        arrays = table_arrays(vocab.values) if len(vocab.values) >= LARGE else None
    except BundleError as error:
        raise BundleError(f"vocab/{vocab.name}: {error}") from None
    if arrays is None:
        text = json.dumps([*vocab.values], ensure_ascii=False, indent=0)
        (folder / f"{vocab.name}.json").write_text(text, "utf-8")
        return
    with (folder / f"{vocab.name}{MAPPED}").open("wb") as file:
        write_arrays(file, VOCABULARY, arrays)


def write_catalog_tables(folder: Path, schema: Schema, catalog: Catalog) -> None:
    """catalog.safetensors beside the catalog.jsonl of a bundle, where there are `LARGE` items or more.

    Args:
        catalog: the items of that file, held in memory.
    """
    ids = table_arrays(catalog.ids) if len(catalog) >= LARGE else None
    if ids is None:
        return
    arrays = {f"ids.{name}": array for name, array in ids.items()}
    with (folder / LINES).open("rb") as lines:
        arrays["lines"] = np.cumsum(np.fromiter(map(len, lines), np.uint64), dtype=np.uint64)
    made = FeatureEncoder(schema, catalog).made.arrays
    with (folder / TABLES).open("wb") as file:
        write_arrays(file, LAYOUT, {**arrays, **stored_form(made)})


def table_problems(folder: Path) -> Iterator[str]:
    """One line for each array of catalog.safetensors that is not what catalog.jsonl gives, which is parsed for it."""
    if not (folder / TABLES).exists():
        return
    schema, mapped = read_schema(folder)
    parsed = Catalog.read(folder / LINES)
    parsed.vectors = mapped.vectors
    if [*mapped.ids] != parsed.ids:
        yield f"{TABLES}: its ids are not those of {LINES}"
        return
    for name, array in stored_form(FeatureEncoder(schema, parsed).made.arrays).items():
        if not np.array_equal(array, mapped.tables[name]):
            yield f"{TABLES}: its array {name!r} is not what {LINES} gives"


def read_schema(folder: Path) -> tuple[Schema, Catalog]:
    """What `write_schema` and `write_catalog_tables` wrote; what is large is mapped, not read."""
    data = read_json(folder / "schema.json")
    buckets = bucket_counts(data)
    names = sorted(vocabulary_names(data))
    vocabularies = {name: _vocabulary(folder / "vocab", name, buckets.get(name, 0)) for name in names}
    schema, catalog = Schema.from_json(data, vocabularies), read_catalog(folder)
    if schema.text_width:
        catalog.vectors = map_vectors(folder / VECTORS, len(catalog))
    return schema, catalog


def read_catalog(folder: Path) -> Catalog:
    """The items alone; where they are many, nothing of them is read yet."""
    return Catalog.map(folder) if (folder / TABLES).exists() else Catalog.read(folder / LINES)


def _vocabulary(folder: Path, name: str, buckets: int) -> Vocabulary:
    file, mapped = f"vocab/{name}.json", f"vocab/{name}{MAPPED}"
    if "/" in name or not NAME.fullmatch(file):
        raise BundleError(f"schema.json: {shown(name)} is not a name of a vocabulary")
    if (folder / f"{name}{MAPPED}").exists():
        if (folder / f"{name}.json").exists():
            raise BundleError(f"{file}: stands beside {mapped}; a vocabulary has one of the two")
        return Vocabulary(name, TextTable(map_arrays(folder / f"{name}{MAPPED}", VOCABULARY, mapped), mapped), buckets)
    values = decode(read_bytes(folder / f"{name}.json", file, MAX_VOCABULARY_BYTES), file)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BundleError(f"{file}: expected a list of texts")
    return Vocabulary(name, values, buckets)
