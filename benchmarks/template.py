"""Our prompt against the paper's: validation AUC, and milliseconds of 20 candidates.

    python benchmarks/template.py ml-1m-small --data data/ml-1m --work runs/template --rows 100000 \\
        --out benchmarks/results/template.json

Two models are trained (the recipe's [llm] stage, one epoch on the same rows) and quantised. They differ in
prompt.item alone: ours puts every constant word before the candidate; the paper's puts the candidate in the middle,
30 constant tokens after it. A history line is short in both, as in the papers, so their prefixes are equal token by
token. A bundle's template has one text for lines and questions: bundled as it is, the paper's form would repeat its
words in every line of the history; those prompts are timed as well ("repeated"), on the same weights.
The longer questions would fill the paper's training steps with fewer rows and so give it more steps: a step holds
as many rows of either form (--step tokens: as many tokens instead).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from corella_edge.catalog import Catalog
from corella_edge.errors import CorellaError, ExportError, InputError
from corella_edge.metrics import Bootstrap, Interval, sampled_auc
from corella_edge.prompt import PromptEncoder
from corella_edge.request import Request, User
from corella_edge_export import sequences
from corella_edge_export.data.prepared import PreparedData, Split
from corella_edge_export.recipe import Recipe, load_recipe
from corella_edge_export.run import Run, hold
from corella_edge_export.stages import Stages
from corella_edge_export.to_gguf import write_gguf
from corella_edge_export.train_llm import draw_users, predict, valid_sequences
from corella_edge_runtime.llm.answer import Prompt
from corella_edge_runtime.llm.binding import Model, quantize
from corella_edge_runtime.llm.scorer import YesNoScorer
from corella_edge_runtime.llm.settings import LlmSettings
from results import write
from scoring.pairs import OURS, alternate, ratio
from scoring.quiet import Watch, is_void

PAPER = "paper"
TAIL = (". Given the ratings above, will this person like the film enough to rate it four or five? "
        "Answer Yes or No only. The answer is:")  # fmt: skip
ITEMS = {OURS: "[{title}] {year} {genres}:", PAPER: "[{title}] {year} {genres}" + TAIL}
CONSTANT, TOLERANCE = 30, 3
HISTORY_LINES, BLOCK = 20, 10
CONTEXT = 2048  # the repeated form needs more than the recipe's 1,024
CANDIDATES, TARGET, FEWEST_PAIRS = 20, 0.6, 15
SAMPLED_USERS = 300


def main() -> int:
    options = parse()
    try:
        result = measure(options)
    except CorellaError as error:
        print(f"template: {error}", file=sys.stderr)
        return error.exit_code
    print(table(result))
    print(json.dumps(result))
    if options.out:
        write(options.out, result)
    return 0


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs; finished ones are not repeated")
    parser.add_argument("--rows", type=int, default=100_000, help="training rows, drawn as whole users")
    parser.add_argument("--valid-rows", type=int, default=10_000, help="validation rows, drawn as whole users")
    parser.add_argument("--step", choices=("rows", "tokens"), default="rows",
                        help="what a step of training holds as many of in both forms")  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, help="of training and of llama.cpp")
    parser.add_argument("--pairs", type=int, default=40, help="users that are timed, ours and the paper's by turns")
    parser.add_argument("--retries", type=int, default=1, help="how often a disturbed timing is repeated")
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def check(options: argparse.Namespace) -> None:
    """Numbers before any work is done.

    Raises:
        InputError: one that is too small.
    """
    least = {"rows": 1, "valid_rows": 1, "threads": 1, "pairs": FEWEST_PAIRS, "retries": 0}
    for name, number in least.items():
        if getattr(options, name) < number:
            raise InputError(f"--{name.replace('_', '-')} {getattr(options, name)}: at least {number} is needed")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Train or read both models, then compare them.

    Raises:
        CorellaError: options, data or runs that do not fit.
    """
    check(options)
    torch.set_num_threads(options.threads)
    data, recipe = PreparedData.open(options.data), load_recipe(options.recipe)
    recipes = {name: form_recipe(recipe, name, options.rows, options.valid_rows) for name in ITEMS}
    with hold(options.work / "words", recipes[PAPER], data):
        words = Run(options.work / "words", recipes[PAPER], data)
        runs = {name: Form(options.work / name, one, words) for name, one in recipes.items()}
        constant, tokens = constant_tokens(runs), {name: training_tokens(run) for name, run in runs.items()}
        if options.step == "rows":
            runs[PAPER].recipe = with_batch(recipes[PAPER], tokens[PAPER] / tokens[OURS])
        trained = {name: train(run) for name, run in runs.items()}
        return {
            **about(options, recipe, data), "constant_tokens": constant,
            "forms": {name: figures(runs[name], one, tokens[name]) for name, one in trained.items()},
            "auc": compared(trained), "timings": timings(runs, options),
        }  # fmt: skip


