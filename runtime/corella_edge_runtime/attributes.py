"""What a bundle's models read of users and items: what features, and lines of items, may hold; what to tell of them."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from corella_edge.catalog import Attributes, Catalog
from corella_edge.errors import InputError
from corella_edge.features.schema import ATTRIBUTES, OOV, Field, Schema, value_key
from corella_edge.formats.text_files import TextFile
from corella_edge.json_lines import read_lines
from corella_edge.messages import named
from corella_edge.prompt import Template
from corella_edge.request import Candidate, Features, Request
from corella_edge.request_message import parse_item

SHOWN = 5  # examples in a sentence


class UsedAttributes:
    """The attributes that anything reads: the CRM's fields, the fields derived from the history, text vectors, the
    prompt."""

    def __init__(self, schema: Schema, template: Template | None) -> None:
        self.schema, self.template = schema, template
        plain = schema.of(*ATTRIBUTES, side="item")
        self.ids = [f for f in plain if f.source == "id"]
        self.plain = [f for f in plain if f.source != "id"]
        derived = list(_looked_at(schema))
        self.fields: dict[str, list[Field]] = {}
        for name, item in [*((f.source, f) for f in self.plain), *derived]:
            self.fields.setdefault(name, []).append(item)
        # Those whose words a text vector is made of.
        self.words = set(schema.text_attributes)
        text = self.words | ({"title", *template.item_fields} if template else set[str]())
        # What is read of the items of a history, too.
        self.of_history = {name for name, _ in derived} | text
        self.names = self.fields.keys() | text | {"title"}

    def text(self, attributes: Attributes) -> str | None:
        """An item's question as the tokenizer gets it; None without a title or without an LLM."""
        text = self.template.item_text(attributes) if self.template else None
        return None if text is None else unicodedata.normalize("NFC", text)


class FeatureNames:
    """The features that a bundle's models read of a user and of an item."""

    def __init__(self, schema: Schema, template: Template | None) -> None:
        fields = schema.of(*ATTRIBUTES, side="user")
        profile = template.profile if template else {}
        self.of_user = {field.source for field in fields if field.source != "id"} | profile.keys()
        self.of_item = UsedAttributes(schema, template).names

    def check(self, request: Request) -> None:
        """Raises InputError, which names the first feature that no model reads."""
        for path, features, known in self._given(request):
            for name in features:
                if name not in known:
                    near = difflib.get_close_matches(name, known, 1)
                    hint = f"; did you mean {near[0]!r}?" if near else ""
                    raise InputError(f"{path}: no model reads {name[:80]!r}, and the request is strict{hint}")

    def _given(self, request: Request) -> Iterator[tuple[str, Features, set[str]]]:
        yield "user.features", request.user.features, self.of_user
        for i, candidate in enumerate(request.candidates or ()):
            if candidate.features:
                yield f"candidates[{i}].features", candidate.features, self.of_item


def _looked_at(schema: Schema) -> Iterator[tuple[str, Field]]:
    """(attribute, derived field) for every attribute that a derived field looks at."""
    for item in schema.of("derived"):
        yield from ((item.args[key], item) for key in ("attribute", "centre") if key in item.args)


def read_items(path: TextFile, known: Iterable[str], reading: UsedAttributes) -> list[Candidate]:
    """The lines of a file of items, each id once.

    Args:
        known: the names that an attribute may have.

    Raises:
        InputError: names file and line.
    """
    names, seen = sorted(known), set[str]()

    def parse(value: Any) -> Candidate:
        item = parse_item(value)
        for problem in filter(None, (_problem(n, v, names, reading) for n, v in (item.features or {}).items())):
            raise InputError(problem)
        if item.item in seen:
            raise InputError(f"the item {item.item[:80]!r} occurs twice")
        seen.add(item.item)
        return item

    items = list(read_lines(path, parse))
    if not items:
        raise InputError(f"{path}: holds no items")
    return items


