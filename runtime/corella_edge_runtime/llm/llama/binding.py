"""llama.cpp through its C API: load, tokenise, decode many sequences at once, read two logits, quantise.

The high-level `Llama` class decodes one sequence at a time and copies whole vocabularies of logits; neither is
needed to score a Yes/No answer.
"""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.adapters import Weights
from corella_edge.errors import BundleError, ComputeError, ExportError, InputError
from corella_edge_runtime.llm.llama import trust, workers
from corella_edge_runtime.llm.llama.build import load_kernels
from corella_edge_runtime.llm.llama.library import C
from corella_edge_runtime.llm.llama.own_thread import OwnThread, claimed
from corella_edge_runtime.llm.llama.tree import TokenRows

log = logging.getLogger("corella_edge.llama")
_LEVELS = {3: logging.INFO, 4: logging.ERROR}
_errors: deque[str] = deque(maxlen=100)  # said by llama.cpp since the last load began: the first is the cause
_giving_up: set[int] = set()  # contexts whose decode was given up
ABORTED = 2  # what llama_decode returns then


@C.llama_log_callback  # type: ignore[untyped-decorator]
def _on_log(level: int, text: bytes, _: object) -> None:
    line = text.decode("utf-8", "replace").strip()
    if level == 4:
        _errors.append(line)
    # What llama.cpp says of a decode that was given up is no error.
    log.log(logging.DEBUG if _giving_up else _LEVELS.get(level, logging.DEBUG), "%s", line)


_STRLEN = ctypes.cast(ctypes.CDLL(None).strlen, C.ggml_abort_callback)
C.llama_log_set(_on_log, ctypes.c_void_p(0))
load_kernels()
C.llama_backend_init()


class Model:
    """A GGUF file, mapped; shared by contexts and safe to tokenise with from several threads.

    Args:
        extra: whether its matrices may go to llama.cpp's extra buffer types (AMX, repacked weights); None = by the
            self-test on its types (`trust`), which may have to run first.
        adapters: name → file of adapters, looked at before (`adapter_file`). They are there before any context is: its
            graphs are made with room for them.

    Raises:
        BundleError: it, or an adapter, cannot be loaded. ComputeError: llama.cpp does not compute with its types.
    """

    def __init__(
        self, path: Path, vocabulary_only: bool = False, extra: bool | None = None,
        adapters: Mapping[str, Path] | None = None,
    ) -> None:  # fmt: skip
        params = C.llama_model_default_params()
        params.n_gpu_layers = 0
        params.vocab_only = vocabulary_only
        params.use_extra_bufts = _extra(path) if extra is None and not vocabulary_only else bool(extra)
        _errors.clear()
        self.handle = C.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            why = f" ({_errors[0]})" if _errors else ""
            raise BundleError(f"{path.name}: llama.cpp cannot load it{why}")
        # Freed when the last context or tokenizer that uses it is gone, and its adapters with it.
        self._free = weakref.finalize(self, C.llama_model_free, self.handle)
        self._free.atexit = False
        self.adapters = {name: self._adapter(file) for name, file in (adapters or {}).items()}
        self._vocab = C.llama_model_get_vocab(self.handle)
        self.vocab_size: int = C.llama_vocab_n_tokens(self._vocab)
        self.trained_context: int = C.llama_model_n_ctx_train(self.handle) or self._context_in_file()
        self.size_bytes: int = C.llama_model_size(self.handle)

    @property
    def bos(self) -> int | None:
        """The begin token, if the model wants one."""
        return int(C.llama_vocab_bos(self._vocab)) if C.llama_vocab_get_add_bos(self._vocab) else None

    @property
    def file_type(self) -> str:
        """A name of `file_types`; empty if the file tells none."""
        number = self._metadata("general.file_type")
        return next((name for name, value in file_types().items() if str(value) == number), "")

    def _adapter(self, path: Path) -> Any:
        _errors.clear()
        found = C.llama_adapter_lora_init(self.handle, os.fsencode(path))
        if not found:
            why = f" ({_errors[0]})" if _errors else ""
            raise BundleError(f"{path.name}: llama.cpp cannot load the adapter{why}")
        return found

    def _context_in_file(self) -> int:
        """llama.cpp leaves the number where it is when it loads a vocabulary alone; 0 if it is missing."""
        architecture = self._metadata("general.architecture")
        text = self._metadata(f"{architecture}.context_length")
        return int(text) if text.isdigit() else 0

    def _metadata(self, key: str) -> str:
        """An entry of the file as text, cut at 63 bytes; empty if it is missing."""
        room = ctypes.create_string_buffer(64)
        C.llama_model_meta_val_str(self.handle, key.encode(), room, len(room))
        return room.value.decode("utf-8", "replace")

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        """Ids of a text; special tokens are not added, and recognised only where they are asked for."""
        raw = text.encode("utf-8", "replace")
        room = len(raw) + 8
        ids = (C.llama_token * room)()
        count = C.llama_tokenize(self._vocab, raw, len(raw), ids, room, False, special)
        if count < 0:
            raise RuntimeError(f"llama_tokenize wants room for {-count} tokens of {len(raw)} bytes")
        return list(ids[:count])

    def close(self) -> None:
        """Free it now; nothing may use it any more."""
        self._free()
        self.handle = None


