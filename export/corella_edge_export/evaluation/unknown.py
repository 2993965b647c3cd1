"""How many rows have a value that training has not seen, by field, and what the bundle does with such rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import CODED, REFUSE, Field
from corella_edge.features.unseen import label
from corella_edge.request import User
from corella_edge.routing.gate import new_items
from corella_edge_export.data.rowset import RowSet
from corella_edge_export.evaluation.scored import Json


def unknown(encoder: FeatureEncoder, rows: RowSet) -> Json:
    """Of each field with known values: its policy, and rows with an unseen (or missing) value as number and share."""
    schema, users, items = encoder.schema, rows.users, rows.split.items[rows.indices]
    places = encoder.rows_of([rows.data.item_ids[i] for i in items.tolist()])
    found = {("item", name): flags[places] for name, flags in encoder.unseen.item_flags().items()}
    of_users = _user_flags(encoder, rows, users)
    found |= {("user", name): of_users[:, i] for i, name in enumerate(encoder.unseen.user_labels())}
    return {f.name: _told(f, schema.vocabularies[f.vocab].buckets, found[f.side, label(f)])
            for f in schema.of(*CODED) if f.kind != "text"}  # fmt: skip


def unknown_fields(encoder: FeatureEncoder, rows: RowSet) -> npt.NDArray[np.float64]:
    """float64 [rows]: how many of a row's fields have a value that training has not seen, as an answer lists them."""
    places = encoder.rows_of([rows.data.item_ids[i] for i in rows.split.items[rows.indices].tolist()])
    found: npt.NDArray[np.float64] = _user_flags(encoder, rows, rows.users).sum(axis=1, dtype=np.float64)
    for flags in encoder.unseen.item_flags().values():
        found += flags[places]
    return found


def of_new_items(encoder: FeatureEncoder, rows: RowSet) -> npt.NDArray[np.float64]:
    """float64 [rows]: 1 where the item is new, else 0: `routing.gate.new_items` of what an answer lists."""
    known, which = np.unique(rows.split.items[rows.indices], return_inverse=True)
    places = encoder.rows_of([rows.data.item_ids[i] for i in known.tolist()])
    flags = encoder.unseen.item_flags()
    named = [[name for name, of in flags.items() if of[place]] for place in places.tolist()]
    return new_items(named)[which]


def _user_flags(encoder: FeatureEncoder, rows: RowSet, users: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """bool [rows, fields of users]; each user is encoded once."""
    data = rows.data
    known, which = np.unique(users, return_inverse=True)
    profiles = ({name: values[u] for name, values in data.users.items()} for u in known.tolist())
    flags = [encoder.user_flags(User(data.user_ids[u], p)) for u, p in zip(known.tolist(), profiles, strict=True)]
    return np.asarray(flags, dtype=np.bool_).reshape(len(known), -1)[which]


def _told(field: Field, buckets: int, flags: npt.NDArray[np.bool_]) -> Json:
    policy = REFUSE if field.args.get("unknown") == REFUSE else f"hash:{buckets}" if buckets else "oov"
    return {"policy": policy, "rows": int(flags.sum()), "rate": round(float(flags.mean()), 6)}
