"""A ready LLM on its way into a bundle, and what is checked of it: there was no training to hold it against."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from corella_edge.catalog import Catalog
from corella_edge.errors import ExportError
from corella_edge.prompt import PromptEncoder, Template
from corella_edge_export.bundling import verify
from corella_edge_export.evaluation.scored import Json
from corella_edge_export.llm.ready import ReadyLlm
from corella_edge_export.llm.to_gguf import check_tokens
from corella_edge_export.llm.tokenizer import load_tokenizer, segment_tokenizer
from corella_edge_export.training.run import Run
from corella_edge_runtime.llm.contract.settings import MAX_CONTEXT

if TYPE_CHECKING:
    from corella_edge_export.bundling.write import Export

TORCH_ROWS = 16  # of the reference, by which it is held against transformers
SECONDS = 600.0  # for the sampled test rows, and again for those of the calibration
PROBED, FEWEST = 20, 50  # rows that tell what one costs, and that are asked about whatever they cost


def check_run(run: Run) -> None:
    """Raises InputError if the recipe's prompt names an attribute that the data have not: no training looked."""
    from corella_edge_export.training.checks import check_attributes

    check_attributes(run.recipe, run.data)


def prompts(ready: ReadyLlm, template: Template, catalog: Catalog) -> PromptEncoder:
    """Prompts in the file's own ids. Raises ExportError."""
    from corella_edge_runtime.llm.llama.binding import Model

    model = Model(ready.file, vocabulary_only=True)
    return PromptEncoder(template, catalog, model.tokenize, ready.tokens(model, template))


def type_of(ready: ReadyLlm) -> str:
    """llama.cpp's name of the file's type; the types of its matrices where it tells none. Raises InputError."""
    from corella_edge_runtime.llm.llama.binding import file_types

    kinds, number = ready.check(), ready.about.get("general.file_type")
    return next((name for name, value in file_types().items() if value == number), "+".join(sorted(kinds)))


def provenance(ready: ReadyLlm) -> Json:
    """What the file says of itself."""
    names = {"name": "general.name", "licence": "general.license", "architecture": "general.architecture"}
    return {"file": ready.file.name, "form": ready.form, **{name: ready.words(key) for name, key in names.items()}}


def take(job: Export, ready: ReadyLlm, encoder: PromptEncoder) -> None:
    """llm.gguf as it is; held against its tokenizer, where that is at hand, and against transformers on the same
    weights, where those read it. What `verify` repeats later are llama.cpp's own scores, one prompt a decode.

    Raises:
        ExportError: a prompt is too long, or a text's tokens or a probability are not those of the other side.
    """
    kind, path = job.options.llm_types[0], job.folder / "llm.gguf"
    shutil.copyfile(ready.file, path)
    _check_lengths(job, path)
    _check_tokens(job, ready, encoder)
    chosen = [job.requests[i] for i in job.reference]
    with job.stages.of(f"LLM: {len(chosen)} of the test rows by {path.name}, each decoded whole"):
        whole = verify.gguf_scores(path, encoder, chosen, job.calibrating.threads, whole=True)
    apart = _check_torch(job, ready, encoder, whole)
    count = affordable(_seconds(job, path, encoder), len(job.requests))
    job.calibrating.start(path)
    job.say(f"LLM: {path.name} is {ready.file.name}, {kind}")
    found = np.full(len(job.requests), np.nan)
    with job.stages.of(f"LLM: {_of(count, len(job.requests))} test rows by {path.name}"):
        found[:count] = verify.gguf_scores(path, encoder, job.requests[:count], job.calibrating.threads)
    both = np.flatnonzero(job.reference < count)
    batched = verify.check_llm(kind, found[job.reference[both]], whole[both], tolerance=1.0)
    # Another machine's kernels round activations otherwise, by as much as these are from float32.
    job.differences[f"llm_{kind}"] = max(batched, apart)
    found[job.reference] = whole
    job.llm_reference = found
    job.judge(kind, found)


