"""A request → the CRM's input arrays.

One encoder serves training and serving: a training run encodes many (user, candidate) rows through the same tables
and the same derived functions that a request goes through. Whatever depends on an item alone is computed once a
catalogue item, what depends on the user once a request, and the candidates' side is gathered in whole columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.catalog import Catalog
from corella_edge.derived import DERIVED, NO_TIME, Facts, Floats, Histories, Ints
from corella_edge.remembered import remembered
from corella_edge.request import Candidate, Event, Features, User
from corella_edge.schema import PAD, Feed, Field, Schema, Vocabulary, encode_value
from corella_edge.tables import FactTable, RatingCodes, attribute_table, centre_table, fact, item_index
from corella_edge.unseen import Unseen

RECENT = 64  # histories and lists of candidates that are recognised when the very same object comes again
MOST_REMEMBERED = 1024  # events or candidates of one of them: what is remembered is kept alive
_NOTHING: Facts = np.zeros((1, 1, 1), dtype=np.uint8)


class FeatureEncoder:
    """Requests → the CRM's input arrays, through tables encoded once per catalogue item. Threads may share one."""

    def __init__(self, schema: Schema, catalog: Catalog) -> None:
        self.schema = schema
        self.catalog = catalog
        self.unknown_row = len(catalog)
        self._attributes = schema.of("categorical", "multi", "numeric", side="item")
        self._profile = [(f, self._vocab(f)) for f in schema.of("categorical", "multi", "numeric", side="user")]
        self._window = schema.window
        self._indices = np.arange(max([len(vocab) for _, vocab in self._profile if vocab], default=0))
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
        self._past = remembered(self._new_past, RECENT)
        self._slate = remembered(self._new_slate, RECENT)

    def encode(self, user: User, candidates: Sequence[Candidate]) -> tuple[Feed, list[tuple[str, ...]]]:
        """The input arrays of one request and, per candidate, the names of fields with unseen values.

        The arrays of the user's side may be those of an earlier request: they are not to be written to.
        """
        slate, past = self._slate_of(candidates), self._past_of(user.history)
        codes = self._codes(user)
        feed = {**self._gathered(slate), **self._user_feed(codes), **past.feed}
        for item in self._of_item:
            feed[item.name] = self._derived_of(item, past, slate)
        return feed, self._unseen.names(codes, slate.rows, feed, list(slate.own))

    def _slate_of(self, candidates: Sequence[Candidate]) -> _Slate:
        small = type(candidates) is tuple and len(candidates) <= MOST_REMEMBERED
        plain = small and not any(candidate.features for candidate in candidates)
        return (self._slate if plain else self._new_slate)(_Same(candidates))

    def _past_of(self, history: tuple[Event, ...]) -> _Past:
        return (self._past if len(history) <= MOST_REMEMBERED else self._new_past)(_Same(history))

    def forget(self) -> None:
        """Drop what is remembered of recent requests."""
        self._past.cache_clear()
        self._slate.cache_clear()

    def encode_user(self, user: User) -> Feed:
        """User-side attribute inputs, leading dimension 1."""
        return self._user_feed(self._codes(user))

    def _codes(self, user: User) -> dict[str, Any]:
        """User-side field → index, padded list of indices, or number."""
        given = user.features
        return {
            f.name: encode_value(f, vocab, user.id if f.source == "id" else given.get(f.source))
            for f, vocab in self._profile
        }

    def _user_feed(self, codes: Mapping[str, Any]) -> Feed:
        return {f.name: self._input(f, codes[f.name]) for f, _ in self._profile}

    def _input(self, item: Field, code: Any) -> npt.NDArray[Any]:
        if item.kind == "categorical":
            return self._indices[code : code + 1]  # a view costs less than an array
        return np.array([[code]], np.float32) if item.kind == "numeric" else np.array([code], np.int64)

    def history(self, user: User) -> Histories:
        """The latest events of one user, at most the schema's window: b = 1 and nothing padded."""
        return self._events(user.history)

    def _events(self, events: Sequence[Event]) -> Histories:
        events = events[-self._window :] if self._window else ()
        rows = np.fromiter(self.catalog.rows(events), np.int64, len(events))
        ratings = np.fromiter([e.rating for e in events], np.float32, len(events))  # None becomes nan
        return Histories(rows[None], ratings[None], times=_times(events)[None] if self._timed else None)

    def _new_past(self, history: _Same) -> _Past:
        events = self._events(history.value)
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

    def _new_slate(self, candidates: _Same) -> _Slate:
        """Rows of the candidates, and who brings features of its own."""
        given = candidates.value
        rows = np.fromiter(self.catalog.rows(given), np.int64, len(given))
        return _Slate(rows, {i: c.features for i, c in enumerate(given) if c.features is not None})

    def _gathered(self, slate: _Slate) -> Feed:
        """Attributes of the candidates; those that came with the request win over the catalogue's."""
        feed: Feed = {name: table.take(slate.rows, axis=0) for name, table in self.item_tables.items()}
        for i, features in slate.own.items():
            for item in self._attributes:
                if item.source in features and item.source != "id":
                    feed[item.name][i] = encode_value(item, self._vocab(item), features[item.source])
        return feed

    def _derived_of(self, item: Field, past: _Past, slate: _Slate) -> Floats:
        """float32 [n, width]: a derived field of the candidates."""
        name = item.args["attribute"]
        values = self._derived_of_rows(item, past, slate.rows)
        own = {i: features[name] for i, features in slate.own.items() if name in features}
        if own:
            facts = np.stack([fact(item, self.schema, value) for value in own.values()])
            values[list(own)] = self._derive(item, past.looks[item.name], facts[None])
        return values

    def _derived_of_rows(self, item: Field, past: _Past, rows: Ints) -> Floats:
        """Of catalogue rows int64 [n]; where there are more of them than kinds of items, once a kind."""
        table = self._facts[item.name]
        if item.name not in past.kinds and len(rows) < len(table.kinds):
            return self._derive(item, past.looks[item.name], table.rows.take(rows, axis=0)[None])
        if item.name not in past.kinds:
            past.kinds[item.name] = self._derive(item, past.looks[item.name], table.kinds[None])
        return past.kinds[item.name].take(table.kind_of.take(rows), axis=0)

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

    def _vocab(self, item: Field) -> Vocabulary | None:
        return self.schema.vocabularies.get(item.vocab)


def _times(events: Sequence[Event]) -> Ints:
    return np.fromiter([NO_TIME if e.time is None else e.time for e in events], np.int64, len(events))


class _Same:
    """An object as a key that only itself equals. It is kept alive, so that no other can take its place."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __hash__(self) -> int:
        return id(self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value


@dataclass(slots=True)
class _Past:
    """A user's history, encoded: inputs, what each derived field looks at, and its values by kind of item."""

    feed: Feed
    looks: dict[str, Histories]
    kinds: dict[str, Floats] = field(default_factory=dict)


@dataclass(slots=True)
class _Slate:
    """Candidates: catalogue rows int64 [n], and the features of those that bring some."""

    rows: Ints
    own: dict[int, Features]
