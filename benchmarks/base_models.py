"""Which base model? Microseconds of a request, new and returning users, the whole catalogue; and megabytes, by turns.

    python benchmarks/base_models.py NAME=BUNDLE [NAME=BUNDLE ...] [--item-by-item] [--quality FILE] [--plot FILE.svg]
        [--out FILE.json]

Each request goes through `Engine.rank` without the LLM, on one core, by each bundle in turn; the bundles' ratios are
those to the first one. The users are those of the first bundle's sample. `new` is a user whom nothing is kept of,
`returning` one whose history object came before, as from a server's store, `one more` that user after another event.
Of a bundle that ranks its catalogue by one matrix product that product alone is timed in the same turns, as the floor
under any such ranking; with `--item-by-item` the bundle also takes part without it, and comes first.
`--quality` is a JSON object, NAME → {"auc": …, "ndcg@10": …}: its figures stand in the result, and in the plot.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # of numpy's product, as everything here is on one core

import numpy as np

from corella_edge.bundle.artefact import CRM_FILES, events_file, product_files
from corella_edge.errors import CorellaError, InputError
from corella_edge.request import Candidates, Event, History, Request, User
from corella_edge_runtime.bench.measure import traffic
from corella_edge_runtime.engine import Engine
from harness.pairs import ratio_of
from harness.quiet import Watch, is_void
from harness.report import finish, judged
from harness.results import write

SIZES, TOP = (20, 100), 10
USERS = ("new", "returning", "one more")
PRODUCT, BY_ITEM = "the product alone", "item by item"
CATALOGUE = 5  # of the requests of a pair, as many are for the whole catalogue
# What a family may cost against the first bundle, at 20 candidates.
LIMITS = {"din": {"new": 1.5}, "sequence": {"new": 4.0, "returning": 1.5}}
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of request: candidates (None = the whole catalogue) of a new or returning user."""

    user: str
    candidates: int | None

    @property
    def name(self) -> str:
        what = f"{self.candidates} candidates" if self.candidates else f"top {TOP} of the catalogue"
        return f"{what}, {self.user} user" if self.user != "one more" else f"{what}, one more event"


WORKLOADS = [*(Workload(user, n) for n in SIZES for user in USERS), *(Workload(user, None) for user in USERS[:2])]


@dataclass(frozen=True, slots=True)
class Contender:
    """An opened bundle; `family` as the bundle's recipe says, "" where it does not."""

    name: str
    engine: Engine
    family: str

    @classmethod
    def all_of(cls, name: str, root: Path, item_by_item: bool) -> Iterator[Contender]:
        """The bundle, after itself without the product where that is wanted and it has one."""
        usual = cls.open(name, root)
        if item_by_item and usual.engine.products:
            without = cls.open(f"{name}, {BY_ITEM}", root)
            without.engine.products = None
            yield without
        yield usual

    @classmethod
    def open(cls, name: str, root: Path) -> Contender:
        engine = Engine.open(root, llm=None, crm_threads=1, tuned=False, threshold="ratio:0")
        engine.warm_up()
        recipe = engine.bundle.manifest.about.get("recipe")
        return cls(name, engine, str(recipe["crm"].get("kind", "dcnv2")) if isinstance(recipe, dict) else "")

    def seconds(self, user: User, asked: Workload, items: Sequence[str], clock: Callable[[], float]) -> float:
        """Of one request, what came before it untimed."""
        engine, request = self.engine, request_of(user, asked, items)
        engine.forget()
        if asked.user != "new":
            for _ in range(2):  # what comes once leaves nothing behind in the encoder
                engine.rank(request)
        if asked.user == "one more":
            request = replace(request, user=longer(user, items[0]))
        began = clock()
        engine.rank(request)
        return clock() - began

    def product_seconds(self, clock: Callable[[], float], times: int) -> float:
        """Of the bare product of a row with the vectors of all items, the median; nan where there is none."""
        if self.engine.products is None:
            return math.nan
        vectors, found = self.engine.products.vectors, list[float]()
        row = np.ones(len(vectors), np.float32)
        for _ in range(times):
            began = clock()
            row @ vectors
            found.append(clock() - began)
        return float(np.median(found))

    def megabytes(self) -> Row:
        """Of each form of the CRM, all of its graphs."""
        files = self.engine.bundle.manifest.files
        graphs = {name: (name, events_file(name), *product_files(name)) for name in CRM_FILES if name in files}
        sizes = {name: sum(files[part].size for part in parts if part in files) for name, parts in graphs.items()}
        return {name: round(size / 1e6, 3) for name, size in sizes.items()}


