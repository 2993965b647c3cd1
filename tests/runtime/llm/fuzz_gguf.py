"""Changed GGUF files put to llama.cpp, each in a process: `python fuzz_gguf.py FILE FOLDER COUNT SEED [BASE]`.

With a BASE, the file is an adapter of it. Prints how many files there were of each outcome; run by test_gguf.py and
test_adapters.py.
"""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import signal
import struct
import sys
from collections import Counter
from pathlib import Path

import gguf

from corella_edge.errors import BundleError
from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.contract.messages import Prompt, Prompts
from corella_edge_runtime.llm.llama.adapter_file import base_of, check_adapter
from corella_edge_runtime.llm.llama.binding import Model
from corella_edge_runtime.llm.llama.dangers import check_gguf
from corella_edge_runtime.llm.llama.scorer import YesNoScorer

REFUSED, UNLOADED = 10, 11
WORDS = [0, 1, 2, 3, 8, 16, 32, 64, 127, 255, 256, 257, 261, 511, 512, 513, 2**16, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
TYPES = [*range(43)]


class Mutator:
    """Changes where it hurts: numbers, types and shapes, seldom single bytes of the head."""

    def __init__(self, path: Path, seed: int) -> None:
        self.raw, self.random = path.read_bytes(), random.Random(seed)
        reader = gguf.GGUFReader(path)
        self.head = reader.data_offset
        fields = [(key, field) for key, field in reader.fields.items() if not key.startswith("GGUF.")]
        self.values = [field.offset + 12 + len(key.encode()) for key, field in fields]
        self.shapes, self.types = [], []
        for tensor in reader.tensors:
            place = tensor.field.offset + 12 + len(tensor.name)
            self.shapes += [place + 8 * i for i in range(len(tensor.shape))]
            self.types.append(place + 8 * len(tensor.shape))

    def next(self) -> bytes:
        """Another wrong file."""
        raw = bytearray(self.raw)
        for _ in range(self.random.choice([1, 1, 1, 2, 3])):
            self._change(raw)
        if self.random.random() < 0.2:
            raw[self.head :] = self.random.randbytes(len(raw) - self.head)
        return bytes(raw[: self.random.randrange(len(raw))] if self.random.random() < 0.05 else raw)

    def _change(self, raw: bytearray) -> None:
        kind = self.random.random()
        if kind < 0.35:
            struct.pack_into("<I", raw, self.random.choice(self.values), self.random.choice(WORDS))
        elif kind < 0.6:
            struct.pack_into("<I", raw, self.random.choice(self.types), self.random.choice(TYPES))
        elif kind < 0.8:
            struct.pack_into("<Q", raw, self.random.choice(self.shapes), self.random.choice(WORDS))
        else:
            place = self.random.randrange(self.head)
            raw[place] = self.random.choice([0, 1, 255, raw[place] ^ 1, raw[place] ^ 128])


def use(path: Path, base: Path | None) -> int:
    """Do with the file what an engine does."""
    try:
        check_gguf(path) if base is None else check_adapter(path, base_of(base))
    except BundleError:
        return REFUSED
    try:
        if base is None:
            Model(path, vocabulary_only=True).tokenize("Heat (1995), Action \U0001f600 é:")
        model = Model(path) if base is None else Model(base, adapters={"changed": path})
    except BundleError:
        return UNLOADED
    scorer = YesNoScorer(model, Tokens(model.vocab_size - 3, model.vocab_size - 1, None))
    by = () if base is None else (("changed", 1.0),)
    scorer.score(Prompts.of([Prompt((1, 2, 3), (4, 5)), Prompt((1, 2, 3), (6,))]).by(by))
    return 0


def outcome(path: Path, base: Path | None) -> str:
    """What became of a process that uses the file."""
    child = os.fork()
    if not child:
        signal.alarm(60)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        code = 1
        try:
            code = use(path, base)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return {0: "scored", REFUSED: "refused", UNLOADED: "not loaded"}.get(os.WEXITSTATUS(status), "raised")


def main(source: str, folder: str, count: str, seed: str, base: str = "") -> None:
    logging.disable()
    mutator, found = Mutator(Path(source), int(seed)), Counter[str]()
    path = Path(folder) / "changed.gguf"
    for i in range(int(count)):
        path.write_bytes(mutator.next())
        result = outcome(path, Path(base) if base else None)
        if result.startswith("SIG"):
            path.replace(path.with_name(f"{result}-{seed}-{i}.gguf"))
        found[result] += 1
    print(json.dumps(found))


main(*sys.argv[1:])
