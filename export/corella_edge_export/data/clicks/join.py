"""`prepare log`: decisions and clicks → a table of events with labels, its items, and the data.toml that reads both."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from corella_edge.atomic import check_free, new_folder
from corella_edge.bundle.artefact import MANIFEST, Bundle
from corella_edge.catalog import FITTED, Attributes, Catalog
from corella_edge.decision_log import (
    Click,
    LoggedDecision,
    Torn,
    decision_files,
    key,
    read_clicks,
    read_decisions,
)
from corella_edge.errors import InputError
from corella_edge.json_lines import read_lines
from corella_edge.messages import an_id
from corella_edge.request_message import parse_item
from corella_edge_export.data.ledger import Ledger

COLUMNS = ("user", "item", "time", "label", "event", "quantity", "request", "rank", "propensity", "bundle")
HOUR = 3600.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class JoinPlan:
    """What counts.

    Attributes:
        window: seconds after a decision in which a click makes its item a positive.
        events: the kinds of clicks that do; empty = all of them.
        shown: how many of the first ranks somebody saw; None = all that was answered.
    """

    window: float = 24 * HOUR
    events: tuple[str, ...] = ()
    shown: int | None = None


@dataclass
class Joined:
    """What became of every item that was shown, and of every click.

    Attributes:
        rows: of the items shown. clicks: of the clicks; kept = those on a row of the table.
        positives: rows with label 1.
        torn: files whose last line was cut off.
        untitled: items of rows that the items' table does not know.
    """

    rows: Ledger = field(default_factory=Ledger)
    clicks: Ledger = field(default_factory=Ledger)
    positives: int = 0
    decisions: int = 0
    torn: int = 0
    untitled: set[str] = field(default_factory=set)

    def to_json(self) -> dict[str, Any]:
        counts = {"decisions": self.decisions, "torn_lines": self.torn, "positives": self.positives}
        return {**counts, "untitled": len(self.untitled), "rows": self.rows.to_json(), "clicks": self.clicks.to_json()}


def prepare_log(decisions: Path, clicks: Path, items: Path, out: Path, plan: JoinPlan, say: Say) -> dict[str, Any]:
    """Write the folder `out`: events.csv, items.jsonl, data.toml and ledger.json; it appears complete or not at all.

    Raises:
        InputError: a taken `out`; a file that cannot be read, by line; nothing that a table could be made of.
    """
    check_free(out)
    files = decision_files(decisions)
    found, kinds = _items(items)
    join = _Join(list(read_clicks(clicks)), plan, {item for item, _ in found})
    with new_folder(out) as folder:
        with (folder / "events.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            for path in files:
                say(f"decisions: {path.name}")
                writer.writerows(join.rows(read_decisions(path)))
        told = join.ended()
        _check(told)
        _write_items(folder / "items.jsonl", found, join.joined.untitled)
        (folder / "data.toml").write_text(description(kinds, bool(join.joined.untitled)), "utf-8")
        (folder / "ledger.json").write_text(json.dumps(told, indent=1) + "\n", "utf-8")
    return told


def _check(told: dict[str, Any]) -> None:
    """Raises InputError for labels of one kind alone: nothing can be learned of them."""
    kept, positives = told["rows"]["kept"], told["positives"]
    if 0 < positives < kept:
        return
    dropped = {**told["clicks"]["dropped"], **told["rows"]["dropped"]}
    why = "; ".join(f"{number} {reason}" for reason, number in dropped.items()) or "nothing was dropped"
    what = "no row is left" if not kept else "no row has a click" if not positives else "every row has a click"
    raise InputError(f"{what} ({told['rows']['read']} items shown, {told['clicks']['read']} clicks; {why})")


class _Join:
    """Clicks by what they are on, and the decisions that go by."""

    def __init__(self, clicks: Sequence[Click], plan: JoinPlan, known: set[str]) -> None:
        self._plan, self._known = plan, known
        self._clicks: dict[tuple[str, str], list[Click]] = {}
        self._requests = set[str]()  # of the clicks that no decision has been found for
        self._seen = set[int]()
        self.joined = Joined()
        self._file(clicks)

    def _file(self, clicks: Iterable[Click]) -> None:
        ledger, told = self.joined.clicks, set[tuple[str, str, str, float]]()
        for click in clicks:
            ledger.read += 1
            place = key(click.request, click.item)
            if self._plan.events and click.event not in self._plan.events:
                ledger.drop("of an event that does not count", 1)
            elif (*place, click.event, click.time) in told:
                ledger.drop("told twice", 1)
            else:
                told.add((*place, click.event, click.time))
                self._clicks.setdefault(place, []).append(click)
                self._requests.add(place[0])

    def rows(self, decisions: Iterable[LoggedDecision | Torn]) -> Iterator[tuple[object, ...]]:
        """The rows of the table, one an item that was shown."""
        for decision in decisions:
            if isinstance(decision, Torn):
                self.joined.torn += 1
            else:
                self.joined.decisions += 1
                yield from self._of(decision)

    def _of(self, decision: LoggedDecision) -> Iterator[tuple[object, ...]]:
        ledger, number = self.joined.rows, len(decision.candidates)
        ledger.read += number
        why = self._unusable(decision)
        if why:
            ledger.drop(why, number)
            return
        assert decision.id is not None
        assert decision.user is not None
        assert decision.time is not None
        request, user = an_id(decision.id, "id"), an_id(decision.user, "user")
        self._requests.discard(request)
        for shown in decision.candidates:
            if self._plan.shown is not None and shown.rank > self._plan.shown:
                ledger.drop(f"below rank {self._plan.shown}", 1)
                continue
            item = an_id(shown.item, "item")
            if item not in self._known:
                self.joined.untitled.add(item)
            clicks = self._in_time(self._clicks.pop((request, item), []), decision.time)
            self.joined.positives += bool(clicks)
            event, quantity = (clicks[0].event, sum(click.quantity for click in clicks)) if clicks else ("", "")
            yield (user, item, int(decision.time), int(bool(clicks)), event, quantity, request, shown.rank,
                   shown.propensity, decision.bundle)  # fmt: skip

    def _unusable(self, decision: LoggedDecision) -> str:
        """Why a decision makes no rows; empty if it does."""
        if decision.id is None:
            return "of a decision without id"
        if decision.user is None:
            return "of a decision without user"
        if decision.time is None:
            return "of a decision without time"
        mark = hash(an_id(decision.id, "id"))
        if mark in self._seen:
            return "of a decision whose id came before"
        self._seen.add(mark)
        return ""

    def _in_time(self, clicks: Sequence[Click], start: float) -> list[Click]:
        """Those in the window, the earliest first; the others are counted."""
        ledger = self.joined.clicks
        ledger.drop("before their decision", sum(click.time < start for click in clicks))
        ledger.drop("later than the window", sum(click.time > start + self._plan.window for click in clicks))
        kept = [click for click in clicks if start <= click.time <= start + self._plan.window]
        return sorted(kept, key=lambda click: click.time)

    def ended(self) -> dict[str, Any]:
        """The ledgers, once all decisions have gone by: what is left of the clicks is on none of them."""
        ledger = self.joined.clicks
        for (request, _), clicks in self._clicks.items():
            nowhere = request in self._requests
            ledger.drop("without a decision" if nowhere else "on an item that its decision did not show", len(clicks))
        return self.joined.to_json()


def _items(place: Path) -> tuple[list[tuple[str, Attributes]], dict[str, str]]:
    """Items with their attributes, of a bundle or of a file of JSON lines; and attribute → kind."""
    if (place / MANIFEST).is_file():
        schema, catalog = Bundle.open(place).schema()
        own = ({name: value for name, value in a.items() if name not in FITTED} for a in catalog.attributes)
        catalog = Catalog(catalog.ids, own)
        known = {f.source: f.kind for f in schema.of("categorical", "multi", "numeric", side="item")}
    else:
        lines = list(read_lines(place, parse_item))
        catalog = Catalog([line.item for line in lines], [line.features or {} for line in lines])
        known = {}
    pairs = list(zip(catalog.ids, catalog.attributes, strict=True))
    names = sorted({name for _, attributes in pairs for name in attributes} - {"title"})
    return pairs, {name: str(known.get(name) or _kind([a.get(name) for _, a in pairs])) for name in names}


def _kind(values: Iterable[Any]) -> str:
    """What an attribute's values look like."""
    given = [value for value in values if value is not None]
    if any(isinstance(value, list) for value in given):
        return "multi"
    return "numeric" if all(type(value) in (int, float) for value in given) else "categorical"


def _write_items(path: Path, items: Sequence[tuple[str, Attributes]], untitled: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for item, attributes in (*items, *((item, {}) for item in sorted(untitled))):
            file.write(json.dumps({"item": item, **attributes}, ensure_ascii=False) + "\n")


def description(kinds: dict[str, str], untitled: bool) -> str:
    """The data.toml of the folder, as `prepare table` reads it."""
    attributes = ", ".join(
        f"{json.dumps(name, ensure_ascii=False)} = {json.dumps(kind)}" for name, kind in kinds.items()
    )
    missing = "id" if untitled else "stop"
    return f'''# Written by `corella-edge prepare log`: what was shown, and whether it was chosen in time (label 1).
name = "log"

[events]
files = ["events.csv"]
user = "user"
item = "item"
time = "time"
time_unit = "s"
event_type = "event"
quantity = "quantity"
# Further columns: request, rank (1 is best), propensity (of being shown at that rank), bundle.

[label]
column = "label"

[items]
files = ["items.jsonl"]
id = "item"
title = "title"
attributes = {{ {attributes} }}
missing_title = "{missing}"

[split]
rule = "time"
shares = [0.8, 0.1, 0.1]
ties = "exclude"
min_history = 0
'''