def request_of(user: User, asked: Workload, items: Sequence[str]) -> Request:
    """With a history object that no encoder has seen."""
    fresh = User(user.id, user.features, user.history[:])
    if asked.candidates is None:
        return Request(fresh, None, top_k=TOP)
    return Request(fresh, Candidates([*items[: asked.candidates]]))


def longer(user: User, item: str) -> User:
    """The user after one more event, with the last one's rating."""
    events = [*user.history]
    rating = events[-1].rating if events else None
    time_of = events[-1].time if events else None
    return User(user.id, user.features, History.of([*events, Event(item, rating, time_of)]))


def main() -> None:
    options = arguments()
    quality = quality_of(options)
    core = sorted(os.sched_getaffinity(0))[-1]
    os.sched_setaffinity(0, {core})
    with ExitStack() as opened:
        named_roots = options.bundles
        found = [one for name, root in named_roots for one in Contender.all_of(name, root, options.item_by_item)]
        for one in found:
            opened.enter_context(one.engine)
        watch = Watch()
        models = measured(found, options)
        load = watch.read()
    figures: Row = {
        "what": "base models", "pairs": options.pairs, "requests": options.requests, "load": load,
        "void": is_void(load),
        "clock": "processor" if options.cpu_time else "wall",
        "models": [{**model, **quality.get(model["name"], {})} for model in models],
    }  # fmt: skip
    figures["targets"] = list(targets(figures))
    print(table(figures))
    if options.plot:
        options.plot.write_text(plot([figures]), "utf-8")
    if options.cpu_time and options.out:
        write(options.out, figures)
    finish(figures, options.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=named, nargs="+", metavar="NAME=BUNDLE")
    parser.add_argument(
        "--item-by-item",
        action="store_true",
        help="each bundle that ranks its catalogue by one product also without it",
    )
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--requests", type=int, default=15, help="requests a pair, of which the median counts")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="processor time of the thread; kept beside other load, too, and marked void then",
    )
    parser.add_argument("--quality", type=Path, help="figures of quality by name, for the result and the plot")
    parser.add_argument("--metric", default="auc", help="the figure of --quality that is plotted (default: auc)")
    parser.add_argument("--plot", type=Path, help="SVG of quality against microseconds; needs --quality")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def named(text: str) -> tuple[str, Path]:
    name, mark, root = text.partition("=")
    if not (name and mark and root):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=BUNDLE")
    return name, Path(root)


