"""Tables of three domains through the whole product: from a folder of files to served answers and a benchmark.

    python benchmarks/own_tables.py --data DATA --work runs/own-tables --out benchmarks/results/own-tables.json

DATA holds the folders that `CASES` names. Each case is `init` (with its questions answered) or a publisher's reader,
`prepare`, and for every seed `train generic`, `export`, `verify`, `evaluate`, requests of held-out users to a real
`corella-edge serve`, and `benchmark`. What is there already in --work is not made again, so a stopped run goes on;
--only and --seeds do a part of it, and the figures kept are of all that --work holds. Quality is of the data and the
seeds alone. Times are of the machine as it was: "foreign" is the share of it that other work took meanwhile.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError
from harness.load.server import Server
from harness.options import check_words, words
from harness.quiet import Watch
from harness.results import ended
from harness.timed import kept
from scenarios import tallrec

Json = dict[str, Any]
SERVED = 50  # requests to the server
AT = ("ratio", "share", "auc", "logloss", "accuracy", "gain")  # what is kept of a ratio
RATIOS = "0,0.05,0.3,1"  # of `benchmark`: the CRM alone, what the recipe `generic` ships, the LLM about all
BY_TIME = ((r'rule = "CHOOSE: files.*', 'rule = "time"'), (r"# (files = .*)", r"\1"),
           (r"(?:train|valid|test) = \[.*", ""))  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One table: its folder, and who describes it.

    Attributes:
        reader: a publisher's; without one, `init` describes the files,
        describe: or a function of the source and of a folder for files that it writes.
        edits: whole lines of init's data.toml as regular expressions, and what a person writes in their place.
        told: what a reader of the results must know of the rows.
    """

    name: str
    folder: str
    told: str
    reader: str = ""
    describe: Callable[[Path, Path], str] | None = None
    edits: tuple[tuple[str, str], ...] = ()


