"""A finished run → a verified bundle. Every file is checked against torch before the bundle appears."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from corella_edge import metrics
from corella_edge.atomic import check_free, new_folder
from corella_edge.bundle import artefact as bundle
from corella_edge.bundle import schema_files
from corella_edge.bundle.artefact import Bundle, events_file
from corella_edge.catalog import Catalog
from corella_edge.errors import ExportError, UnknownValueError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import Schema
from corella_edge.features.unseen import Refusal
from corella_edge.features.vectors import VECTORS, write_vectors
from corella_edge.prompt import PromptEncoder
from corella_edge.request import Candidates, Request
from corella_edge.request_json import request_json
from corella_edge_export.bundling import adapters, file_types, ready, verify
from corella_edge_export.bundling.calibration import Calibrating
from corella_edge_export.bundling.passes import StageTimes
from corella_edge_export.bundling.popular import popular_lines
from corella_edge_export.bundling.ranked import ndcg
from corella_edge_export.crm.to_onnx import export_onnx, quantize_int8
from corella_edge_export.data.rowset import RowSet, choose_rows, choose_users, history_needed
from corella_edge_export.evaluation.scored import Json, number
from corella_edge_export.llm.model import merged
from corella_edge_export.llm.ready import ReadyLlm
from corella_edge_export.llm.to_gguf import check_tokens, write_gguf
from corella_edge_export.text import to_onnx
from corella_edge_export.text.sentences import reader
from corella_edge_export.text.vectors import texts_of
from corella_edge_export.training.run import Run
from corella_edge_runtime.crm import Crm
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.machine.threads import llm_alone, llm_default

DEFAULT_TYPE = "Q8_0"
Say = Callable[[str], None]
LLAMA = "llama-cpp-python"
PACKAGES = ("torch", "transformers", "onnx", "onnxruntime", "gguf", LLAMA, "numpy")


@dataclass(frozen=True)
class ExportOptions:
    """What the user chose for one export; without `llm`, or of a run that trains none, the base model alone becomes
    the bundle, unless there is a `ready` one."""

    llm_types: tuple[str, ...] = (DEFAULT_TYPE,)
    name: str = ""
    version: str = "1"
    sample: bool = True
    crm_int8: bool = False
    fusion: str | None = None  # None = the recipe's
    measure: str | None = None
    threads: int = field(default_factory=llm_alone)
    llm: bool = True
    ready: ReadyLlm | None = None
    imatrix: bool = False  # quantise by what training prompts use
    max_drop: float | None = None  # of AUC on hard rows, against f16
    sweep: bool = False  # try all of `llm_types` and take one
    separate: bool = False  # the LLM as it was before training, and its adapter beside it
    added: Mapping[str, Run] = field(default_factory=dict)  # whose adapters stand beside it, too


class Export:
    """One export in progress: the run's models, the folder being filled, and what was found out so far."""

    def __init__(self, run: Run, folder: Path, work: Path, options: ExportOptions, say: Say) -> None:
        self.run, self.folder, self.work, self.options, self.say = run, folder, work, options, say
        self.schema: Schema
        self.catalog: Catalog
        self.schema, self.catalog = run.fit_inputs()
        self.catalog.vectors = run.served_vectors()
        self.encoder = FeatureEncoder(self.schema, self.catalog)
        self.stages, self.calibrating = StageTimes(say), Calibrating(self)
        self.prompts: PromptEncoder | None = self._prompts() if _has_llm(run, options) else None
        self.differences: dict[str, float] = {}
        self.text: dict[str, float] = {}
        self.types: list[file_types.Tried] = []
        self.metrics: dict[str, dict[str, float | None]] = {}
        self.name = options.name or run.recipe.name
        self.adapter: Path | None = None  # by which the LLM's scores are
        self.adapters: dict[str, Json] = {}
        self.of_adapters: dict[str, verify.Floats] = {}  # P(Yes) of the reference rows by each further one
        history, export = history_needed(self.schema, run.recipe.prompt), run.recipe.export
        self.sample = self._answered(choose_rows(run.data, "test", export.sample_rows, run.recipe.seed, history))
        self.calibration = choose_users(run.data, "valid", export.calibration_rows, run.recipe.seed, history)
        spread = np.linspace(0, len(self.sample) - 1, min(export.reference_rows, len(self.sample)))
        self.reference = np.unique(spread.astype(np.int64))
        self.requests: list[Request] = list(self.sample.requests())
        self._ask_once()
        self.llm_reference: verify.Floats = np.full(len(self.requests), np.nan)  # until the LLM is written

    def _ask_once(self) -> None:
        """One of the reference rows has a text to ask about, if any row has: else nothing would tell of an LLM."""
        if all(self.prompt(self.requests[i]) is None for i in self.reference):
            asked = [i for i, request in enumerate(self.requests) if self.prompt(request) is not None]
            self.reference = np.unique([*self.reference, *asked[:1]]).astype(np.int64)

    def _prompts(self) -> PromptEncoder:
        """Prompts in the trained tokenizer's ids, or in those of the LLM that is ready. Raises ExportError."""
        given = self.options.ready
        if given is None:
            return self.run.prompt_encoder(self.catalog)
        return ready.prompts(given, self.run.recipe.prompt, self.catalog)

    def _answered(self, rows: RowSet) -> RowSet:
        """The rows without those that a server with this bundle would refuse. Raises ExportError if none is left."""
        refusal = Refusal(self.schema, self.catalog)
        if not refusal.labels:
            return rows
        kept = np.asarray([self._is_answered(refusal, request) for request in rows.requests()], dtype=np.bool_)
        if not kept.any():
            raise ExportError(
                "every sampled test row has an unknown value that the recipe refuses; give the field another policy "
                "([crm.features.unknown])"
            )
        return replace(rows, indices=rows.indices[kept])

    def _is_answered(self, refusal: Refusal, request: Request) -> bool:
        candidates = request.candidates or Candidates([])
        try:
            refusal.check(request.user, candidates, self.encoder.encode(request.user, candidates)[1])
        except UnknownValueError:
            return False
        return True

    def write_inputs(self) -> None:
        schema_files.write_schema(self.folder, self.schema, self.catalog)
        schema_files.write_catalog_tables(self.folder, self.schema, self.catalog)
        if self.catalog.vectors is not None:
            write_vectors(self.folder / VECTORS, self.catalog.vectors)
        if self.prompts is not None:
            template, tokens = self.prompts.template, self.prompts.tokens
            self.write_json("prompt.json", {"template": template.to_json(), "tokens": tokens.to_json()})
        if types := self.run.data.info.get("history", {}).get("types"):
            self.write_json(bundle.EVENTS, {"history": types})

    def write_popular(self) -> None:
        """popular.jsonl, of training rows alone."""
        recipe = self.run.recipe
        if recipe.export.neighbours:
            lines = list(popular_lines(self.run.data, recipe.export.neighbours, recipe.seed))
            self._lines(bundle.POPULAR, lines)
            self.say(f"popular items: {len(lines)}, with up to {recipe.export.neighbours} similar ones each")

    def write_crm(self) -> None:
        """crm.onnx, checked at several batch sizes with unknown ids; crm.int8.onnx where wanted."""
        model, path = self.run.crm(), self.folder / "crm.onnx"
        export_onnx(model, self.schema, path)
        chosen = [self.requests[i] for i in self.reference]
        self.differences["crm"] = verify.check_crm(model, self.encoder, path, chosen)
        if model.multiplies:
            self.differences["crm_product"] = verify.check_products(model, self.encoder, path, chosen)
        self.crm_reference = [float(verify.torch_crm(model, self.encoder, r)[0]) for r in chosen]
        if self.options.crm_int8 or self.run.recipe.export.crm_int8:
            self._write_crm_int8(path, self.folder / "crm.int8.onnx")

    def _write_crm_int8(self, source: Path, path: Path) -> None:
        self.say(f"CRM: {path.name}")
        for name, of in ((path.name, source.name), (events_file(path.name), events_file(source.name))):
            if (self.folder / of).exists():
                quantize_int8(self.folder / of, self.folder / name, self.schema)
        self.judge("crm_int8", self.crm_scores(Crm(path, self.schema), self.requests))
        if self.run.recipe.crm.family.ranks:
            for name, crm in (("crm", Crm(source, self.schema)), ("crm_int8", Crm(path, self.schema))):
                self.metrics.setdefault(name, {})["ndcg@10"] = ndcg(crm, self.encoder, self.sample)

    def write_text(self) -> None:
        """text.onnx and its tokenizer, where the items' text vectors come of an encoder."""
        made = self.run.text_model()
        if made is None:
            return
        recipe = self.run.recipe
        texts = texts_of(self.run.data, recipe.crm.text)
        with self.stages.of("text vectors: the encoder to ONNX"):
            self.text = to_onnx.write(*made, self.folder, to_onnx.judged(texts, recipe.seed), recipe.export.text_int8)
            found = to_onnx.write_reference(self.folder, texts, reader(*made), self.schema.text_width)
        self.differences["text"] = found
        if recipe.export.text_int8:
            self.say(f"text vectors: {to_onnx.verdict(self.text)}")

    def write_llm(self, prompts: PromptEncoder) -> None:
        """llm.gguf and its variants; f16 must equal transformers, quantised types are judged by their metrics."""
        from corella_edge_runtime.llm.llama.binding import Model

        trained = self.run.llm()
        with self.stages.of(f"LLM: transformers' own scores of {len(self.sample)} test rows, in float32"):
            self.llm_reference = self.torch_scores(self.run, trained, self.sample.indices)
        self.judge("torch", self.llm_reference)
        f16 = self.work / "f16.gguf"
        recipe = self.run.recipe
        plain = adapters.split(self, trained) if self.options.separate else merged(trained)
        write_gguf(plain, self.run.tokenizer(), f16, recipe.name, self.run.spm(), recipe.llm.context)
        model = Model(f16)
        texts = check_tokens(model, prompts, [r.user for r in self.requests[:200]])
        model.close()
        self.say(f"LLM: {texts} texts tokenised alike")
        crm = self.crm_scores(Crm(self.folder / "crm.onnx", self.schema), self.requests)
        writer = file_types.FileTypeWriter(self, f16, prompts, crm)
        if self.options.imatrix:
            writer.weigh(plain)
        writer.write()
        if self.options.separate:
            adapters.add(self, f16, prompts)

    def torch_scores(self, run: Run, trained: Any, rows: npt.NDArray[np.int64]) -> verify.Floats:
        """P(Yes), float64 [n], of sampled rows by transformers with what a run has trained; nan without text."""
        builder = self.run.builder()
        found = verify.torch_llm(run.reader(trained, builder, "float32"), builder, rows, self.sample.split)
        return np.asarray([found.get(row, np.nan) for row in rows.tolist()])

    def check_f16(self, f16: Path, prompts: PromptEncoder) -> verify.Floats:
        """P(Yes) of all rows by the f16 file, reference rows decoded whole, the others with kept prefixes: each within
        its tolerance of transformers."""
        threads, expected = self.calibrating.threads, self.llm_reference
        chosen = [self.requests[i] for i in self.reference]
        with self.stages.of(f"LLM: {len(chosen)} of the test rows by the f16 file, each decoded whole"):
            whole = verify.gguf_scores(f16, prompts, chosen, threads, whole=True, exact=True, adapter=self.adapter)
        with self.stages.of(f"LLM: {len(self.requests)} test rows by the f16 file, with kept prefixes"):
            found = verify.gguf_scores(f16, prompts, self.requests, threads, exact=True, adapter=self.adapter)
        self.differences["llm_f16_whole"] = verify.check_llm(
            "f16 GGUF", whole, expected[self.reference], verify.F16_TOLERANCE
        )
        self.differences["llm_f16"] = verify.check_llm("f16 GGUF", found, expected, verify.BATCHED_TOLERANCE)
        self.judge("F16", found)
        return found

    def llm_files(self) -> dict[str, str]:
        """File name → type; the first type wanted is the default variant."""
        types = list(self.options.llm_types)
        if self.prompts is None:
            return {}
        return {"llm.gguf": types[0], **{f"llm.{kind}.gguf": kind for kind in types[1:]}}

    def write_samples(self) -> None:
        """reference.jsonl (what `verify` repeats) and sample.jsonl (traffic for `benchmark`)."""
        lines = []
        for place, i in enumerate(self.reference.tolist()):
            request, crm, llm = self.requests[i], self.crm_reference[place], float(self.llm_reference[i])
            lines.append({"request": request_json(request), "crm": crm, "prompt": self.prompt(request),
                          "llm": number(llm), **adapters.of_row(self, place)})  # fmt: skip
        self._lines("reference.jsonl", lines)
        if self.options.sample:
            pairs = zip(self.requests, self.sample.labels.tolist(), strict=True)
            self._lines("sample.jsonl", [{"request": request_json(r), "label": label} for r, label in pairs])

    def prompt(self, request: Request) -> list[int] | None:
        """The token ids that a request of one candidate is asked by; None where the LLM is not asked."""
        suffix = None if self.prompts is None else self.prompts.suffix(verify.only_candidate(request))
        return None if self.prompts is None or suffix is None else [*self.prompts.prefix(request.user), *suffix]

    def crm_scores(self, crm: Crm, requests: Iterable[Request]) -> verify.Floats:
        """P(label = 1), float64 [n], of one-candidate requests by ONNX Runtime."""
        feeds = (self.encoder.encode(request.user, request.candidates or ())[0] for request in requests)
        return np.concatenate([crm.probability(feed) for feed in feeds])

    def finish(self) -> Bundle:
        """verification.json and the seal; then the runtime opens the bundle and repeats the reference rows.

        Raises:
            ExportError: it finds other scores or prompts than those recorded.
        """
        default = self.options.llm_types[0]
        # A quantised type is judged by its metrics; `verify` only has to notice another file or machine.
        tolerance = verify.allowed(verify.BATCHED_TOLERANCE, self.differences.get(f"llm_{default}", 0.0))
        self.write_json("verification.json", {
            "tolerance": {"crm": verify.CRM_TOLERANCE, "llm": tolerance, **self._text_tolerance()},
            "differences": self.differences,
            "metrics": self.metrics,
            "rows": {"test": len(self.sample), "valid": len(self.calibration)},
            **({"types": [row.to_json(self.options.sweep) for row in self.types]} if self.types else {}),
            **({"text": self.text} if self.text else {}),
            **({"adapters": self.adapters} if self.adapters else {}),
        })  # fmt: skip
        self.seal()
        threads, llm = min(self.options.threads, llm_default()), self.prompts is not None
        with (
            self.stages.of(f"the bundle, opened, repeats {len(self.reference)} reference rows"),
            Engine.open(self.folder, llm_threads=threads, require_llm=llm, tuned=False) as engine,
        ):
            verify.repeat(engine)
        return engine.bundle

    def _text_tolerance(self) -> dict[str, float]:
        """As of the LLM: `verify` only has to notice another file or machine."""
        found = self.differences.get("text")
        return {} if found is None else {"text": verify.allowed(verify.TEXT_TOLERANCE, found)}

    def seal(self) -> None:
        options, run = self.options, self.run
        recipe = json.loads((run.folder / "run.json").read_text("utf-8"))["recipe"]
        for section in (recipe["llm"], recipe["crm"].get("text", {})):
            if "path" in section:
                section["path"] = Path(section["path"]).name  # folders are the machine's own business
        about = {
            "recipe": recipe,
            "data": {key: run.data.info.get(key) for key in ("name", "licence", "redistributable", "notes", "sources")},
            "models": {"crm": run.recipe.crm.model, "llm": self.llm_files()},
            **({"ready": ready.provenance(options.ready)} if options.ready else {}),
            **adapters.provenance(self),
            "packages": {name: installed(name) for name in PACKAGES if name != LLAMA or self.prompts is not None},
        }
        bundle.seal(self.folder, self.name, options.version, about)

    def judge(self, name: str, probability: Any, rows: RowSet | None = None) -> None:
        labels = (rows or self.sample).labels
        known = ~np.isnan(probability)
        found = asdict(metrics.quality(probability[known], labels[known]))
        self.metrics.setdefault(name, {}).update({metric: number(value) for metric, value in found.items()})

    def write_json(self, name: str, value: Any) -> None:
        (self.folder / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", "utf-8")

    def _lines(self, name: str, values: Sequence[Any]) -> None:
        text = "".join(json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n" for value in values)
        (self.folder / name).write_text(text, "utf-8")


def export(run: Run, out: Path, options: ExportOptions, say: Say = lambda message: None) -> Bundle:
    """Write the bundle `out`; it appears complete and verified, or not at all.

    Raises:
        InputError: a bad option or a taken `out`. ExportError: a model differs from what was trained.
    """
    check_free(out)
    if options.ready is not None:
        ready.check_run(run)
        options = replace(options, llm_types=(ready.type_of(options.ready),))
    elif _has_llm(run, options):
        file_types.check_types(options.llm_types)
    if options.separate:
        adapters.check_runs(run, options.name or run.recipe.name, options.added)
    torch.manual_seed(run.recipe.seed)
    with new_folder(out) as folder:
        (folder / "work").mkdir()
        job = Export(run, folder, folder / "work", options, say)
        try:
            sealed = _fill(job)
        finally:
            job.calibrating.close()
    return replace(sealed, root=out)


def _fill(job: Export) -> Bundle:
    """Every file of the bundle."""
    job.write_inputs()
    with job.stages.of(f"CRM: {job.run.recipe.crm.model} to ONNX"):
        job.write_crm()
    job.write_text()
    if job.prompts is not None and job.options.ready is not None:
        ready.take(job, job.options.ready, job.prompts)
    elif job.prompts is not None:
        job.write_llm(job.prompts)
    job.write_samples()
    job.write_popular()
    job.calibrating.finish()
    shutil.rmtree(job.work)
    return job.finish()


def _has_llm(run: Run, options: ExportOptions) -> bool:
    return options.ready is not None or (options.llm and run.recipe.trains_llm)