def quality_of(options: argparse.Namespace) -> dict[str, Row]:
    """NAME → its figures and "plotted", the one that is drawn. Raises InputError."""
    if options.quality is None:
        if options.plot is not None:
            raise InputError("--plot: draws quality against time; give --quality FILE")
        return {}
    try:
        found = json.loads(options.quality.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--quality: {options.quality}: cannot be read ({error})") from None
    judged = [name for name, _ in options.bundles if isinstance(found, dict) and name in found]
    if not judged:
        raise InputError(f"--quality: {options.quality} names none of the bundles")
    for name in judged:
        if type(found[name].get(options.metric)) not in (int, float):
            raise InputError(f"--quality: {options.quality} has no number {options.metric!r} of {name!r}")
    return {name: {"quality": found[name], "metric": options.metric} for name in judged}


def measured(found: Sequence[Contender], options: argparse.Namespace) -> list[Row]:
    """Each bundle's workloads: median microseconds, and its ratio to the first bundle with the pairs' interval."""
    users = users_of(found[0])
    ids = found[0].engine.encoder.catalog.ids
    clock = time.thread_time if options.cpu_time else time.perf_counter
    spent: dict[str, list[list[float]]] = {**{asked.name: [] for asked in WORKLOADS}, PRODUCT: []}
    for number in range(options.pairs):
        rng = np.random.default_rng([number, 3])
        for asked in WORKLOADS:
            count = options.requests if asked.candidates else CATALOGUE
            chosen = [users[i] for i in rng.choice(len(users), count).tolist()]
            slates = [[ids[row] for row in rng.choice(len(ids), max(SIZES)).tolist()] for _ in chosen]
            spent[asked.name].append(pair(found, asked, list(zip(chosen, slates, strict=True)), number, clock))
        spent[PRODUCT].append([1e6 * one.product_seconds(clock, options.requests) for one in found])
    return [model_row(one, place, spent) for place, one in enumerate(found)]


def users_of(contender: Contender) -> list[User]:
    """Of the sample, one request each."""
    rows = traffic.read(contender.engine.bundle, None)
    return [rows[i].request.user for i in traffic.one_per_user(rows, len(rows), 0)]


def pair(
    found: Sequence[Contender], asked: Workload, work: Sequence[tuple[User, list[str]]], number: int,
    clock: Callable[[], float],
) -> list[float]:  # fmt: skip
    """Median microseconds of each bundle; every second pair goes through them backwards."""
    times: list[list[float]] = [[] for _ in found]
    order = list(enumerate(found))
    for user, items in work:
        for place, one in order[::-1] if number % 2 else order:
            times[place].append(one.seconds(user, asked, items, clock))
    return [1e6 * float(np.median(of)) for of in times]


def model_row(one: Contender, place: int, spent: dict[str, list[list[float]]]) -> Row:
    found = {}
    for name in (asked.name for asked in WORKLOADS):
        ratio = ratio_of([of[place] / of[0] for of in spent[name]])
        found[name] = {**_times([of[place] for of in spent[name]]), "ratio": ratio.to_json()}
    bundle, product = one.engine.bundle, {}
    if one.engine.products is not None:
        alone = [of[place] for of in spent[PRODUCT]]
        tops = {user: Workload(user, None).name for user in USERS[:2]}
        product = {"product": {**_times(alone), "top": {
            user: ratio_of([of[place] / floor for of, floor in zip(spent[name], alone, strict=True)]).to_json()
            for user, name in tops.items()
        }}}  # fmt: skip
    return {"name": one.name, "bundle": bundle.label, "family": one.family, "items": len(one.engine.encoder.catalog),
            "megabytes": one.megabytes(), "workloads": found, **product}  # fmt: skip


def _times(values: list[float]) -> Row:
    """Their median with its interval."""
    times = ratio_of(values)
    return {"us": round(times.median, 1), "low": round(times.low, 1), "high": round(times.high, 1)}


def targets(figures: Row) -> Iterator[Row]:
    """What the families may cost at 20 candidates against a DCNv2."""
    if figures["models"][0]["family"] != "dcnv2":
        return
    for model in figures["models"][1:]:
        for user, limit in LIMITS.get(model["family"], {}).items():
            name = Workload(user, SIZES[0]).name
            ratio = model["workloads"][name]["ratio"]
            first = figures["models"][0]["name"]
            yield judged(f"{model['name']} against {first}: {name}", ratio, "<=", limit, figures["void"])


def table(figures: Row) -> str:
    """The figures for reading: microseconds, and the ratio to the first bundle."""
    models = figures["models"]
    lines = [f"{'':38}" + "".join(f"{model['name'][:22]:>24}" for model in models)]
    for asked in WORKLOADS:
        cells = (model["workloads"][asked.name] for model in models)
        lines.append(f"{asked.name:38}" + "".join(f"{c['us']:13.1f} x{c['ratio']['median']:9.3f}" for c in cells))
    if any("product" in model for model in models):
        floors = (model.get("product", {}).get("us", math.nan) for model in models)
        lines.append(f"{PRODUCT:38}" + "".join(f"{floor:24.1f}" for floor in floors))
    lines.append(f"{'MB':38}" + "".join(f"{model['megabytes'][CRM_FILES[0]]:24.2f}" for model in models))
    return "\n".join(lines)


def plot(kept: Sequence[Row]) -> str:
    """SVG, a panel for each result: a line a model from its returning user's time to its new user's, at 20 candidates.

    Models without a figure of quality are left out.
    """
    import io

    import matplotlib.style
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    from corella_edge_export.report.plots import PAIRS, STYLE

    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(6.4, 3.2 * len(kept) + 0.4), layout="constrained")
        for axes, figures in zip(figure.subplots(len(kept), squeeze=False)[:, 0], kept, strict=True):
            models = [model for model in figures["models"] if "quality" in model]
            for colour, model in zip(itertools.cycle(PAIRS), models, strict=False):
                times = [model["workloads"][Workload(user, SIZES[0]).name]["us"] for user in ("returning", "new")]
                height = model["quality"][model["metric"]]
                axes.plot(times, [height] * 2, color=colour)
                axes.plot(times[:1], [height], "o", color=colour, markerfacecolor="white")
                axes.plot(times[1:], [height], "o", color=colour)
                axes.annotate(model["name"], (min(times), height), (0, 7), textcoords="offset points", color=colour)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.minorticks_off()
            axes.set(ylabel=f"{models[0]['metric'].upper()}, {figures['models'][0]['items']:,} items")
            axes.margins(x=0.3, y=0.2)
        axes.set(xlabel=f"µs a request of {SIZES[0]} candidates, one core (ring: returning user, dot: new user)")
        contents = io.StringIO()
        figure.savefig(contents, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return contents.getvalue()


if __name__ == "__main__":
    try:
        main()
    except CorellaError as error:
        sys.exit(str(error))