def _seconds(job: Export, path: Path, encoder: PromptEncoder) -> float:
    """What a row costs here, prefixes kept as in serving; the calibration is cut to what can be afforded.

    A calibration of fewer rows is a coarser one, and said to be.
    """
    probed = list(islice(job.calibration.requests(), PROBED))
    started = time.monotonic()
    verify.gguf_scores(path, encoder, probed, job.calibrating.own)
    seconds = (time.monotonic() - started) / max(1, len(probed))
    rows = len(job.calibration)
    count = affordable(seconds, rows)
    job.say(f"LLM: {1000 * seconds:.0f} ms a row, so the calibration asks about {_of(count, rows)} validation rows")
    job.calibration = replace(job.calibration, indices=job.calibration.indices[:count])
    return seconds


def affordable(seconds: float, rows: int) -> int:
    """How many of so many rows are asked about, where each takes so many seconds."""
    return min(rows, max(FEWEST, int(SECONDS / max(seconds, 1e-9))))


def _of(count: int, rows: int) -> str:
    return f"all {rows:,}" if count == rows else f"{count:,} of {rows:,} (what {SECONDS / 60:.0f} minutes allow)"


def _check_lengths(job: Export, path: Path) -> None:
    from corella_edge_runtime.llm.llama.binding import Model

    model = Model(path, vocabulary_only=True)
    most = min(model.trained_context, MAX_CONTEXT)
    model.close()
    longest = max(len(job.prompt(request) or ()) for request in job.requests)
    if longest > most:
        raise ExportError(
            f"a prompt has {longest} tokens, the LLM reads {most}: lower prompt.history_lines and block in a recipe, "
            "and name it with --recipe"
        )
    job.say(f"LLM: prompts of up to {longest} tokens")


def _check_tokens(job: Export, ready: ReadyLlm, encoder: PromptEncoder) -> None:
    """Raises ExportError if the file's tokenizer is not that of the folder which was named."""
    from corella_edge_runtime.llm.llama.binding import Model

    if ready.source is None:
        job.say("LLM: its tokenizer is compared with no other; --checkpoint names the folder that the file was made of")
        return
    theirs = segment_tokenizer(load_tokenizer(ready.source))
    model = Model(ready.file, vocabulary_only=True)
    users = [request.user for request in job.requests[:200]]
    texts = check_tokens(model, PromptEncoder(encoder.template, job.catalog, theirs, encoder.tokens), users)
    model.close()
    job.say(f"LLM: {texts} texts tokenised alike by {ready.source}")


def _check_torch(job: Export, ready: ReadyLlm, encoder: PromptEncoder, whole: verify.Floats) -> float:
    """P(Yes) of some reference rows, decoded whole, against transformers on the same weights: how far the file is from
    it, by its quantisation; 0 where it was not computed.

    llama.cpp computes with them in f16 for that: what a quantised type does to P(Yes), most of it by 8-bit
    activations, is no mistake, and only told.

    Raises:
        ExportError: the f16 weights give another P(Yes).
    """
    from corella_edge_runtime.llm.llama.binding import quantize

    asked = [place for place, i in enumerate(job.reference.tolist()) if job.prompt(job.requests[i])][:TORCH_ROWS]
    requests = [job.requests[job.reference[place]] for place in asked]
    job.say(f"LLM: {len(asked)} rows by transformers, in float32 with the same weights")
    expected = ready.torch_scores([job.prompt(request) or [] for request in requests], encoder.tokens)
    if expected is None:
        job.say("LLM: the file is too large for transformers here, so P(Yes) is compared with nothing")
        return 0.0
    f16 = job.work / "f16.gguf"
    quantize(ready.file, f16, "F16", again=True)
    found = verify.gguf_scores(f16, encoder, requests, job.calibrating.threads, whole=True, exact=True)
    worst = verify.check_llm(f"{ready.file.name} as f16", found, expected, verify.F16_TOLERANCE)
    job.differences["llm_f16_whole"] = worst
    kind, own = job.options.llm_types[0], float(np.abs(whole[asked] - expected).max())
    job.differences[f"llm_{kind}_whole"] = own
    job.say(f"LLM: P(Yes) is within {worst:.1e} of transformers' in f16, and within {own:.1e} as {kind}")
    return own
