"""routing.json of an export: validation rows through its own files, the LLM's part beside what else is checked.

The LLM reads as many validation rows as all others together. Its answers depend on which rows came before in the same
context, so no pass is cut in two; but two passes, each in the order of its rows, run beside each other with the same
answers to the last bit.
"""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from corella_edge.bundle import artefact as bundle
from corella_edge.routing.fusion import REPLACE
from corella_edge_export.bundling import verify
from corella_edge_export.bundling.passes import Lane
from corella_edge_export.bundling.routing import by_time, routing
from corella_edge_export.crm.rows import EncodedRows
from corella_edge_export.data.rowset import RowSet
from corella_edge_export.evaluation.labelled import of_rows
from corella_edge_export.evaluation.scored import Json, ScoredRows
from corella_edge_export.memory import available
from corella_edge_export.training.tasks.sequences import next_item
from corella_edge_runtime.crm import Crm
from corella_edge_runtime.machine.threads import llm_default

if TYPE_CHECKING:
    from corella_edge_export.bundling.write import Export

NEVER = "ratio:0"  # the threshold of a bundle without an LLM
SPARE = 4  # times the models' files, that memory must have for two of them at once


class Calibrating:
    """The calibration of one export."""

    def __init__(self, job: Export) -> None:
        self.job = job
        self._beside: Lane[verify.Floats] | None = None

    @property
    def threads(self) -> int:
        """Threads for a pass now: those that this one leaves. Alone it leaves a core to whatever else runs, as a server
        does: llama.cpp's threads wait for each other, and for one that has no core very long."""
        most = self.job.options.threads
        return min(most, llm_default()) if self._beside is None else most - most // 2

    @property
    def own(self) -> int:
        """Threads that this one will have."""
        return self.job.options.threads // 2 or self.threads

    def start(self, others: Path) -> None:
        """Ask the finished llm.gguf about the validation rows from now on, with half of the threads, while the file
        `others` is asked as well; not where one thread is all there is, or memory is short."""
        threads, own = self.job.options.threads // 2, self.job.folder / bundle.LLM
        size = own.stat().st_size + others.stat().st_size
        if threads and SPARE * size <= available():
            self._beside = Lane(lambda stop: self._asked(threads, stop))

    def close(self) -> None:
        """Whatever is at work ends."""
        if self._beside is not None:
            self._beside.close()

    def finish(self) -> None:
        """routing.json: the exported models score validation rows, whose quantiles are the thresholds."""
        job = self.job
        session = Crm(job.folder / "crm.onnx", job.schema)
        with job.stages.of(f"calibration: the base model about {len(job.calibration)} validation rows"):
            crm = job.crm_scores(session, job.calibration.requests())
            if job.run.recipe.crm.family.ranks:
                valid = EncodedRows(job.run.data, "valid", job.encoder)
                job.metrics["next_item"] = next_item(job.run.crm(), valid, job.run.recipe.seed)
            job.judge("crm_valid", crm, job.calibration)
            job.judge("crm", job.crm_scores(session, job.requests))
        export = job.run.recipe.export
        if job.prompts is None:
            self._route(NEVER, REPLACE.rule, crm, np.full(len(crm), np.nan))
            return
        llm = self._asked(self.threads) if self._beside is None else self._beside.result()
        job.judge("llm_valid", llm, job.calibration)
        with job.stages.of("calibration: thresholds and fusion rules"):
            self._route(export.threshold, job.options.fusion or export.fusion, crm, llm)

    def _asked(self, threads: int, stop: Event | None = None) -> verify.Floats:
        """P(Yes) of the validation rows by llm.gguf."""
        job, rows = self.job, self.job.calibration
        assert job.prompts is not None
        with job.stages.of(f"calibration: the LLM about {len(rows)} validation rows"):
            return verify.gguf_scores(
                job.folder / bundle.LLM, job.prompts, rows.requests(), threads, adapter=job.adapter, total=len(rows),
                stop=stop,
            )  # fmt: skip

    def _route(self, threshold: str, fusion: str, crm: verify.Floats, llm: verify.Floats) -> None:
        job = self.job
        log = of_rows(job.encoder, job.calibration, crm, llm)
        measure = job.options.measure or job.run.recipe.export.measure
        made = routing(threshold, fusion, _scored(crm, llm, job.calibration), log, measure)
        if job.prompts is not None:
            made["calibrated"] = by_time(made, fusion, log)
            self._tell(made["calibrated"])
        job.write_json("routing.json", made)

    def _tell(self, found: Json) -> None:
        """What the later half of the validation rows says of a policy that the earlier half fitted."""
        if "refused" in found:
            self.job.say(f"calibration: no figures by time, {found['refused']}")
            return
        share, gain = found["policy"]["share"]["value"], found["policy"]["over_crm"]["auc"]
        self.job.say(f"calibration: fitted on the earlier half, the later half routes {share:.1%} and gains "
                     f"{gain['value']:+.4f} AUC [{gain['low']:+.4f}, {gain['high']:+.4f}]; by the measure, what asking "
                     f"gains is ordered: {found['order']['gain']}")  # fmt: skip


def _scored(crm: verify.Floats, llm: verify.Floats, rows: RowSet) -> ScoredRows:
    """Rows as the study looks at them; whom the training knew is not asked here."""
    return ScoredRows(crm, crm, llm, rows.labels, rows.users.astype(np.int64), np.zeros(len(crm), dtype=bool))
