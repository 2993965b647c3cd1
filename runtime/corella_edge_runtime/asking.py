"""The LLM side of an engine: samples → prompts → a backend's answers, or the reason why there is none."""

from __future__ import annotations

import importlib
import logging
import math
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import wait
from pathlib import Path

from corella_edge.bundle import Bundle
from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError, MissingExtraError
from corella_edge.prompt import PromptEncoder, Template, Tokens
from corella_edge.request import Candidate, User
from corella_edge_runtime.llm.answer import Answer, Prompt
from corella_edge_runtime.llm.backend import LlmBackend
from corella_edge_runtime.llm.opening import check_kind, open_backend
from corella_edge_runtime.setup import Setup

_LOG = logging.getLogger("corella_edge.engine")


class Llm:
    """The LLM side of a bundle: prompts in its tokenizer's ids, answered by a backend."""

    def __init__(self, prompts: PromptEncoder, backend: LlmBackend) -> None:
        self.prompts, self.backend = prompts, backend
        self._failures: set[str] = set()

    def ask(self, user: User, candidates: Sequence[Candidate], deadline: float | None) -> list[Answer]:
        """One answer a candidate, at the deadline at the latest; one without text has the reason "no_text"."""
        suffixes = [self.prompts.suffix(candidate) for candidate in candidates]
        if not any(suffixes):
            return [Answer(math.nan, "no_text")] * len(candidates)
        prefix = tuple(self.prompts.prefix(user))
        prompts = [Prompt(prefix, tuple(suffix)) for suffix in suffixes if suffix]
        answers = iter(self._answers(prompts, deadline))
        return [next(answers) if suffix else Answer(math.nan, "no_text") for suffix in suffixes]

    def _answers(self, prompts: Sequence[Prompt], deadline: float | None) -> list[Answer]:
        """The backend's answers. Where it is late or fails, each prompt's reason says so: the CRM's score stands."""
        try:
            job = self.backend.submit(prompts, deadline)
            finished, _ = wait([job], _seconds_to(deadline))
            if finished:
                return job.result()
        except Exception as error:  # noqa: BLE001 - whatever a backend raises, the request has the CRM's scores
            self._failed(error)
            return [Answer(math.nan, "llm_error")] * len(prompts)
        # What has not been computed yet never is.
        job.cancel()
        return [Answer(math.nan, "deadline")] * len(prompts)

    def _failed(self, error: Exception) -> None:
        """Log kind and place, once a kind; never the message, which may quote what a user wrote."""
        kind = type(error).__name__
        if kind in self._failures:
            return
        self._failures.add(kind)
        places = traceback.format_list(traceback.extract_tb(error.__traceback__)[-8:])
        _LOG.error("the LLM fails, the CRM decides: %s\n%s", kind, "".join(places).rstrip())


def open_llm(
    bundle: Bundle, catalog: Catalog, kind: str, setup: Setup, required: bool = False
) -> tuple[Llm | None, str]:
    """The LLM of a bundle, or None and why there is none.

    Raises:
        InputError: `kind` is no way to run it. BundleError, MissingExtraError: there is none, and it is required.
    """
    check_kind(kind)
    prompt, file = bundle.prompt(), setup.llm_file
    if prompt is None or not bundle.has(file):
        if required:
            raise BundleError(f"{bundle.root}: the bundle has no LLM ({file})")
        return None, "the bundle has no LLM: the CRM decides alone"
    try:
        return _open(bundle.path(file), prompt, catalog, kind, setup), ""
    except MissingExtraError as error:
        if required:
            raise
        return None, f"{error}; until then the CRM decides alone"


def _open(file: Path, prompt: tuple[Template, Tokens], catalog: Catalog, kind: str, setup: Setup) -> Llm:
    template, tokens = prompt
    # Before any backend starts; the vocabulary alone is read in milliseconds.
    binding = importlib.import_module("corella_edge_runtime.llm.binding")
    size = binding.Model(file, vocabulary_only=True).vocab_size
    _check_tokens(file.name, size, tokens.yes, tokens.no, *([] if tokens.bos is None else [tokens.bos]))
    backend, model = open_backend(kind, file, tokens, setup.llm)
    return Llm(PromptEncoder(template, catalog, model.tokenize, tokens), backend)


def _check_tokens(file: str, vocab_size: int, *ids: int) -> None:
    for token in ids:
        if not 0 <= token < vocab_size:
            raise BundleError(f"prompt.json: token id {token} is outside the vocabulary of {file} ({vocab_size})")


def _seconds_to(deadline: float | None) -> float | None:
    """Time left until `deadline`, as a timeout that threads accept."""
    return None if deadline is None else min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)
