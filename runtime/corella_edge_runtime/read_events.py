"""What the CRM has read of users' events, kept for those who return: `crm.events.onnx` reads only what is new.

An event's state depends on the events before it, never on later ones. So what was read of a history's beginning stays
true, whoever asks with whatever events after it, and a history is known by its coded events alone.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt

from corella_edge.features.schema import FIRST, PAD, Feed, Schema

States = npt.NDArray[np.float32]  # [layers, 2, e, d]
_BEYOND = 300  # bytes of an entry beside its arrays and its key
_DIGEST = 16


class KeptStates:
    """Histories as bytes, `stride` an event → their states, within a budget of bytes; the least recently used leave
    first. Threads may share one.

    Attributes:
        bytes: in use.
        evictions: those that left because the budget was full.
    """

    def __init__(self, budget: int, stride: int) -> None:
        self.budget, self.stride = budget, stride
        self.bytes = self.evictions = 0
        self._sorted: list[bytes] = []
        self._states: OrderedDict[bytes, States] = OrderedDict()
        self._lock = Lock()
        self._forgotten = 0  # times

    def __len__(self) -> int:
        return len(self._states)

    def find(self, key: bytes) -> tuple[int, States | None, int]:
        """How many of the first events are kept, their states or more, and what `put` is to be told."""
        with self._lock:
            if key in self._states:
                self._states.move_to_end(key)
                return len(key) // self.stride, self._states[key], self._forgotten
            place = bisect_left(self._sorted, key)
            # In sorted order the longest common beginning is with a neighbour.
            near = self._sorted[max(0, place - 1) : place + 1]
            found = [(_common(kept, key) // self.stride, kept) for kept in near]
            events, kept = max(found, default=(0, b""))
            if not events:
                return 0, None, self._forgotten
            self._states.move_to_end(kept)
            return events, self._states[kept], self._forgotten

    def put(self, key: bytes, states: States, begun: int) -> None:
        """Keep the states of a history; one that it extends leaves, others as the budget asks.

        Args:
            begun: what `find` told before the events were read: if all was forgotten meanwhile, this is, too.
        """
        size = _size(key, states)
        with self._lock:
            if begun != self._forgotten or key in self._states or size > self.budget:
                return
            place = bisect_left(self._sorted, key)
            if place and key.startswith(self._sorted[place - 1]):
                self._drop(self._sorted[place - 1])
            self._states[key] = states
            insort(self._sorted, key)
            self.bytes += size
            while self.bytes > self.budget:
                self.evictions += 1
                self._drop(next(iter(self._states)))

    def clear(self) -> None:
        """Forget everything, and what is being read now, too."""
        with self._lock:
            self._forgotten += 1
            self._sorted.clear()
            self._states.clear()
            self.bytes = 0

    def _drop(self, key: bytes) -> None:
        self.bytes -= _size(key, self._states.pop(key))
        del self._sorted[bisect_left(self._sorted, key)]


def _size(key: bytes, states: States) -> int:
    return states.nbytes + len(key) + _BEYOND


def _common(one: bytes, other: bytes) -> int:
    """How many of the first bytes are equal."""
    n = min(len(one), len(other))
    if one[:n] == other[:n]:
        return n
    return int(np.argmax(np.frombuffer(one, np.uint8, n) != np.frombuffer(other, np.uint8, n)))


class EventReader:
    """The events of a feed → states, of which as few are read as what is kept allows.

    Attributes:
        names: the inputs that are read here.
        nothing: float32 [layers, 2, 0, d], the states of no events.
        kept: what is kept.
    """

    def __init__(
        self, read: Callable[[Feed, States], States], schema: Schema, names: Sequence[str], shape: tuple[int, int],
        budget: int,
    ) -> None:  # fmt: skip
        """`read` is given the event fields [1, m] or [1, m, w] of new events and the states before them; `names` are
        those fields, at least one of them a sequence of codes; `shape` is (layers, d), `budget` in bytes."""
        self._read = read
        self.names = frozenset(names)
        fields = [f for f in schema.fields if f.name in self.names]
        coded = [f for f in fields if f.kind == "sequence"]
        items = [f for f in coded if f.source == "item"]
        self._coded, self._vectors = [f.name for f in coded], [f.name for f in fields if f not in coded]
        self._first = (items or coded)[0].name
        self._known = range(FIRST, schema.vocabularies[items[0].vocab].first_bucket) if items else range(0)
        self.nothing: States = np.zeros((shape[0], 2, 0, shape[1]), np.float32)
        self.kept = KeptStates(budget, 8 * len(coded) + _DIGEST * len(self._vectors))
        self._lock = Lock()
        self.hits = self.misses = self.read_events = self.kept_events = 0

    def states(self, feed: Feed) -> States:
        """float32 [layers, 2, e, d], e the user's events without padding. Not to be written to."""
        padding = feed[self._first].shape[1] - int(np.count_nonzero(feed[self._first] != PAD))
        events = {name: feed[name][:, padding:] for name in self.names}
        count = events[self._first].shape[1]
        if not count:
            return self.nothing
        key = self._key(events, count)
        known, kept, begun = self.kept.find(key)
        self._count(known, count)
        past = self.nothing if kept is None else kept if kept.shape[2] == known else kept[:, :, :known].copy()
        if known == count:
            return past
        states = self._read({name: values[:, known:] for name, values in events.items()}, past)
        self.kept.put(key, states, begun)
        return states

    def stats(self) -> dict[str, float]:
        """Counters, and what is kept now."""
        return {
            "crm_events_read": self.read_events, "crm_events_reused": self.kept_events,
            "crm_history_hits": self.hits, "crm_history_misses": self.misses,
            "crm_evictions": self.kept.evictions, "crm_kept_histories": len(self.kept),
            "crm_kept_bytes": self.kept.bytes,
        }  # fmt: skip

    def _count(self, known: int, count: int) -> None:
        with self._lock:
            self.kept_events += known
            self.read_events += count - known
            self.hits += known == count
            self.misses += known < count

    def _key(self, events: Feed, count: int) -> bytes:
        """The codes of each event side by side and, where a code does not tell the item, a digest of its vectors."""
        columns = [events[name].reshape(count, 1) for name in self._coded]
        if self._vectors:
            columns += self._digests(events, count)
        return np.concatenate(columns, axis=1).tobytes()

    def _digests(self, events: Feed, count: int) -> list[npt.NDArray[np.int64]]:
        """int64 [count, 2] a field: 0 where the item is known, which has one vector as long as a bundle is open."""
        codes = events[self._first][0]
        unseen = np.flatnonzero((codes < self._known.start) | (codes >= self._known.stop)).tolist()
        found = []
        for name in self._vectors:
            digests = np.zeros((count, 2), np.int64)
            for row in unseen:
                raw = hashlib.blake2b(events[name][0, row].tobytes(), digest_size=_DIGEST)
                digests[row] = np.frombuffer(raw.digest(), np.int64)
            found.append(digests)
        return found
