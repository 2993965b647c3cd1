"""The sections of a benchmark's report: its tables and plots with what must be known to read them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from corella_edge.routing.rules import ENTROPY, RULES
from corella_edge_runtime.bench.reports import ceilings, curves, shown, spreads
from corella_edge_runtime.bench.reports.facts import provenance
from corella_edge_runtime.bench.reports.shown import (
    METRICS,
    NONE,
    PERCENTILES,
    SCENARIOS,
    USERS,
    asked,
    digits,
    figure,
    many,
    per_cent,
    percent,
)
from corella_edge_runtime.bench.results.figures import needed
from corella_edge_runtime.bench.results.points import Point
from corella_edge_runtime.bench.results.result import QualityPoint, Result
from corella_edge_runtime.document import Section, Weak

LATENCY = ("asked for", "realised share", "touched, predicted", "touched, measured", "p99 ms, predicted",
           *(f"{name} ms" for name in PERCENTILES.values()))  # fmt: skip
WORK = ("asked for", "requests/s", "goodput/s", "candidates/s", "LLM ms per 1,000 requests", "tokens: evaluated",
        "tokens: reused", "degraded", "rejected", "kept", "failed", "late", "memory, MiB", "J per 1,000 requests",
        )  # fmt: skip
Rows = list[list[str]]


def sections(result: Result) -> Iterator[Section]:
    """What the report says below its head, in order."""
    yield from ceilings.sections(result)
    yield from _headline(result)
    yield from _quality(result)
    yield from _work(result)
    yield from _others(result)
    yield from _law(result)
    yield from _server(result)
    yield from _offline(result)
    yield from _over_time(result)
    yield from _provenance(result)


def _headline(result: Result) -> Iterator[Section]:
    found = shown.headline(result)
    if not found:
        return
    like = shown.points(result, found[0].scenario, "returning")
    name = _of(found[0])
    drawn = [(curves.latency(found, result.settings.slo, f"Latency, {USERS[found[0].users]}", like),
              "Bands: 95 % intervals. Hollow marks: too few requests for that percentile."),
             (spreads.humps(found, f"Where the time of {USERS[found[0].users]} lies"),
              "Height: root of the share of the requests, the same scale in every row.")]  # fmt: skip
    said = [f"{name}. {shown.sentence(result.measured)}", *_how(result, found)]
    yield Section(f"Latency: {name}", said, figures=drawn)
    yield Section("Percentiles", _unsupported(found), LATENCY, [_latency(point) for point in found], level=3)


def _of(point: Point) -> str:
    routing = "" if point.routing == "policy" else ", random routing"
    return f"{SCENARIOS[point.scenario]}, {USERS[point.users]}{routing}"


def _how(result: Result, found: Sequence[Point]) -> list[str]:
    repeats = max((len(point.repeats) for point in found), default=0)
    slow = f"With {found[0].candidates:.3g} candidates a request is slow if any of them is routed; "
    return [f"{slow}so p50 and p99 may belong to two kinds of request. Below a figure: its 95 % interval"
            f"{shown.made_of(found[0], repeats)}."]  # fmt: skip


def _unsupported(found: Sequence[Point]) -> list[str]:
    """Which percentiles are grey, and how many requests they take."""
    few = min((point.histogram.count for point in found), default=0)
    weak = [name for name in PERCENTILES if name != "max" and any(name not in p.latency.supported for p in found)]
    if not weak:
        return []
    wanted = ", ".join(f"{PERCENTILES[name]} takes {needed(name):,} requests" for name in weak)
    return [f"Figures in parentheses are not supported by the sample ({few:,} requests at the least): {wanted}."]


def _latency(point: Point) -> list[str]:
    values = []
    for name in PERCENTILES:
        words = figure(shown.spread(point, name))
        values.append(words if name == "max" or name in point.latency.supported or words == NONE else Weak(words))
    return [asked(point), percent(point.share), per_cent(point.law.touched), percent(point.touched),
            digits(point.law.p99), *values]  # fmt: skip


def _quality(result: Result) -> Iterator[Section]:
    found = result.quality
    if not found.points:
        yield Section("Quality", [f"Not measured: {shown.sentence(found.why or 'no row has a label')}"])
        return
    given = dict.fromkeys(name for point in found.points for name in point.metrics)
    names = [name for name in METRICS if name in given] + [name for name in given if name not in METRICS]
    rows = [_scored(point, names) for point in found.points if point.line not in ("random", "oracle")]
    said = [f"{found.rows:,} labelled rows of {found.users:,} users, each scored once by both models; intervals of "
            "95 % by bootstrap over users. Gain: over the base model alone, paired. Oracle, in the plots: the rows "
            "whose log-loss asking lowers most, labels known; random: as many rows, drawn.",
            *_published(found.points), *_unanswered(found.points)]  # fmt: skip
    header = ["line", "asked for", "realised share", "gain in AUC", *(_metric(name) for name in names)]
    knee = "" if found.knee is None else " The ring is the knee: after it more of the LLM brings less than its part."
    drawn = [(curves.quality(result, name), f"Band: the 95 % interval of the gain over the base model, paired.{knee}")
             for name in ("auc", "uauc") if curves.has(result, name)]  # fmt: skip
    if curves.pairs(result, "p99", "auc"):
        drawn.insert(1, (curves.trade(result, "auc"), "Each point is a ratio of the headline's curve. Hollow: another "
                         "ratio is both quicker and better."))  # fmt: skip
    yield Section("Quality at the same ratios", said, figures=drawn)
    yield Section("Metrics", (), header, rows, level=3)


def _published(found: Sequence[QualityPoint]) -> list[str]:
    """Which rules of others stand beside the policy."""
    lines = {point.line for point in found}
    drawn = [f"{name}: {one.said} ({one.source})" for name, one in RULES.items() if name in lines]
    own = [] if ENTROPY in lines else [f"The policy's order is that of {RULES[ENTROPY].source}: {ENTROPY}."]
    if not drawn:
        return own
    fitted = " What is predicted of a row was fitted on other users' rows." if "learned win" in lines else ""
    return [
        f"Published rules, asking about as many rows as the policy. {shown.sentence('; '.join(drawn))}{fitted}",
        *own,
    ]


def _unanswered(found: Sequence[QualityPoint]) -> list[str]:
    """Why the LLM alone is not alone."""
    llm = next((point for point in found if point.line == "llm"), None)
    if llm is None or llm.share > 0.9995:
        return []
    return [f"LLM alone: it answers {per_cent(llm.share)} of the rows; the others have no text for it, and keep the "
            "base model's score."]  # fmt: skip


def _metric(name: str) -> str:
    return METRICS.get(name, name.upper())


LINES = {"policy": "policy", "oracle": "oracle", "crm": "base model alone", "llm": "LLM alone"}


def _scored(point: QualityPoint, names: Sequence[str]) -> list[str]:
    gain = NONE if point.line == "crm" else shown.fine(point.gains.get("auc"), "+")
    return [LINES.get(point.line, point.line), asked(point) if point.line not in ("crm", "llm") else NONE,
            per_cent(point.share), gain, *(shown.fine(point.metrics.get(name)) for name in names)]  # fmt: skip


def _work(result: Result) -> Iterator[Section]:
    found = shown.headline(result)
    if not found:
        return
    limit = result.settings.slo
    said = [f"Goodput: requests a second that were answered within {limit}." if limit
            else "No objective was given (--slo), so there is no goodput and nothing is late."]  # fmt: skip
    said += ["Degraded: routed candidates without the LLM's answer; kept: answered by an earlier answer of the LLM; "
             "both as shares of the routed ones. Tokens: of the LLM, a request. Memory: the most that was resident "
             "up to that point of the run."]  # fmt: skip
    said += sorted({f"Energy: {shown.sentence(point.energy.why)}" for point in found if point.energy.why})
    yield _costs(f"Throughput, cost and outcomes: {_of(found[0])}", found, said, 2)
    yield from _stages(found)


def _costs(title: str, found: Sequence[Point], said: Sequence[str] = (), level: int = 3) -> Section:
    return _narrow(Section(title, said, WORK, [_cost(point) for point in found], level=level))


def _stages(found: Sequence[Point]) -> Iterator[Section]:
    given = shown.stages(found)
    if not given:
        return
    said = ["Mean milliseconds of all requests in each part of their way. The LLM's part reads the evaluated tokens of "
            "the prompts (prefill); what no clock covers is called other."]  # fmt: skip
    header = ["asked for", *(f"{shown.STAGES.get(name, name)} ms" for name in given)]
    rows = []
    for point in found:
        ms = {stage.name: stage.ms for stage in point.stages}
        rows.append([asked(point), *(digits(ms.get(name)) for name in given)])
    drawn = spreads.stages(found, "Where the mean request's time goes")
    caption = "Parts of 100 %; the milliseconds of the whole stand beside the bar."
    yield Section("Where the time goes", said, header, rows, [(drawn, caption)])


def _narrow(section: Section) -> Section:
    """Without the columns in which nothing is known."""
    kept = [i for i in range(len(section.header)) if any(row[i] != NONE for row in section.rows)]
    return Section(section.title, section.said, [section.header[i] for i in kept],
                   [[row[i] for i in kept] for row in section.rows], section.figures, section.level)  # fmt: skip


def _cost(point: Point) -> list[str]:
    one = point.outcomes
    routed = one.llm + one.kept + sum(one.degraded.values())
    memory = None if point.memory_bytes is None else point.memory_bytes / 2**20
    degraded = sum(one.degraded.values())
    return [asked(point), figure(shown.spread(point, "requests_per_s")), figure(point.goodput),
            figure(point.candidates_per_s), many(point.llm_ms_per_thousand), digits(point.tokens_evaluated),
            digits(point.tokens_reused), per_cent(degraded / routed if routed else 0.0) + _reasons(one.degraded),
            f"{one.rejected:,}", per_cent(one.kept / routed if routed else 0.0), f"{one.failed:,}", f"{one.late:,}",
            many(memory), digits(point.energy.joules_per_thousand)]  # fmt: skip


def _reasons(degraded: dict[str, int]) -> str:
    return f" ({', '.join(sorted(degraded))})" if degraded else ""


def _others(result: Result) -> Iterator[Section]:
    """Returning users, and random routing as a control; the headline's curve is not repeated."""
    lead = shown.headline(result)
    for users, routing in (("returning", "policy"), ("new", "random"), ("returning", "random")):
        found = shown.points(result, "single", users, routing)
        if not found or found == lead:
            continue
        title = f"Latency, {USERS[users]}" + (", random routing" if routing == "random" else "")
        said = ["Candidates are drawn at random, not by the policy: a control. As many are asked, but they lie in more "
                "requests."] if routing == "random" else ["The beginning of these users' prompts is kept from their "
                                                          "earlier request."]  # fmt: skip
        drawn = [(curves.latency(found, result.settings.slo, title, lead), "On the axis of the first plot.")]
        if routing == "policy":
            drawn.append((spreads.humps(found, f"Where the time of {USERS[users]} lies"),
                          "Height: root of the share of the requests."))  # fmt: skip
        yield Section(f"Latency: {_of(found[0])}", [*said, *_unsupported(found)], LATENCY,
                      [_latency(point) for point in found], drawn)  # fmt: skip
        if routing == "policy":
            yield _costs("Throughput, cost and outcomes", found)


