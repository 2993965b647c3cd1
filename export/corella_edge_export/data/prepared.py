"""`PreparedData`: the folder that `prepare` wrote, as arrays over local indices.

Users and items are numbered by their place among the sorted ids (as strings). A row's history is not
copied but pointed at: `log.items[log.offsets[u] : log.offsets[u] + position]`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corella_edge.errors import InputError
from corella_edge.history import EARLIEST
from corella_edge.request import Candidate, Event, Request, User

FORMAT_VERSION = 1
SPLITS = ("train", "valid", "test")
PARQUET = (*SPLITS, "interactions", "users", "items")


@dataclass(frozen=True, slots=True)
class Log:
    """The events of the histories, user by user, each user's oldest first; N rows, U users.

    Attributes:
        offsets: int64 [U + 1], the user u's rows are offsets[u] to offsets[u + 1].
        items: int32 [N] local indices. ratings: float32 [N], nan = none; where the events have labels alone and some
            are not liked, these are the ratings (`PreparedData.told_by`). times: int64 [N] Unix seconds.
        labels: int8 [N], 1 = liked.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    ratings: NDArray[np.float32]
    times: NDArray[np.int64]
    labels: NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class Split:
    """The n rows of one split in time order.

    Attributes:
        users, items: int32 [n] local indices. labels: int8 [n]. ratings: float32 [n], nan = none.
        times: int64 [n] Unix seconds. positions: int32 [n], how many events of the user came before.
    """

    users: NDArray[np.int32]
    items: NDArray[np.int32]
    labels: NDArray[np.int8]
    ratings: NDArray[np.float32]
    times: NDArray[np.int64]
    positions: NDArray[np.int32]