def _problem(name: str, value: Any, known: Sequence[str], reading: UsedAttributes) -> str:
    """Why an attribute cannot stand in the catalogue; empty if it can."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        return f"unknown attribute {name[:80]!r}; {hint}--extra {name[:80]} keeps one that no model reads"
    if value is None:
        return ""
    if name == "title" and not isinstance(value, str):
        return "title: expected a text or null"
    wanted = next((w for item in reading.fields.get(name, ()) if (w := _wanted(item, name, value))), "")
    return f"{name}: expected {wanted}, as the CRM reads it, or null" if wanted else ""


def _wanted(item: Field, name: str, value: Any) -> str:
    """What a field expects where it cannot read the value; empty where it can."""
    number = type(value) in (int, float)
    if item.kind == "text":
        return "" if isinstance(value, str) else "a text"
    if item.kind == "categorical":
        return "one text or number" if isinstance(value, list) else ""
    if item.kind == "numeric" or item.args.get("centre") == name:
        return "" if number else "a number"
    if item.source == "history_number":
        return "" if number or (isinstance(value, str) and value.isdigit()) else "a number"
    if item.source == "history_similarity":
        width = item.args["width"]
        fits = isinstance(value, list) and len(value) == width and all(type(v) in (int, float) for v in value)
        return "" if fits else f"a list of {width} numbers"
    return ""


def remarks(
    reading: UsedAttributes, before: Catalog, after: Catalog, added: Sequence[str], changed: Sequence[str]
) -> Iterator[str]:
    """What a person should know of an update: one sentence for each kind of thing that was found."""
    touched = [*added, *changed]
    if reading.template:
        silent = [item for item in touched if reading.text(after.of(item)) is None]
        yield from _told(silent, "without a title: the LLM cannot be asked about them")
    for item in reading.plain:
        lacking = [new for new in added if after.of(new).get(item.source) is None]
        yield from _told(lacking, f"new and without {item.source}, which the CRM reads")
        strange = [one for one in touched if _is_unseen(reading, item, after.of(one))]
        yield from _told(strange, f"with {item.source} that the CRM has never seen; typing errors?")
    learned = "with another title: what the CRM has learned of their ids stays; another thing needs another id"
    yield from _told(_renamed(reading, before, after, changed), learned)
    alike = "that the LLM takes for others, which read the same now or did before"
    yield from _told(_twins(reading, before, after, touched), alike)


def _told(items: Sequence[str], what: str) -> Iterator[str]:
    if items:
        shown = ", ".join(map(named, items[:SHOWN])) + (", …" if len(items) > SHOWN else "")
        yield f"{len(items)} {'item' if len(items) == 1 else 'items'} {what} ({shown})"


def _is_unseen(reading: UsedAttributes, item: Field, attributes: Attributes) -> bool:
    """Whether an item has a value that is no word of the field's vocabulary."""
    value = attributes.get(item.source)
    if item.kind in ("numeric", "text") or value is None:
        return False
    known = reading.schema.vocabularies[item.vocab].index_of
    values = value if isinstance(value, list) else [value]
    return any(v is None or known.get(value_key(v), OOV) == OOV for v in values)


def _renamed(reading: UsedAttributes, before: Catalog, after: Catalog, changed: Sequence[str]) -> list[str]:
    """Items whose id the CRM knows and whose title is another one now."""
    known = [reading.schema.vocabularies[f.vocab] for f in reading.ids]
    learned = [item for item in changed if any(item in vocab.index_of for vocab in known)]
    return [item for item in learned if before.of(item).get("title") != after.of(item).get("title")]


def _twins(reading: UsedAttributes, before: Catalog, after: Catalog, touched: Sequence[str]) -> list[str]:
    """Items that read as another one does, or did before the update: the LLM knows items by their text alone."""
    texts = {item: reading.text(after.of(item)) for item in touched}
    changed = {item: text for item, text in texts.items() if text is not None and text != reading.text(before.of(item))}
    of_text: dict[str, set[str]] = {text: set() for text in changed.values()}
    for catalog in (before, after) if changed else ():
        for item, attributes in zip(catalog.ids, catalog.attributes, strict=True):
            if (text := reading.text(attributes)) in of_text:
                of_text[text].add(item)
    return [item for item, text in changed.items() if of_text[text] - {item}]