_MONTH_FIRST = (r'time_unit = "CHOOSE: .*', 'time_unit = "%m/%d/%Y %H:%M"')
_NEW_ONLY = ((r'unlike_drawn = "keep".*', 'unlike_drawn = "history"'), (r"min_history = 1 .*", "min_history = 0"))
CASES = (
    Case("online-retail-new", "uci-online-retail-lf",
         "purchases of two days, each beside 4 drawn negatives; which item does a customer take that others had before "
         'and they had not (`unlike_drawn = "history"`), first baskets included (`min_history = 0`)',
         edits=(_MONTH_FIRST, *_NEW_ONLY)),
    Case("online-retail", "uci-online-retail-lf",
         "the same as `init` proposes it: only customers with an earlier basket, and also items that they, or nobody, "
         "had before, which no drawn row is like", edits=(_MONTH_FIRST,)),
    Case("ml-100k", "ml-100k", "a rating above 3 is a like; real time stamps, cut at two moments for everybody",
         reader="ml-100k"),
    Case("ml-100k-tallrec", "ml-100k", "the published rows of TALLRec, which are no split by time",
         describe=tallrec.describe),
    Case("all-beauty", "amazon2023-all-beauty-5core", "a rating of 5 is a like; cut at two moments for everybody",
         edits=BY_TIME),
    Case("all-beauty-published", "amazon2023-all-beauty-5core",
         "the published split: each user's last row, so that most test rows are older than some training rows",
         edits=((r'rule = "CHOOSE: files.*', 'rule = "files"'),)),
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data sets' folders")
    parser.add_argument("--work", type=Path, required=True, help="where everything is made; goes on from what is there")
    parser.add_argument("--seeds", type=words, default=("1", "2"), help="of the training")
    parser.add_argument("--only", type=words, default=tuple(case.name for case in CASES), help="cases, by name")
    parser.add_argument("--again", action="store_true", help="repeat `benchmark`, as on a machine that is quiet now")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    return ended("own_tables", lambda: measured(options), options.out)


def measured(options: argparse.Namespace) -> Json:
    """Make what is asked for, then collect all that is there."""
    check_words(options, {"only": [case.name for case in CASES]})
    for case in (case for case in CASES if case.name in options.only):
        place = CaseFolder(options.work / case.name)
        prepare(case, options.data / case.folder, place)
        for seed in options.seeds:
            bundle(place, int(seed), options.again)
    found = {case.name: collected(case, CaseFolder(options.work / case.name)) for case in CASES}
    return {"what": "own tables", "tables": {name: one for name, one in found.items() if one["seeds"]}}


class CaseFolder:
    """The folder of a case, and how long each step took there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = folder / "steps.json"

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    @property
    def steps(self) -> Json:
        return json.loads(self.kept.read_text("utf-8")) if self.kept.exists() else {}

    def step(self, name: str, made: Path | None, *command: str | Path) -> None:
        """One command, unless what it makes is there (or, where it makes nothing, it has passed before).

        Kept are its seconds, what else ran, and whether it went on from a stopped one.
        """
        if made.exists() if made else name in self.steps:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        print(f"{self.folder.name}: {name}", file=sys.stderr, flush=True)
        going_on = made is not None and made.parent != self.folder and made.parent.exists()
        watch, began = Watch(), time.perf_counter()
        done = subprocess.run([sys.executable, "-m", "corella_edge", *map(str, command)], stdout=subprocess.DEVNULL)
        if done.returncode:
            raise InputError(f"{self.folder.name}: {name} ended with {done.returncode}; it says above why")
        self.keep(name, {"seconds": round(time.perf_counter() - began, 1), "load": watch.read(), "resumed": going_on})

    def keep(self, name: str, took: Json) -> None:
        self.kept.write_text(json.dumps({**self.steps, name: took}, indent=1), "utf-8")


def prepare(case: Case, source: Path, place: CaseFolder) -> None:
    """`init` and its answers, or the publisher's reader; then the prepared folder."""
    data = place / "data"
    if case.reader:
        place.step("prepare", data, "prepare", case.reader, "--source", source, "--out", data)
        return
    description = place / "data.toml"
    if not description.exists():
        description.write_text(described(case, source, place), "utf-8")
    place.step("prepare", data, "prepare", "table", "--config", description, "--out", data)


def described(case: Case, source: Path, place: CaseFolder) -> str:
    """The data.toml of a case that has no reader of its own."""
    if case.describe:
        place.folder.mkdir(parents=True, exist_ok=True)
        return case.describe(source.resolve(), place.folder)
    proposed = place / "proposed.toml"
    place.step("init", proposed, "init", source.resolve(), "--out", proposed)
    return answered(proposed.read_text("utf-8"), case.edits)


def answered(proposed: str, edits: tuple[tuple[str, str], ...]) -> str:
    """init's description with a person's answers.

    Raises:
        InputError: init no longer writes a line that an edit is of, or asks what no edit answers.
    """
    for line, answer in edits:
        proposed, times = re.subn(f"^{line}$", answer, proposed, flags=re.MULTILINE)
        if not times:
            raise InputError(f"init writes no line {line!r}")
    if left := re.search(r'^.*= "CHOOSE:.*$', proposed, re.MULTILINE):
        raise InputError(f"nothing answers {left[0]!r}")
    return proposed


def bundle(place: CaseFolder, seed: int, again: bool) -> None:
    """Everything behind the prepared data, for one seed."""
    data, run, made = place / "data", place / f"run-{seed}", place / f"bundle-{seed}"
    test, timed = place / f"test-{seed}", place / f"benchmark-{seed}"
    place.step(f"train-{seed}", run / "summary.json",
               "train", "generic", "--data", data, "--out", run, "--seed", str(seed))  # fmt: skip
    place.step(f"export-{seed}", made, "export", run, "--out", made)
    place.step(f"verify-{seed}", None, "verify", made)
    place.step(f"evaluate-{seed}", test / "evaluation.json",
               "evaluate", made, "--data", data, "--split", "test", "--out", test)  # fmt: skip
    if not (served := place / f"served-{seed}.json").exists():
        served.write_text(json.dumps(serve(place, seed, made), indent=1), "utf-8")
    if again and (timed / "benchmark.json").exists():
        (timed / "benchmark.json").unlink()
    place.step(f"benchmark-{seed}", timed / "benchmark.json",
               "benchmark", made, "--scenario", "single", "--ratios", RATIOS, "--out", timed)  # fmt: skip


def serve(place: CaseFolder, seed: int, made: Path) -> Json:
    """Held-out requests over HTTP to a server of its own, held against `score` of the same lines."""
    lines = list(itertools.islice((place / "data" / "requests.jsonl").open("rb"), SERVED))
    asked, offline = place / f"asked-{seed}.jsonl", place / f"offline-{seed}.jsonl"
    asked.write_bytes(b"".join(lines))
    place.step(f"score-{seed}", offline, "score", made, asked, "--out", offline)
    expected = [json.loads(line) for line in offline.read_text("utf-8").splitlines()]
    answers, ms = [], []
    with Server(made, place / f"serve-{seed}.log") as server:
        server.wait_ready()
        for line in lines:
            began = time.perf_counter()
            status, body = server.ask("POST", "/v1/rank", line)
            ms.append(1000 * (time.perf_counter() - began))
            answers.append((status, json.loads(body) if status == 200 else {"candidates": []}))
    return {
        "requests": len(lines), "answered": sum(status == 200 for status, _ in answers),
        "candidates": sum(len(answer["candidates"]) for _, answer in answers),
        "by_llm": sum(one["llm"] is not None for _, answer in answers for one in answer["candidates"]),
        "greatest_difference_to_score": max(differences([answer for _, answer in answers], expected)),
        "ms_p50": sorted(ms)[len(ms) // 2],
    }  # fmt: skip


def differences(answers: list[Json], expected: list[Json]) -> Iterator[float]:
    """Of every candidate's probability; a refused request differs by 1."""
    for answer, other in zip(answers, expected, strict=True):
        if len(answer["candidates"]) != len(other["candidates"]):
            yield 1.0
            continue
        for one, same in zip(answer["candidates"], other["candidates"], strict=True):
            yield 1.0 if one["item"] != same["item"] else abs(one["probability"] - same["probability"])


def collected(case: Case, place: CaseFolder) -> Json:
    """What the steps noted: figures alone, no row and no id of the data."""
    seeds = sorted(int(path.parent.name.rpartition("-")[2]) for path in place.folder.glob("benchmark-*/benchmark.json"))
    if not seeds:
        return {"seeds": {}}
    info = _read(place / "data" / "dataset.json")
    about = {key: info[key] for key in ("counts", "unseen", "splits", "like", "split", "negatives", "ledger")}
    return {"told": case.told, "steps": place.steps, "dataset": about,
            "seeds": {str(seed): of_seed(place, seed) for seed in seeds}}  # fmt: skip


def of_seed(place: CaseFolder, seed: int) -> Json:
    """One seed's models: how trained, how good, how served, how fast, how large."""
    made = place / f"bundle-{seed}"
    recipe = _read(made / "manifest.json")["about"]["recipe"]
    evaluation = _read(place / f"test-{seed}" / "evaluation.json")
    for group in evaluation["groups"].values():
        group["at"] = [{key: row[key] for key in AT} for row in group["at"]]
        for other in ("calibration", "thirds"):  # evaluate's folder has them, and more of every ratio
            group.pop(other, None)
    trained = _read(place / f"run-{seed}" / "summary.json")
    return {
        "ratio": float(recipe["export"]["threshold"].removeprefix("ratio:")), "fusion": evaluation["fusion"],
        "stages": {stage: {key: line[key] for key in ("seconds", "auc") if key in line}
                   for stage, line in trained.items()},
        "groups": evaluation["groups"], "unknown": evaluation["unknown"],
        "verification": _read(made / "verification.json"),
        "served": _read(place / f"served-{seed}.json"),
        "benchmark": kept(place / f"benchmark-{seed}"),
        "bundle_bytes": {str(path.relative_to(made)): path.stat().st_size
                         for path in sorted(made.rglob("*")) if path.is_file()},
    }  # fmt: skip


def _read(path: Path) -> Json:
    found: Json = json.loads(path.read_text("utf-8"))
    return found


if __name__ == "__main__":
    sys.exit(main())