class PreparedData:
    """A prepared data set; tables are read when first used and then kept.

    Attributes:
        root: the folder. info: dataset.json, decoded.
    """

    def __init__(self, root: Path, info: dict[str, Any]) -> None:
        self.root = root
        self.info = info

    @classmethod
    def open(cls, root: Path) -> PreparedData:
        """Open a prepared folder and check every table against its recorded hash.

        Raises:
            InputError: a file is missing, changed or malformed, or the format is of another version.
        """
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; `corella-edge prepare` makes it")
        info = _read_info(root / "dataset.json")
        for name in PARQUET:
            _check_file(root / f"{name}.parquet", info["files"])
        return cls(root, info)

    @cached_property
    def user_ids(self) -> list[str]:
        """Ids by local index, sorted as strings."""
        return self._table("users")["user_id"].to_list()

    @cached_property
    def item_ids(self) -> list[str]:
        """Ids by local index, sorted as strings."""
        return self._table("items")["item_id"].to_list()

    @cached_property
    def users(self) -> dict[str, list[Any]]:
        """Attribute → its value by user index: str, list of str, or float by its kind; None = missing."""
        return {name: self._table("users")[name].to_list() for name in self.user_attributes}

    @cached_property
    def items(self) -> dict[str, list[Any]]:
        """`title` and each attribute → its value by item index."""
        return {name: self._table("items")[name].to_list() for name in ("title", *self.item_attributes)}

    @property
    def user_attributes(self) -> dict[str, str]:
        """Attribute → its kind: a key of `contract.KINDS`."""
        return dict(self.info["attributes"]["users"])

    @property
    def item_attributes(self) -> dict[str, str]:
        """Attribute → its kind; the title is not among them."""
        return dict(self.info["attributes"]["items"])

    @property
    def history_events(self) -> str:
        """Which events the log holds: "all", "liked" only, or "some": liked ones and a part of the disliked."""
        return str(self.info.get("history", {}).get("events", "all"))

    @property
    def rows_in_log(self) -> bool:
        """Whether every row is its user's event number `position` itself.

        If not, only what comes before `position` may be read from the log: a disliked item may be in no log, a drawn
        negative is in none, and where events of the row's own moment are kept out of its history, `position` counts
        the strictly earlier ones.
        """
        return bool(self.info.get("history", {}).get("rows_in_log", self.history_events == "all"))

    @cached_property
    def log(self) -> Log:
        """The interactions that form the histories, as arrays."""
        rows = self._rows("interactions")
        counts = np.bincount(rows.users, minlength=len(self.user_ids))
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        return Log(offsets, rows.items, rows.ratings, rows.times, rows.labels)

    def split(self, name: str) -> Split:
        """The rows of "train", "valid" or "test", in time order.

        Raises:
            InputError: no such split.
        """
        if name not in SPLITS:
            raise InputError(f"unknown split {name!r}; known splits: {', '.join(SPLITS)}")
        return self._rows(name)

    @cached_property
    def told_by(self) -> Literal["ratings", "labels", "being there"]:
        """How an event of a history tells whether it was liked: by its rating, by its label, or all of them were.

        A label is given and asked for as a rating of 0 or 1, so that a request can tell it too.
        """
        events = self._table("interactions")
        if events["rating"].null_count() < len(events):
            return "ratings"
        return "labels" if (events["label"] == 0).any() else "being there"

    @property
    def like_above(self) -> float:
        """A rating above it is a like: the rule of dataset.json, or what parts the labels 0 and 1."""
        above = self.info["like"].get("above")
        return float(above) if self.told_by == "ratings" and isinstance(above, (int, float)) else 0.5

    @cached_property
    def timed(self) -> bool:
        """Whether the events have times; numbers below those of 1995 are places in an order (`history.EARLIEST`)."""
        latest = self._table("interactions")["timestamp"].max()
        return isinstance(latest, int) and latest >= EARLIEST

    def warm(self, split: Split) -> NDArray[np.bool_]:
        """bool [n]: the row's user and its item both occur in a training row."""
        train = self._rows("train")
        return np.isin(split.users, train.users) & np.isin(split.items, train.items)

    def unseen_items(self, split: Split) -> NDArray[np.bool_]:
        """bool [n]: no training row has the row's item."""
        return ~np.isin(split.items, self._rows("train").items)

    def history_start(self, position: int, history_max: int | None, block: int = 1) -> int:
        """Index of the first event kept of a history of `position` events.

        It is a multiple of `block`: a prompt that drops its oldest lines in blocks then drops the same ones of
        the cut history as of the whole. Between history_max and history_max + block - 1 events stay.
        """
        if history_max is None:
            return 0
        return max(0, position - history_max) // block * block

    def request(
        self,
        user: int,
        position: int,
        items: Sequence[int],
        history_max: int | None = None,
        id: str | None = None,
        block: int = 1,
    ) -> Request:
        """The request a service would get when `position` events of the user's log have passed.

        Args:
            user: local index. position: how many events came before. items: local indices to score.
            history_max, block: keep about so many latest events (see `history_start`); None = all.
        """
        features = {name: values[user] for name, values in self.users.items() if values[user] is not None}
        history = self._events(user, self.history_start(position, history_max, block), position)
        candidates = tuple([Candidate(self.item_ids[item]) for item in items])
        return Request(User(self.user_ids[user], features, history), candidates, id)

    def _events(self, user: int, start: int, stop: int) -> tuple[Event, ...]:
        first, ids = int(self.log.offsets[user]), self.item_ids
        rows = slice(first + start, first + stop)
        columns = (self.log.items[rows], self.log.ratings[rows], self.log.times[rows])
        lists = [column.tolist() for column in columns]
        if not self.timed:
            lists[2] = [None] * len(lists[2])
        # nan, the only value that differs from itself, stands for "no rating".
        return tuple([Event(ids[i], r if r == r else None, t) for i, r, t in zip(*lists, strict=True)])

    def _table(self, name: str) -> pl.DataFrame:
        if name not in self._tables:
            self._tables[name] = _read_parquet(self.root / f"{name}.parquet")
        return self._tables[name]

    @cached_property
    def _tables(self) -> dict[str, pl.DataFrame]:
        return {}

    @cached_property
    def _indices(self) -> tuple[pl.Enum, pl.Enum]:
        return pl.Enum(self.user_ids), pl.Enum(self.item_ids)

    def _rows(self, name: str) -> Split:
        frame = _read_parquet(self.root / f"{name}.parquet")
        users, items = self._indices
        try:
            indices = [frame["user_id"].cast(users), frame["item_id"].cast(items)]
        except pl.exceptions.InvalidOperationError:
            problem = "an id is in neither users.parquet nor items.parquet; run prepare again"
            raise InputError(f"{self.root / name}.parquet: {problem}") from None
        user, item = (_array(index.to_physical().cast(pl.Int32)) for index in indices)
        told = "label" if self.told_by == "labels" else "rating"
        ratings = _array(frame[told].cast(pl.Float32).fill_null(float("nan")))
        labels, times, positions = (_array(frame[name]) for name in ("label", "timestamp", "position"))
        return Split(user, item, labels, ratings, times, positions)


def _array(column: pl.Series) -> NDArray[Any]:
    """Writable, because torch warns of arrays that are not."""
    return column.to_numpy(writable=True)


def fingerprint(data: PreparedData) -> str:
    """Identifies prepared data by its description, which holds the hash of every file."""
    return hashlib.sha256((data.root / "dataset.json").read_bytes()).hexdigest()


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: the file is missing; this is no folder made by `corella-edge prepare`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON: {error}; run prepare again") from None
    version = info.get("format_version") if isinstance(info, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: format_version {version!r}, this version reads {FORMAT_VERSION}; run prepare again")
    for key in ("attributes", "counts", "files", "like", "split"):
        if not isinstance(info.get(key), dict):
            raise InputError(f"{path}: the entry {key!r} is missing or no object; run prepare again")
    return dict(info)


def _check_file(path: Path, files: dict[str, Any]) -> None:
    recorded = files.get(path.name)
    wanted = recorded.get("sha256") if isinstance(recorded, dict) else None
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; run prepare again") from None
    if found != wanted:
        raise InputError(f"{path}: differs from what dataset.json records; run prepare again")


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        # Of a path polars would take brackets for a pattern, and no bytes that are not UTF-8.
        with path.open("rb") as file:
            return pl.read_parquet(file)
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: cannot be read as Parquet: {reason}; run prepare again") from None
