"""A bundle's catalogue with items added or changed.

An item that is new is to the CRM what a candidate with the same features inline is: its id is unseen. An item that is
known keeps what the CRM has learned of its id; the LLM knows items by their text alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from corella_edge.catalog import Catalog
from corella_edge.errors import InputError
from corella_edge.request import Candidate
from corella_edge_runtime.site.catalog_change import REFERENCE, CatalogChange, NewCatalog, differences


class Update(CatalogChange):
    """One update. A bundle of which nothing could be verified any more is refused."""

    def merged(self, items: Sequence[Candidate]) -> NewCatalog:
        """What the given items make of the catalogue."""
        return merge(self.before, items)

    def rows(self) -> list[str]:
        """The lines of reference.jsonl that still hold. Raises InputError if none is left, or none of an adapter."""
        kept, of = self.holding(), ""
        if kept and (lost := self.without_a_row(kept)):
            of = f" of the adapter {lost[0]}"
        if not kept or of:
            raise InputError(
                f"{self.items}: every row of {REFERENCE}{of} has one of these items in its history, nothing{of} could "
                "be verified any more; change fewer items at once, or export again"
            )
        return kept


def merge(catalog: Catalog, items: Iterable[Candidate]) -> NewCatalog:
    """New items last, known ones in their place; of those, attributes that are not given stay, null ones go."""
    ids, attributes = list(catalog.ids), list(catalog.attributes)
    added, changed, same = [], [], 0
    for item in items:
        before, given = catalog.of(item.item), item.features or {}
        after = {k: v for k, v in {**before, **given}.items() if v is not None or k not in given}
        if item.item not in catalog.row_of:
            ids.append(item.item)
            attributes.append(after)
            added.append(item.item)
        elif differences(before, after):
            attributes[catalog.row_of[item.item]] = after
            changed.append(item.item)
        else:
            same += 1
    return NewCatalog(Catalog(ids, attributes), added, changed, same)
