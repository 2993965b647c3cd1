"""The log of decisions: what was ranked for whom, one JSON line an answer, in files that are bounded together.

A request never waits for it and never fails because of it. Decisions go through a bounded queue to one thread; what
finds the queue full, or a disk that cannot be written, is counted in `lost`.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import math
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Annotated, BinaryIO

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

from corella_edge.errors import InputError
from corella_edge.request import Request, User
from corella_edge.routing.fusion import Fusion
from corella_edge.routing.measure import Inputs
from corella_edge.scores import FloatArray, Probability, Scored, Scores, answered, shown_places

_LOG = logging.getLogger("corella_edge.decisions")
WAITING = 4096  # decisions in the queue
TOGETHER = 256  # decisions in one write
SYNC_SECONDS = 5.0  # so much of the log a power failure may take
SILENT_SECONDS = 60.0  # between two lines about a disk that fails
FILES = 16  # of one log
OF_REQUEST, OF_ITEM = ("history", "dispersion"), ("popularity", "age", "text")  # inputs of a gate; others follow
_NAME = re.compile(r"decisions-(\d{8})\.jsonl")
_ENCODER = msgspec.json.Encoder()
Know = Callable[[Request, Scores], Inputs]
Entry = tuple[Request, Scores, str, float, Know | None]


class Stamp(Struct):
    """What decided: the measure's name, its threshold (null: nothing is asked), and a hash of both and the fusion."""

    name: str
    threshold: float | None
    hash: str


class LoggedCandidate(Scored, kw_only=True, gc=False):
    """A candidate of the log, where more is known of it than of those of an answer.

    Attributes:
        ask_propensity: the chance with which the LLM was asked; absent = nothing was left to chance, as of an item
            without words, about which it is never asked.
        shadow: its answer, where that was asked for beside the request and did not count.
        inputs: what a gate reads of the item.
    """

    ask_propensity: Annotated[float, Meta(gt=0, le=1)] | UnsetType = UNSET
    shadow: Probability | UnsetType = UNSET
    inputs: dict[str, float] | UnsetType = UNSET


class Decision(Struct, kw_only=True):
    """A line of the log: the form of an answer, with who asked, when, and what decided. No text of the user or of an
    item.

    Attributes:
        features: a hash of the user's features and history: equal where the same was known of the user.
        inputs: what a gate reads of the request as a whole (`corella_edge.routing.labelled`).
        scored: how many candidates were, where the answer shows fewer.
        adapters: name → weight of those by which the LLM answers; absent = the bundle has none.
    """

    id: str | UnsetType = UNSET
    time: Annotated[float, Meta(description="Unix time in seconds, by the box's clock, when the answer was made.")]
    bundle: str
    user: str | UnsetType = UNSET
    fallback: str | UnsetType = UNSET
    features: str
    policy: Stamp
    inputs: dict[str, float]
    scored: int | UnsetType = UNSET
    adapters: dict[str, float] | UnsetType = UNSET
    candidates: list[Scored]


def new_id() -> str:
    """An id for a request that brings none: clicks are joined by it."""
    return secrets.token_hex(8)


def line(request: Request, scores: Scores, bundle: str, when: float, know: Know | None = None) -> bytes:
    """A decision as JSON and a line feed: what `answered` shows, so only the `top_k` best where that is given."""
    shown = answered(request, scores, bundle)
    user, count = request.user, len(scores.items)
    trace, inputs = scores.trace, know(request, scores) if know is not None and count else {}
    shared = {name: round(float(inputs[name][0]), 6) for name in OF_REQUEST if name in inputs}
    decision = Decision(
        id=shown.id, time=round(when, 3), bundle=bundle, user=UNSET if user.id is None else user.id,
        fallback=shown.fallback, features=feature_hash(user), inputs=shared,
        policy=stamp(trace.measure, trace.threshold, scores.fusion),
        scored=count if count > len(shown.candidates) else UNSET,
        adapters=UNSET if scores.adapters is None else dict(scores.adapters),
        candidates=_more(shown.candidates, request, scores, inputs),
    )  # fmt: skip
    return _ENCODER.encode(decision) + b"\n"


def feature_hash(user: User) -> str:
    """16 hexadecimal digits of what is known of a user beside the id: features and history, times included."""
    past = user.history
    known = sorted(user.features.items()), past.items, past.ratings, past.times, past.types, past.quantities
    return hashlib.blake2b(_ENCODER.encode(known), digest_size=8).hexdigest()


@lru_cache(256)
def stamp(name: str, threshold: float, fusion: Fusion) -> Stamp:
    """Of a measure at a threshold and what makes one score of two."""
    least = threshold if math.isfinite(threshold) else None
    said = _ENCODER.encode([name, least, fusion.to_json()])
    return Stamp(name, least, hashlib.blake2b(said, digest_size=6).hexdigest())


def _more(shown: list[Scored], request: Request, scores: Scores, inputs: Inputs) -> list[Scored]:
    """The candidates with what is known of them beside the answer: chance, answer in the shadow, a gate's inputs."""
    columns = {name: inputs[name] for name in OF_ITEM if name in inputs}
    if scores.propensity is None and scores.shadow is None and not columns:
        return shown
    # By place: an item may be there twice, with other features each time.
    places, chances = shown_places(request, scores).tolist(), _chances(scores, columns)
    return [_with_more(one, place, scores, chances, columns) for one, place in zip(shown, places, strict=True)]