def about(options: argparse.Namespace, recipe: Recipe, data: PreparedData) -> dict[str, Any]:
    """What was measured, and how."""
    return {
        "what": "our prompt against the paper's", "recipe": recipe.name, "data": data.info["name"],
        "rows": options.rows, "items": ITEMS, "step_holds_equal": options.step, "candidates": CANDIDATES,
        "gguf": "Q8_0", "llm_threads": options.threads, "note": options.note,
    }  # fmt: skip


def form_recipe(recipe: Recipe, name: str, rows: int, valid_rows: int) -> Recipe:
    """The recipe with one form's question; one epoch on `rows` rows, questions in words."""
    llm = replace(
        recipe.llm, whole_items=False, context=CONTEXT, rows=rows, valid_rows=valid_rows, epochs=1, evaluations=1
    )
    prompt = replace(recipe.prompt, item=ITEMS[name], history_lines=HISTORY_LINES, block=BLOCK)
    return replace(recipe, llm=llm, prompt=prompt)


def with_batch(recipe: Recipe, times: float) -> Recipe:
    """Steps with so many times the tokens: as many rows as the shorter form's steps have, so as many steps."""
    return replace(recipe, llm=replace(recipe.llm, batch_tokens=round(recipe.llm.batch_tokens * times)))


class ShortLines(PromptEncoder):
    """Prompts whose history lines are ours, whatever the candidate's question is."""

    def __init__(self, asked: PromptEncoder) -> None:
        super().__init__(asked.template, asked.catalog, asked.tokenize, asked.tokens)
        short = replace(asked.template, item=ITEMS[OURS])
        self.lines = PromptEncoder(short, asked.catalog, asked.tokenize, asked.tokens)

    def prefix(self, user: User) -> list[int]:
        return self.lines.prefix(user)


class Branches(sequences.SequenceBuilder):
    """Every target is a question of its own after the lines before it: no line needs the question's words."""

    def __init__(self, data: PreparedData, encoder: ShortLines) -> None:
        super().__init__(data, encoder)
        self._lines = sequences.SequenceBuilder(data, encoder.lines)

    def build(
        self, user: int, start: int, targets: sequences.Targets, split: Split,
        spelling: sequences.Spelling | None = None,
    ) -> sequences.Sequence:  # fmt: skip
        return self._branching(user, start, targets, split, spelling)

    def _line(self, user: int, position: int, spelling: sequences.Spelling | None) -> list[int]:
        return self._lines._line(user, position, spelling)


class Form(Run):
    """A run with short lines, and the tokenizer that both forms share: it has learnt the words of both."""

    def __init__(self, folder: Path, recipe: Recipe, words: Run) -> None:
        super().__init__(folder, recipe, words.data)
        self.words = words

    def tokenizer(self) -> Any:
        return self.words.tokenizer()

    def repeated(self) -> PromptEncoder:
        """Prompts as a bundle with this template makes them: a line is the answered question."""
        _, catalog = self.words.fit_inputs()
        return self.prompt_encoder(catalog)

    def short_lines(self) -> ShortLines:
        return ShortLines(self.repeated())

    def builder(self) -> Branches:
        return Branches(self.data, self.short_lines())


def constant_tokens(runs: dict[str, Form]) -> dict[str, int]:
    """Form → tokens after the candidate's text, the same for every item.

    Raises:
        ExportError: the paper's are not about 30 in this tokenizer.
    """
    encoders = {name: run.short_lines() for name, run in runs.items()}
    cue = len(encoders[OURS].tokenize(":"))
    more = longer_by(encoders[OURS], encoders[PAPER])
    if abs(more + cue - CONSTANT) > TOLERANCE:
        raise ExportError(f"the words after the candidate are {more + cue} tokens, not {CONSTANT}; change TAIL")
    return {OURS: cue, PAPER: more + cue}


def longer_by(ours: PromptEncoder, paper: PromptEncoder) -> int:
    """How many tokens the paper's question has more.

    Raises:
        ExportError: it is not the same number for every item.
    """
    pairs = ((ours.item(row), paper.item(row)) for row in range(len(ours.catalog)))
    found = {len(theirs) - len(own) for own, theirs in pairs if own is not None and theirs is not None}
    if len(found) != 1:
        raise ExportError(f"the questions differ by {sorted(found)} tokens, not by one number: change TAIL")
    return found.pop()