def _law(result: Result) -> Iterator[Section]:
    found = [point for point in shown.headline(result) if point.law.touched is not None]
    if not found:
        return
    said = ["The law (docs/operate.md, A latency objective): share, candidates and the correlation of being asked "
            "within a request give the requests touched; with this machine's costs they give p99. Independent: what "
            "it would be if candidates were routed independently of each other, 1 - (1 - share)^N. Off by: measured "
            "over predicted, of requests that the law was not fitted on.", *_unjudged(found)]  # fmt: skip
    header = ["asked for", "correlation", "touched: predicted", "independent", "measured", "off by",
              "p99 ms: predicted", "measured", "off by"]  # fmt: skip
    rows = [_lawful(point) for point in found]
    drawn = [(curves.touched(found, shown.points(result, found[0].scenario, found[0].users, "random")),
              "Random routing touches what independent candidates would.")]  # fmt: skip
    judged = [point for point in found if shown.judges_law(point) and point.law.p99]
    if judged:
        drawn.append((curves.law_p99(judged), "Both p99 at the same ratios."))
    yield Section("The law against measurement", said, header, rows, drawn)


def _unjudged(found: Sequence[Point]) -> list[str]:
    """How sure a measured p99 is, and that the law is not judged by one of too few requests."""
    few = sum(not shown.judges_law(point) for point in found)
    sure = "Below a measured p99: its 95 % interval; a difference that lies within it shows nothing."
    return [sure] if not few else [
        sure, f"In {few} of {len(found)} rows the p99, in parentheses, is of too few requests to judge the law by: it "
        f"takes {needed('p99'):,}, so a longer --budget."]  # fmt: skip


