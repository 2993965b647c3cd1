"""How well a written CRM ranks the whole catalogue, by ONNX Runtime: what its INT8 form is held against."""

from __future__ import annotations

import numpy as np

from corella_edge import ranking
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.request import Candidates
from corella_edge_export.data.rowset import RowSet
from corella_edge_runtime.crm import Crm

MOST = 300  # liked rows that are looked for


def ndcg(crm: Crm, encoder: FeatureEncoder, rows: RowSet) -> float | None:
    """NDCG@10 of the items of liked rows among the catalogue without their histories; None if no row is liked.

    At most `MOST` rows are taken, evenly over `rows`, so that two files are judged by the same ones.
    """
    split, log = rows.split, rows.data.log
    liked = rows.indices[rows.labels > 0]
    chosen = liked[np.unique(np.linspace(0, len(liked) - 1, min(MOST, len(liked))).astype(np.int64))]
    catalogue, found = Candidates(rows.data.item_ids), []
    for row in chosen.tolist():
        user, position, item = int(split.users[row]), int(split.positions[row]), int(split.items[row])
        asked = rows.data.request(user, position, [item], rows.history.events, None, rows.history.block)
        logits = crm.many_logits(encoder.encode(asked.user, catalogue)[0])
        first = int(log.offsets[user])
        found.append(ranking.ranks(logits[None], [item], [log.items[first : first + position]])[0])
    return float(ranking.discounted(found).mean()) if found else None
