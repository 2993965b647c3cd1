"""A bundle's catalogue replaced: a new bundle over other items, for a model that knows items by their words.

Ids that stay keep what the models have learned of them. Where no reference row can be asked any more, as all of them
name items that are gone, or none is left of one of the adapters, this machine scores rows of the new items, which tell
whether another one computes the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.bundle.artefact import POPULAR, ROUTING
from corella_edge.catalog import Catalog
from corella_edge.errors import InputError
from corella_edge.features.schema import ATTRIBUTES
from corella_edge.json_lines import Reference
from corella_edge.request import Candidate
from corella_edge.request_message import parse_request
from corella_edge.routing.routing_file import CALIBRATED_ON
from corella_edge_runtime import reference
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.site.catalog_change import OWN, REFERENCE, CatalogChange, NewCatalog, differences

SAMPLE = "sample.jsonl"
ROWS = 32  # reference rows that are made where none is left


class Replacement(CatalogChange):
    """One replacement.

    A sample of requests that name items which are gone is of no use, and stays behind. The thresholds of routing.json
    stay, with a mark of whose they are: there are no requests for the new items to take others from.
    """

    own = frozenset(OWN | {ROUTING})

    def merged(self, items: Sequence[Candidate]) -> NewCatalog:
        """The given items in their order, each with what is given of it alone."""
        before = self.before
        given = [{name: value for name, value in (i.features or {}).items() if value is not None} for i in items]
        catalog = Catalog([i.item for i in items], given)
        added = [item for item in catalog.ids if item not in before.row_of]
        known = [item for item in catalog.ids if item in before.row_of]
        changed = [item for item in known if differences(before.of(item), catalog.of(item))]
        removed = [item for item in before.ids if item not in catalog.row_of]
        return NewCatalog(catalog, added, changed, len(known) - len(changed), removed)

    def left_behind(self) -> set[str]:
        """The sample, and what the training rows say of items of which none is left."""
        own = self.bundle.has(POPULAR) and not any(item in self.before.row_of for item in self.after.catalog.ids)
        return {SAMPLE, *([POPULAR] if own else [])}

    def rows(self) -> list[str]:
        """The lines of reference.jsonl that still hold."""
        return self.holding()

    def write(self, folder: Path, rows: Sequence[str]) -> str:
        """Fill an empty folder; the new version. Where there are no `rows`, or none of an adapter, further ones are
        made by what was written.

        Raises:
            InputError: there is an adapter of which none can be made here.
        """
        self.notes += self.never_seen()
        routing = self.bundle.json(ROUTING)
        marked = {**routing, CALIBRATED_ON: self.bundle.calibrated_on() or self.bundle.label}
        (folder / ROUTING).write_text(json.dumps(marked, ensure_ascii=False), "utf-8")
        version = super().write(folder, rows or [json.dumps(self.reference[0][1]) + "\n"])
        if rows and not self.without_a_row(rows):
            return version
        made = self._made(folder, rows)
        (folder / REFERENCE).write_text("".join([*rows, *made]), "utf-8")
        self.notes.append(f"{len(made)} reference rows of the new items: what this machine computes, not the training")
        return self.seal(folder, len(self.reference) - len(rows))

    def never_seen(self) -> list[str]:
        """One sentence, if the base model knows items by id and some of the new ones are none of its own."""
        fields = self.schema.of("categorical", side="item")
        known = next((self.schema.vocabularies[f.vocab] for f in fields if f.source == "id"), None)
        if known is None or not known.values:
            return []
        ids = self.after.catalog.ids
        unseen = int(known.is_unseen(known.indices(ids)).sum())
        own = sorted({f.source for f in self.schema.fields if f.side == "item" and f.kind in ATTRIBUTES} - {"id"})
        words = self.schema.text_attributes
        goes_by = ", ".join([*own, *([f"the words of {' and '.join(words)}"] if words else [])])
        return [f"{unseen:,} of the {len(ids):,} items are ids that the base model has never seen: it goes by "
                f"{goes_by or 'nothing that tells them apart'}"] if unseen else []  # fmt: skip

    def _made(self, folder: Path, rows: Sequence[str]) -> list[str]:
        """Lines of new items, in the form of the old ones, as the bundle in `folder` scores them, to stand beside
        `rows`."""
        rng = np.random.default_rng(len(self.after.catalog))
        lines = [line["request"] for _, line in self.reference[:ROWS]]
        requests = [_of_others(line, self.after.catalog.ids, rng) for line in lines]
        with Engine.open(folder, llm="process", tuned=False) as engine:
            made = [json.dumps(_scored(engine, request), ensure_ascii=False) + "\n" for request in requests]
            why = engine.without_llm or "none of them has the words that the LLM is asked about"
        if lost := self.without_a_row([*rows, *made]):
            raise InputError(
                f"{self.items}: no row of {REFERENCE} would be left of the adapter {lost[0]}, and none of the new "
                f"items can be scored by it here: {why}"
            )
        return made


def _of_others(line: Mapping[str, Any], ids: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    """A request like another one, of items drawn from `ids`; a history has no item twice."""
    history = line["user"].get("history", [])[-len(ids) :]
    drawn = rng.choice(len(ids), len(history), replace=False).tolist()
    events = [{**event, "item": ids[place]} for event, place in zip(history, drawn, strict=True)]
    user = {**line["user"], **({"history": events} if history else {})}
    return {**line, "user": user, "candidates": [{"item": ids[int(rng.integers(len(ids)))]}]}


def _scored(engine: Engine, line: Mapping[str, Any]) -> dict[str, Any]:
    """A line of reference.jsonl."""
    prompt = reference.prompt_ids(engine, Reference(parse_request(line), 0.0, None, None))
    crm, llm = _asked(engine, line)
    further = [name for name in engine.adapters.names if ((name, 1.0),) != engine.adapters.default]
    adapters = {} if llm is None else {name: _asked(engine, {**line, "adapter": name})[1] for name in further}
    return {"request": line, "crm": crm, "prompt": None if prompt is None else list(prompt), "llm": llm,
            **({"adapters": adapters} if adapters else {})}  # fmt: skip


def _asked(engine: Engine, line: Mapping[str, Any]) -> tuple[float, float | None]:
    """Both models' probabilities of the one candidate; None without an LLM, or a text to ask it about."""
    threshold = "ratio:0" if engine.llm is None else "ratio:1"
    found = engine.rank(parse_request({**line, "threshold": threshold}), refuses=False)
    return float(found.crm[0]), None if np.isnan(found.llm[0]) else float(found.llm[0])
