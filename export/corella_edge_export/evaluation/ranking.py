"""Held-out likes found again in the whole catalogue: HR@10, NDCG@10 and MRR of a base model and of simple rivals.

Each liked row of a split asks for the ranking of every item of the data at its moment; its own item is the one to be
found. So leave-one-out data are judged by the usual protocol (one row a user), and any other split alike.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corella_edge.atomic import resumable_folder, write_file
from corella_edge.bundle import artefact as bundle
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.metrics import Bootstrap, Ints, mass_bins
from corella_edge.ranking import ranks, sampled
from corella_edge.request import Candidates, User
from corella_edge_export.data.prepared import PreparedData, Split, fingerprint
from corella_edge_export.data.rowset import HistoryCut
from corella_edge_export.data.sampling import draw_users
from corella_edge_export.evaluation import rivals, tables
from corella_edge_export.evaluation.groups import UNSEEN_ITEMS
from corella_edge_export.evaluation.scored import Json, Mask, few_users, gains, shown
from corella_edge_runtime.bench.measure.machine import machine, versions
from corella_edge_runtime.engine import Engine

ROWS = 3000  # liked rows that are looked for, of whole users
DRAWS = 2000
NUMBERS = 1 << 22  # scores that are held at once
MOST_AT_ONCE = 250  # rows
THIRDS = ("rarest third of targets", "middle third of targets", "most popular third of targets")
Scorer = Callable[[User], npt.NDArray[np.floating]]  # a user, history included → scores [items] in the data's order
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Targets:
    """Liked rows of a split, each with the item to be found, by user and then time.

    Attributes:
        split: these rows alone, n of them.
        keep_history: whether items of the row's history stay candidates. The target always does.
    """

    data: PreparedData
    split: Split
    history: HistoryCut
    keep_history: bool = False

    def __len__(self) -> int:
        return len(self.split.users)

    def before(self, row: int) -> Ints:
        """The items of the row's whole history, oldest first, int64 [position]."""
        first = int(self.data.log.offsets[self.split.users[row]])
        return self.data.log.items[first : first + int(self.split.positions[row])].astype(np.int64)

    def user(self, row: int) -> User:
        """Who asks, as a service would see it."""
        user, position = int(self.split.users[row]), int(self.split.positions[row])
        return self.data.request(user, position, [], self.history.events, None, self.history.block).user

    def protocol(self) -> str:
        """How the figures came about, in one sentence."""
        history = "stay among them" if self.keep_history else "are left out"
        return (
            f"full ranking: each liked row looks for its own item among all {len(self.data.item_ids):,} items; items "
            f"of the user's history {history}; equal scores count against the target"
        )


def choose_targets(
    data: PreparedData, name: str, count: int, seed: int, history: HistoryCut, keep_history: bool = False
) -> Targets:
    """The liked rows of a seeded sample of whole users, about `count` of them (0 = all)."""
    split = data.split(name)
    liked = _part(split, np.flatnonzero(split.labels > 0))
    rows = np.flatnonzero(np.isin(liked.users, draw_users(liked, count, seed)))
    order = rows[np.lexsort((liked.positions[rows], liked.users[rows]))]
    return Targets(data, _part(liked, order), history, keep_history)


def _part(split: Split, rows: npt.NDArray[np.int64]) -> Split:
    return Split(*(getattr(split, field.name)[rows] for field in fields(split)))


