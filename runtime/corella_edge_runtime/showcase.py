"""What a bundle has to show people: its items, the users of its sample, and its own curve of quality against share."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from corella_edge.bundle.artefact import Bundle
from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError
from corella_edge.features.derived import Side
from corella_edge.features.schema import ATTRIBUTES, Field, Schema
from corella_edge.json_lines import Traffic, parse_traffic, read_lines
from corella_edge.request import Event, User
from corella_edge.routing.measure import NEVER
from corella_edge.routing.policy import Calibration, Policy

SHOWN_POINTS = 1001  # of the curve of shares and thresholds
SHOWN_EVENTS = 100  # of a user's history, the latest
SHOWN_VALUES = 200  # of a vocabulary, as suggestions
LATEST = 3  # titles that tell users apart
KINDS = {"categorical": "one", "multi": "many", "ordered": "many", "text": "text", "numeric": "number"}
FIGURES = ("ratio", "share", "auc", "logloss", "accuracy")

Shown = dict[str, Any]


@dataclass(slots=True)
class SampleUser:
    """A user of the sample: as known before the held-out items, and what became of those (None = unknown)."""

    user: User
    labels: dict[str, int | None]


class Showcase:
    """Views of one bundle, as JSON-ready values. Nothing is read before it is asked for; threads may share one."""

    def __init__(self, bundle: Bundle, schema: Schema, catalog: Catalog, policy: Policy) -> None:
        """`policy`: what the server uses where a request brings none."""
        self.bundle, self.schema, self.catalog, self.policy = bundle, schema, catalog, policy

    def items(self, query: str, count: int, seed: int) -> Shown:
        """At most `count` items: those that contain every word of `query` in id or title, or a seeded sample."""
        rows = self._found(query.casefold().split(), count) if query.strip() else self._sample(count, seed)
        return {
            "items": [self.item(row) for row in rows],
            "total": len(self.catalog),
            "fields": self.item_fields,
        }

    def _sample(self, count: int, seed: int) -> list[int]:
        size = len(self.catalog)
        return random.Random(seed).sample(range(size), min(count, size))

    def _found(self, words: Sequence[str], count: int) -> list[int]:
        """Rows whose text has all words; best are those where they begin words, then the order of the catalogue."""
        hits = (
            (sum(f" {word}" not in text for word in words), row)
            for row, text in enumerate(self._texts)
            if all(word in text for word in words)
        )
        return [row for _, row in heapq.nsmallest(count, hits)]

    @cached_property
    def _texts(self) -> list[str]:
        """Id and title of every item as they are searched; every word has a space before it."""
        attributes = zip(self.catalog.ids, self.catalog.attributes, strict=True)
        return [f" {item} {known.get('title') or ''}".casefold() for item, known in attributes]

    def item(self, row: int) -> Shown:
        """Id, title (null if it has none) and the attributes that the models look at."""
        known = self.catalog.attributes[row]
        names = [field["name"] for field in self.item_fields]
        features = {name: known[name] for name in names if _told(known.get(name))}
        return {"item": self.catalog.ids[row], "title": known.get("title"), "features": features}

    @cached_property
    def item_fields(self) -> list[Shown]:
        """Attributes by which a new item may be described, beside its title."""
        prompt = self.bundle.prompt()
        names = dict.fromkeys([*(prompt[0].item_fields if prompt else []), *self.schema.text_attributes])
        return _fields(self.schema, "item", [name for name in names if name != "title"])

    @cached_property
    def user_fields(self) -> list[Shown]:
        """Features by which a user may be described."""
        prompt = self.bundle.prompt()
        return _fields(self.schema, "user", list(prompt[0].profile) if prompt else [])

    def users(self, query: str, count: int) -> Shown:
        """At most `count` users of the sample whose id contains `query`, the one it names first; with their latest."""
        wanted = query.strip().casefold()
        names = sorted((n for n in self._users if wanted in n.casefold()), key=lambda n: n.casefold() != wanted)
        return {
            "users": [self._line(self._users[name].user) for name in names[:count]],
            "total": len(self._users),
            "fields": self.user_fields,
        }

    def _line(self, user: User) -> Shown:
        latest = [self._title(event.item) for event in user.history[: -1 - LATEST : -1]]
        return {"id": user.id, "events": len(user.history), "latest": latest}

    def user(self, name: str) -> Shown | None:
        """A user of the sample with the latest events, oldest first, and the held-out items with their labels."""
        found = self._users.get(name)
        if found is None:
            return None
        history = found.user.history
        return {
            "id": name,
            "features": dict(found.user.features),
            "events": len(history),
            "history": [self._event(event) for event in history[-SHOWN_EVENTS:]],
            "held_out": [{**self._named(item), "label": label} for item, label in found.labels.items()],
        }

    def _event(self, event: Event) -> Shown:
        return {**self._named(event.item), "rating": event.rating, "time": event.time}

    def _named(self, item: str) -> Shown:
        row = self.catalog.row_of.get(item)
        return {"item": item, "title": None, "features": {}} if row is None else self.item(row)

    def _title(self, item: str) -> str:
        return str(self._named(item)["title"] or item)

    @cached_property
    def _users(self) -> dict[str, SampleUser]:
        """By id, in the sample's order: each with the shortest history, so that all later labels are still unseen."""
        users: dict[str, SampleUser] = {}
        for row in self._rows():
            user = row.request.user
            if user.id is None:
                continue
            known = users.setdefault(user.id, SampleUser(user, {}))
            if len(user.history) < len(known.user.history):
                known.user = user
            known.labels.update(zip([c.item for c in row.request.candidates or ()], row.labels, strict=False))
        return users

    def _rows(self) -> Iterator[Traffic]:
        if self.bundle.has("sample.jsonl"):
            yield from read_lines(self.bundle.path("sample.jsonl"), parse_traffic, BundleError)

    def curve(self) -> Shown:
        """Threshold ↔ share, and quality at the shares that were measured at export; null nats = never."""
        data, routing = self.bundle.json("routing.json"), self.bundle.routing()
        shares, nats = _thinned(self.bundle.calibration())
        return {
            "bundle": self.bundle.label,
            "threshold": {"nats": _nats(routing.as_nats(self.policy)), "unit": self.policy.reason},
            "llm": self.bundle.has("prompt.json"),
            "fusion": routing.fusion.rule,
            "rows": data.get("rows"),
            "table": [_figures(row) for row in data.get("table") or [] if isinstance(row, dict)],
            "shares": [round(share, 6) for share in shares],
            "nats": [_nats(at) for at in nats],
        }


