"""A request → the CRM's input arrays.

One encoder serves training and serving: a training run encodes many (user, candidate) rows through the same tables
and the same derived functions that a request goes through. Whatever depends on an item alone is computed once a
catalogue item, what depends on the user once a request, and the candidates' side is gathered in whole columns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError
from corella_edge.features.derived import DERIVED, NO_TIME, Facts, Floats, Histories, Ints
from corella_edge.features.lookup import lookup
from corella_edge.features.schema import ATTRIBUTES, OOV, PAD, Feed, Field, Schema, Vocabulary, encode_value
from corella_edge.features.tables import (
    FactTable,
    Made,
    MatchTable,
    RatingCodes,
    centre_table,
    fact,
    field_table,
    item_index,
)
from corella_edge.features.unseen import Flags, Unseen
from corella_edge.features.vectors import VECTORS, MakeVectors, VectorTable, item_text
from corella_edge.formats.text_table import LARGE
from corella_edge.request import Candidate, Candidates, Features, History, User

_NOTHING: Facts = np.zeros((1, 1, 1), dtype=np.uint8)


class FeatureEncoder:
    """Requests → the CRM's input arrays, through tables encoded once per catalogue item. Threads may share one."""

    def __init__(self, schema: Schema, catalog: Catalog, make_vectors: MakeVectors | None = None) -> None:
        """`make_vectors`: vectors of texts that come with a request; None = such an item keeps the catalogue's.

        Raises:
            BundleError: the catalogue's tables or vectors are not what the schema asks for.
        """
        self.schema = schema
        self.catalog = catalog
        self.unknown_row = len(catalog)
        self.made = made = Made(catalog.tables)
        items = len(catalog) + 1
        self._attributes = schema.of(*ATTRIBUTES, side="item")
        profile = schema.of(*ATTRIBUTES, side="user")
        self._profile = [(f.name, f.source, *self._codes(f)) for f in profile]
        self._window = schema.window
        longest = max([len(schema.vocabularies[f.vocab]) for f in profile if f.vocab], default=0)
        self._indices = np.arange(min(longest, LARGE))
        self._sequences, self._derived = schema.of("sequence"), schema.of("derived")
        self._timed = any(f.source == "history_pace" for f in self._derived)
        self._of_history, self._of_item = schema.of("derived", side="user"), schema.of("derived", side="item")
        self.item_tables: Feed = {f.name: field_table(f, self._vocab(f), catalog, made) for f in self._attributes}
        rows = max([OOV + 1, *(len(schema.vocabularies[f.vocab]) for f in self._sequences if f.source == "item")])
        self._item_index = made.of("history", lambda: item_index(schema, catalog), (items,), rows)
        self._index_of = _take_of(self._item_index)
        vocabularies = {f.vocab: schema.vocabularies[f.vocab] for f in self._sequences if f.source == "rating"}
        self._rating_codes = {name: RatingCodes(vocab) for name, vocab in vocabularies.items()}
        self._ratings = next(iter(self._rating_codes.values()), RatingCodes(Vocabulary("", [])))
        self._facts = {f.name: FactTable(f, schema, catalog, made) for f in self._of_item}
        self._centres = {
            f.name: made.of(f"centre.{f.name}", partial(centre_table, f, catalog), (items,), np.float32)
            for f in self._derived
            if "centre" in f.args
        }
        self._look_of = {f.name: (f.length, f.args.get("centre"), f.args["mean"]) for f in self._derived}
        self._alike = {self._look_of[f.name]: f for f in self._derived}  # a field that stands for those alike
        self._few = [f for f in self._of_item if self._facts[f.name].few]
        self._many = [f for f in self._of_item if not self._facts[f.name].few]
        found = [(f, self._facts[f.name], self._ratings) for f in self._few]
        self._match_tables = {made[0].name: MatchTable(*made) for made in found if MatchTable.fits(*made)}
        self._profiles = self._profiles_in_tables()
        self._takes = [(name, _take_of(table)) for name, table in self.item_tables.items()]
        ids = [(f.name, schema.vocabularies[f.vocab]) for f in self._attributes if f.source == "id" and f.vocab]
        self._hashed = [(name, vocab) for name, vocab in ids if vocab.buckets]
        self.unseen = Unseen(schema, self.item_tables, items, made)
        self._of_text, self._of_events = schema.of("vector"), schema.of("vectors")
        self._vectors = _vector_table(schema, catalog)
        self.make_vectors = make_vectors
        self._lookup = lookup(catalog.ids, catalog.row_of)
        self._token = object()

    def encode(self, user: User, candidates: Iterable[Candidate]) -> tuple[Feed, list[tuple[str, ...]]]:
        """The input arrays of one request and, per candidate, the names of fields with unseen values.

        The arrays of the user's side may be those of an earlier request: they are not to be written to.
        """
        slate = Candidates.of(candidates)
        rows = self._lookup.rows(slate.items) if slate.rows is None else slate.rows
        past = self._past(user.history)
        of_user, unseen = self._user_feed(user)
        feed = self.encode_items(rows)
        feed.update(of_user)
        feed.update(past.feed)
        for name, vocab in self._hashed:
            feed[name] = self._with_buckets(vocab, feed[name], rows, slate.items)
        for name, values in past.kinds.items():
            feed[name] = values.take(self._facts[name].kind_of.take(rows), 0)
        for item in self._many:
            feed[item.name] = self._of_many(item, self._look(item, past, user.history), rows)
        if slate.own:
            self._bring_own(feed, past, user.history, slate.own)
            self._bring_text(feed, slate)
        return feed, self.unseen.names(unseen, rows, feed, slate.own)

    def encode_items(self, rows: Ints) -> Feed:
        """The input arrays of catalogue rows int64 [n] in which no user has a part."""
        feed: Feed = {name: take(rows, 0) for name, take in self._takes}
        for item in self._of_text:
            feed[item.name] = self._vectors.of(rows)
        return feed

    def encode_beside(self, user: User, slate: Candidates) -> tuple[Feed, list[tuple[str, ...]]]:
        """`encode` without the items' side, of candidates as the catalogue has them, with their rows."""
        assert slate.rows is not None
        of_user, unseen = self._user_feed(user)
        return {**of_user, **self._past(user.history).feed}, self.unseen.names(unseen, slate.rows, {}, ())

    def rows(self, items: Sequence[str]) -> Ints:
        """int64 [n], catalogue rows; `unknown_row` for an item that is not in it."""
        return self._lookup.rows(items)

    def encode_user(self, user: User) -> Feed:
        """User-side attribute inputs, leading dimension 1."""
        return self._user_feed(user)[0]

    def _user_feed(self, user: User) -> tuple[Feed, Flags]:
        """Attributes of the user, and of those with a vocabulary, whether a value is unseen."""
        feed: Feed = {}
        unseen, given, indices = [], user.features, self._indices
        for name, source, get, code, limit in self._profile:
            value = user.id if source == "id" else given.get(source)
            found: Any = get(value, OOV) if get and type(value) is str else code(value)
            if limit is None:
                feed[name] = np.array([found if type(found) is list else [found]], np.float32)
            elif type(found) is int:
                # A view costs less than an array.
                feed[name] = indices[found : found + 1] if found < LARGE else np.array([found], np.int64)
                unseen.append(found == OOV or found >= limit)
            else:
                feed[name] = np.array([found], np.int64)
                unseen.append(OOV in found or max(found, default=PAD) >= limit)
        return feed, tuple(unseen)

    def rows_of(self, items: Sequence[str]) -> Ints:
        """int64 [n]: catalogue rows of item ids, `unknown_row` of others."""
        return self._lookup.rows(items)

    def user_flags(self, user: User) -> Flags:
        """Whether each of the fields `unseen.user_labels` holds an unseen value."""
        return self._user_feed(user)[1]

    def history(self, user: User) -> Histories:
        """The latest events of one user, at most the schema's window: b = 1 and nothing padded."""
        latest = user.history.last(self._window)
        return self._events(latest, self._lookup.rows(latest.items))

    def _events(self, latest: History, rows: Ints) -> Histories:
        n = len(rows)
        ratings = np.full(n, np.nan, np.float32) if latest.ratings is None else np.array(latest.ratings, np.float32)
        return Histories(rows[None], ratings[None], times=_times(latest)[None] if self._timed else None)

    def _past(self, history: History) -> _Past:
        """Encoded again, unless this very object came before: a server's store gives the same one as long as it can.

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
        latest = history.last(self._window)
        past = _Past(self._lookup.rows(latest.items))
        codes = self._ratings.if_known(latest.ratings or [None] * len(past.rows)) if self._match_tables else None
        for item in self._sequences:
            past.feed[item.name] = self._sequence(item, past, history, codes)
        for item in self._of_events:
            past.feed[item.name] = self._event_vectors(item, past.rows, len(history))
        if codes is not None:
            for name, table in self._match_tables.items():
                past.kinds[name] = table.moments(past.rows, codes)
            for name, match in self._profiles.items():
                past.feed[name] = past.kinds[match][-1:]
        for item in self._few:
            if item.name not in past.kinds:
                facts = self._facts[item.name].kinds[None]
                past.kinds[item.name] = self._derive(item, self._look(item, past, history), facts)
        for item in self._of_history:
            if item.name not in past.feed:
                past.feed[item.name] = self._derive(item, self._look(item, past, history), _NOTHING)
        return past

    def _profiles_in_tables(self) -> dict[str, str]:
        """Profiles → the match table whose last row they are: they look at the same events by the same numbers."""
        found = {self._moments_of(f): f.name for f in self._few if f.name in self._match_tables}
        profiles = {f.name: self._moments_of(f) for f in self._of_history if f.source == "history_profile"}
        return {name: found[key] for name, key in profiles.items() if key in found}

    def _moments_of(self, item: Field) -> tuple[Any, ...]:
        return self._look_of[item.name], item.args["scale"], item.args["strength"]

    def _look(self, item: Field, past: _Past, history: History) -> Histories:
        """The events that a derived field looks back on."""
        if past.looks is None:
            past.looks = self._looks(self._events_of(past, history))
        return past.looks[item.name]

    def _events_of(self, past: _Past, history: History) -> Histories:
        if past.events is None:
            past.events = self._events(history.last(self._window), past.rows)
        return past.events

    def _sequence(self, item: Field, past: _Past, history: History, codes: Ints | None) -> Ints:
        """int64 [1, length] of one user's kept events, PAD on the left; `codes` are those of the ratings if known."""
        kept = item.kept(len(history))
        if item.source == "item":
            rows, vocab = past.rows[len(past.rows) - kept :], self.schema.vocabularies[item.vocab]
            latest = self._index_of(rows)
            if vocab.buckets:
                latest = self._with_buckets(vocab, latest, rows, history.items[len(history) - kept :])
        elif codes is not None and self._rating_codes[item.vocab] is self._ratings:
            latest = codes[len(codes) - kept :]
        else:
            latest = self._sequence_codes(item, self._events_of(past, history).last(kept))[0]
        if len(latest) == item.length:
            return latest[None]
        padded = np.zeros((1, item.length), dtype=np.int64)  # PAD
        padded[0, item.length - len(latest) :] = latest
        return padded

    def _event_vectors(self, item: Field, rows: Ints, events: int) -> Floats:
        """float32 [1, length, width] of one user's kept events of the catalogue rows int64 [w]; zeros on the left.

        `events`: how many there are in all.
        """
        latest = self._vectors.of(rows[len(rows) - item.kept(events) :])
        if len(latest) == item.length:
            return latest[None]
        padded = np.zeros((1, *item.shape), np.float32)
        padded[0, item.length - len(latest) :] = latest
        return padded

    def _with_buckets(self, vocab: Vocabulary, indices: Ints, rows: Ints, items: Sequence[str]) -> Ints:
        """Indices int64 [n] of catalogue rows, with a bucket for each item that the catalogue has not."""
        for i in (rows == self.unknown_row).nonzero()[0].tolist():
            indices[i] = vocab.index(items[i])
        return indices

    def _of_many(self, item: Field, look: Histories, rows: Ints) -> Floats:
        """float32 [n, width] of catalogue rows int64 [n]; where there are more of them than kinds, once a kind."""
        table = self._facts[item.name]
        if len(rows) < len(table.kinds):
            return self._derive(item, look, table.rows.take(rows, axis=0)[None])
        return self._derive(item, look, table.kinds[None]).take(table.kind_of.take(rows), axis=0)

    def _bring_own(self, feed: Feed, past: _Past, history: History, own: Mapping[int, Features]) -> None:
        """What came with the request, by place, wins over the catalogue's."""
        for i, features in own.items():
            for item in self._attributes:
                if item.source in features and item.source != "id":
                    feed[item.name][i] = encode_value(item, self._vocab(item), features[item.source])
        for item in self._of_item:
            name = item.args["attribute"]
            places = [i for i, features in own.items() if name in features]
            if places:
                facts = np.stack([fact(item, self.schema, own[i][name]) for i in places])
                feed[item.name][places] = self._derive(item, self._look(item, past, history), facts[None])

    def reads_words(self, candidates: Candidates | None) -> bool:
        """Whether candidates bring words that vectors may have to be made of: milliseconds each."""
        if self.make_vectors is None or candidates is None or not candidates.own:
            return False
        names = self.schema.text_attributes
        return any(not features.keys().isdisjoint(names) for features in candidates.own.values())

    def _bring_text(self, feed: Feed, slate: Candidates) -> None:
        """Vectors of candidates that bring other words than the catalogue's, which may be those of a tuned vector."""
        if self.make_vectors is None or not self._of_text:
            return
        given = {i: self._own_text(slate.items[i], features) for i, features in slate.own.items()}
        texts = {i: text for i, text in given.items() if text is not None}
        if texts:
            feed[self._of_text[0].name][list(texts)] = self.make_vectors(list(texts.values()))

    def _own_text(self, item: str, features: Features) -> str | None:
        """What the words of a candidate are with the features that it brings; None where they are the catalogue's."""
        names = self.schema.text_attributes
        if features.keys().isdisjoint(names):
            return None
        known = self.catalog.of(item)
        text, usual = (item_text(words, names, self.schema.text_form) for words in ({**known, **features}, known))
        return None if item in self.catalog.row_of and text == usual else text

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
            return self._index_of(history.rows)
        return self._rating_codes[item.vocab].of(history.ratings)

    def _codes(self, item: Field) -> tuple[Callable[[str, int], int] | None, Callable[[Any], Any], int | None]:
        """`encode_value` of one field, of a text alone if that is quicker, and of anything; where buckets begin."""
        vocab = self._vocab(item)
        code = partial(encode_value, item, vocab)
        if vocab is None:
            return None, code, None
        known = vocab.index_of.get if item.kind == "categorical" and not vocab.buckets else None
        return known, code, len(vocab) if item.kind == "text" else vocab.first_bucket

    def _vocab(self, item: Field) -> Vocabulary | None:
        return self.schema.vocabularies.get(item.vocab)