def rank(targets: Targets, scorers: Mapping[str, Scorer], others: Mapping[str, rivals.Rival], folder: Path,
         progress: Progress) -> dict[str, Ints]:  # fmt: skip
    """Where each row's item stands by each ranking, int64 [n] by name; what `folder` has is read, not made again."""
    names, found = [*scorers, *others], list[Ints]()
    step = max(1, min(MOST_AT_ONCE, NUMBERS // len(targets.data.item_ids)))
    for number, start in enumerate(range(0, len(targets), step)):
        path = folder / f"ranks-{number:04d}.i64"
        if not path.exists():
            progress("ranking the catalogue", start, len(targets))
            rows = range(start, min(start + step, len(targets)))
            write_file(path, _places(targets, rows, scorers, others).tobytes())
        found.append(np.frombuffer(path.read_bytes(), dtype=np.int64).reshape(len(names), -1))
    whole = np.concatenate(found, axis=1) if found else np.zeros((len(names), 0), dtype=np.int64)
    return dict(zip(names, whole, strict=True))


def _places(targets: Targets, rows: range, scorers: Mapping[str, Scorer], others: Mapping[str, rivals.Rival]) -> Ints:
    """int64 [rankings, rows]."""
    users, histories = [targets.user(row) for row in rows], [targets.before(row) for row in rows]
    tables_ = [np.stack([score(user) for user in users]) for score in scorers.values()]
    tables_ += [score(histories) for score in others.values()]
    wanted = targets.split.items[rows.start : rows.stop]
    gone = None if targets.keep_history else histories
    return np.stack([ranks(table, wanted, gone) for table in tables_])


def simple(targets: Targets, vectors: npt.NDArray[np.floating] | None = None) -> dict[str, rivals.Rival]:
    """What a model is held against; `vectors` float [items, width] are those of the data's items, in their order."""
    data = targets.data
    found = {"popular": rivals.popular(data), "following": rivals.following(data)}
    found |= {"recent": rivals.recent(data)} if targets.keep_history else {}
    return found | ({} if vectors is None else {"alike": rivals.alike(vectors)})


def slices(targets: Targets) -> dict[str, Mask]:
    """bool [n] by name, of those with rows: all; items and users without training rows; thirds by popularity."""
    split, train = targets.split, targets.data.split("train")
    masks = {
        "all": np.ones(len(targets), dtype=bool),
        UNSEEN_ITEMS: targets.data.unseen_items(split),
        "unseen users": ~np.isin(split.users, train.users),
    }
    third = mass_bins(rivals.liked_counts(targets.data)[split.items], len(THIRDS))
    masks |= {name: third == place for place, name in enumerate(THIRDS)}
    return {name: mask for name, mask in masks.items() if mask.any()}


def judge(targets: Targets, places: Mapping[str, Ints], draws: int = DRAWS, seed: int = 0) -> Json:
    """By slice: rows, users, each ranking's metrics with intervals, and what the models gain over each, paired."""
    models = [name for name in places if name in tables.MODELS]
    found: Json = {}
    for name, mask in slices(targets).items():
        bootstrap = Bootstrap(targets.split.users[mask], draws, seed)
        figures = {of: dict(sampled(ranked[mask], bootstrap)) for of, ranked in places.items()}
        found[name] = {
            "rows": int(mask.sum()), "users": bootstrap.users,
            "rankings": {of: shown(own) for of, own in figures.items()},
            "gains": {model: {of: gains(figures[model], own) for of, own in figures.items() if of != model}
                      for model in models},
        }  # fmt: skip
    return found


def evaluate_ranking(
    engine: Engine, data: PreparedData, split: str, out: Path, rows: int, seed: int, keep_history: bool,
    progress: Progress,
) -> Json:  # fmt: skip
    """Rank (or go on ranking) by the bundle's base model through the runtime; writes `out`/ranking.json and .md.

    Args:
        rows: 0 = every liked row of the split, else a seeded sample of whole users with about as many.

    Raises:
        InputError: `out` holds an evaluation of another bundle, data, protocol or choice of rows.
    """
    events, block, _ = engine.memory
    targets = choose_targets(data, split, rows, seed, HistoryCut(events, block), keep_history)
    others = simple(targets, vectors_of(engine.encoder, data))
    same = {
        "bundle": engine.name, "manifest": bundle.sha256(engine.bundle.path(bundle.MANIFEST)),
        "data": fingerprint(data), "split": split, "rows": len(targets), "seed": seed if rows else None,
        "keep_history": keep_history, "rankings": [tables.RANKED, *others],
    }  # fmt: skip
    with resumable_folder(out, "about.json", same):
        places = rank(targets, {tables.RANKED: catalogue_scorer(engine, data)}, others, out, progress)
        result = {
            **same, "protocol": targets.protocol(), "machine": machine(), "versions": versions(),
            "notes": [*data.info.get("notes", []), *few_users(targets.split.users), *_unknown(engine, data)],
            "slices": judge(targets, places),
        }  # fmt: skip
        write_file(out / "ranking.json", (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
        write_file(out / "ranking.md", markdown(result).encode())
    return result


def catalogue_scorer(engine: Engine, data: PreparedData) -> Scorer:
    """The base model's logits of all items of the data, float32 [items]: probabilities would round to ties."""
    candidates = Candidates(data.item_ids, None, engine.encoder.rows(data.item_ids))
    products, encoder = engine.products, engine.encoder
    if products is None or (rows := products.serves(candidates)) is None:
        return lambda user: engine.crm.many_logits(encoder.encode(user, candidates)[0])
    return lambda user: products.logits(encoder.encode_beside(user, candidates)[0], rows)


def vectors_of(encoder: FeatureEncoder, data: PreparedData) -> npt.NDArray[np.float32] | None:
    """The catalogue's text vectors of the data's items, float32 [items, width], zeros for others; None without any."""
    vectors = encoder.catalog.vectors
    if vectors is None:
        return None
    rows = encoder.rows(data.item_ids)
    known = rows < len(vectors)
    found = np.zeros((len(rows), vectors.shape[1]), dtype=np.float32)
    found[known] = vectors[rows[known]]
    return found


def _unknown(engine: Engine, data: PreparedData) -> list[str]:
    missing = int((engine.encoder.rows(data.item_ids) == engine.encoder.unknown_row).sum())
    return [f"{missing:,} of the data's items are not in the bundle's catalogue; they rank as unknown"] * bool(missing)


def markdown(result: Json) -> str:
    """The evaluation as Markdown tables."""
    head = [f"# {result['bundle']} on {result['split']}: ranking the catalogue ({result['rows']:,} rows)", ""]
    head += [f"- {result['protocol']}.", *(f"- {note}" for note in result["notes"])]
    head += [f"- [ ] is the 95 % interval, bootstrap over users, {DRAWS:,} draws; gains are paired.", ""]
    return "\n".join([*head, *tables.rankings(result["slices"])])
