"""The scorer at its usual settings, and with one of them changed: what `llm_settings.py` sets side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

from llama_cpp import llama_cpp as C

from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama import scorer
from corella_edge_runtime.llm.llama.binding import Context, Model
from corella_edge_runtime.llm.llama.scorer import YesNoScorer
from harness.pairs import OURS
from harness.shapes import PromptStream
from harness.vocabulary import answer_tokens

PREFIX, CANDIDATES = 200, 20
STREAM = 256  # cells of a split stream: llama.cpp takes no fewer, and a prefix and a suffix fit


@dataclass(frozen=True, slots=True)
class Change:
    """What differs from the usual settings.

    Attributes:
        settings: fields of `LlmSettings`.
        context: fields of llama.cpp's context that the runtime gives no choice of.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def split(self) -> bool:
        return not self.context.get("kv_unified", True)


USUAL = Change()
CHANGES = {
    **{f"decodes of {tokens} tokens": Change({"batch": tokens}) for tokens in (128, 256, 1024)},
    "`n_ubatch` 128 in decodes of 512": Change(context={"n_ubatch": 128}),
    "one suffix a decode": Change({"sequences": 1}),
    **{f"{most} suffixes a decode": Change({"sequences": most}) for most in (8, 10, CANDIDATES)},
    "no flash attention": Change(context={"flash_attn_type": C.LLAMA_FLASH_ATTN_TYPE_DISABLED}),
    "split streams": Change({"sequences": CANDIDATES}, {"kv_unified": False}),
}


class SplitContext(Context):
    """A context whose sequences share no cells."""

    def share(self, source: int, targets: Iterable[int], length: int) -> None:
        """llama.cpp copies a stream as a whole, with the next decode; what is beyond `length` is cut."""
        for target in targets:
            C.llama_memory_seq_cp(C.llama_get_memory(self.handle), source, target, -1, -1)
            self.cut(target, length)


def open_scorer(model: Model, change: Change, threads: int) -> YesNoScorer:
    """The runtime's scorer with one change, on a model that others may use too."""
    make = C.llama_init_from_model

    def changed(handle: Any, params: Any) -> Any:
        for name, value in change.context.items():
            setattr(params, name, value)
        return make(handle, params)

    settings = LlmSettings(threads=threads, **change.settings)
    kind, cells = (SplitContext, STREAM * (settings.sequences + 1)) if change.split else (Context, 0)
    with patch.object(C, "llama_init_from_model", changed), patch.object(scorer, "Context", kind):
        return YesNoScorer(model, answer_tokens(), settings, cells)


@contextmanager
def opened(path: Path, names: Sequence[str], threads: int) -> Iterator[dict[str, YesNoScorer]]:
    """The usual scorer and the named changes on one model; all are closed at the end."""
    with ExitStack() as stack:
        model = stack.enter_context(closing(Model(path)))
        changes = {OURS: USUAL, **{name: CHANGES[name] for name in names}}
        yield {name: stack.enter_context(closing(open_scorer(model, change, threads)))
               for name, change in changes.items()}  # fmt: skip


def slate(stream: PromptStream, prefix: tuple[int, ...], suffix: int) -> list[Prompt]:
    """A user's candidates. Their first tokens differ: split streams take no token that belongs to two of them."""
    found: dict[int, tuple[int, ...]] = {}
    while len(found) < CANDIDATES:
        ids = stream.ids(suffix)
        found.setdefault(ids[0], ids)
    return [Prompt(prefix, ids) for ids in found.values()]