def _thinned(calibration: Calibration) -> tuple[list[float], list[float]]:
    """Shares and thresholds of about `SHOWN_POINTS` points, the first and the last among them."""
    places = np.unique(np.linspace(0, len(calibration.shares) - 1, SHOWN_POINTS).round().astype(np.int64))
    return calibration.shares[places].tolist(), calibration.thresholds[places].tolist()


def _fields(schema: Schema, side: Side, as_words: Sequence[str]) -> list[Shown]:
    """What the CRM looks at, then what is read as words alone; `kind` is one, many, number or text."""
    known = {f.source: f for f in schema.of(*ATTRIBUTES, side=side) if f.source != "id"}
    fields = [{"name": name, "kind": KINDS[f.kind], "values": _values(schema, f)} for name, f in known.items()]
    return fields + [{"name": name, "kind": "text", "values": []} for name in as_words if name not in known]


def _values(schema: Schema, field: Field) -> list[str]:
    return list(schema.vocabularies[field.vocab].values[:SHOWN_VALUES]) if field.vocab else []


def _figures(row: Mapping[str, Any]) -> Shown:
    """The known figures of a row of the bundle's table; null where there is none."""
    return {name: _finite(row.get(name)) for name in FIGURES}


def _told(value: Any) -> bool:
    """Whether there is a value, and JSON can carry it."""
    return value is not None and not (isinstance(value, float) and not math.isfinite(value))


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _nats(value: float) -> float | None:
    return None if value == NEVER else round(value, 6)