def _chances(scores: Scores, inputs: Inputs) -> FloatArray:
    """float64 [n], with which the LLM was asked. No chance keeps the answer about an item without words away: there is
    none, whether its request was drawn or not."""
    drawn = np.ones(len(scores.items)) if scores.propensity is None else scores.propensity
    return np.where(inputs["text"] == 0.0, 1.0, drawn) if "text" in inputs else drawn


def _with_more(one: Scored, place: int, scores: Scores, chances: FloatArray, inputs: Inputs) -> LoggedCandidate:
    own = {name: getattr(one, name) for name in one.__struct_fields__}
    chance = float(chances[place])
    answer = math.nan if scores.shadow is None else float(scores.shadow[place])
    known = {name: round(float(values[place]), 6) for name, values in inputs.items() if values[place] == values[place]}
    return LoggedCandidate(**own, ask_propensity=UNSET if chance == 1.0 else chance,
                  shadow=UNSET if math.isnan(answer) else answer, inputs=known or UNSET)  # fmt: skip


class DecisionLog:
    """The files `decisions-NNNNNNNN.jsonl` of a folder, numbered upwards; a start begins a new one.

    Attributes:
        lost: decisions that were not kept.
    """

    def __init__(self, folder: Path, lock: int, most_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self.folder, self.lost = folder, 0
        self._lock, self._clock = lock, clock
        self._file_bytes = max(1, most_bytes // FILES)
        self._queue: queue.Queue[Entry | None] = queue.Queue(WAITING)
        self._file: BinaryIO | None = None
        self._number = max([_number(path) for path in folder.iterdir()], default=0)
        self._synced, self._dirty = time.monotonic(), False
        self._silent_until = 0.0
        self._thread = threading.Thread(target=self._run, name="corella-decisions", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, folder: Path, most_bytes: int, clock: Callable[[], float] = time.time) -> DecisionLog:
        """The log in `folder`, which is made if it does not exist (its parent has to).

        Args:
            most_bytes: of all files together; the oldest go.

        Raises:
            InputError: it cannot be written, or another process writes it.
        """
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InputError(f"--log {folder}: cannot be written: {error.strerror}; name another folder") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise InputError(f"--log {folder}: in use by another process; stop it or name another folder") from None
        return cls(folder, lock, most_bytes, clock)

    def put(self, request: Request, scores: Scores, bundle: str, wait: bool = False, know: Know | None = None) -> None:
        """Log one decision.

        Args:
            wait: for room in the queue, as only a batch may.
            know: makes what a gate reads of it, in the log's own thread.
        """
        try:
            self._queue.put((request, scores, bundle, self._clock(), know), block=wait)
        except queue.Full:
            self.lost += 1

    def close(self) -> None:
        """Write what is in the queue, and let go of the folder."""
        self._queue.put(None)
        self._thread.join()
        os.close(self._lock)

    def __enter__(self) -> DecisionLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        more = True
        while more:
            batch, more = self._next()
            if batch:
                self._attempt(lambda batch=batch: self._write(batch), len(batch))  # type: ignore[misc]
            if self._dirty and (not more or time.monotonic() - self._synced >= SYNC_SECONDS):
                self._attempt(self._sync, 0)
        if self._file is not None:
            self._file.close()

    def _next(self) -> tuple[list[Entry], bool]:
        """What waits, none after a while; and whether the log goes on."""
        batch = []
        try:
            found = self._queue.get(timeout=SYNC_SECONDS)
            while found is not None:
                batch.append(found)
                if len(batch) == TOGETHER:
                    return batch, True
                found = self._queue.get_nowait()
        except queue.Empty:
            return batch, True
        return batch, False

    def _attempt(self, step: Callable[[], None], number: int) -> None:
        """What fails is told once a minute; the next decisions go into a new file."""
        try:
            step()
        except Exception as error:  # noqa: BLE001 - the log must not end, nor tell what a user wrote
            self.lost += number
            self._leave()
            if time.monotonic() >= self._silent_until:
                self._silent_until = time.monotonic() + SILENT_SECONDS
                why = error.strerror if isinstance(error, OSError) else type(error).__name__
                _LOG.error("the log of decisions in %s cannot be written: %s", self.folder, why)

    def _write(self, batch: list[Entry]) -> None:
        for text in [line(*decision) for decision in batch]:
            if self._file is not None and self._file.tell() and self._file.tell() + len(text) > self._file_bytes:
                self._sync()
                self._leave()
            if self._file is None:
                self._file = self._begin()
            self._file.write(text)
            self._dirty = True
        if self._file is not None:
            self._file.flush()

    def _begin(self) -> BinaryIO:
        """A new file, with room for it."""
        self._number += 1
        files = sorted(path for path in self.folder.iterdir() if _number(path))
        for old in files[: max(0, len(files) + 1 - FILES)]:
            old.unlink(missing_ok=True)
        made = os.open(self.folder / f"decisions-{self._number:08}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        return os.fdopen(made, "ab")

    def _sync(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self._synced, self._dirty = time.monotonic(), False

    def _leave(self) -> None:
        """The file as it is: a line that was cut off is the last of it."""
        file, self._file = self._file, None
        self._dirty = False
        if file is not None:
            try:
                file.close()
            except OSError:  # told before, or of no use: what it held is lost already
                _LOG.debug("a file of decisions could not be closed")


def _number(path: Path) -> int:
    """Of a file of decisions; 0 of anything else."""
    matched = _NAME.fullmatch(path.name)
    return int(matched[1]) if matched else 0
