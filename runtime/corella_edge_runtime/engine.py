"""Requests → scores: encode, CRM, route, LLM. One code path for CLI, server and embedding."""

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
from types import TracebackType

import numpy as np

from corella_edge.bundle import Bundle
from corella_edge.catalog import Catalog
from corella_edge.encoder import FeatureEncoder
from corella_edge.errors import BundleError, InputError, MissingExtraError
from corella_edge.prompt import PromptEncoder
from corella_edge.request import Candidate, Request, User
from corella_edge.router import Calibration, Threshold, entropy, is_routed, parse_threshold
from corella_edge.scores import BoolArray, FloatArray, Scores
from corella_edge_runtime.crm import Crm
from corella_edge_runtime.llm.answer import Answer, Prompt
from corella_edge_runtime.llm.backend import LlmBackend
from corella_edge_runtime.threads import llm_default

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
        # One still in the queue never starts; one at work can not be cancelled but ends by the deadline it was given.
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


class Engine:
    """An opened bundle that ranks. `rank` may be called from several threads."""

    def __init__(
        self, bundle: Bundle, encoder: FeatureEncoder, crm: Crm, llm: Llm | None, threshold: str | float | None = None
    ) -> None:
        self.bundle, self.encoder, self.crm, self.llm = bundle, encoder, crm, llm
        self.calibration: Calibration = bundle.calibration()
        self.threshold: Threshold = self.parse_threshold(bundle.policy() if threshold is None else threshold)
        self.warnings: list[str] = [crm.warning] if crm.warning else []
        catalog = encoder.catalog
        self._everything = tuple([Candidate(item) for item in catalog.ids])

    @classmethod
    def open(
        cls,
        bundle: Path,
        *,
        llm: str | None = "thread",
        threshold: str | float | None = None,
        crm_threads: int | None = None,
        llm_threads: int | None = None,
        require_llm: bool = False,
        llm_file: str = "llm.gguf",
    ) -> Engine:
        """Check and load a bundle.

        Args:
            llm: "thread" (llama.cpp in this process) or None (the CRM alone).
            threshold: the default for requests that bring none; None = the bundle's policy.
            crm_threads, llm_threads: None = 1 for the CRM, every available core but one for the LLM.
            require_llm: an LLM that can not be loaded is an error, not a warning.

        Raises:
            BundleError: damaged or incomplete. InputError: a bad threshold. MissingExtraError: no onnxruntime.
        """
        opened = Bundle.open(bundle)
        # Before the models are loaded: a mistyped threshold is told at once.
        parse_threshold(opened.policy() if threshold is None else threshold, opened.calibration())
        schema, catalog = opened.schema()
        crm = Crm(opened.path("crm.onnx"), schema, crm_threads or 1)
        encoder = FeatureEncoder(schema, catalog)
        side, warning = None, "the LLM is switched off: the CRM decides alone"
        if llm is not None:
            side, warning = _llm_side(opened, catalog, llm, llm_threads, llm_file, require_llm)
        try:
            engine = cls(opened, encoder, crm, side, threshold)
        except BaseException:
            if side is not None:
                side.backend.close()
            raise
        engine.warnings += [warning] if warning else []
        return engine

    @property
    def name(self) -> str:
        """`name@version` of the bundle."""
        return self.bundle.label

    def parse_threshold(self, value: str | float) -> Threshold:
        """`0.65` or `ratio:0.05`, by this bundle's calibration."""
        return parse_threshold(value, self.calibration)

    def rank(self, request: Request) -> Scores:
        """Score all candidates of a request.

        Raises:
            InputError: a bad threshold.
        """
        started = time.monotonic()
        threshold = self.threshold if request.threshold is None else self.parse_threshold(request.threshold)
        deadline = None if request.timeout_ms is None else started + request.timeout_ms / 1000.0
        candidates = self._everything if request.candidates is None else request.candidates
        feed, unknown = self.encoder.encode(request.user, candidates)
        p = self.crm.probability(feed)
        s = entropy(p)
        hard = is_routed(s, threshold.nats)
        llm, reasons = self._ask(request.user, candidates, hard, threshold.unit, deadline)
        items = tuple([candidate.item for candidate in candidates])
        return Scores(items, p, llm, s, ~np.isnan(llm), reasons, tuple(unknown))

    def _ask(
        self, user: User, candidates: Sequence[Candidate], hard: BoolArray, unit: str, deadline: float | None
    ) -> tuple[FloatArray, tuple[str, ...]]:
        """P(Yes) float64 [n] (nan where there is none) and the reason of each candidate."""
        llm = np.full(len(candidates), np.nan)
        reasons = [""] * len(candidates)
        chosen = np.flatnonzero(hard).tolist()
        if self.llm is None:
            answers = [Answer(math.nan, "no_llm")] * len(chosen)
        else:
            answers = self.llm.ask(user, [candidates[i] for i in chosen], deadline) if chosen else []
        for i, found in zip(chosen, answers, strict=True):
            llm[i] = found.probability
            reasons[i] = found.reason or unit
        return llm, tuple(reasons)

    def warm_up(self) -> None:
        """Run both models once, so that the first request finds them loaded."""
        sample = self._everything[:2]
        if sample:
            self.rank(Request(User(), sample, threshold="ratio:1"))

    def stats(self) -> dict[str, float]:
        """Counters of the LLM side; empty without one."""
        return self.llm.backend.stats() if self.llm else {}

    def close(self) -> None:
        if self.llm:
            self.llm.backend.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _seconds_to(deadline: float | None) -> float | None:
    """Time left until `deadline`, as a timeout that threads accept."""
    return None if deadline is None else min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX)


def _llm_side(
    bundle: Bundle, catalog: Catalog, kind: str, threads: int | None, file: str, required: bool
) -> tuple[Llm | None, str]:
    """The LLM of a bundle, or None and why there is none."""
    try:
        return _open_llm(bundle, catalog, kind, threads or llm_default(), file), ""
    except MissingExtraError as error:
        if required:
            raise
        return None, f"{error}; until then the CRM decides alone"
    except FileNotFoundError:
        if required:
            raise BundleError(f"{bundle.root}: the bundle has no LLM ({file})") from None
        return None, "the bundle has no LLM: the CRM decides alone"


def _open_llm(bundle: Bundle, catalog: Catalog, kind: str, threads: int, file: str) -> Llm:
    if kind != "thread":
        raise InputError(f"llm: {kind!r} is not a way to run the LLM; known: thread")
    prompt = bundle.prompt()
    if prompt is None or not bundle.has(file):
        raise FileNotFoundError(file)
    # Imported here: an install without [llm] serves the CRM alone.
    binding = importlib.import_module("corella_edge_runtime.llm.binding")
    backend = importlib.import_module("corella_edge_runtime.llm.backend")
    scorer = importlib.import_module("corella_edge_runtime.llm.scorer")
    template, tokens = prompt
    model = binding.Model(bundle.path(file))
    _check_tokens(file, model.vocab_size, tokens.yes, tokens.no, *([] if tokens.bos is None else [tokens.bos]))
    encoder = PromptEncoder(template, catalog, model.tokenize, tokens)
    return Llm(encoder, backend.ThreadBackend(lambda: scorer.YesNoScorer(model, tokens, threads)))


def _check_tokens(file: str, vocab_size: int, *ids: int) -> None:
    for token in ids:
        if not 0 <= token < vocab_size:
            raise BundleError(f"prompt.json: token id {token} is outside the vocabulary of {file} ({vocab_size})")
