"""The LLM side of an engine: samples → prompts → a backend's answers, or the reason why one is missing."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait

import numpy as np

from corella_edge.adapters import NONE, Adapters, Weights
from corella_edge.prompt import PromptEncoder
from corella_edge.request import Candidate, Candidates, User
from corella_edge.scores import FloatArray, Trace
from corella_edge_runtime.llm.admission import YIELDING, Admission, AdmittedWork
from corella_edge_runtime.llm.contract.backend import LlmBackend
from corella_edge_runtime.llm.contract.messages import Answers, Prompt, Prompts, pack_ids
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama.trust import Verdict

_LOG = logging.getLogger("corella_edge.engine")
FIRST_ANSWER = 60.0  # seconds, for one prompt, at the start


class Asking:
    """One request's candidates on their way to the LLM.

    Attributes:
        future: ends when there is nothing more to wait for, maybe after the deadline; None: nothing was asked.
        deadline: a time of `time.monotonic()`, at which the caller takes what is there.
    """

    def __init__(
        self,
        given: Answers,
        asked: Sequence[int] = (),
        future: Future[Answers] | None = None,
        deadline: float | None = None,
        failed: Callable[[BaseException], None] = lambda error: None,
        begun: float | None = None,
    ) -> None:
        """`given`: an answer a candidate, which holds for all but those at the places `asked`.

        `begun`: a time of `time.monotonic()` just before they were submitted, None = now. The LLM may be at work, or
        done, before the thread that asks goes on.
        """
        self.future, self.deadline = future, deadline
        self._given, self._asked, self._failed = given, np.asarray(asked, np.intp), failed
        self._found: Answers | None = None
        self._begun = time.monotonic() if begun is None else begun
        ended = self._ended = [self._begun]
        if future is not None:
            # Of the list alone: a future that holds this object, which holds the future, would be a cycle.
            future.add_done_callback(lambda _: ended.append(time.monotonic()))

    def answers(self) -> Answers:
        """One a candidate, in order; never waits. What is not there yet is cancelled and has the reason "deadline"."""
        if self._found is None:
            self._found = self._take()
            self._given.rows[self._asked] = self._found.rows
        return self._given

    @property
    def refusal(self) -> str:
        """Why some were not asked at all; empty if all were."""
        asked = set(self._asked.tolist())
        return next((reason for place, reason in enumerate(self._given.reasons) if place not in asked), "")

    def tell(self, trace: Trace) -> None:
        """Write down what the answers taken cost: tokens; seconds in the LLM's queue, then until the end, or zero."""
        queued = at_work = 0.0
        if self._found is not None and len(rows := self._found.rows[self._found.answered]):
            queued = float(rows["waited"].min())
            at_work = max(0.0, self._ended[-1] - self._begun - queued)
            trace.evaluated, trace.reused = int(rows["evaluated"].sum()), int(rows["reused"].sum())
        trace.seconds |= {"queue": queued, "prefill": at_work}

    def _take(self) -> Answers:
        # What has not been computed yet never is.
        if self.future is None or self.future.cancel() or not self.future.done():
            return Answers.none(len(self._asked), "deadline")
        error = self.future.exception()
        if error is None:
            return self.future.result()
        self._failed(error)
        return Answers.none(len(self._asked), "llm_error")


