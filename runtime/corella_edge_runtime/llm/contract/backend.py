"""What a backend promises to the rest of the runtime, and what it is opened with."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.contract.messages import Answers, Prompt
from corella_edge_runtime.llm.contract.settings import LlmSettings


class LlmBackend(Protocol):
    """Any thread may submit; the future's result has one answer a prompt, in order.

    Prompts that are `Prompts` are taken as they are, others are made into columns first.
    """

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
        """`deadline` is a time of `time.monotonic()`; prompts not answered by then get the reason "deadline".

        Where too much waits already, or this alone is too much, all get the reason "queue_full" at once. Cancelling
        the future frees what has not been computed yet.
        """

    def forget(self) -> None:
        """Drop what is kept of the prompts so far and overwrite it, before anything else is computed.

        What a server elsewhere keeps is not dropped.
        """

    def renew(self) -> None:
        """It has been silent for too long: start again what computes, where that is possible. Returns at once."""

    def stats(self) -> dict[str, float]:
        """Counters since the start."""

    def close(self) -> None:
        """Finish the work in hand, refuse the rest, free the model."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model and how it is to be run. A process of its own gets it as JSON on its command line: plain data, and `ps`
    shows what the process is for.

    Attributes:
        file: the GGUF; a server elsewhere must have been given the same weights.
        extra: see `binding.Model`.
        adapters: name → GGUF file of each adapter that prompts may be answered by.
    """

    file: Path
    tokens: Tokens
    settings: LlmSettings
    extra: bool | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)

    def to_json(self) -> str:
        tokens = {"yes": self.tokens.yes, "no": self.tokens.no, "bos": self.tokens.bos}
        adapters = {name: str(file) for name, file in self.adapters.items()}
        how = {"settings": self.settings.to_json(), "extra": self.extra, "adapters": adapters}
        return json.dumps({"file": str(self.file), "tokens": tokens, **how})

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        data = json.loads(text)
        settings = LlmSettings.from_json(data["settings"], "LLM process")
        adapters = {name: Path(file) for name, file in data["adapters"].items()}
        return cls(Path(data["file"]), Tokens.from_json(data["tokens"]), settings, data["extra"], adapters)

    def plain(self) -> ModelSpec:
        """The same with llama.cpp's plain kernels alone."""
        return replace(self, extra=False)


class BackendModule(Protocol):
    """What a module in `backends.table` has."""

    def open_backend(
        self, kind: str, model: ModelSpec, required: bool, warn: Callable[[str], None] | None
    ) -> LlmBackend:
        """A backend ready for work.

        Args:
            kind: as the user gave it: a name of the table, or one with an address.
            required: a server must answer now; otherwise the first question is the first it hears.
            warn: is told why a process did not start, which is then tried again in the background; None: an error.

        Raises:
            InputError, BundleError, ComputeError, MissingExtraError: see `opening.open_backend`.
        """


@dataclass(frozen=True, slots=True)
class Liveness:
    """When a backend is given up, and when it is tried again; in seconds, but for `failures` and `renewal`.

    Attributes:
        failures: questions in a row that ended in an error.
        silence: without any sign of life while something is asked; longer if a decode takes long.
        start: the same, before anything was computed.
        renewal: times the silence that opens the breaker, until it is started again, where that is possible. Much more
            than 1: how long a decode takes is an estimate, and a start costs what a long decode may not.
        look: how often one looks for signs of life.
        first_pause, longest_pause: until a probe; doubled after each that fails.
        probe: for a probe to be answered.
    """

    failures: int = 5
    silence: float = 2.0
    start: float = 60.0
    renewal: float = 3.0
    look: float = 0.25
    first_pause: float = 0.25
    longest_pause: float = 5.0
    probe: float = 1.0
