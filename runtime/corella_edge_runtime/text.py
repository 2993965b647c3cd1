"""Words → vectors on the box, for items that the catalogue lacks. The only file that knows tokenizers."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from corella_edge.errors import BundleError, MissingExtraError
from corella_edge.features.derived import Floats, Ints
from corella_edge.features.vectors import as_float16, as_float32
from corella_edge_runtime.crm import Graph

try:
    from tokenizers import Tokenizer
except ImportError as error:
    raise MissingExtraError("making vectors of words", "text") from error

BATCH = 32  # texts a run: bounds the memory arena, which grows to the largest batch and never shrinks
KEPT = 4096  # texts whose vectors are remembered
INPUTS = ("input_ids", "attention_mask")


class TextTokenizer:
    """A tokenizer.json that says how long a text may be and how shorter ones are filled up."""

    def __init__(self, path: Path, name: str = "") -> None:
        """`name` is what errors call the file. Raises BundleError for anything else."""
        name = name or path.name
        try:
            self._tokenizer: Any = Tokenizer.from_buffer(path.read_bytes())
        except OSError as error:
            raise BundleError(f"{name}: cannot be read ({error.strerror})") from None
        except Exception as error:  # noqa: BLE001 - tokenizers raises plain Exceptions
            raise BundleError(f"{name}: is no tokenizer ({str(error)[:200]})") from None
        if self._tokenizer.truncation is None or self._tokenizer.padding is None:
            raise BundleError(f"{name}: does not say how long texts may be, or how they are filled up")

    def ids(self, texts: Sequence[str]) -> tuple[Ints, Ints]:
        """Token ids and mask, int64 [n, length of the longest]."""
        # What JSON may hold and UTF-8 may not.
        found = self._tokenizer.encode_batch([text.encode("utf-8", "replace").decode() for text in texts])
        return np.array([f.ids for f in found], np.int64), np.array([f.attention_mask for f in found], np.int64)


class TextModel:
    """A bundle's text model: texts → vectors float32 [n, width], zeros for an empty one. Threads may share one."""

    def __init__(self, path: Path, tokenizer: Path, width: int, threads: int = 1) -> None:
        """Raises BundleError where the graph does not give `width` finite numbers a text."""
        self._words, self._graph, self.width = TextTokenizer(tokenizer), Graph(path, threads), width
        if self._graph.shapes.keys() != set(INPUTS):
            raise BundleError(f"{path.name}: its inputs are {sorted(self._graph.shapes)}, expected {', '.join(INPUTS)}")
        ids, mask = self._words.ids(["a", "a b c"])
        found = self._graph.tried(dict(zip(INPUTS, (ids, mask), strict=True)))
        if len(found) != 1 or found[0].dtype != np.float32 or found[0].shape != (2, width):
            raise BundleError(f"{path.name}: does not give one vector of {width} numbers in float32 a text")
        self._kept: OrderedDict[str, Floats] = OrderedDict()
        self._lock = Lock()

    def __call__(self, texts: Sequence[str]) -> Floats:
        """The vectors; those of recent texts are remembered."""
        with self._lock:
            known = {text: self._kept[text] for text in texts if text in self._kept}
        new = list(dict.fromkeys(text for text in texts if text and text not in known))
        known.update(zip(new, self.vectors(new), strict=True))
        with self._lock:
            for text in texts:
                if text:
                    self._kept[text] = known[text]
                    self._kept.move_to_end(text)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        nothing = np.zeros(self.width, np.float32)
        return np.array([known.get(text, nothing) for text in texts], np.float32).reshape(len(texts), self.width)

    def vectors(self, texts: Sequence[str], told: Callable[[int], Any] = lambda count: None) -> Floats:
        """The same of many texts, of which none is remembered; `told` hears how many are done."""
        found, done = np.zeros((len(texts), self.width), np.float32), 0
        for places in batches(texts, BATCH):
            inputs = dict(zip(INPUTS, self._words.ids([texts[i] for i in places]), strict=True))
            found[places] = self._graph.run(self._graph.outputs, inputs, None)[0]
            done += len(places)
            told(done)
        # As the catalogue's file would give them: an item is scored alike typed in and taken up.
        return as_float32(as_float16(found))


def batches(texts: Sequence[str], size: int) -> Iterable[list[int]]:
    """Places of the texts that are not empty, those of like length together: little is filled up."""
    order = sorted((i for i, text in enumerate(texts) if text), key=lambda i: len(texts[i]))
    return (order[start : start + size] for start in range(0, len(order), size))
