"""The adapters of a bundle whose LLM is shared: the run's own and those of further runs, each held against torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corella_edge.adapters import Adapters, file_of, is_name
from corella_edge.bundle import artefact as bundle
from corella_edge.errors import InputError
from corella_edge.prompt import PromptEncoder
from corella_edge_export.bundling import verify
from corella_edge_export.evaluation.scored import Json, number
from corella_edge_export.llm.adapter import write_adapter
from corella_edge_export.llm.model import base_of
from corella_edge_export.training.run import Run

if TYPE_CHECKING:
    from corella_edge_export.bundling.write import Export


def check_runs(run: Run, name: str, added: Mapping[str, Run]) -> None:
    """Before any work: whether the run's adapter, and those of other runs, fit beside one LLM and its prompts.

    Args:
        name: of the run's own.

    Raises:
        InputError: a name or a run that does not; says which, and why.
    """
    for wanted in (name, *added):
        if not is_name(wanted):
            raise InputError(f"--adapter separate: {wanted!r:.80} is no name for an adapter: letters, digits, '.', '_' "
                             "and '-', at most 64 (the run's own is named by --name)")  # fmt: skip
    if name in added:
        raise InputError(
            f"--add {name}: the run's own adapter is called so; give it another name, or the bundle (--name)"
        )
    for label, other in {
        "--adapter separate": run,
        **{f"--add {name}": other for name, other in added.items()},
    }.items():
        if not other.recipe.trains_llm:
            raise InputError(f"{label}: {other.folder} has trained no LLM, so there is no adapter of it")
        if other.recipe.llm.source != "checkpoint":
            raise InputError(
                f"{label}: {other.folder} trained an LLM from scratch: there is no LLM that it would share"
            )
    for name, other in added.items():
        if why := _misfit(run, other):
            raise InputError(f"--add {name}: {other.folder} {why}")


def _misfit(run: Run, other: Run) -> str:
    """Why another run's adapter cannot stand beside the run's; empty if it can."""
    if base_of(run.recipe.llm) != base_of(other.recipe.llm):
        return f"was trained on another checkpoint than {run.folder}"
    if run.recipe.prompt != other.recipe.prompt:
        return f"was trained on other prompts than {run.folder}; a bundle has one form of them ([prompt])"
    if run.recipe.llm.codes != other.recipe.llm.codes:
        return f"was trained with other codes of items than {run.folder} ([llm.codes])"
    if run.recipe.llm.codes.bits and run.fit_inputs()[1].attributes != other.fit_inputs()[1].attributes:
        return f"was trained with the codes of its own base model, not of {run.folder}'s"
    return ""


def split(job: Export, trained: Any) -> Any:
    """The LLM as it was before training; what that has learned is a file of its own in the bundle."""
    job.adapter = _write(job, job.name, trained)
    return trained.unload()


def add(job: Export, f16: Path, prompts: PromptEncoder) -> None:
    """The adapters of further runs, and the list of all. They are held against torch on the reference rows: with the
    f16 file within its tolerances, as a merged one is; how far llm.gguf then is, is what `verify` allows.

    Raises:
        ExportError: one of them scores otherwise than it was trained.
    """
    kind = job.options.llm_types[0]
    own = {"f16_whole": job.differences["llm_f16_whole"], "f16": job.differences["llm_f16"]}
    job.adapters[job.name] = {"rows": len(job.requests), **own, kind: job.differences[f"llm_{kind}"]}
    for name, run in job.options.added.items():
        with job.stages.of(f"LLM: adapter {name} of {run.folder.name}, against transformers"):
            trained = run.llm()
            expected = job.torch_scores(run, trained, job.sample.indices[job.reference])
            path = _write(job, name, trained)
            del trained
            job.adapters[name] = _judged(job, f16, path, prompts, expected)
        job.of_adapters[name] = expected
    known = Adapters(tuple(sorted(job.adapters)), ((job.name, 1.0),))
    job.write_json(bundle.ADAPTERS, known.to_json())


def _judged(job: Export, f16: Path, path: Path, prompts: PromptEncoder, expected: verify.Floats) -> Json:
    """How far the reference rows are from torch."""
    chosen, threads, kind = [job.requests[i] for i in job.reference], job.calibrating.threads, job.options.llm_types[0]
    name = f"adapter {path.stem}"
    whole = verify.gguf_scores(f16, prompts, chosen, threads, whole=True, exact=True, adapter=path)
    kept = verify.gguf_scores(f16, prompts, chosen, threads, exact=True, adapter=path)
    served = verify.gguf_scores(job.folder / bundle.LLM, prompts, chosen, threads, adapter=path)
    found = {
        "f16_whole": verify.check_llm(f"{name}, f16 GGUF", whole, expected, verify.F16_TOLERANCE),
        "f16": verify.check_llm(f"{name}, f16 GGUF", kept, expected, verify.BATCHED_TOLERANCE),
        kind: verify.check_llm(f"{name}, {kind}", served, expected, tolerance=1.0),
    }
    return {"rows": len(chosen), **found, "tolerance": verify.allowed(verify.BATCHED_TOLERANCE, found[kind])}


def _write(job: Export, name: str, trained: Any) -> Path:
    path = job.folder / file_of(name)
    path.parent.mkdir(exist_ok=True)
    write_adapter(trained, path, name)
    return path


def of_row(job: Export, place: int) -> dict[str, Json]:
    """What reference.jsonl says of a row beside the bundle's own scores: P(Yes) by each further adapter."""
    scores = {name: number(float(expected[place])) for name, expected in job.of_adapters.items()}
    return {"adapters": scores} if scores and not np.isnan(job.llm_reference[job.reference[place]]) else {}


def provenance(job: Export) -> dict[str, Json]:
    """What the manifest says of further adapters; the run's own is the rest of it."""
    of = {name: (run.recipe.name, run.data.info.get("name")) for name, run in job.options.added.items()}
    return {"adapters": {name: {"recipe": recipe, "data": data} for name, (recipe, data) in of.items()}} if of else {}
