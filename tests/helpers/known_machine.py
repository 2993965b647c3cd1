"""A machine whose times are known, for what is fitted on measured ones: no clock, no model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corella_edge.routing.load import asked_chances
from corella_edge_runtime.bench.results.circumstances import Noise
from corella_edge_runtime.bench.results.seen import Meanwhile, Seen, Slice, Spot, sliced

PREFIX_TOKENS, SUFFIX_TOKENS = 60, 5
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class KnownMachine:
    """Two servers, first come, first served; log-normal times. Of requests of `n` candidates.

    After a rest of t seconds the LLM finds its memory cold with the chance `cold` · (1 - exp(-t / 0.1)), and then takes
    three times as long.
    """

    crm: float = 0.0012
    prefix: float = 0.008
    suffix: float = 0.0006
    crm_spread: float = 0.1
    llm_spread: float = 0.2
    correlation: float = 0.15
    cold: float = 0.0
    n: int = 20

    def asked(self, rng: np.random.Generator, share: float, requests: int) -> Floats:
        """Candidates asked in each, float64 [requests]."""
        chances = asked_chances(share, self.n, self.correlation)
        return rng.choice(self.n + 1, size=requests, p=chances).astype(np.float64)

    def latencies(self, rng: np.random.Generator, asked: Floats, qps: float = math.inf, alone: bool = False) -> Floats:
        """Seconds of each under Poisson load; `alone`: a request is sent when the one before is answered, not before,
        and its time counts from then."""
        crm = self.crm * np.exp(self.crm_spread * rng.standard_normal(len(asked)))
        llm = (self.prefix + self.suffix * asked) * np.exp(self.llm_spread * rng.standard_normal(len(asked)))
        moments, luck = np.cumsum(rng.exponential(size=len(asked))) / qps, rng.random(len(asked))
        scored = worked = answered = 0.0
        found = np.empty(len(asked))
        for place, due in enumerate(moments.tolist()):
            sent = max(due, answered) if alone else due
            scored = answered = max(sent, scored) + float(crm[place])
            if asked[place]:
                chance = self.cold * (1.0 - math.exp(-max(0.0, scored - worked) / 0.1))
                slower = 3.0 if luck[place] < chance else 1.0
                worked = answered = max(scored, worked) + slower * float(llm[place])
            found[place] = answered - sent
        return found

    def slice(
        self, rng: np.random.Generator, spot: Spot, share: float, requests: int, qps: float = math.inf
    ) -> Slice:  # fmt: skip
        """Of requests one at a time, that come as seldom as that."""
        asked = self.asked(rng, share, requests)
        took = self.latencies(rng, asked, qps, alone=True)
        tokens = np.where(asked > 0, PREFIX_TOKENS + SUFFIX_TOKENS * asked, 0).astype(int)
        columns = zip(took.tolist(), asked.astype(int).tolist(), tokens.tolist(), strict=True)
        seen = [Seen(float(i), s, self.n, a, 0, t) for i, (s, a, t) in enumerate(columns)]
        return sliced(spot, 0, seen, Meanwhile(float(took.sum()), Noise()))
