"""A request → the CRM's input arrays.

One encoder serves training and serving: a training run encodes many (user, candidate) rows through the same tables
and the same derived functions that a request goes through. Whatever depends on an item alone is computed once a
catalogue item, what depends on the user once a request, and the candidates' side is gathered in whole columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from corella_edge.catalog import Catalog
from corella_edge.features.derived import DERIVED, NO_TIME, Facts, Floats, Histories, Ints
from corella_edge.features.lookup import Lookup
from corella_edge.features.schema import PAD, Feed, Field, Schema, Vocabulary, encode_value
from corella_edge.features.tables import FactTable, RatingCodes, attribute_table, centre_table, fact, item_index
from corella_edge.features.unseen import Unseen
from corella_edge.request import Candidate, Candidates, History, User

MOST_KINDS = 64  # of items, whose values are kept for a user's next request
_NOTHING: Facts = np.zeros((1, 1, 1), dtype=np.uint8)


class FeatureEncoder:
    """Requests → the CRM's input arrays, through tables encoded once per catalogue item. Threads may share one."""

    def __init__(self, schema: Schema, catalog: Catalog) -> None:
        self.schema = schema
        self.catalog = catalog
        self.unknown_row = len(catalog)
        self._attributes = schema.of("categorical", "multi", "numeric", side="item")
        profile = schema.of("categorical", "multi", "numeric", side="user")
        self._profile = [(f.name, f.source, self._code(f)) for f in profile]
        self._window = schema.window
        self._indices = np.arange(max([len(schema.vocabularies[f.vocab]) for f in profile if f.vocab], default=0))
        self._sequences, self._derived = schema.of("sequence"), schema.of("derived")
        self._timed = any(f.source == "history_pace" for f in self._derived)
        self._of_history, self._of_item = schema.of("derived", side="user"), schema.of("derived", side="item")
        self.item_tables: Feed = {f.name: attribute_table(f, self._vocab(f), catalog) for f in self._attributes}
        self._item_index = item_index(schema, catalog)
        vocabularies = {f.name: schema.vocabularies[f.vocab] for f in self._sequences if f.source == "rating"}
        self._rating_codes = {name: RatingCodes(vocab) for name, vocab in vocabularies.items()}
        self._facts = {f.name: FactTable(f, schema, catalog) for f in self._of_item}
        self._centres = {f.name: centre_table(f, catalog) for f in self._derived if "centre" in f.args}
        self._look_of = {f.name: (f.length, f.args.get("centre"), f.args["mean"]) for f in self._derived}
        self._alike = {self._look_of[f.name]: f for f in self._derived}  # a field that stands for those alike
        self._unseen = Unseen(schema, self.item_tables, len(catalog) + 1)
        self._lookup = Lookup(catalog.row_of)
        self._token = object()

    def encode(self, user: User, candidates: Iterable[Candidate]) -> tuple[Feed, list[tuple[str, ...]]]:
        """The input arrays of one request and, per candidate, the names of fields with unseen values.

        The arrays of the user's side may be those of an earlier request: they are not to be written to.
        """
        slate = Candidates.of(candidates)
        rows, past, codes = self._lookup.rows(slate.items), self._past(user.history), self._codes(user)
        feed = self._gathered(rows, slate)
        feed.update(self._user_feed(codes))
        feed.update(past.feed)
        for item in self._of_item:
            feed[item.name] = self._derived_of(item, past, rows, slate)
        return feed, self._unseen.names(codes, rows, feed, list(slate.own))

    def encode_user(self, user: User) -> Feed:
        """User-side attribute inputs, leading dimension 1."""
        return self._user_feed(self._codes(user))

    def _codes(self, user: User) -> dict[str, Any]:
        """User-side field → index, padded list of indices, or number."""
        given = user.features
        return {name: code(user.id if source == "id" else given.get(source)) for name, source, code in self._profile}

    def _user_feed(self, codes: Mapping[str, Any]) -> Feed:
        indices = self._indices  # a view costs less than an array
        return {name: indices[c : c + 1] if type(c) is int else _array(c) for name, c in codes.items()}

    def history(self, user: User) -> Histories:
        """The latest events of one user, at most the schema's window: b = 1 and nothing padded."""
        return self._events(user.history)

    def _events(self, history: History) -> Histories:
        latest = history.last(self._window)
        rows, n = self._lookup.rows(latest.items), len(latest.items)
        ratings = np.full(n, np.nan, np.float32) if latest.ratings is None else np.array(latest.ratings, np.float32)
        return Histories(rows[None], ratings[None], times=_times(latest)[None] if self._timed else None)

    def _past(self, history: History) -> _Past:
        """Encoded anew, unless this very object has come before: a server's store gives the same one as long as it can.

        What comes once leaves nothing behind; and an encoder is not kept alive by the histories it has seen.
        """
        seen, past = history.memo
        if seen is not self._token:
            history.memo = self._token, None
            return self._new_past(history)
        if past is None:
            past = self._new_past(history)
            history.memo = self._token, past
        return cast(_Past, past)

    def _new_past(self, history: History) -> _Past:
        events = self._events(history)
        past = _Past({f.name: self._sequence(f, events) for f in self._sequences}, self._looks(events))
        for item in self._of_history:
            past.feed[item.name] = self._derive(item, past.looks[item.name], _NOTHING)
        return past

    def _sequence(self, item: Field, history: Histories) -> Ints:
        """int64 [1, length] of one user's unpadded events, PAD on the left."""
        codes = self._sequence_codes(item, history.last(item.length))
        padded = np.zeros((1, item.length), dtype=np.int64)  # PAD
        padded[:, item.length - codes.shape[1] :] = codes
        return padded

    def _gathered(self, rows: Ints, slate: Candidates) -> Feed:
        """Attributes of the candidates; those that came with the request win over the catalogue's."""
        feed: Feed = {name: table.take(rows, axis=0) for name, table in self.item_tables.items()}
        for i, features in slate.own.items():
            for item in self._attributes:
                if item.source in features and item.source != "id":
                    feed[item.name][i] = encode_value(item, self._vocab(item), features[item.source])
        return feed

    def _derived_of(self, item: Field, past: _Past, rows: Ints, slate: Candidates) -> Floats:
        """float32 [n, width]: a derived field of the candidates."""
        values = self._derived_of_rows(item, past, rows)
        name = item.args["attribute"]
        own = {i: features[name] for i, features in slate.own.items() if name in features}
        if own:
            facts = np.stack([fact(item, self.schema, value) for value in own.values()])
            values[list(own)] = self._derive(item, past.looks[item.name], facts[None])
        return values

    def _derived_of_rows(self, item: Field, past: _Past, rows: Ints) -> Floats:
        """Of catalogue rows int64 [n]; where there are more of them than kinds of items, once a kind."""
        table, kinds = self._facts[item.name], past.kinds.get(item.name)
        if kinds is None and len(rows) < len(table.kinds):
            return self._derive(item, past.looks[item.name], table.rows.take(rows, axis=0)[None])
        if kinds is None:
            kinds = self._derive(item, past.looks[item.name], table.kinds[None])
            if len(kinds) <= MOST_KINDS:
                past.kinds[item.name] = kinds
        return kinds.take(table.kind_of.take(rows), axis=0)

    def encode_derived(self, history: Histories, candidate_facts: Mapping[str, Facts]) -> Feed:
        """Derived inputs of b users with n candidates each: float32 [b, width], [b * n, width] on the item side."""
        looks = self._looks(history)
        return {f.name: self._derive(f, looks[f.name], candidate_facts.get(f.name, _NOTHING)) for f in self._derived}

    def _derive(self, item: Field, recent: Histories, facts: Facts) -> Floats:
        """float32 [b, width], on the item side [b * n, width] for facts [b, n, …]."""
        function, width, side = DERIVED[item.source]
        seen = self._facts[item.name].rows.take(recent.rows, axis=0) if side == "item" else _NOTHING
        return function(recent, seen, facts, item.args).reshape(-1, width)

    def _looks(self, history: Histories) -> dict[str, Histories]:
        """The events each derived field looks back on; fields that look alike share them and what is made of them."""
        made: dict[Any, Histories] = {}
        for key, item in self._alike.items():
            made[key] = self._centred(item, history.last(item.length))
        return {name: made[key] for name, key in self._look_of.items()}

    def _centred(self, item: Field, history: Histories) -> Histories:
        """Ratings as seen from each event's own centre: moved so that it lies at the mean of all ratings."""
        if item.name not in self._centres:
            return history
        ratings = history.ratings - self._centres[item.name].take(history.rows)
        return Histories(history.rows, ratings, history.mask, history.times)

    def candidate_facts(self, rows: Ints) -> dict[str, Facts]:
        """What every derived field of the item side looks at, of catalogue rows int64 [b, n]."""
        return {name: table.rows[rows] for name, table in self._facts.items()}

    def encode_sequence(self, item: Field, history: Histories) -> Ints:
        """int64 [b, w]: vocabulary indices of the events' items or ratings, PAD where there is none."""
        codes = self._sequence_codes(item, history)
        return codes if history.mask is None else np.where(history.mask, codes, PAD)

    def _sequence_codes(self, item: Field, history: Histories) -> Ints:
        if item.source == "item":
            return self._item_index.take(history.rows)
        return self._rating_codes[item.name].of(history.ratings)

    def _code(self, item: Field) -> Callable[[Any], Any]:
        """`encode_value` of one field."""
        vocab = self._vocab(item)
        return vocab.index if vocab and item.kind == "categorical" else partial(encode_value, item, vocab)

    def _vocab(self, item: Field) -> Vocabulary | None:
        return self.schema.vocabularies.get(item.vocab)


def _times(history: History) -> Ints:
    times = history.times or [None] * len(history)
    return np.array([NO_TIME if time is None else time for time in times], np.int64)


def _array(code: float | list[int]) -> npt.NDArray[Any]:
    return np.array([code], np.int64) if type(code) is list else np.array([[code]], np.float32)


@dataclass(slots=True)
class _Past:
    """A user's history, encoded: inputs, what each derived field looks at, and its values by kind of item."""

    feed: Feed
    looks: dict[str, Histories]
    kinds: dict[str, Floats] = field(default_factory=dict)
