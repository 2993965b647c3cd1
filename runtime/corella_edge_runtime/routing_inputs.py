"""What a learned gate, or a rule of fusion, looks at, of one request: from encoder, catalogue and training counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.features.encoder import FeatureEncoder
from corella_edge.request import Candidates, Features, Request
from corella_edge.routing.gate import MADE, inputs_of
from corella_edge.routing.measure import Floats, Inputs
from corella_edge.scores import Scores

HasText = Callable[[Mapping[str, Any]], bool]
Ints = npt.NDArray[np.int64]


class RoutingInputs:
    """The inputs of one bundle's items. Threads may share one."""

    def __init__(
        self, encoder: FeatureEncoder, counts: npt.NDArray[np.integer[Any]] | None, has_text: HasText, window: int
    ) -> None:
        """
        Args:
            counts: int [items], training rows of each; None = the bundle does not tell.
            has_text: whether an item with such attributes has words to ask about.
            window: how many of a user's latest events count.
        """
        self._encoder, self._has_text, self._window = encoder, has_text, window
        self._counts = None if counts is None else np.append(counts, 0).astype(np.float64)
        self._text = np.full(len(encoder.catalog) + 1, np.nan)  # nan: not looked at yet
        self._text[-1] = float(has_text({}))

    def of(
        self, p: Floats, candidates: Candidates, events: int, unknown: Sequence[Sequence[str]], needs: Sequence[str]
    ) -> Inputs:
        """float64 [n] by name, of those that are needed; see `gate.inputs_of`.

        Args:
            p: float64 [n], the base model's probabilities. events: how many the user's history has.
            unknown: of each candidate the fields with a value that training has not seen.
        """
        rows = self._encoder.rows(candidates.items) if candidates.rows is None else candidates.rows
        counts = None if self._counts is None or "popularity" not in needs else self._counts.take(rows)
        text = self._texts(rows, candidates.own) if "text" in needs else None
        return inputs_of(p, min(events, self._window), unknown, counts, text, needs)

    def of_scores(self, request: Request, scores: Scores) -> Inputs:
        """All of them, of a request's scored candidates."""
        given = request.candidates
        same = given is not None and len(given) == len(scores.items)
        candidates = given if given is not None and same else Candidates(scores.items)
        return self.of(scores.crm, candidates, len(request.user.history), scores.unknown, MADE)

    def _texts(self, rows: Ints, own: Mapping[int, Features]) -> Floats:
        """1 where an item has words, else 0, float64 [n]; what a candidate brings counts beside the catalogue."""
        found = self._text.take(rows)
        new = np.isnan(found)
        if new.any():
            for row in set(rows[new].tolist()):
                self._text[row] = float(self._has_text(self._encoder.catalog.attributes[row]))
            found = self._text.take(rows)
        for place, features in own.items():
            row = int(rows[place])
            known = self._encoder.catalog.attributes[row] if row < len(self._encoder.catalog) else {}
            found[place] = float(self._has_text({**known, **features}))
        return found
