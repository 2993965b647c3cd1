"""One benchmark from beginning to end: the parity gate, ceilings, slices in rounds, quality, and the result of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict
from dataclasses import replace as changed
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from corella_edge.formats.text_files import TextFile
from corella_edge.json_lines import Traffic
from corella_edge.stopping import Stopped, never
from corella_edge_runtime.bench.measure import budget, energy, machine, provenance, quality, supply, traffic
from corella_edge_runtime.bench.measure.budget import Share
from corella_edge_runtime.bench.measure.ceiling import ceilings
from corella_edge_runtime.bench.measure.opened import Opened
from corella_edge_runtime.bench.measure.scenarios import Bench
from corella_edge_runtime.bench.measure.supply import Source, Supply
from corella_edge_runtime.bench.measure.worker import Workers
from corella_edge_runtime.bench.results import gathered, slo
from corella_edge_runtime.bench.results.circumstances import Ceilings, Noise, Quiet, Settings, Verified
from corella_edge_runtime.bench.results.journal import Journal, key
from corella_edge_runtime.bench.results.result import FORMAT, QualityLines, Result
from corella_edge_runtime.bench.results.seen import Slice, Spot
from corella_edge_runtime.bench.settings import BenchSettings
from corella_edge_runtime.engine import Engine

CEILING, MOST_CEILING = 0.02, 3.0  # of the budget for each ceiling, and seconds that it takes at most
ALONE = ("ratio:0",)
STEPS = 3  # before the first request: the parity gate, listening for other load, the ceilings
ELSEWHERE = "the server runs on another machine"
NO_TIME = "interrupted before the labelled rows were scored"
NOT_WANTED = "the run was told to score no labelled rows"
Say = Callable[[str], None]
Progress = Callable[[str, int, int], None]


def run(
    opened: Opened | Engine, file: TextFile | None, settings: BenchSettings, progress: Progress,
    out: Path | None = None, say: Say = lambda text: None, stop: Callable[[], bool] = never,
) -> Result:  # fmt: skip
    """The whole measurement; a result that is `void`, and holds no figures, where the parity gate fails.

    One that was stopped is not `complete`: it holds what was finished.

    Args:
        file: requests to send as they are; None = made of the bundle's sample, or made up.
        out: a folder for finished slices, from which an interrupted run goes on.
        say: told what the budget buys, and what an earlier run has left.
        stop: whether somebody wants it to end, asked between requests.

    Raises:
        InputError, BundleError: the traffic cannot be used, or a threshold means nothing for this bundle.
    """
    what = Opened.here(opened) if isinstance(opened, Engine) else opened
    source = supply.source(what.bundle, what.catalog, file, settings.made_up, settings.candidates, settings.seed)
    if not what.llm and settings.thresholds != ALONE:
        say("there is no LLM to ask: share 0 alone is measured")
        settings = changed(settings, thresholds=ALONE)
    what.policies(settings.thresholds)
    progress("the parity gate", 0, STEPS)
    verified = what.verified()
    head = _head(what, source, settings, verified)
    if verified.passed is False:
        return replace(head, void=f"the parity gate failed: {verified.why}")
    progress("other load", 1, STEPS)
    before = provenance.listen()
    if what.engine is not None:
        progress("ceilings", 2, STEPS)
        what.engine.warm_up()
        seconds = min(MOST_CEILING, CEILING * settings.budget)
        head = replace(head, ceilings=ceilings(what.engine, source.base, seconds))
    return _Run(what, source, settings, progress, say, stop).result(head, before, out)


class _Run:
    """One run at work."""

    def __init__(
        self, what: Opened, source: Source, settings: BenchSettings, progress: Progress, say: Say,
        stop: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._what, self._source, self._settings = what, source, settings
        self._progress, self._say = progress, say
        self._rapl = energy.find() if what.local else energy.Rapl((), ELSEWHERE)
        made = Supply(source, what.catalog, settings.seed)
        own = what.engine is not None
        self._bench = Bench(
            what.target, made, self._rapl, settings.ratios, settings.objective, settings.seed, own, stop=stop,
            apart=settings.apart,
        )  # fmt: skip
        self._supply = made
        self._left_out: list[str] = []
        self._whole = 0  # slices of the whole run
        self._spots = budget.spots(
            settings.thresholds, list(settings.ratios.values()), settings.scenarios, settings.users,
            settings.controls and what.target.controls and what.llm, settings.cores if own else 0,
        )  # fmt: skip

    def result(self, head: Result, before: Noise, out: Path | None) -> Result:
        """Measure all that is missing."""
        own = self._what.engine is not None
        journal = Journal(out, key(asdict(self._settings), head.bundle, head.data, head.threads, head.settings))
        self._tell(journal)
        earlier = [gathered.mean_noise(journal.slices)] if journal.resumed else []
        started, judged, whole = machine.ticks(whole=True), QualityLines(why=NO_TIME), False
        try:
            shares = self._plan(journal)
            self._rounds(journal, shares)
            judged = self._quality()
            journal.end()
            whole = True
        except Stopped:
            self._progress("stopped", len(journal.slices), self._whole)
        during = gathered.noise([provenance.noise(started, own), *earlier])
        quiet = provenance.quiet(before, during)
        notes = (*head.warnings, *self._notes())
        found = replace(head, quiet=quiet, quality=judged, complete=whole, warnings=notes)
        return self._with_points(found, journal.slices)

    def _tell(self, journal: Journal) -> None:
        if journal.dropped:
            self._say("an interrupted run of other settings, or of another bundle, is replaced")
        for one in journal.slices:
            if one.rates is not None:  # the first search; later ones begin where it ended
                self._bench.found.setdefault(one.spot.threshold, one.rates)

    def _plan(self, journal: Journal) -> dict[Spot, Share]:
        """Warm up, learn what requests cost, and say what the budget buys."""
        settings = self._settings
        self._bench.pilot(settings.thresholds, budget.PILOT * settings.budget / len(settings.thresholds))
        costs = budget.smoothed(self._bench.costs, settings.ratios, settings.candidates)
        costs = {threshold: cost + settings.apart for threshold, cost in costs.items()}
        seconds = (1.0 - (budget.QUALITY if self._labelled()[0] else 0.0)) * settings.budget
        more = (costs, seconds, settings.repeats, None if settings.objective is None else settings.objective[1])
        begun = {budget.group(one.spot) for one in journal.slices}
        self._spots, short = budget.affordable(self._spots, *more, begun)
        if short:
            self._say(short)
            self._left_out = [short]
        shares = budget.plan(self._spots, *more)
        if journal.resumed:
            count = sum(len(share.rounds) for share in shares.values())
            self._say(f"an interrupted run left {journal.resumed} of {count} measurements; the rest is measured now")
        for sentence in budget.told(shares):
            self._say(sentence)
        return shares

    def _rounds(self, journal: Journal, shares: dict[Spot, Share]) -> None:
        """Every slice that is missing, round by round."""
        done = {(one.spot, one.repeat) for one in journal.slices}
        left = [one for one in budget.in_turn(shares, self._settings.seed) if (one[1], one[0]) not in done]
        self._whole = len(journal.slices) + len(left)
        with ExitStack() as opened:
            for repeat, spot in left:
                self._progress(str(spot), len(journal.slices), self._whole)
                if spot.workers > 1 and self._bench.shared is None:
                    workers = Workers(self._what.bundle.root, self._what.llm, spot.workers)
                    self._bench.shared = opened.enter_context(closing(workers))
                    self._bench.warm_up_shared()
                journal.add(self._bench.slice(spot, shares[spot], repeat))
        self._bench.shared = None

    def _labelled(self) -> tuple[list[Traffic], list[str]]:
        """Rows with labels, users together, and whose each is."""
        rows, limit = self._source.rows, self._settings.max_labelled
        keys = traffic.user_keys(rows)
        known = [i for i in range(len(rows)) if any(label is not None for label in rows[i].labels)]
        order = traffic.grouped([rows[i] for i in known], limit, self._settings.seed)
        return [rows[known[i]] for i in order], [keys[known[i]] for i in order]

    def _quality(self) -> QualityLines:
        rows, users = self._labelled()
        if not rows:
            return QualityLines(why=quality.NO_LABELS if self._settings.max_labelled else NOT_WANTED)
        seconds, what = budget.QUALITY * self._settings.budget, self._what
        found = quality.score(what.rank, rows, users, self._scored, seconds)
        policies = what.policies(self._settings.thresholds)
        return quality.judged(found, policies, self._settings.ratios, what.routing.measure, what.routing.fusion)

    def _scored(self, name: str, done: int, of: int) -> None:
        """After each labelled row. Raises Stopped."""
        self._progress(name, done, of)
        self._bench.go_on()

    def _notes(self) -> list[str]:
        """What a reader of the report must know besides."""
        varied = self._supply.varied
        again = [f"{varied:,} requests were of users who had come before, with their history in another order, so that "
                "the LLM had to read it again"]  # fmt: skip
        return [*self._left_out, *(again if varied else [])]

    def _with_points(self, head: Result, slices: Sequence[Slice]) -> Result:
        """The result with all points of which there is a slice."""
        of_spot = {spot: [one for one in slices if one.spot == spot] for spot in self._spots}
        found = {spot: sorted(parts, key=lambda one: one.repeat) for spot, parts in of_spot.items() if parts}
        told, ratios, objective = slo.laws(found, self._settings.ratios), self._settings.ratios, self._bench.objective
        limit = None if objective is None else objective[1]
        points = [gathered.point(parts, ratios[spot.threshold], limit, self._rapl.why, told[spot])
                  for spot, parts in found.items()]  # fmt: skip
        return replace(head, points=tuple(points), planned=len(self._spots))


def _head(what: Opened, source: Source, settings: BenchSettings, verified: Verified) -> Result:
    """All that is known before the first request."""
    engine = what.engine
    asked = Settings(
        thresholds=settings.thresholds, scenarios=settings.scenarios, users=settings.users,
        candidates=settings.candidates, slo=settings.slo, budget_s=settings.budget, repeats=settings.repeats,
        seed=settings.seed, transport="process" if engine is not None else "http", url=what.url,
    )  # fmt: skip
    labelled = sum(any(label is not None for label in row.labels) for row in source.rows)
    return Result(
        format=FORMAT, created=datetime.now(UTC).isoformat(timespec="seconds"), measured=what.target.measured,
        bundle=provenance.bundle_of(what.bundle, engine), software=provenance.software(engine), settings=asked,
        data=supply.told(source, min(labelled, settings.max_labelled)), machine=provenance.machine_here(),
        threads=provenance.threads(engine), verified=verified, ceilings=Ceilings(),
        quiet=Quiet(before=Noise(), during=Noise(), noisy=False),
        warnings=tuple(_warnings(what)),
    )  # fmt: skip


def _warnings(what: Opened) -> list[str]:
    if what.engine is not None:
        return what.engine.warnings
    return [] if what.local else [f"{ELSEWHERE}: the one described here only sent the requests"]
