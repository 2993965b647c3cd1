"""Words of items as columns of a regression: what is known of an item before anyone has rated it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from corella_edge_export.data.prepared import PreparedData

# Variances of the effects: of a text's words together, of a value of a list, of the standardised lengths.
WORDS, VALUE, LENGTH = 4.5, 0.125, 0.045
WORD_ITEMS, VALUE_ITEMS = 4, 3  # items that a word, or a value, must occur in
COMMON = 0.25  # a word in more texts than this share says nothing
_WORD = re.compile(r"\w\w+")

Weights = list[dict[str, float]]  # an item's terms with their weights


@lru_cache(maxsize=1)  # asked for again with every fold of users; no label goes into it
def columns(data: PreparedData, names: tuple[str, ...]) -> Tensor:
    """Sparse float64 [items, columns]: each column times the standard deviation of its effect.

    A text gives its words and pairs of words by tf-idf (rows of length 1), and how many they are; a list gives its
    values, and how many they are.
    """
    parts = [torch.zeros((len(data.item_ids), 0), dtype=torch.float64).to_sparse()]
    for name in names:
        lists = data.item_attributes.get(name) in ("multi", "sequence")
        terms = [Counter(set(value or ())) if lists else _terms(value) for value in data.items[name]]
        weights = _values(terms) if lists else _tf_idf(terms)
        parts += [_matrix(weights), _lengths(sum(counts.values()) for counts in terms)]
    return torch.cat(parts, dim=1).coalesce()


def _terms(text: Any) -> Counter[str]:
    words = _WORD.findall(str(text or "").lower())
    return Counter([*words, *map(" ".join, pairwise(words))])


def _values(terms: list[Counter[str]]) -> Weights:
    items_of = Counter(term for counts in terms for term in counts)
    deviation = math.sqrt(VALUE)
    return [{term: deviation for term in counts if items_of[term] >= VALUE_ITEMS} for counts in terms]


def _tf_idf(terms: list[Counter[str]]) -> Weights:
    items_of = Counter(term for counts in terms for term in counts)
    most = max(WORD_ITEMS, COMMON * len(terms))
    idf = {
        term: math.log((1 + len(terms)) / (1 + items)) + 1
        for term, items in items_of.items()
        if WORD_ITEMS <= items <= most
    }
    return [_unit({t: (1 + math.log(n)) * idf[t] for t, n in counts.items() if t in idf}) for counts in terms]


def _unit(weights: Mapping[str, float]) -> dict[str, float]:
    length = math.sqrt(sum(weight * weight for weight in weights.values()))
    return {term: math.sqrt(WORDS) * weight / length for term, weight in weights.items()}


def _matrix(weights: Weights) -> Tensor:
    names = sorted({term for row in weights for term in row})
    place = {name: column for column, name in enumerate(names)}
    where = [(row, place[term]) for row, terms in enumerate(weights) for term in terms]
    values = [weight for terms in weights for weight in terms.values()]
    indices = torch.tensor(where, dtype=torch.int64).reshape(-1, 2).T
    entries = torch.tensor(values, dtype=torch.float64)
    return torch.sparse_coo_tensor(indices, entries, (len(weights), len(names)), check_invariants=True)


def _lengths(counts: Iterable[int]) -> Tensor:
    """[items, 2]: whether there is anything, and the logarithm of how much, standardised."""
    log = np.log1p(np.fromiter(counts, dtype=np.float64))
    both = np.stack([log > 0, log], axis=1).astype(np.float64)
    spread = both.std(axis=0)
    centred = (both - both.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    return torch.from_numpy(centred * math.sqrt(LENGTH)).to_sparse()
