"""The suffix decodes alone: what no scheduling around `llama_decode` can go below for a returning user."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from pathlib import Path

from llama_cpp import llama_cpp as C

from corella_edge_runtime.llm.contract.messages import Prompt

CELLS, BATCH = 2048, 512


class Floor:
    """A bare context: the prefix lies in sequence 0, all suffixes go through one decode; only that is timed."""

    def __init__(self, path: Path, threads: int, sequences: int) -> None:
        model = C.llama_model_default_params()
        model.n_gpu_layers = 0
        self._model = C.llama_model_load_from_file(os.fsencode(path), model)
        params = C.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.n_batch, params.n_ubatch = CELLS, sequences + 1, BATCH, BATCH
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        self._context = C.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp made no context on {path.name}")
        self._memory = C.llama_get_memory(self._context)
        self._batch = C.llama_batch_init(BATCH, 0, 1)

    def seconds(self, prompts: Sequence[Prompt]) -> float:
        """Of the one decode of the suffixes, logits at their last positions included."""
        C.llama_memory_clear(self._memory, False)
        prefix = prompts[0].prefix
        self._fill([(token, i, 0, False) for i, token in enumerate(prefix)])
        self._decode()
        for sequence in range(1, len(prompts) + 1):
            C.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
        self._fill([
            (token, len(prefix) + i, sequence, i == len(prompt.suffix) - 1)
            for sequence, prompt in enumerate(prompts, 1)
            for i, token in enumerate(prompt.suffix)
        ])  # fmt: skip
        began = time.perf_counter()
        self._decode()
        C.llama_synchronize(self._context)
        return time.perf_counter() - began

    def close(self) -> None:
        C.llama_batch_free(self._batch)
        C.llama_free(self._context)
        C.llama_model_free(self._model)

    def _fill(self, rows: Sequence[tuple[int, int, int, bool]]) -> None:
        if len(rows) > BATCH:
            raise ValueError(f"{len(rows)} tokens are more than a decode of {BATCH}")
        batch = self._batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wanted
            batch.seq_id[i][0] = ctypes.c_int32(sequence)

    def _decode(self) -> None:
        status = C.llama_decode(self._context, self._batch)
        if status != 0:
            raise RuntimeError(f"llama_decode returned {status}")