def _lawful(point: Point) -> list[str]:
    law, judged = point.law, shown.judges_law(point)
    touched, p99 = shown.seen_by_law(point)
    measured = figure(p99)
    return [asked(point), digits(law.correlation), per_cent(law.touched), per_cent(law.independent), per_cent(touched),
            _over(touched, law.touched), digits(law.p99), measured if judged or measured == NONE else Weak(measured),
            _over(p99.value, law.p99) if judged else NONE]  # fmt: skip


def _over(measured: float | None, predicted: float | None) -> str:
    return NONE if not measured or not predicted else f"{100 * (measured / predicted - 1):+.1f} %"


def _server(result: Result) -> Iterator[Section]:
    for users in ("new", "returning"):
        found = shown.points(result, "server", users)
        if not found:
            continue
        if found == shown.headline(result):  # its latencies stand above
            yield from _rates_alone(result, found)
            continue
        said = ["Requests come at random moments (Poisson) whatever the server does; latency counts from the moment a "
                "request was due, so waiting is in it."]  # fmt: skip
        drawn = [(curves.latency(found, result.settings.slo, f"Latency under load, {USERS[users]}"),
                  "At the rate that the table names."),
                 (spreads.humps(found, f"Where the time under load lies, {USERS[users]}"),
                  "Waiting is in it: with load, the humps run together.")]  # fmt: skip
        searched, plots = _searched(result, found)
        rows = [[*_sent(point), *_latency(point)[1:]] for point in found]
        yield Section(f"Server: {USERS[users]}", [*said, *searched, *_unsupported(found)], [*SENT, *LATENCY[1:]], rows,
                      [*drawn, *plots])  # fmt: skip
        yield _costs("Throughput, cost and outcomes under load", found)


