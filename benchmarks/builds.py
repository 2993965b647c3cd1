"""Two builds of the same llama.cpp against each other, by turns: does one wheel for every CPU cost speed here?

    python benchmarks/builds.py --work runs/scoring --other FOLDER --out benchmarks/results/builds.json

FOLDER holds the other build's libllama.so and libggml*.so, of the release that is installed; peers/README.md says how
they are built for this CPU by the system's compiler. Each build works in a process of its own on the 135M shape; a turn
is a new user's 20 candidates (prefix of 200 tokens, suffixes of 40). Without --first the installed build is the first.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError
from harness.options import check_words, words
from harness.pairs import ENOUGH, OURS, Pair, alternate, median_ms, ratio
from harness.quiet import Watch, undisturbed
from harness.results import ended

KINDS = ("BF16", "Q8_0")
SHAPE, OTHER, LIBRARY = "a1", "other", "libllama.so"
Row = dict[str, Any]


class Build:
    """A process that scores with one folder of libraries."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.kernels: list[str] = self._read()

    def seconds(self, seed: int) -> float:
        """One turn with the prompts of `seed`."""
        assert self._process.stdin is not None
        print(seed, file=self._process.stdin, flush=True)
        return float(self._read())

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise InputError(f"a build's process ended with {self._process.wait()}; its last words stand above")
        return json.loads(line)


@contextmanager
def opened(folder: Path | None, file: Path, threads: int) -> Iterator[Build]:
    """A build at work on a file; None is the installed one."""
    env = {**os.environ, **({} if folder is None else {"LLAMA_CPP_LIB_PATH": str(folder.resolve())})}
    command = [sys.executable, __file__, "--child", str(file), str(threads)]
    with subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Build(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()


def child(file: Path, threads: int) -> None:
    """Answer each seed by the seconds of its turn. First come the instruction sets that the build uses here."""
    from corella_edge_runtime.llm.llama.build import features
    from harness.ours import Ours
    from harness.shapes import SHAPES, PromptStream
    from harness.vocabulary import answer_tokens

    scorer = Ours(file, answer_tokens(), threads)
    print(json.dumps(features()), flush=True)
    for line in sys.stdin:
        prompts = PromptStream(scorer.vocab_size, int(line)).batch(SHAPES[SHAPE])
        scorer.reset()
        start = time.perf_counter()
        scorer.score(prompts)
        print(json.dumps(time.perf_counter() - start), flush=True)
    scorer.close()


def compared(kind: str, file: Path, options: argparse.Namespace) -> Row:
    """The pairs of one type."""
    from harness.shapes import SHAPES

    shape = SHAPES[SHAPE]
    tokens = shape.users * shape.prefix + shape.prompts * shape.suffix
    with ExitStack() as stack:
        builds = {
            OURS: stack.enter_context(opened(options.first, file, options.threads)),
            OTHER: stack.enter_context(opened(options.other, file, options.threads)),
        }
        for build in builds.values():
            build.seconds(0)  # maps the file, makes the buffers
        watch = Watch([build._process.pid for build in builds.values()])
        pairs, own = alternate((OTHER,), options.pairs, lambda number, steps: turns(builds, number, steps))
        load = watch.read()
    return {"type": kind, "shape": SHAPE, "tokens": tokens, **figures(own, pairs[OTHER], tokens), "load": load,
            "kernels": {name: build.kernels for name, build in builds.items()}}  # fmt: skip


def turns(builds: dict[str, Build], number: int, steps: Sequence[str]) -> list[float]:
    """Seconds of one round's steps, all on the same prompts."""
    return [builds[name].seconds(number + 1) for name in steps]


def figures(own: Sequence[float], pairs: Sequence[Pair], tokens: int) -> Row:
    """Medians, tokens a second, and the first build's time over the other's."""
    first, other = median_ms(own), median_ms([pair.peer for pair in pairs])
    speeds = {"first": round(1e3 * tokens / first), "other": round(1e3 * tokens / other)}
    return {"first_ms": first, "other_ms": other, "tokens_per_second": speeds, "ratio": ratio(pairs).to_json()}


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), int(sys.argv[3]))
        return 0
    options = parse()
    return ended("builds", lambda: measure(options), options.out)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the models, that of llm_scoring.py")
    parser.add_argument("--first", type=Path, help="a folder of libraries instead of the installed ones")
    parser.add_argument("--other", type=Path, required=True, help="the folder of libraries to compare with")
    parser.add_argument("--types", type=words, default=KINDS, help=",".join(KINDS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=ENOUGH)
    parser.add_argument("--retries", type=int, default=1, help="how often a disturbed type is measured again")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def check(options: argparse.Namespace) -> None:
    """Folders and numbers before any work is done. Raises InputError."""
    from harness.models import TYPES

    check_words(options, {"types": TYPES})
    for name in ("threads", "pairs"):
        if getattr(options, name) < 1:
            raise InputError(f"--{name} {getattr(options, name)}: at least 1 is needed")
    for name in ("first", "other"):
        folder = getattr(options, name)
        if folder is not None and not (folder / LIBRARY).is_file():
            raise InputError(f"--{name} {folder}: holds no {LIBRARY}")


def measure(options: argparse.Namespace) -> Row:
    """A row a type. Raises InputError: an option that does not fit."""
    from harness.models import subject

    check(options)
    files = subject("135m", options.work, options.types, None, None).files
    rows = []
    for kind in options.types:
        rows.append(undisturbed(partial(compared, kind, files[kind], options), itemgetter("load"), options.retries))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    return {"what": "two builds of llama.cpp", "threads": options.threads, "rows": rows}


if __name__ == "__main__":
    sys.exit(main())