def training_tokens(run: Form) -> float:
    """Tokens of training sequences a row, from some of the users."""
    split = run.data.split("train")
    users = draw_users(split, run.recipe.llm.rows, run.recipe.llm.seed)[:SAMPLED_USERS]
    made = run.builder().training(split, users.tolist(), 0)
    return sum(len(s.tokens) for s in made) / sum(len(s.rows) for s in made)


@dataclass(frozen=True, slots=True)
class Trained:
    """A trained form: its stage's best line, and the validation rows [n] with its P(Yes) of each."""

    line: dict[str, Any]
    rows: NDArray[np.int64]
    labels: NDArray[np.int8]
    users: NDArray[np.int32]
    probability: NDArray[np.float64]


def train(run: Form) -> Trained:
    """Train a form, or read it; its GGUF lies beside it then."""
    with hold(run.folder, run.recipe, run.data):
        line = Stages(run).do("llm", ())
        model, path = run.llm("llm"), gguf(run)
        if not path.exists():
            write_quantised(run, model, path)
        builder, split = run.builder(), run.data.split("valid")
        asked = valid_sequences(builder, split, run.recipe.llm)
        rows, probability = predict(run.reader(model, builder), asked)
    return Trained(line, rows, split.labels[rows], split.users[rows], probability)


def write_quantised(run: Form, model: Any, path: Path) -> None:
    """The model as Q8_0, complete or not at all."""
    whole, partial = run.folder / "f16.gguf", path.with_suffix(".partial")
    write_gguf(model, run.tokenizer(), whole, run.folder.name, None, CONTEXT)
    quantize(whole, partial, "Q8_0")
    partial.rename(path)


def gguf(run: Form) -> Path:
    return run.folder / "llm.gguf"


def figures(run: Form, trained: Trained, tokens: float) -> dict[str, Any]:
    """One form's own figures."""
    line, llm = trained.line, run.recipe.llm
    return {
        "item": run.recipe.prompt.item, "batch_tokens": llm.batch_tokens, "steps": line["step"],
        "training_tokens_a_row": round(tokens, 1), "train_seconds": line["seconds"], "valid_auc": line["auc"],
    }  # fmt: skip


def compared(trained: dict[str, Trained]) -> dict[str, Any]:
    """Validation AUC of both on the same rows, and the paired difference over users.

    Raises:
        InputError: the two were not scored on the same rows.
    """
    ours, paper = trained[OURS], trained[PAPER]
    if not np.array_equal(ours.rows, paper.rows):
        raise InputError("--work: its two runs have different validation rows; name a new folder")
    bootstrap = Bootstrap(ours.users)
    own, theirs = (sampled_auc(one.probability, one.labels, bootstrap) for one in (ours, paper))
    gain = own.gain(theirs)
    return {
        "rows": len(ours.rows), "users": bootstrap.users, OURS: asdict(own.interval()),
        PAPER: asdict(theirs.interval()), "difference": asdict(gain), "verdict": verdict(gain),
    }  # fmt: skip


def verdict(difference: Interval) -> str:
    """What the interval of ours - paper's says."""
    if difference.low > 0:
        return "better"
    if difference.high < 0:
        return "worse"
    return "no difference seen"


class Side:
    """One form's scorer on its own weights, and its prompts."""

    def __init__(self, path: Path, encoder: PromptEncoder, threads: int) -> None:
        self.encoder = encoder
        self._model = Model(path)
        self._scorer = YesNoScorer(self._model, encoder.tokens, LlmSettings(threads=threads))

    def seconds(self, request: Request, returning: bool) -> float:
        """Of a request's last 20 candidates; a returning user has asked for the first 20 before."""
        asked = prompts_of(self.encoder, request)
        self._scorer.forget()
        if returning:
            self._scorer.score(asked[:-CANDIDATES])
        start = time.perf_counter()
        answers = self._scorer.score(asked[-CANDIDATES:])
        passed = time.perf_counter() - start
        if any(answer.reason for answer in answers):
            raise ExportError(f"a prompt got no score: {sorted({answer.reason for answer in answers})}")
        return passed

    def close(self) -> None:
        self._scorer.close()
        self._model.close()


def prompts_of(encoder: PromptEncoder, request: Request) -> list[Prompt]:
    """A prompt for every candidate that has text."""
    prefix = tuple(encoder.prefix(request.user))
    suffixes = (encoder.suffix(candidate) for candidate in request.candidates or ())
    return [Prompt(prefix, tuple(suffix)) for suffix in suffixes if suffix is not None]