def _rates_alone(result: Result, found: Sequence[Point]) -> Iterator[Section]:
    said = ["Requests came at random moments (Poisson) whatever the server did; latency counts from the moment a "
            "request was due, so waiting is in it."]  # fmt: skip
    searched, plots = _searched(result, found)
    yield Section("The rates", [*said, *searched], SENT, [_sent(point) for point in found], plots)


def _searched(result: Result, found: Sequence[Point]) -> tuple[list[str], list[tuple[str, str]]]:
    """What the search for the largest rate was, and its plot; nothing where there was none."""
    if not any(point.rates for point in found):
        return [], []
    limit = result.settings.slo or "the objective"
    said = (f"Largest rate: found by search, the largest that keeps {limit}, on a grid of rates a quarter apart; then "
            "looked at again in every round. The value is the mean of what the rounds found, and in brackets is its "
            "95 % interval; of one search, the lowest rate tried that did not hold. Cut short: in a round the time "
            "was up before the search had ended; the mean is of the others. Latencies are those at the rate that the "
            "first round found.")  # fmt: skip
    sizes = [tried.requests for point in found if point.rates for tried in point.rates.tries]
    said += f" A rate was tried with {min(sizes):,} to {max(sizes):,} requests." if sizes else ""
    held = any(point.rates.largest for point in found if point.rates)
    return [said], [
        (curves.rates(found, result.settings.slo), "Bars: 95 % interval, or up to the lowest rate that failed.")
    ] if held else []


SENT = ["asked for", "rate sent/s", "largest rate/s"]


def _sent(point: Point) -> list[str]:
    return [asked(point), digits(point.rate), _rate(point)]


def _rate(point: Point) -> str:
    if point.rates is None:
        return NONE
    cut = ", cut short" if point.rates.cut else ""
    if not point.rates.largest:
        return f"none held [down to {digits(point.rates.first_failed)}{cut}]"
    if point.rates.low is not None:
        return f"{digits(point.rates.largest)} [{digits(point.rates.low)}, {digits(point.rates.high)}{cut}]"
    return f"{digits(point.rates.largest)} [{digits(point.rates.first_failed)}{cut}]"


def _offline(result: Result) -> Iterator[Section]:
    numbers = sorted({point.workers for point in result.points if point.scenario == "offline"})
    for users in ("new", "returning"):
        found = [(number, shown.points(result, "offline", users, workers=number)) for number in numbers]
        known = [(f"{number} {'process' if number == 1 else 'processes'}", curve) for number, curve in found if curve]
        if not known:
            continue
        columns = [1, *range(3, 8)]  # what waits for all others is late whatever is done: no goodput
        rows = [[asked(point), f"{point.workers}", *(_cost(point)[i] for i in columns)]
                for _, curve in known for point in curve]  # fmt: skip
        said = ["All requests are there at once; what counts is how many are done a second, in one process and on all "
                "cores."]  # fmt: skip
        rated = any(point.candidates_per_s.value for _, curve in known for point in curve)
        drawn = [(curves.throughput(known), "Candidates a second, logarithmic.")] if rated else []
        header = ["asked for", "processes", *(WORK[i] for i in columns)]
        yield _narrow(Section(f"Offline: {USERS[users]}", said, header, rows, drawn))


def _over_time(result: Result) -> Iterator[Section]:
    found = [point for point in shown.headline(result) if len(point.over_time) > 1]
    if not found:
        return
    said = ["A run that heats up, a store that fills or a neighbour that wakes shows here. Each point's own time."]
    drawn = [(curves.over_time(found, what), caption) for what, caption in (
        ("share", "Realised share in stretches of each point's run."), ("p99", "p99 in the same stretches."))
        if what == "share" or any(one.p99 for point in found for one in point.over_time)]  # fmt: skip
    yield Section("Over time", said, figures=drawn)


def _provenance(result: Result) -> Iterator[Section]:
    yield Section("Provenance", (), ["what", ""], [[name, value] for name, value in provenance(result)])