def _vector_table(schema: Schema, catalog: Catalog) -> VectorTable:
    """The catalogue's vectors as the schema asks for them. Raises BundleError."""
    vectors, width = catalog.vectors, schema.text_width
    if not width:
        return VectorTable(np.zeros((len(catalog), 0), np.float16))
    if vectors is None or vectors.shape != (len(catalog), width) or vectors.dtype != np.float16:
        raise BundleError(f"{VECTORS}: schema.json asks for {width} numbers in F16 of each of {len(catalog)} items")
    return VectorTable(vectors)


def _take_of(table: npt.NDArray[Any]) -> Callable[..., npt.NDArray[Any]]:
    """`take` of a table, as int64 where the mapped one has int32."""
    if table.dtype != np.int32:
        return table.take
    return lambda rows, axis=None: table.take(rows, axis).astype(np.int64)


def _times(history: History) -> Ints:
    times = history.times or [None] * len(history)
    return np.array([NO_TIME if time is None else time for time in times], np.int64)


@dataclass(slots=True)
class _Past:
    """A user's history, encoded.

    Attributes:
        rows: int64 [w], catalogue rows of the latest events.
        feed: inputs.
        kinds: derived fields by kind of item, where kinds are few.
        events, looks: the latest events, and those that each derived field looks back on, once something asks for them.
    """

    rows: Ints
    feed: Feed = field(default_factory=dict)
    kinds: dict[str, Floats] = field(default_factory=dict)
    events: Histories | None = None
    looks: dict[str, Histories] | None = None
