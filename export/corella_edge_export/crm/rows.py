"""Rows of a split → the CRM's input arrays, batch by batch, through the encoder that serving uses."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.features.derived import NO_TIME, Histories
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import CODED, EVENTS, PAD, REFUSE, Feed, Schema
from corella_edge.request import User
from corella_edge_export.crm.fitted import users as user_fit
from corella_edge_export.crm.fitted.users import USER_LEVEL
from corella_edge_export.crm.recipe import FeaturesRecipe
from corella_edge_export.data.prepared import PreparedData

CHUNK = 4096
Indices = npt.NDArray[np.int64]
Part = tuple[npt.NDArray[np.bool_], FeatureEncoder]  # bool [users], and how to encode their rows


class EncodedRows:
    """All rows of one split, ready to be gathered; derived statistics are computed once, in chunks.

    A batch of b rows has every input with leading dimension b, user side included. Text vectors stand in it as
    catalogue rows, int64 [b] of the candidates and [b, length] of the events, which the model looks up in its own table
    (`TextInput`): b * length vectors would be copied in every batch otherwise.
    """

    def __init__(
        self,
        data: PreparedData,
        split: str,
        encoder: FeatureEncoder,
        progress: Callable[[int], Any] | None = None,
        parts: Iterable[Part] = (),
        levels: bool = False,
        leanings: bool = False,
    ) -> None:
        """`parts` are users whose rows' derived statistics another encoder of the same schema makes.

        With `levels`, for training rows alone, a batch also has USER_LEVEL: the user's level without the row's own
        sitting, from the items' quality as the parts see it; with `leanings` his weights of `user_fit.leaning`, too.
        """
        self.data, self.encoder = data, encoder
        self.split = data.split(split)
        self.labels = self.split.labels.astype(np.float32)
        self.user_tables = self._user_tables()
        self._derived = {f.name for f in encoder.schema.of("derived")}
        self.derived = self._all_derived(encoder, np.arange(len(self), dtype=np.int64), progress)
        served = self._leaning() if leanings else None
        quality = np.zeros(len(self))  # of each row's item
        for users, other in parts:
            rows = np.flatnonzero(users[self.split.users])
            quality[rows] = [other.catalog.attributes[item].get("quality", 0.0) for item in self.split.items[rows]]
            for name, values in self._all_derived(other, rows, None).items():
                self.derived[name][rows] = values
        own, count = self._leaning() if leanings else None, len(data.user_ids)
        self.levels = user_fit.fit(self.split, quality, count, own, served, data.timed) if levels else None

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, rows: Indices) -> Feed:
        """Input arrays of the given rows."""
        feed, counts = self.beside(rows), self.split.positions[rows]
        events = self.encoder.schema.of(*EVENTS)
        history = self.histories(rows, max((f.length for f in events), default=0))
        for item in events:
            kept = np.arange(item.length, 0, -1) <= item.kept(counts)[:, None]
            latest = history.last(item.length)
            if item.kind == "vectors":
                feed[item.name] = np.where(kept, latest.rows, self.encoder.unknown_row)
            else:
                feed[item.name] = np.where(kept, self.encoder.encode_sequence(item, latest), PAD)
        return feed

    def beside(self, rows: Indices) -> Feed:
        """Input arrays of the given rows, but for the events."""
        users, items = self.split.users[rows], self.split.items[rows]
        feed: Feed = {name: table[items] for name, table in self.encoder.item_tables.items()}
        feed.update({name: table[users] for name, table in self.user_tables.items()})
        feed.update({f.name: items.astype(np.int64) for f in self.encoder.schema.of("vector")})
        feed.update({name: values[rows] for name, values in self.derived.items()})
        if self.levels is not None:
            feed[USER_LEVEL] = self.levels.rows[rows]
        return feed

    def _leaning(self) -> npt.NDArray[np.float64]:
        return np.stack(user_fit.leaning(self.derived), axis=1).astype(np.float64)

    def user_levels(self) -> npt.NDArray[np.float32]:
        """float32 [rows of the user_id table, w]: each known user's level, 0 for all others."""
        assert self.levels is not None
        vocabulary = self.encoder.schema.vocabularies["user_id"]
        table = np.zeros((len(vocabulary), self.levels.users.shape[1]), dtype=np.float32)
        for user, level in zip(self.data.user_ids, self.levels.users, strict=True):
            if user in vocabulary.index_of:
                table[vocabulary.index_of[user]] = level
        return table

    def histories(self, rows: Indices, w: int) -> Histories:
        """The latest w events before each row, through the row's pointer into its user's log."""
        start = self.data.log.offsets[self.split.users[rows]]
        index = (start + self.split.positions[rows])[:, None] - np.arange(w, 0, -1)
        mask = index >= start[:, None]
        return self._logged(index, mask)

    def events(self, first: Indices, counts: Indices) -> Feed:
        """Inputs of `counts` [b] events each from places `first` [b] of the log on: [b, most], PAD on the right."""
        steps = np.arange(max(int(counts.max(initial=0)), 1))
        history = self._logged(first[:, None] + steps, steps < counts[:, None])
        schema = self.encoder.schema
        found = {item.name: self.encoder.encode_sequence(item, history) for item in schema.of("sequence")}
        return found | {item.name: history.rows for item in schema.of("vectors")}

    def _logged(self, index: Indices, mask: npt.NDArray[np.bool_]) -> Histories:
        """Events at places of the log, int64 [b, w], under a mask."""
        log = self.data.log
        index = np.where(mask, index, 0)
        items = np.where(mask, log.items[index], self.encoder.unknown_row)
        ratings = np.where(mask, log.ratings[index], np.nan)
        # Places in an order are no times: a request does not carry them either.
        times = np.where(mask & self.data.timed, log.times[index], NO_TIME)
        return Histories(items.astype(np.int64), ratings, mask, times)

    def _user_tables(self) -> Feed:
        names = list(self.data.user_attributes)
        columns = [self.data.users[name] for name in names]
        feeds = [
            self.encoder.encode_user(User(user, dict(zip(names, values, strict=True))))
            for user, *values in zip(self.data.user_ids, *columns, strict=True)
        ]
        return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]} if feeds else {}

    def _all_derived(self, encoder: FeatureEncoder, chosen: Indices, progress: Callable[[int], Any] | None) -> Feed:
        parts: dict[str, list[Any]] = {name: [] for name in self._derived}
        for start in range(0, max(1, len(chosen)), CHUNK):
            rows = chosen[start : start + CHUNK]
            history = self.histories(rows, encoder.schema.window)
            facts = encoder.candidate_facts(self.split.items[rows][:, None].astype(np.int64))
            for name, values in encoder.encode_derived(history, facts).items():
                parts[name].append(values)
            if progress is not None:
                progress(len(rows))
        return {name: np.concatenate(chunks) for name, chunks in parts.items()}