class Llm:
    """The LLM side of a bundle: prompts in its tokenizer's ids, answered by a backend.

    Attributes:
        vocabulary: how many token ids there are.
        longest: most tokens of a prompt.
        most: tokens of prompts that yield to others, asked at once.
        verdict: of the self-test on its types; None where a server elsewhere computes.
    """

    verdict: Verdict | None = None

    def __init__(
        self, prompts: PromptEncoder, backend: LlmBackend, settings: LlmSettings | None = None, vocabulary: int = 0,
        longest: int = 0, adapters: Adapters = NONE,
    ) -> None:  # fmt: skip
        """`settings`: those of the backend. `adapters`: those it may be asked by, and is where nothing else is said."""
        self.prompts, self.backend, self.adapters = prompts, backend, adapters
        self.vocabulary, self.longest = vocabulary, longest
        settings = settings or LlmSettings()
        self.most = int(YIELDING * settings.queue_tokens)
        self._admission = Admission(settings)
        self._failures: set[str] = set()
        self._packed: dict[str, bytes] = {}

    def begin(
        self, user: User, candidates: Sequence[Candidate], hardness: FloatArray, deadline: float | None,
        yields: bool = False, adapters: Weights | None = None,
    ) -> Asking:  # fmt: skip
        """Ask, without waiting, as many of the hardest as will be answered in time.

        The others have the reason "busy" at once, or "queue_full" beyond its queue or without a deadline; one without
        text has "no_text".

        Args:
            hardness: float64, the entropy of each candidate.
            deadline: a time of `time.monotonic()`.
            yields: see `begin_prompts`.
            adapters: of the LLM, by which it answers; None = the usual ones.
        """
        suffixes = self._suffixes(Candidates.of(candidates))
        given = Answers.none(len(candidates), "no_text")
        order = [i for i in np.argsort(-hardness, kind="stable").tolist() if suffixes[i]]
        if not order:
            return Asking(given)
        prefix = tuple(self.prompts.prefix(user))
        prompts = Prompts.of_user(prefix, [suffixes[i] for i in order])
        return self._begin(given, order, prompts.by(self._chosen(adapters)), deadline, yields)

    def _chosen(self, adapters: Weights | None) -> Weights:
        return self.adapters.default if adapters is None else adapters

    def begin_prompts(
        self, prompts: Sequence[Prompt], deadline: float | None, yields: bool = False, adapters: Weights | None = None
    ) -> Asking:
        """Ask prompts as they are, under the same rules, from the first; `adapters` as in `begin`.

        `yields`: they take at most half of the queue and of the time until their deadline, and give way to what is
        due before.
        """
        given = Answers.none(len(prompts), "deadline")
        if not prompts:
            return Asking(given)
        asked = Prompts.of(prompts).by(self._chosen(adapters))
        return self._begin(given, range(len(prompts)), asked, deadline, yields)

    @property
    def answers(self) -> bool:
        """Whether a prompt was answered since the model was loaded, and the guard lets questions through."""
        found = self.backend.stats()
        return bool(found.get("prompts") and found.get("alive", 1.0) and not found.get("breaker_open"))

    def prove(self, seconds: float = FIRST_ANSWER) -> str:
        """Ask about an item of the catalogue and wait; why no answer came, empty if one did."""
        texts = (self.prompts.item(row) for row in range(len(self.prompts.catalog)))
        suffix = next((text for text in texts if text), None) or (self.prompts.tokens.yes,)
        prompt = Prompt(tuple(self.prompts.prefix(User())), tuple(suffix))
        future = self._submit(Prompts.of([prompt]).by(self.adapters.default), time.monotonic() + seconds)
        wait([future], seconds + 1.0)
        if future.cancel() or not future.done():
            return "deadline"
        error = future.exception()
        return future.result()[0].reason if error is None else type(error).__name__

    def forget(self) -> None:
        """Drop what is kept of users' prompts."""
        self.prompts.forget()
        self.backend.forget()
        self._admission.forget()

    def stats(self) -> dict[str, float]:
        """The backend's counters since the start, and those of what was not asked."""
        own, found = self._admission.stats(time.monotonic()), self.backend.stats()
        return {**found, **own, "refused": own["refused"] + found.get("refused", 0.0)}

    def close(self) -> None:
        self.backend.close()

    def _suffixes(self, candidates: Candidates) -> list[bytes]:
        """The candidates' own parts, as `pack_ids` gives them; those of the catalogue are kept. Empty: no text."""
        kept, found = self._packed, list[bytes]()
        if not candidates.own and None not in (known := list(map(kept.get, candidates.items))):
            return known  # type: ignore[return-value]
        for candidate in candidates:
            suffix = kept.get(candidate.item) if candidate.features is None else None
            if suffix is None:
                suffix = pack_ids(self.prompts.suffix(candidate) or ())
                if candidate.features is None and candidate.item in self.prompts.catalog.row_of:
                    kept[candidate.item] = suffix
            found.append(suffix)
        return found

    def _begin(
        self, given: Answers, order: Sequence[int], prompts: Prompts, deadline: float | None, yields: bool = False
    ) -> Asking:
        """`order`: the places in `given` that the prompts belong to."""
        admitted = self._admission.admit(prompts, deadline, time.monotonic(), yields)
        number, promise = admitted.prompts, admitted.promise
        if number < len(order):
            given.rows[[*order[number:]]] = Answers.none(1, admitted.reason).rows
        if promise is None:
            return Asking(given)
        begun = time.monotonic()
        future = self._submit(prompts if number == len(order) else prompts[:number], deadline)
        future.add_done_callback(lambda ended: self._ended(promise, prompts, ended))
        return Asking(given, order[:number], future, deadline, self.failed, begun)

    def _submit(self, prompts: Prompts, deadline: float | None) -> Future[Answers]:
        try:
            return self.backend.submit(prompts, deadline)
        except Exception as error:  # noqa: BLE001 - whatever a backend raises, the request has the CRM's scores
            refused: Future[Answers] = Future()
            refused.set_exception(error)
            return refused

    def _ended(self, promise: AdmittedWork, prompts: Prompts, future: Future[Answers]) -> None:
        """Its part of the account is free: answered, cancelled or failed."""
        good = not future.cancelled() and future.exception() is None
        answers = future.result() if good else Answers.none(0, "llm_error")
        self._admission.ended(promise, prompts, answers, self.backend.stats(), time.monotonic())

    def failed(self, error: BaseException) -> None:
        """Log kind and place, once a kind; never the message, which may quote what a user wrote."""
        kind = type(error).__name__
        if kind in self._failures:
            return
        self._failures.add(kind)
        places = traceback.format_list(traceback.extract_tb(error.__traceback__)[-8:])
        _LOG.error("the LLM fails, the CRM decides: %s\n%s", kind, "".join(places).rstrip())
