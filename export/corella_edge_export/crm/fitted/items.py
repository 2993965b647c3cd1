"""Numbers of items fitted on training rows: how liked an item is whoever rates it, and vectors of co-liking.

Both read labels, so a training row must not be encoded with numbers that its own label went into: `folds` parts the
users, and each fold's rows are encoded with what the other folds' rows give.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from corella_edge_export.crm.fitted import words as item_text
from corella_edge_export.crm.recipe import FeaturesRecipe, NumberRecipe
from corella_edge_export.data.prepared import PreparedData

FOLDS = 10
# Variances of the effects: of an item, of a user, of a step of the items' number and of the log count.
EFFECT, STEP = 0.98, 0.045
STEPS = 100
ENTRIES, SIDE = 25_000_000, 4_000  # of a matrix, and its smaller side: what is decomposed exactly
ROUNDS = 4  # power iterations of the randomised method
SMOOTHING = 5.0  # users added to an item's likes, so that rare items weigh little in the vectors

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]


def folds(data: PreparedData) -> list[Mask]:
    """A seeded partition of the users: bool [users], one a fold."""
    order = np.random.default_rng(0).permutation(len(data.user_ids))
    of = np.empty(len(order), dtype=np.int64)
    of[order] = np.arange(len(order)) % FOLDS
    return [of == fold for fold in range(FOLDS)]


def quality(data: PreparedData, users: Mask, features: FeaturesRecipe) -> Floats:
    """float64 [items]: the item's part of the log odds of a like, from the training rows of `users`.

    A logistic regression with an effect for every item, user, step of the recipe's `item_number`, word of its
    `item_text` and for the log of the item's count, all drawn to 0: an item without rows has the quality of its
    number, rarity and words.
    """
    rows = data.split("train")
    rows_of = users[rows.users]
    items, owners = rows.items[rows_of].astype(np.int64), rows.users[rows_of].astype(np.int64)
    known, words = _known(data, items, features.item_number), item_text.columns(data, features.item_text)
    if not len(items):
        return np.zeros(len(data.item_ids))
    x, i, u = torch.from_numpy(known), torch.from_numpy(items), torch.from_numpy(owners)
    y = torch.from_numpy(rows.labels[rows_of].astype(np.float64))
    sizes = (len(data.item_ids), len(data.user_ids), known.shape[1], 1, words.shape[1])
    parts = [torch.zeros(size, dtype=torch.float64, requires_grad=True) for size in sizes]
    item, user, step, constant, word = parts
    optimizer = torch.optim.LBFGS(parts, max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")

    def of_item() -> Tensor:
        return item + x @ step + constant + words @ word

    def loss() -> Tensor:
        optimizer.zero_grad()
        logits = of_item()[i] + user[u]
        drawn = (item.square().sum() + user.square().sum()) / (2 * EFFECT) + step.square().sum() / (2 * STEP)
        drawn = drawn + word.square().sum() / 2  # the columns hold the standard deviations
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="sum") + drawn
        value = value / len(items)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        found: Floats = of_item().numpy()
    return found


def _known(data: PreparedData, items: npt.NDArray[np.int64], number: NumberRecipe) -> Floats:
    """float64 [items, steps + 1]: the steps that an item's number has reached, and its standardised log count."""
    count = np.log1p(np.bincount(items, minlength=len(data.item_ids)).astype(np.float64))
    seen = count[items] if len(items) else count
    columns = [(count - seen.mean()) / (float(seen.std()) or 1.0)]
    if number.attribute:
        values = np.asarray([_number(value) for value in data.items[number.attribute]])
        columns += [(values >= step).astype(np.float64) for step in number.steps]
    return np.stack(columns, axis=1)


def _number(value: object) -> float:
    """Below every step where there is none."""
    try:
        return float(str(value))
    except ValueError:
        return -math.inf


def vectors(data: PreparedData, users: Mask, width: int) -> Floats:
    """float64 [items, width], unit rows or zeros: right singular vectors of who of `users` has liked what.

    Likes are those up to the user's last training row; an item's column is divided by the root of its likes. Of a
    matrix too large for all its entries, the vectors are those of a seeded randomised method (`torch.svd_lowrank`).
    """
    who, what = _likes(data, users)
    shape = (len(data.user_ids), len(data.item_ids))
    scale = 1.0 / np.sqrt(np.bincount(what, minlength=shape[1]) + SMOOTHING)
    exact = math.prod(shape) <= ENTRIES and min(shape) <= SIDE
    right = (_right_vectors if exact else _nearly_right_vectors)(who, what, scale[what], shape, width)
    length = np.linalg.norm(right, axis=1, keepdims=True)
    unit: Floats = np.where(length > 1e-6, right / np.maximum(length, 1e-3), 0.0)
    return np.pad(unit, ((0, 0), (0, width - unit.shape[1])))


def _right_vectors(who: Places, what: Places, entries: Floats, shape: tuple[int, int], width: int) -> Floats:
    """float64 [items, at most width], by the eigenvectors of the smaller side; zeros where the matrix has no more."""
    matrix = np.zeros(shape)
    matrix[who, what] = entries
    wide = shape[0] <= shape[1]
    values, found = np.linalg.eigh(matrix @ matrix.T if wide else matrix.T @ matrix)
    best = np.argsort(-values, kind="stable")[:width]
    singular = np.sqrt(np.maximum(values[best], 0.0))
    right = matrix.T @ found[:, best] / np.maximum(singular, 1e-9) if wide else found[:, best]
    kept: Floats = right * (singular > 1e-6)
    return kept


def _nearly_right_vectors(who: Places, what: Places, entries: Floats, shape: tuple[int, int], width: int) -> Floats:
    """The same of a large matrix of few entries."""
    places = torch.from_numpy(np.stack([who, what]).astype(np.int64))
    matrix = torch.sparse_coo_tensor(places, torch.from_numpy(entries), shape, check_invariants=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        _, singular, right = torch.svd_lowrank(matrix, q=min(width + 8, *shape), niter=ROUNDS)
    found: Floats = (right * (singular > 1e-6))[:, :width].numpy()
    return found


def _likes(data: PreparedData, users: Mask) -> tuple[Places, Places]:
    """Pairs (user, item), each once: what each of `users` had liked before the last training row."""
    log, rows = data.log, data.split("train")
    last = np.zeros(len(data.user_ids), dtype=np.int64)
    np.maximum.at(last, rows.users, rows.positions.astype(np.int64))
    owner = np.repeat(np.arange(len(last)), np.diff(log.offsets))
    before = np.arange(len(owner)) < (log.offsets[:-1] + last)[owner]
    liked = before & users[owner] & (log.labels == 1)
    pairs = np.unique(owner[liked] * len(data.item_ids) + log.items[liked])
    return np.divmod(pairs, len(data.item_ids))