def request_of(data: PreparedData, catalog: Catalog, number: int) -> Request:
    """A seeded validation user with two lists of catalogue items, those with a title."""
    split, rng = data.split("valid"), np.random.default_rng([5, number])
    titled = [row for row in range(len(catalog)) if catalog.attributes[row].get("title")]
    places = {item: place for place, item in enumerate(data.item_ids)}
    drawn = rng.choice(titled, 2 * CANDIDATES, replace=False).tolist()
    row = int(rng.integers(len(split.users)))
    return data.request(int(split.users[row]), int(split.positions[row]), [places[catalog.ids[i]] for i in drawn])


def timings(runs: dict[str, Form], options: argparse.Namespace) -> list[dict[str, Any]]:
    """New and returning users, with lines short in both forms, and as bundles of the two templates have them."""
    _, catalog = runs[OURS].words.fit_inputs()
    requests = [request_of(runs[OURS].data, catalog, number) for number in range(options.pairs)]
    rows = []
    for lines in ("short", "repeated"):
        sides = {
            name: Side(gguf(run), run.short_lines() if lines == "short" else run.repeated(), options.threads)
            for name, run in runs.items()
        }
        for returning in (False, True):
            named = {"lines": lines, "user": "returning" if returning else "new"}
            rows.append({**named, **quiet(sides, requests, returning, options.retries)})
        for side in sides.values():
            side.close()
    return rows


def quiet(sides: dict[str, Side], requests: list[Request], returning: bool, retries: int) -> dict[str, Any]:
    """A row of `by_turns`; a disturbed one is measured again."""
    for _ in range(retries + 1):
        row = by_turns(sides, requests, returning)
        if not row["void"]:
            break
    return row


def by_turns(sides: dict[str, Side], requests: list[Request], returning: bool) -> dict[str, Any]:
    """Ours and the paper's on the same user, one after the other."""
    for side in sides.values():
        side.seconds(requests[0], returning)
    watch = Watch()
    pairs, _ = alternate([PAPER], len(requests), lambda name, number: sides[name].seconds(requests[number], returning))
    load, found = watch.read(), ratio(pairs[PAPER])
    lengths = {name: mean_lengths([prompts_of(side.encoder, one) for one in requests]) for name, side in sides.items()}
    return {
        "ours_ms": median_ms([pair.ours for pair in pairs[PAPER]]), "ratio": found.to_json(),
        "paper_ms": median_ms([pair.peer for pair in pairs[PAPER]]), "tokens": lengths,
        "target": TARGET, "met": found.at_most(TARGET), "load": load, "void": is_void(load),
    }  # fmt: skip


def median_ms(seconds: Sequence[float]) -> float:
    return round(float(np.median(seconds)) * 1e3, 2)


def mean_lengths(asked: Sequence[Sequence[Prompt]]) -> dict[str, float]:
    """Mean tokens of a prefix and of a suffix."""
    suffixes = [len(prompt.suffix) for prompts in asked for prompt in prompts]
    prefixes = [len(prompts[0].prefix) for prompts in asked]
    return {"prefix": round(float(np.mean(prefixes)), 1), "suffix": round(float(np.mean(suffixes)), 1)}


def table(result: dict[str, Any]) -> str:
    """The figures for people."""
    found = result["auc"]
    gap = " ".join(f"{found['difference'][name]:+.4f}" for name in ("value", "low", "high"))
    lines = [f"constant tokens after the candidate: {result['constant_tokens']}"]
    lines += [f"{name:6} AUC {found[name]['value']:.4f}  steps {one['steps']}  training {one['train_seconds']:.0f} s"
              for name, one in result["forms"].items()]  # fmt: skip
    lines.append(f"ours - paper's (value, low, high): {gap}  {found['verdict']}, {found['rows']} rows")
    return "\n".join([*lines, *map(timing_line, result["timings"])])


def timing_line(row: dict[str, Any]) -> str:
    """One timing, its token counts and whether it meets the target."""
    state = "void" if row["void"] else "met" if row["met"] else "NOT MET"
    counts = " against ".join(f"{one['prefix']:.0f} + 20 x {one['suffix']:.1f}" for one in row["tokens"].values())
    span = "{median:.3f} [{low:.3f}, {high:.3f}] n={pairs}".format(**row["ratio"])
    return (f"lines {row['lines']:9}{row['user']:10}ours {row['ours_ms']:8.2f} ms  paper's {row['paper_ms']:8.2f} ms  "
            f"{span} <= {row['target']:g} {state}  tokens {counts}")  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
