"""What a benchmark measures, opened: an engine of this process, or a server with the bundle it serves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from corella_edge.bundle.artefact import Bundle
from corella_edge.catalog import Catalog
from corella_edge.request import Request
from corella_edge.routing.forms import parse_threshold
from corella_edge.routing.policy import Policy, Routing
from corella_edge.scores import Scores
from corella_edge_runtime import reference
from corella_edge_runtime.bench.measure import provenance
from corella_edge_runtime.bench.measure.remote import OverHttp, check
from corella_edge_runtime.bench.measure.target import InProcess, Target
from corella_edge_runtime.bench.results.circumstances import Verified
from corella_edge_runtime.engine import Engine


@dataclass(frozen=True)
class Opened:
    """What is measured.

    Attributes:
        engine: None where a server ranks.
        rank: scores one request, for quality; in process with all that a gate looks at.
        routing: what thresholds mean.
        url: of the server.
    """

    bundle: Bundle
    catalog: Catalog
    target: Target
    engine: Engine | None
    rank: Callable[[Request], Scores]
    routing: Routing
    url: str | None = None

    @classmethod
    def here(cls, engine: Engine) -> Opened:
        """An engine of this process."""

        def rank(request: Request) -> Scores:
            scores = engine.rank(request, refuses=False)
            return replace(scores, inputs={**engine.gate_inputs(request, scores), **scores.inputs})

        return cls(engine.bundle, engine.encoder.catalog, InProcess(engine), engine, rank, engine.routing)

    @classmethod
    def at(cls, url: str, bundle: Path) -> Opened:
        """A server that serves the bundle.

        Raises:
            InputError: no such address, or nobody answers. BundleError: the bundle is damaged.
        """
        opened, target = Bundle.open(bundle), OverHttp(url)
        return cls(opened, opened.schema()[1], target, None, target.scores, opened.routing(), url)

    @property
    def local(self) -> bool:
        """Whether it is measured on this machine."""
        return not isinstance(self.target, OverHttp) or self.target.local

    @property
    def llm(self) -> bool:
        """Whether there is an LLM to ask."""
        return self.bundle.prompt() is not None if self.engine is None else self.engine.llm is not None

    def policies(self, thresholds: tuple[str, ...]) -> dict[str, Policy]:
        """Each threshold as a policy. Raises InputError: it means nothing for this bundle."""
        if self.engine is not None:
            return {threshold: self.engine.parse_threshold(threshold) for threshold in thresholds}
        return {threshold: parse_threshold(threshold, self.routing) for threshold in thresholds}

    def verified(self) -> Verified:
        """The parity gate. Raises BundleError: the reference is damaged. InputError: a server does not answer."""
        if self.engine is not None:
            return provenance.verified(self.engine)
        if not self.bundle.has(reference.FILE):
            return Verified(passed=None, why=f"the bundle has no {reference.FILE}")
        assert isinstance(self.target, OverHttp)
        return provenance.judged(*check(self.target, self.bundle, self.llm))
