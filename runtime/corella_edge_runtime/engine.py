"""Requests → scores: encode, CRM, route, LLM. One code path for CLI, server and embedding."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from corella_edge.bundle import Bundle
from corella_edge.encoder import FeatureEncoder
from corella_edge.request import Candidate, Request, User
from corella_edge.router import Calibration, Threshold, entropy, is_routed, parse_threshold
from corella_edge.scores import BoolArray, FloatArray, Scores
from corella_edge_runtime.asking import Llm, open_llm
from corella_edge_runtime.crm import Crm
from corella_edge_runtime.llm.answer import Answer
from corella_edge_runtime.setup import Setup, Wishes, find_setup
from corella_edge_runtime.showcase import Showcase


class Engine:
    """An opened bundle that ranks. `rank` may be called from several threads."""

    def __init__(
        self, bundle: Bundle, encoder: FeatureEncoder, crm: Crm, llm: Llm | None, threshold: str | float | None = None
    ) -> None:
        self.bundle, self.encoder, self.crm, self.llm = bundle, encoder, crm, llm
        self.calibration: Calibration = bundle.calibration()
        self.threshold: Threshold = self.parse_threshold(bundle.policy() if threshold is None else threshold)
        self.warnings: list[str] = [crm.warning] if crm.warning else []
        self.setup: Setup | None = None
        catalog = encoder.catalog
        self.showcase = Showcase(bundle, encoder.schema, catalog, self.threshold)
        self._everything = tuple([Candidate(item) for item in catalog.ids])

    @classmethod
    def open(
        cls,
        bundle: Path,
        *,
        llm: str | None = "thread",
        threshold: str | float | None = None,
        require_llm: bool = False,
        crm_threads: int | None = None,
        llm_threads: int | None = None,
        llm_file: str | None = None,
        plan: Path | None = None,
        tuned: bool = True,
        deterministic: bool = False,
    ) -> Engine:
        """Check and load a bundle.

        Args:
            llm: "thread" (llama.cpp in this process), "process" (in a watched child), the address of a server
                (docs/llm-backends.md), or None (the CRM alone).
            threshold: the default for requests that bring none; None = the bundle's policy.
            require_llm: an LLM that can not be loaded is an error, not a warning.
            crm_threads, llm_threads, llm_file: None = by the plan or, without one, by the machine.
            plan: the file of `corella-edge tune`; None = where it writes by itself.
            tuned: whether to look for a plan at all.
            deterministic: LLM scores that are bit-equal on repeat, and slower.

        Raises:
            BundleError: damaged or incomplete. InputError: a bad threshold or plan. MissingExtraError: no onnxruntime.
        """
        opened = Bundle.open(bundle)
        # Before the models are loaded: a mistyped threshold is told at once.
        parse_threshold(opened.policy() if threshold is None else threshold, opened.calibration())
        warnings: list[str] = []
        wishes = Wishes(crm_threads, llm_threads, None, llm_file, plan, tuned, deterministic)
        setup = find_setup(bundle, wishes, warnings.append)
        schema, catalog = opened.schema()
        crm = Crm(opened.path(setup.crm_file), schema, setup.crm_threads)
        encoder = FeatureEncoder(schema, catalog)
        side, warning = None, "the LLM is switched off: the CRM decides alone"
        if llm is not None:
            side, warning = open_llm(opened, catalog, llm, setup, require_llm)
        try:
            engine = cls(opened, encoder, crm, side, threshold)
        except BaseException:
            if side is not None:
                side.backend.close()
            raise
        engine.setup = setup
        engine.warnings += [*warnings, *([warning] if warning else [])]
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