class Masking:
    """Hides values in training, of each field by itself, so that the rows of unseen values learn.

    They are the ids, and the fields that the recipe names; a field that refuses unknown values never meets one.
    """

    def __init__(self, schema: Schema, features: FeaturesRecipe, rate: float) -> None:
        """`rate`: the share of rows that a field's value is hidden of."""
        fields = {f.name: f for f in schema.of(*CODED)}
        named = (name for name in fields if name in ("user_id", "item_id") or name in features.unknown)
        hiding = [name for name in named if fields[name].args.get("unknown") != REFUSE]
        self.rate = rate
        self._items = schema.vocabularies[fields["item_id"].vocab] if "item_id" in fields else None
        self._hidden = {name: schema.vocabularies[fields[name].vocab].hidden() for name in hiding}

    def hidden(self, feed: Feed) -> npt.NDArray[np.bool_]:
        """bool [n]: the rows whose item's id is unknown, hidden or not; none where the model reads no id."""
        if self._items is None or "item_id" not in feed:
            return np.zeros(len(next(iter(feed.values()))), np.bool_)
        return self._items.is_unseen(feed["item_id"])

    def hide(self, feed: Feed, rng: np.random.Generator) -> Feed:
        """The feed with a bucket, or else OOV, for each hidden value of the fields that it has."""
        masked = dict(feed)
        for name, rows in self._hidden.items():
            if name not in feed:
                continue
            hide, shown = rng.random(len(feed[name])) < self.rate, feed[name]
            masked[name] = np.where(hide if shown.ndim == 1 else hide[:, None], rows[shown], shown)
            if name == "user_id" and USER_LEVEL in feed:
                masked[USER_LEVEL] = np.where(hide[:, None], np.float32(0.0), feed[USER_LEVEL])
        return masked
