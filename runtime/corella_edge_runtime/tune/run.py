"""One tuning from beginning to end: what the bundle offers, the duels, the plan."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from corella_edge.adapters import Weights, file_of
from corella_edge.bundle.artefact import Bundle, product_files
from corella_edge.catalog import Catalog
from corella_edge.errors import ComputeError, MissingExtraError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.prompt import PromptEncoder, Tokens
from corella_edge.request import Request
from corella_edge_runtime.bench.measure import machine as box
from corella_edge_runtime.crm import Crm
from corella_edge_runtime.llm.contract.backend import ModelSpec
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama import trust
from corella_edge_runtime.llm.llama.adapter_file import base_of, check_adapter
from corella_edge_runtime.machine.plan import FORMAT_VERSION, Plan, PlanBundle, PlanCrm, PlanLlm, bundle_key
from corella_edge_runtime.machine.threads import Machine, ThreadPlan, choices, read_machine
from corella_edge_runtime.setup import CRM_FILE, CRM_INT8, LLM_FILE, fingerprint, variants
from corella_edge_runtime.tune import decide, measure, workload
from corella_edge_runtime.tune.decide import Change, Duel, Setting
from corella_edge_runtime.tune.workload import Visit

# duels done, of how many at most, what is measured now
Progress = Callable[[int, int, str], None]
DISTURBED = 0.05


def tune(root: Path, seconds: float, progress: Progress, machine: Machine | None = None) -> tuple[Plan, list[str]]:
    """Measure for about `seconds` (every duel has at least five turns) and decide.

    Returns the plan, and what a person should know of how it came about.

    Raises:
        BundleError, InputError: the bundle or its sample cannot be used. MissingExtraError: no onnxruntime.
    """
    job = _Tuning(root, machine or read_machine(), progress)
    before = box.ticks()
    job.prepare()
    job.fight(seconds)
    job.notes += _disturbance(box.disturbance(before, box.ticks()))
    return job.plan(), job.notes


def _disturbance(found: Mapping[str, float]) -> list[str]:
    worst = max(found.values())
    text = f"DISTURBED: {worst:.0%} of the cores' time went elsewhere; tune again on a quiet machine"
    return [text] if worst > DISTURBED else []


class _Tuning:
    """What is known so far."""

    def __init__(self, root: Path, machine: Machine, progress: Progress) -> None:
        self.bundle, self.machine, self.progress = Bundle.open(root), machine, progress
        self.notes: list[str] = []
        self.plans: dict[int, ThreadPlan] = {plan.llm_threads: plan for plan in choices(machine)}
        usual = next(iter(self.plans))
        self.start = Setting(LLM_FILE, usual, LlmSettings().batch)
        self.steps: list[Change] = []
        self.table: list[Duel] = []
        self.crm_duel: Duel | None = None
        self.tokens: Tokens | None = None
        self.by: Weights = self.bundle.adapters().default  # as a request is answered that names no adapter
        self.visits: list[Visit] = []
        self.longest = 0

    def prepare(self) -> None:
        """Requests, prompts, and which files may take part."""
        schema, catalog = self.bundle.schema()
        self.encoder = FeatureEncoder(schema, catalog)
        found = workload.requests(self.bundle, catalog)
        self.feeds = workload.feeds(found, self.encoder)
        self.metrics: Mapping[str, Any] = self.bundle.json("verification.json").get("metrics") or {}
        self.int8 = self.bundle.has(CRM_INT8) and self._ranks_alike() and self._allowed(CRM_INT8, "crm_int8", "crm")
        if self._read_prompts(catalog, found):
            files = [name for name, kind in self._variants().items()
                     if self._computes(name) and self._allowed(name, kind, "torch")]  # fmt: skip
            self.steps = decide.changes(self.start, self.plans, files, decide.batches(self.longest))

    def _variants(self) -> dict[str, str]:
        return variants(self.bundle.manifest.files)

    def _ranks_alike(self) -> bool:
        """Whether INT8 takes nothing from a ranking of the catalogue, which has no product of its own in that form."""
        if not self.bundle.has(product_files(CRM_FILE)[1]):
            return True
        self.notes.append(f"{CRM_INT8} is not tried: it ranks a catalogue item by item, {CRM_FILE} by one product")
        return False

    def _allowed(self, file: str, name: str, reference: str) -> bool:
        reason = decide.objection(self.metrics, name, reference)
        self.notes += [f"{file} is not tried: {reason}"] if reason else []
        return not reason

    def _computes(self, file: str) -> bool:
        """Whether llama.cpp can run a file here; what keeps it from that, or slows it down, is noted."""
        verdict = trust.judge_file(self.bundle.path(file))
        self.notes += [f"{file}: {verdict.sentence}"] if verdict.sentence else []
        return verdict.kernels != trust.NONE

    @property
    def _adapters(self) -> dict[str, Path]:
        """Name → file of those that the LLM is measured with."""
        return {name: self.bundle.path(file_of(name)) for name, _ in self.by}

    def _check_adapters(self) -> None:
        """Raises BundleError for one that is damaged, ComputeError where llama.cpp does not compute with its types."""
        for path in self._adapters.values():
            kinds = check_adapter(path, base_of(self.bundle.path(LLM_FILE)))
            if (verdict := trust.judge(sorted(kinds))).kernels == trust.NONE:
                raise ComputeError(f"{path.name}: {verdict.sentence}")

    def _read_prompts(self, catalog: Catalog, found: Sequence[Request]) -> bool:
        """Whether there is an LLM to measure; its prompts then are."""
        prompt = self.bundle.prompt()
        if prompt is None or not self.bundle.has(LLM_FILE):
            self.notes.append("the bundle has no LLM: only the CRM is tuned")
            return False
        try:
            # Before llama.cpp is loaded here: what would end this process ends another.
            if not self._computes(LLM_FILE):
                raise ComputeError(f"{LLM_FILE} cannot be run here")
            self._check_adapters()
            binding = importlib.import_module("corella_edge_runtime.llm.llama.binding")
        except (MissingExtraError, ComputeError) as error:
            self.notes.append(f"{error}; until then only the CRM is tuned")
            return False
        template, self.tokens = prompt
        model = binding.Model(self.bundle.path(LLM_FILE), vocabulary_only=True)
        prompts = PromptEncoder(template, catalog, model.tokenize, self.tokens)
        self.visits = workload.visits(found, catalog, prompts)
        self.longest = workload.longest_item(prompts)
        model.close()
        return True

    def fight(self, seconds: float) -> None:
        """Fight all duels, each with its share of the time."""
        total = len(self.steps) + self.int8
        share = seconds / max(1, total)
        if self.int8:
            self.progress(0, total, f"{CRM_INT8} against {CRM_FILE}")
            self.crm_duel = self._crm(share)
        while (pair := decide.decide(self.start, self.steps, self.table))[1] is not None:
            best, challenger = pair[0], pair[1]
            self.progress(len(self.table) + self.int8, total, f"{challenger} against {best}")
            sides = (self._open(challenger), self._open(best))
            self.table.append(measure.duel(str(challenger), str(best), sides, share))

    def _crm(self, seconds: float) -> Duel:
        threads = self.plans[self.start.threads].crm_threads
        files = (CRM_INT8, CRM_FILE)
        sides = [Crm(self.bundle.path(file), self.encoder.schema, threads) for file in files]
        opened = [partial(measure.crm_turn, side, self.feeds) for side in sides]
        return measure.duel(*files, (opened[0], opened[1]), seconds)

    def _open(self, setting: Setting) -> measure.Open:
        assert self.tokens is not None
        file, settings = self.bundle.path(setting.file), self._settings(setting)
        spec = ModelSpec(file, self.tokens, settings, adapters=self._adapters)
        return partial(measure.llm_turn, spec, self.visits, self.by)

    def _settings(self, setting: Setting) -> LlmSettings:
        plan = self.plans[setting.threads]
        return LlmSettings(setting.threads, () if plan.shared else plan.llm_cores, setting.batch)

    def plan(self) -> Plan:
        best, _ = decide.decide(self.start, self.steps, self.table)
        threads = self.plans[best.threads]
        small = self.crm_duel is not None and self.crm_duel.won(decide.INT8_MARGIN)
        rows = [self.crm_duel.to_json(decide.INT8_MARGIN)] if self.crm_duel else []
        return Plan(
            format_version=FORMAT_VERSION,
            bundle=PlanBundle(bundle_key(self.bundle.root), self.bundle.label),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=fingerprint(self.machine),
            crm=PlanCrm(
                CRM_INT8 if small else CRM_FILE, threads.crm_threads, () if threads.shared else threads.crm_cores
            ),
            llm=None if self.tokens is None else PlanLlm(best.file, self._settings(best).to_json(), dict(self.by)),
            table=(*rows, *(duel.to_json(decide.MARGIN) for duel in self.table)),
        )
