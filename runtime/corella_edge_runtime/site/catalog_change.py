"""A bundle with another catalogue: a new bundle, whose models and vocabularies are the old one's.

`catalog_update` and `catalog_replace` say what becomes of the items; the way to the new bundle is the same for both.
"""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.atomic import check_free, new_folder
from corella_edge.bundle.artefact import TEXT, TOKENIZER, Bundle
from corella_edge.bundle.schema_files import write_catalog_tables
from corella_edge.catalog import LINES, TABLES, Attributes, Catalog
from corella_edge.errors import BundleError, InputError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.vectors import VECTORS, as_float16, item_text, write_vectors
from corella_edge.formats.text_files import TextFile
from corella_edge.json_lines import Reference, parse_reference, read_lines
from corella_edge.request import Candidate, Candidates
from corella_edge_runtime.attributes import UsedAttributes, read_items, remarks
from corella_edge_runtime.reference import unheld
from corella_edge_runtime.site.successor import link_files, next_version, parent_of, seal_next

REFERENCE = "reference.jsonl"
OWN = {LINES, TABLES, REFERENCE, VECTORS}  # files that every change rewrites
MARK = "+items."

NONE = Candidates(())

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class NewCatalog:
    """A catalogue after a change.

    Attributes:
        added, changed: ids, in the order of the lines.
        same: how many lines said what the catalogue says already.
        removed: ids that the catalogue no longer has.
    """

    catalog: Catalog
    added: list[str]
    changed: list[str]
    same: int
    removed: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What a change did; `notes` are sentences for people."""

    label: str
    added: int
    changed: int
    same: int
    rows: int
    dropped: int
    notes: list[str]
    removed: int = 0


def change(
    kind: type[CatalogChange],
    root: Path,
    items: Path | TextFile,
    out: Path,
    extras: Sequence[str] = (),
    check: Callable[[Path], None] = lambda folder: None,
    told: Callable[[int, int], None] = lambda done, count: None,
) -> Report:
    """Write the bundle `out`: the bundle in folder `root` with what the file `items` makes of its catalogue.

    Args:
        kind: `Update` or `Replacement`.
        extras: attributes that the file may have although nothing reads them.
        check: called with the finished folder before it appears; what it raises is raised.
        told: hears how many of the text vectors that are wanted are made.

    Raises:
        InputError: a bad line, nothing to change, a taken `out`. BundleError: `root` is damaged. MissingExtraError: its
            text vectors cannot be made here.
    """
    check_free(out)
    work = kind(Bundle.open(root), TextFile.of(items), extras)
    rows = work.rows()
    work.make_vectors(told)
    with new_folder(out) as folder:
        version = work.write(folder, rows)
        check(folder)
    return work.report(version, rows)


class CatalogChange(ABC):
    """One change: the bundle, what the file of items makes of its catalogue, and the reference rows.

    Attributes:
        own: files that the new bundle has its own of, or none.
    """

    own: frozenset[str] = frozenset(OWN)

    def __init__(self, bundle: Bundle, items: TextFile, extras: Sequence[str]) -> None:
        self.bundle, self.items = bundle, items
        self.notes: list[str] = []
        self.schema, self.before = bundle.schema()
        prompt = bundle.prompt()
        self.reading = UsedAttributes(self.schema, prompt[0] if prompt else None)
        known = {*self.reading.names, *extras, *(name for record in self.before.attributes for name in record)}
        self.after = self.merged(read_items(items, known, self.reading))
        if not (self.after.added or self.after.changed or self.after.removed):
            raise InputError(f"{items}: changes nothing: the catalogue has all {self.after.same} items like that")
        self.reference = list(read_lines(bundle.path(REFERENCE), _reference_row, BundleError))

    @abstractmethod
    def merged(self, items: Sequence[Candidate]) -> NewCatalog:
        """What the given items make of the catalogue."""

    @abstractmethod
    def rows(self) -> list[str]:
        """The lines of the new reference.jsonl that come of the old one."""

    def holding(self) -> list[str]:
        """The lines of reference.jsonl that still hold."""
        return reference_lines(self.reference, self.before, self.after, self.reading)

    def without_a_row(self, lines: Sequence[str]) -> list[str]:
        """Adapters of the bundle that none of these lines of reference.jsonl is of."""
        return unheld((parse_reference(json.loads(line)) for line in lines), self.bundle.adapters())

    def left_behind(self) -> set[str]:
        """Files of the old bundle that the new one has not."""
        return set()

    def make_vectors(self, told: Callable[[int, int], None]) -> None:
        """The vectors of items whose words are new, beside those that stay."""
        before, catalog = self.before, self.after.catalog
        if before.vectors is None:
            return
        words = partial(item_text, names=self.schema.text_attributes, form=self.schema.text_form)
        texts = {catalog.row_of[item]: words(catalog.of(item)) for item in self._touched()}
        new = {row: text for row, text in texts.items() if words(before.of(catalog.ids[row])) != text}
        vectors = np.zeros((len(catalog), before.vectors.shape[1]), np.float16)
        places = np.array([before.row_of.get(item, -1) for item in catalog.ids], np.int64)
        vectors[places >= 0] = before.vectors[places[places >= 0]]
        if new and self.bundle.has(TEXT):
            module = importlib.import_module("corella_edge_runtime.text")
            model = module.TextModel(self.bundle.path(TEXT), self.bundle.path(TOKENIZER), vectors.shape[1])
            vectors[list(new)] = as_float16(model.vectors(list(new.values()), lambda done: told(done, len(new))))
        elif new:
            self.notes.append(f"{len(new)} items have words that the bundle, which has no {TEXT}, makes no vectors of")
        catalog.vectors = vectors

    def _touched(self) -> list[str]:
        return [*self.after.added, *self.after.changed]

    def write(self, folder: Path, rows: Sequence[str]) -> str:
        """Fill an empty folder; the new version."""
        link_files(self.bundle, folder, self.own | self.left_behind())
        with (folder / LINES).open("w", encoding="utf-8") as file:
            file.writelines(self.after.catalog.lines())
        (folder / REFERENCE).write_text("".join(rows), "utf-8")
        FeatureEncoder(self.schema, self.after.catalog)  # what it cannot encode, no server could
        write_catalog_tables(folder, self.schema, self.after.catalog)
        if self.after.catalog.vectors is not None:
            write_vectors(folder / VECTORS, self.after.catalog.vectors)
        return self.seal(folder, len(self.reference) - len(rows))

    def seal(self, folder: Path, dropped: int) -> str:
        """Manifest and seal. What was linked must be what the old manifest lists."""
        parent, source = parent_of(self.bundle), self.items.sha256()
        about = {
            "parent": parent,
            "items_sha256": source,
            "added": len(self.after.added),
            "changed": len(self.after.changed),
            **({"removed": len(self.after.removed)} if self.after.removed else {}),
            "reference_rows_dropped": dropped,
        }
        version = next_version(self.bundle.manifest.version, MARK, parent["manifest_sha256"], source)
        seal_next(self.bundle, folder, version, {"catalog_update": about}, self.own)
        return version

    def report(self, version: str, rows: Sequence[str]) -> Report:
        after, dropped = self.after, len(self.reference) - len(rows)
        notes = [*self.notes, *remarks(self.reading, self.before, after.catalog, after.added, after.changed)]
        label = f"{self.bundle.manifest.name}@{version}"
        counts = (len(after.added), len(after.changed), after.same, len(rows), dropped)
        return Report(label, *counts, notes, len(after.removed))


def differences(old: Attributes, new: Attributes) -> set[str]:
    """Names of attributes that differ as JSON, where Python takes 1, 1.0 and true for equal; a missing one is null."""
    names = old.keys() | new.keys()
    return {name for name in names if json.dumps(old.get(name)) != json.dumps(new.get(name))}


def reference_lines(
    rows: Iterable[tuple[Reference, Json]], before: Catalog, after: NewCatalog, reading: UsedAttributes
) -> list[str]:
    """The rows of reference.jsonl that still hold, as JSON.

    A candidate that was changed brings the attributes it had; a row goes where something in its history was changed, or
    the words that its candidate's text vector is made of (a vector that was tuned comes of no words), and where it
    names an item that the catalogue no longer has.
    """
    items = [*after.added, *after.changed]
    changes = {item: differences(before.of(item), after.catalog.of(item)) for item in items}
    lost = {item for item, names in changes.items() if names & reading.of_history}.union(after.removed)
    reworded = {item for item, names in changes.items() if names & reading.words}.union(after.removed)
    asked = ((row.request.user.history.items, row.request.candidates or NONE, line) for row, line in rows)
    holding = (line for seen, own, line in asked if lost.isdisjoint(seen) and reworded.isdisjoint(own.items))
    held = (_pinned(line, changes, before) for line in holding)
    return [json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in held]


def _pinned(line: Json, changes: Mapping[str, set[str]], before: Catalog) -> Json:
    """The row with its candidate's former attributes inline, where they were changed."""
    request = line["request"]
    (candidate,) = request["candidates"]
    item = str(candidate["item"])
    old, names = before.of(item), sorted(changes.get(item, ()))
    if not names:
        return line
    features = {**{name: old.get(name) for name in names}, **(candidate.get("features") or {})}
    return {**line, "request": {**request, "candidates": [{**candidate, "features": features}]}}


def _reference_row(value: Any) -> tuple[Reference, Json]:
    return parse_reference(value), value
