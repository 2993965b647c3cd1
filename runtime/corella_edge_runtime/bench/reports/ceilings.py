"""What no serving code on this machine can beat, and how near to it each figure of a benchmark is."""

from __future__ import annotations

from collections.abc import Iterator

from corella_edge_runtime.bench.reports import shown, spreads
from corella_edge_runtime.bench.reports.shown import NONE, USERS, asked, digits, many, per_cent
from corella_edge_runtime.bench.results.points import Point
from corella_edge_runtime.bench.results.result import Result
from corella_edge_runtime.document import Section

FEW = 60  # requests at once: fewer are answered at a rate that tells nothing
Cells = dict[str, str]  # by what was asked for


def sections(result: Result) -> Iterator[Section]:
    """The ceilings, and below them the share of its ceiling that each figure reaches; nothing where none was measured.

    They are those of one process, so that Offline on several is set beside them only if each of its processes has the
    threads that the ceilings were measured with.
    """
    if result.ceilings.crm_ms is None:
        if result.settings.transport == "http":
            yield Section("Ceilings", ["Not measured over HTTP: the server's models are not this process's. The same "
                                       "command without --url measures them."])  # fmt: skip
        return
    near = reached(result)
    said = ["What no serving code on this machine can beat, measured first. A request's least time is its candidates "
            "through the bare session and its evaluated tokens at that rate; the bars say which part of the measured "
            "mean that is. The rest is left to win: what is done around both models, and waiting."]  # fmt: skip
    drawn = [(spreads.ceilings(near), "Least time by the ceilings, as a share of the measured mean.")] if near else []
    yield Section("Ceilings", said, ["ceiling", "measured"], _measured(result), drawn)
    columns = [(name, cells) for name, cells in _columns(result) if any(cell != NONE for cell in cells.values())]
    if columns:
        names = dict.fromkeys(of for _, cells in columns for of in cells)
        rows = [[of, *(cells.get(of, NONE) for _, cells in columns)] for of in names]
        header = ["asked for", *(name for name, _ in columns)]
        yield Section("Each figure as a share of its ceiling", _how(result), header, rows, level=3)


def _measured(result: Result) -> list[list[str]]:
    found = result.ceilings
    rows = [["base model, bare ONNX session", f"{digits(found.crm_ms)} ms for {found.crm_candidates} candidates"]]
    if found.llm_tokens_per_s:
        kind = result.bundle.llm_type or "type not known"
        rows.append(["LLM, whole prompts one after another", f"{many(found.llm_tokens_per_s)} tokens/s ({kind}), "
                     f"prompts of {many(found.llm_prompt_tokens)} tokens"])  # fmt: skip
    if found.multiply_gflops:
        own = found.llm_gflops
        share = f"; the LLM reads at {many(own)}, {per_cent(own / found.multiply_gflops)} of it" if own else ""
        rows.append(["matrix multiply, float32", f"{many(found.multiply_gflops)} GFLOP/s{share}"])
    return rows


def reached(result: Result) -> list[tuple[str, float]]:
    """Of the headline's points: the least time by the ceilings, as a share of the mean that was measured."""
    both = [(point, _least_ms(result, point)) for point in shown.headline(result)]
    return [(shown.brief(point), least / point.latency.mean.value) for point, least in both
            if least is not None and point.latency.mean.value]  # fmt: skip


def _how(result: Result) -> list[str]:
    """How a ceiling of requests a second is made."""
    said = ["In brackets the ceiling. Mean time: the least time over the measured mean. Requests a second of one "
            "process: both models work at once, so the slower one's least time is the ceiling; of a process a core, "
            "each of which takes both times one after the other, the sum. Prompts that are read together can beat one "
            "after another, and then the share is above 100 %. A search that was cut short and few requests at once "
            "have no share."]  # fmt: skip
    if any(point.workers > 1 for point in result.points) and not _comparable(result):
        said.append("Offline on all cores has no ceiling here: its processes have other threads than the ceilings.")
    return said


def _columns(result: Result) -> Iterator[tuple[str, Cells]]:
    """Of each curve its name, and the shares at what was asked for: mean time, largest rate, all requests at once."""
    for users, words in USERS.items():
        yield f"mean time, {words}", {asked(point): _time(result, point)
                                      for point in shown.points(result, "single", users)}  # fmt: skip
    for users, words in USERS.items():
        yield f"largest rate, {words}", {asked(point): _rate(result, point, point.rates.largest)
                                         for point in shown.points(result, "server", users)
                                         if point.rates and not point.rates.cut}  # fmt: skip
    for workers in sorted({point.workers for point in result.points if point.scenario == "offline"}):
        name = "1 process" if workers == 1 else f"{workers} processes"
        for users, words in USERS.items():
            yield (
                f"Offline, {name}, {words}",
                {
                    asked(point): _rate(result, point, point.requests_per_s.value)
                    for point in shown.points(result, "offline", users, workers=workers)
                    if point.histogram.count >= FEW
                },
            )


def _time(result: Result, point: Point) -> str:
    """What share of the measured mean the least time is."""
    least, mean = _least_ms(result, point), point.latency.mean.value
    return NONE if least is None or not mean else f"{per_cent(least / mean)} [{digits(least)} ms]"


def _rate(result: Result, point: Point, measured: float | None) -> str:
    """What share of the most requests a second was reached."""
    most = _most_per_s(result, point)
    return NONE if most is None or not measured else f"{per_cent(measured / most)} [{digits(most)}/s]"


def _parts(result: Result, point: Point) -> tuple[float, float] | None:
    """Milliseconds that a request of a point takes at least, in the mean: its candidates through the bare session, and
    its evaluated tokens at the rate at which the LLM reads."""
    found = result.ceilings
    if found.crm_ms is None or not found.crm_candidates:
        return None
    if point.tokens_evaluated and not found.llm_tokens_per_s:
        return None
    reading = 1000.0 * point.tokens_evaluated / found.llm_tokens_per_s if found.llm_tokens_per_s else 0.0
    return found.crm_ms * point.candidates / found.crm_candidates, reading


def _least_ms(result: Result, point: Point) -> float | None:
    """The sum of both: without an answer of the base model nobody knows what to ask the LLM."""
    parts = _parts(result, point)
    return None if parts is None else sum(parts)


def _most_per_s(result: Result, point: Point) -> float | None:
    """Requests a second at most. Processes with one thread for each model, a process a core, take both models' times
    one after the other."""
    parts = _parts(result, point)
    if parts is None or not sum(parts) or (point.workers > 1 and not _comparable(result)):
        return None
    return 1000.0 / max(parts) if point.workers == 1 else 1000.0 * point.workers / sum(parts)


def _comparable(result: Result) -> bool:
    """Whether the ceilings are those of one thread for each model, as each of several processes has."""
    threads = result.threads
    return threads.crm == 1 and threads.llm in (1, None)
