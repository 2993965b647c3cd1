"""A process that does what an embedding application does: open a bundle, rank. Prints one line, waits for its end.

python -m harness.child BUNDLE THREADS REQUESTS      REQUESTS 0 = one candidate, answered by the LLM
python -m harness.child FILE.gguf THREADS REQUESTS   a scorer alone: new users of shape (a1), then unrelated prompts (b)
"""

from __future__ import annotations

import json
import logging
import sys
from itertools import islice
from pathlib import Path

from corella_edge.errors import BundleError
from corella_edge.json_lines import parse_traffic, read_lines
from corella_edge.request import Candidate, Request, User
from corella_edge_runtime.engine import Engine
from harness.ours import Ours
from harness.shapes import SHAPES, PromptStream
from harness.vocabulary import answer_tokens


class Lines(logging.Handler):
    """Keeps what llama.cpp says of its buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "buffer size" in text:
            self.found.append(text)


def main(bundle: Path, threads: int, requests: int) -> None:
    """Rank, print, wait."""
    lines = Lines()
    if requests:
        logger = logging.getLogger("corella_edge.llama")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(lines)
    if bundle.suffix == ".gguf":
        wait(lines, scorer(bundle, threads, requests))
    else:
        product(bundle, threads, requests, lines)


def product(bundle: Path, threads: int, requests: int, lines: Lines) -> None:
    """The engine with everything in it."""
    with Engine.open(bundle, llm_threads=threads, require_llm=True, tuned=False) as engine:
        if requests:
            several(engine, bundle, requests)
        else:
            first(engine)
        wait(lines, engine.stats().get("kept_bytes", 0.0))


def scorer(path: Path, threads: int, requests: int) -> float:
    """A scorer's work; bytes of the prefixes it keeps."""
    ours = Ours(path, answer_tokens(), threads)
    stream = PromptStream(ours.vocab_size, seed=23)
    for number in range(requests):
        ours.score(stream.batch(SHAPES["b" if number % 2 else "a1"]))
    return ours.scorer.stats()["kept_bytes"]


def wait(lines: Lines, kept: float) -> None:
    """Tell what was found, and stay so that one can look."""
    print(json.dumps({"log": lines.found, "kept_bytes": kept}), flush=True)
    sys.stdin.read()


def first(engine: Engine) -> None:
    """One candidate's P(Yes)."""
    found = engine.rank(Request(User(), (Candidate(engine.encoder.catalog.ids[0]),), threshold="ratio:1"))
    if not found.routed.all():
        raise SystemExit(f"the LLM gave no score: {found.reason[0]}")


def several(engine: Engine, bundle: Path, count: int) -> None:
    """Users of the bundle's sample, each against the catalogue's first 100 items."""
    items = tuple([Candidate(item) for item in engine.encoder.catalog.ids[:100]])
    for row in islice(read_lines(bundle / "sample.jsonl", parse_traffic, BundleError), count):
        engine.rank(Request(row.request.user, items, threshold="ratio:0.05"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