def _extra(path: Path) -> bool:
    verdict = trust.judge_file(path)
    if verdict.kernels == trust.NONE:
        raise ComputeError(f"{path.name}: {verdict.sentence}")
    return trust.may_use_extra(path, verdict)


class DecodeError(RuntimeError):
    """`llama_decode` refused or failed."""


class AbortedError(RuntimeError):
    """`llama_decode` was given up, because nobody waits for it any more."""


class NoContextError(InputError):
    """llama.cpp cannot make a context, most likely for want of memory: no fault of the bundle's."""


def _fresh(size: int) -> npt.NDArray[np.uint8]:
    return np.empty(size, np.uint8)


class Context:
    """KV cells and compute buffers of a model. One thread at a time; it decodes in a thread of llama.cpp's own.

    Args:
        cells: KV cells, shared by all sequences (unified cache: a common prefix is held once).
        sequences: sequence ids 0 … sequences - 1 may be used.
        batch: most tokens of one decode.
        exact: keys and values in float32 and plain attention; slower, and free of half-precision outliers.
    """

    def __init__(self, model: Model, cells: int, sequences: int, batch: int, threads: int, exact: bool = False) -> None:
        params = C.llama_context_default_params()
        params.n_ctx, params.n_seq_max = cells, sequences
        params.n_batch = params.n_ubatch = batch
        params.n_outputs_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        if exact:
            params.type_k = params.type_v = C.GGML_TYPE_F32
            params.flash_attn_type = C.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.no_perf = True
        self.model, self.sequences, self.batch_size = model, sequences, batch
        _errors.clear()
        self.handle = C.llama_init_from_model(model.handle, params)
        if not self.handle:
            why = f" ({_errors[0]})" if _errors else ""
            raise NoContextError(f"llama.cpp cannot make a context of {cells} cells; is there enough memory?{why}")
        self.cells: int = C.llama_n_ctx(self.handle)
        self._memory = C.llama_get_memory(self.handle)
        # A row's sequences are neighbours: its list of ids is a stretch of one table.
        self._ids = np.arange(sequences, dtype=np.int32)
        self._first_id = np.uintp(self._ids.ctypes.data)
        # The columns of a decode, and llama.cpp's view of them, made once: pointers cost more than the copies.
        self._columns = [np.empty(batch, kind) for kind in (np.int32, np.int32, np.int32, np.int8)]
        self._lists = np.empty(batch, np.uintp)
        tokens, positions, counts, wanted = self._columns
        self._batch = C.llama_batch(
            n_tokens=0, token=_pointer(tokens, C.llama_token), embd=None, pos=_pointer(positions, C.llama_pos),
            n_seq_id=_pointer(counts, ctypes.c_int32), seq_id=_pointer(self._lists, ctypes.POINTER(C.llama_seq_id)),
            logits=_pointer(wanted, ctypes.c_int8),
        )  # fmt: skip
        # llama.cpp asks at every node of the graph whether to go on. A Python callback would want the interpreter's
        # lock each time; strlen of this buffer is 0, and no longer once `give_up` has written to it.
        self._given_up = ctypes.create_string_buffer(2)
        self._output: dict[int, int] = {}  # rows of the last decode that have logits → their place among these
        C.llama_set_abort_callback(self.handle, _STRLEN, ctypes.addressof(self._given_up))
        self._threads = threads
        self._end_workers: Callable[[], None] | None = None
        self._own: OwnThread | None = None

    def adapt(self, adapters: Weights) -> None:
        """Compute with these adapters of the model from now on; cells that were computed with others are no use then.

        The next decode makes its graphs anew.
        """
        handles = (C.llama_adapter_lora_p_ctypes * len(adapters))(*(self.model.adapters[name] for name, _ in adapters))
        scales = (ctypes.c_float * len(adapters))(*(weight for _, weight in adapters))
        if C.llama_set_adapters_lora(self.handle, handles, len(adapters), scales) != 0:
            raise DecodeError("llama.cpp does not take the adapters")

    def give_up(self) -> None:
        """From any thread: the decode at work, if there is one, ends as soon as it can."""
        _giving_up.add(id(self))
        self._given_up[0] = b"1"

    def go_on(self) -> None:
        """Take back `give_up`."""
        self._given_up[0] = b"\0"
        _giving_up.discard(id(self))

    def decode(self, rows: TokenRows) -> None:
        """Evaluate at most `batch_size` tokens; in a thread of its own unless this one is llama.cpp's already.

        Raises:
            AbortedError: it was given up. DecodeError: llama.cpp failed. In both cases the rows' sequences
                are in no defined state and must be cut.
        """
        n = len(rows)
        if n > self.batch_size:
            raise DecodeError(f"{n} tokens are more than a decode of {self.batch_size}")
        given: tuple[npt.NDArray[Any], ...] = (rows.tokens, rows.positions, rows.count, rows.wanted)
        for column, values in zip(self._columns, given, strict=True):
            column[:n] = values
        np.multiply(rows.first, self._ids.itemsize, out=self._lists[:n], casting="unsafe")
        self._lists[:n] += self._first_id
        self._batch.n_tokens = n
        if claimed():
            status = self._compute()
        else:
            self._own = self._own or OwnThread()
            status = self._own.run(self._compute)
        if status == ABORTED:
            raise AbortedError("llama_decode was given up")
        if status != 0:
            raise DecodeError(f"llama_decode returned {status}")
        self._output = {row: place for place, row in enumerate(rows.wanted.nonzero()[0].tolist())}

    def _compute(self) -> int:
        if self._end_workers is None:
            self._end_workers = workers.attach(self.handle, self._threads)
        return int(C.llama_decode(self.handle, self._batch))

    def logits(self, rows: Iterable[int], tokens: Sequence[int]) -> list[list[float]]:
        """Of some rows of the last decode that were wanted, the logits of some tokens."""
        # One pointer for all of them: llama.cpp holds the wanted rows' logits in a block, in the order of the rows.
        block, width = C.llama_get_logits(self.handle), self.model.vocab_size
        begins = [width * place for place in map(self._output.__getitem__, rows)]
        return [[block[begin + token] for token in tokens] for begin in begins]

    def log_mass(self, row: int, tokens: Sequence[int]) -> float:
        """Log of the share of some tokens in the whole vocabulary's probability, after row `row`."""
        found = C.llama_get_logits_ith(self.handle, row)
        logits = np.ctypeslib.as_array(found, (self.model.vocab_size,)).astype(np.float64)
        greatest = logits.max()
        everything = greatest + np.log(np.exp(logits - greatest).sum())
        return min(0.0, float(np.logaddexp.reduce(logits[list(tokens)]) - everything))

    def share(self, source: int, targets: Iterable[int], length: int) -> None:
        """Make `targets` hold the first `length` cells of `source` too; nothing is computed or copied."""
        share, memory = C.llama_memory_seq_cp, self._memory
        for target in targets:
            share(memory, source, target, 0, length)

    def cut(self, sequence: int, start: int) -> None:
        """Forget a sequence from position `start` on."""
        C.llama_memory_seq_rm(self._memory, sequence, start, -1)

    def cut_all(self, start: int) -> None:
        """Forget all sequences from position `start` on."""
        C.llama_memory_seq_rm(self._memory, -1, start, -1)

    def keep(self, sequence: int) -> None:
        """Forget all other sequences."""
        C.llama_memory_seq_keep(self._memory, sequence)

    def length(self, sequence: int) -> int:
        """How many positions a sequence holds."""
        return int(C.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def save(self, sequence: int, room: Callable[[int], npt.NDArray[np.uint8]] = _fresh) -> npt.NDArray[np.uint8]:
        """A sequence's cells as bytes, uint8, in the memory that `room` gives for so many."""
        size = C.llama_state_seq_get_size(self.handle, sequence)
        state = room(size)
        written = C.llama_state_seq_get_data(self.handle, _pointer(state, ctypes.c_uint8), size, sequence)
        if written != size:
            raise DecodeError(f"llama.cpp wrote {written} of {size} bytes of a sequence")
        return state

    def load(self, sequence: int, state: npt.NDArray[np.uint8]) -> None:
        """Fill an empty sequence with saved cells."""
        read = C.llama_state_seq_set_data(self.handle, _pointer(state, ctypes.c_uint8), len(state), sequence)
        if read == 0:
            raise DecodeError("llama.cpp has no room for a kept prefix")

    def clear(self) -> None:
        """Forget everything, down to the numbers in the cells: a NaN there would reach the next prompts."""
        C.llama_memory_clear(self._memory, True)

    def close(self) -> None:
        self.go_on()
        if self._own:
            self._own.close()
        if self.handle:
            C.llama_free(self.handle)
            self.handle = None
        if self._end_workers:
            self._end_workers()
            self._end_workers = None


def _pointer(values: npt.NDArray[Any], kind: Any) -> Any:
    return ctypes.cast(values.ctypes.data, ctypes.POINTER(kind))


def file_types() -> dict[str, int]:
    """Names of llama.cpp's file types ("Q8_0", "F16", …) and their numbers."""
    prefixes = ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_")
    return {name.removeprefix(p): value for name, value in vars(C).items() for p in prefixes if name.startswith(p)}


def check_file_type(name: str) -> int:
    """The number of a file type.

    Raises:
        InputError: no such type; the message lists them.
    """
    known = file_types()
    if name not in known:
        raise InputError(f"--llm-type {name!r}: llama.cpp knows {', '.join(sorted(known))}")
    return known[name]


def quantize(
    source: Path, target: Path, file_type: str, again: bool = False,
    importance: Mapping[str, npt.NDArray[np.float32]] | None = None,
) -> None:  # fmt: skip
    """Write `source` as another file type.

    Args:
        source: an f16 or f32 GGUF; with `again`, one of any type.
        importance: tensor → float32 [columns], what errors of the column weigh; some types need it.
    """
    params = C.llama_model_quantize_default_params()
    params.ftype = check_file_type(file_type)
    params.allow_requantize = again
    params.nthread = len(os.sched_getaffinity(0))
    kept = [(name.encode(), np.ascontiguousarray(values, np.float32)) for name, values in (importance or {}).items()]
    table = (C.llama_model_imatrix_data * (len(kept) + 1))()  # the last one has no name
    for entry, (name, values) in zip(table, kept, strict=False):
        entry.name, entry.data, entry.size = name, _pointer(values, ctypes.c_float), len(values)
    if kept:
        params.imatrix = table
    _errors.clear()
    status: Any = C.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    if status != 0:
        why = f": {_errors[-1]}" if _errors else ""
        if "imatrix" in why and not kept:
            why = ": that needs an importance matrix; export with --imatrix, or choose another type"
        raise ExportError(f"llama.cpp cannot write {source.name} as {file_type}{why}")
