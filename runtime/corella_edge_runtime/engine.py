"""Requests → scores: encode, CRM, route, LLM. One code path for CLI, server and embedding."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import wait
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType

import numpy as np

from corella_edge.adapters import weights_of
from corella_edge.bundle.artefact import Bundle
from corella_edge.bundle.signature import TrustedKey
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.unseen import Refusal
from corella_edge.history import GIVEN, scale_notes
from corella_edge.prompt import Template
from corella_edge.request import Request, User
from corella_edge.routing.forms import OWN, lacks_cost, parse_threshold
from corella_edge.routing.fusion import Fusion
from corella_edge.routing.measure import Inputs, Measure
from corella_edge.routing.policy import UNASKABLE, AskCost, Policy, Routing
from corella_edge.routing.reasons import NoAnswer
from corella_edge.routing.told import told
from corella_edge.scores import Scores
from corella_edge.selection import EVERYTHING
from corella_edge_runtime.attributes import FeatureNames
from corella_edge_runtime.control import Control, ControlSettings
from corella_edge_runtime.crm import CRM_MEMORY_MIB, Crm
from corella_edge_runtime.draft import Draft, begun
from corella_edge_runtime.llm import ask_cost
from corella_edge_runtime.llm.asking import Llm
from corella_edge_runtime.llm.contract import deadline as deadlines
from corella_edge_runtime.llm.contract.messages import Answers
from corella_edge_runtime.opening import open_llm, open_text, replaced_catalogue
from corella_edge_runtime.products import Products
from corella_edge_runtime.router import Routed, Router
from corella_edge_runtime.routing_inputs import RoutingInputs
from corella_edge_runtime.setup import Setup, Wishes, find_setup
from corella_edge_runtime.showcase import Showcase
from corella_edge_runtime.slate.choose import Slates

OF_THIS_MACHINE = ("thread", "process")  # ways to run the LLM of which a plan tells what asking costs


class Engine:
    """An opened bundle that ranks. `rank` may be called from several threads.

    `rank` is `begin`, a wait, and `finish`; who has something better to do than to wait calls them by themselves.
    """

    def __init__(
        self, bundle: Bundle, encoder: FeatureEncoder, crm: Crm, llm: Llm | None, threshold: str | float | None = None,
        cost: AskCost | None = None,
    ) -> None:  # fmt: skip
        """`cost`: what asking the LLM costs here; None = it is measured when something needs it."""
        self.bundle, self.encoder, self.crm, self.llm = bundle, encoder, crm, llm
        self.products = Products.beside(crm, encoder)
        self._lasting: list[str] = [crm.warning] if crm.warning else []
        self.routing: Routing = replace(bundle.routing(), cost=cost if llm else UNASKABLE)
        self.fusion: Fusion = self.routing.fusion
        written = OWN.prefix if threshold is None else threshold
        self._one_measures = threading.Lock()
        if lacks_cost(written, self.routing):
            self.know_cost(wanted=True)
        self.policy: Policy = self.parse_threshold(written)
        self.written = f"{written} ({self.routing.threshold})" if written == OWN.prefix else str(written)
        self.without_llm = self.wordless = ""  # why there is no LLM, and why no vectors are made of words
        self.setup: Setup | None = None
        self.router = Router(0.0, np.random.default_rng())
        catalog, prompt = encoder.catalog, bundle.prompt()
        self._names = FeatureNames(encoder.schema, prompt[0] if prompt else None)
        self.showcase = Showcase(bundle, encoder.schema, catalog, self.policy)
        self.rating_scale, self._known_ratings = encoder.schema.rating_scale, frozenset(encoder.schema.known_ratings)
        self._refusal = Refusal(encoder.schema, catalog)
        self.slates = Slates(bundle, catalog, self._refusal.answered(encoder.unseen))
        self.adapters, self.event_types = bundle.adapters(), bundle.event_types()

    @classmethod
    def open(
        cls,
        bundle: Path,
        *,
        llm: str | None = "thread",
        threshold: str | float | None = None,
        require_llm: bool = False,
        retry_llm: bool = False,
        crm_threads: int | None = None,
        llm_threads: int | None = None,
        llm_file: str | None = None,
        plan: Path | None = None,
        tuned: bool = True,
        deterministic: bool = False,
        trust: TrustedKey | None = None,
        cpus: int | None = None,
        crm_memory_mib: float = CRM_MEMORY_MIB,
        control: ControlSettings | None = None,
        explore: float = 0.0,
    ) -> Engine:
        """Check and load a bundle.

        Args:
            llm: "thread" (llama.cpp in this process), "process" (in a watched child), the address of a server
                (docs/llm.md), or None (the CRM alone).
            threshold: the default for requests that bring none; None = the bundle's policy.
            require_llm: an LLM that cannot be loaded, or does not answer a prompt, is an error, not a warning.
            retry_llm: an LLM process that does not start is a warning and tried again; not if it is required.
            crm_threads, llm_threads, llm_file: None = by the plan or, without one, by the machine.
            plan: the file of `corella-edge tune`; None = where it writes by itself.
            tuned: whether to look for a plan at all.
            deterministic: LLM scores that are bit-equal on repeat, and slower; not of a server.
            trust: the key that the bundle must be signed with.
            cpus: how many of this machine's are for this engine; None = all. No plan is looked for then.
            crm_memory_mib: for what a CRM that reads events has read of users, see docs/serve.md; 0 keeps nothing.
            control: what holds routing in operation, of a server; None = every request is routed by itself.
            explore: the share of the candidates that the policy leaves to the CRM, about which the LLM is asked at
                random, so that a log of decisions can speak for other policies.

        Raises:
            BundleError: damaged, incomplete, or not signed with the trusted key. InputError: a bad threshold or plan,
            an LLM file that the bundle lacks, an LLM that cannot be run as asked for, more threads than CPUs.
            ComputeError: an LLM that is required and does not answer. MissingExtraError: no onnxruntime.
        """
        opened = Bundle.open(bundle, trust)
        # Before the models are loaded: a mistyped threshold, or an unknown fusion rule, is told at once.
        parse_threshold(OWN.prefix if threshold is None else threshold, replace(opened.routing(), cost=UNASKABLE))
        warnings: list[str] = []
        wishes = Wishes(crm_threads, llm_threads, None, llm_file, plan, tuned, deterministic, cpus)
        setup = find_setup(opened, wishes, warnings.append)
        schema, catalog = opened.schema()
        crm = Crm(opened.path(setup.crm_file), schema, setup.crm_threads, int(crm_memory_mib * 2**20))
        words, wordless = open_text(opened, schema.text_width, setup.crm_threads)
        encoder = FeatureEncoder(schema, catalog, words)
        side, warning = None, "the LLM is switched off: the CRM decides alone"
        if llm is not None:
            side, warning = open_llm(opened, catalog, llm, setup, require_llm, retry_llm)
        try:
            engine = cls(opened, encoder, crm, side, threshold, setup.cost if llm in OF_THIS_MACHINE else None)
            if control is not None:
                tolerance, stats = opened.tolerance().get("crm", 0.0), side.stats if side else None
                engine.control = Control(control, engine.routing, engine.policy, tolerance, stats)
            engine.slates.open()
        except BaseException:
            if side is not None:
                side.close()
            raise
        engine.setup, engine.router.share = setup, explore
        replaced = "" if side is None else replaced_catalogue(opened)
        engine._lasting += [*warnings, *(text for text in (wordless, replaced) if text)]
        engine.without_llm, engine.wordless = warning, wordless
        if side is not None and side.verdict is not None and side.verdict.sentence:
            engine._lasting.append(side.verdict.sentence)
        return engine

    @property
    def refuses(self) -> bool:
        """Whether the bundle refuses unseen values of a field."""
        return bool(self._refusal.labels)

    @property
    def name(self) -> str:
        """`name@version` of the bundle."""
        return self.bundle.label

    @property
    def warnings(self) -> list[str]:
        """What is missing or degraded now, one sentence each; an LLM that has come since is no longer missing."""
        missing = self.without_llm and not self.stats().get("alive")
        return [*self._lasting, *([self.without_llm] if missing else [])]

    @property
    def memory(self) -> tuple[int, int, tuple[str, ...] | None]:
        """How many of a user's latest events count, in what steps older ones may be left out, and of which types.

        A prompt, and a sequence of the CRM, begins at a multiple of its block, counted from the user's first event:
        what is left out has to be one of both.
        """
        schema = self.encoder.schema
        if self.llm is None:
            return schema.window, schema.block, self.event_types
        template = self.llm.prompts.template
        events = max(schema.window, template.history_lines + 2 * template.block)
        return events, math.lcm(schema.block, template.block), self.event_types

    @property
    def user_features(self) -> list[str]:
        """The features of a user that the models read, by name."""
        return sorted(self._names.of_user)

    @property
    def measure(self) -> Measure:
        """What orders the candidates of requests that leave the threshold to the engine."""
        return self.router.policy(self.policy, self.routing).measure

    def parse_threshold(self, value: str | float) -> Policy:
        """`0.65`, `ratio:0.05` or another form, by what this bundle says and what was measured here."""
        return parse_threshold(value, self.routing)

    def know_cost(self, wanted: bool = False) -> None:
        """Measure what asking the LLM costs here, where no plan tells it; some fifty prompts, seconds at most.

        `wanted`: by a threshold that means nothing without it. Else an LLM that does not answer may be asked later.
        """
        with self._one_measures:
            if self.llm is None or self.routing.cost is not None:
                return
            cost = ask_cost.measure(self.llm, self.bundle, self.encoder.catalog)
            if cost is None and wanted:
                self._lasting.append("the LLM does not answer, so its cost is not known: nothing is asked by `ms:`")
            if cost is not None or wanted:
                self.routing = replace(self.routing, cost=cost or UNASKABLE)

    def told(self) -> list[str]:
        """What the engine's threshold means, a sentence each."""
        return told(self.policy, self.routing, self.written)

    def rank(self, request: Request, refuses: bool = True) -> Scores:
        """Score all candidates of a request; waits for the LLM, at most for the request's `timeout_ms`.

        `refuses`: whether unseen values are refused where the bundle says so; not where rows are judged.

        Raises:
            InputError: see `begin`.
        """
        if lacks_cost(request.threshold, self.routing):
            self.know_cost(wanted=True)
        draft = self.begin(request, refuses=refuses)
        if draft.asking is not None and draft.asking.future is not None:
            wait([draft.asking.future], deadlines.seconds_to(draft.asking.deadline))
        return self.finish(draft)

    def reads_words(self, request: Request) -> bool:
        """Whether the request brings words that vectors may have to be made of: milliseconds for each candidate."""
        return self.encoder.reads_words(request.candidates)

    def check(self, request: Request, history: str = GIVEN) -> None:
        """Raises InputError for what `begin` would refuse: in a strict request odd features and ratings, unseen values
        where the bundle refuses them, a selection by what no item has, adapters that the bundle has not."""
        self.adapters.weights(request.adapters)
        if request.strict:
            self.check_features(request, history)
        if request.selection is not EVERYTHING:
            self.slates.of(request)
        if self.refuses and request.candidates is not None:
            unknown = self.encoder.encode(request.user, request.candidates)[1]
            self._refusal.check(request.user, request.candidates, unknown)

    def check_features(self, request: Request, history: str = GIVEN) -> None:
        """Raises InputError, which names the first feature that no model reads, or the first rating out of scale."""
        self._names.check(request)
        self._notes(request, history, strict=True)

    def _notes(self, request: Request, history: str, strict: bool = False) -> tuple[str, ...]:
        ratings = request.user.history.ratings
        if self._known_ratings.issuperset(ratings or ()):  # as a rule, and quicker than to look for the odd one
            return ()
        return tuple(scale_notes(ratings, self.rating_scale, history, strict))

    def begin(
        self,
        request: Request,
        refusal: str = "",
        deadline: float | None = None,
        history: str = GIVEN,
        refuses: bool = True,
    ) -> Draft:
        """Encode, score by the CRM, route, and put the hard candidates to the LLM. Never waits for it.

        Args:
            refusal: a reason not to ask the LLM.
            deadline: of the LLM's answers, see `llm.contract.deadline`; None: by the request's `timeout_ms`, from now.
            history: what notes and errors call the user's history.
            refuses: see `rank`.

        Raises:
            InputError: a bad threshold, an unknown adapter, in a strict request a feature that no model reads, or a
            rating out of scale.
            UnknownValueError: a value that training has not seen, of a field for which the bundle refuses such values.
        """
        started = time.monotonic()
        if request.strict:
            self.check_features(request, history)
        own, request = request.threshold, self.adapters.settled(request)
        policy = self.router.policy(self.policy, self.routing) if own is None else self.parse_threshold(own)
        if deadline is None:
            deadline = deadlines.of(request.timeout_ms, started)
        slate = self.slates.of(request)
        candidates, routed = slate.candidates, Routed(policy)
        if not candidates.items:
            return Draft(slate, np.empty(0), routed, (), None, "", begun({}, policy, 0), slate.notes)
        rows = self.products.serves(candidates) if self.products else None
        encode = self.encoder.encode if rows is None else self.encoder.encode_beside
        feed, unknown = encode(request.user, candidates)
        if refuses and self._refusal.labels:
            self._refusal.check(request.user, candidates, unknown)
        encoded = time.monotonic()
        p = self.crm.probability(feed) if not self.products or rows is None else self.products.probability(feed, rows)
        scored = time.monotonic()
        why = refusal or ("" if self.llm else NoAnswer.NO_LLM)
        if not slate.fallback:
            known = (request, candidates, policy, self.routing, p, unknown)
            routed = self.router.route(*known, why, lambda: self.routing_inputs, slate.value)
        decided = time.monotonic()
        took = {"encode": encoded - started, "crm": scored - encoded, "policy": decided - scored}
        trace, asking = begun(took, policy, len(p)), None
        if self.llm is not None and not why and len(asked := routed.asked):
            chosen = candidates.at(routed.chosen[asked].tolist())
            weights = weights_of(request.adapters)
            asking = self.llm.begin(request.user, chosen, routed.hardness[asked], deadline, adapters=weights)
            trace.seconds["prompt"] = time.monotonic() - decided
        notes = (*slate.notes, *self._notes(request, history))
        return Draft(slate, p, routed, tuple(unknown), asking, why, trace, notes, request.adapters)

    @property
    def control(self) -> Control | None:
        """What holds routing in operation; None = every request is routed by itself."""
        return self.router.control

    @control.setter
    def control(self, control: Control | None) -> None:
        self.router.control = control

    @cached_property
    def routing_inputs(self) -> RoutingInputs:
        """Made when a policy first asks for it: the entropy needs nothing of it."""
        popular, prompt = self.slates.popular, self.bundle.prompt()
        template = prompt[0] if prompt else Template()
        counts = None if popular is None else popular.counts
        return RoutingInputs(self.encoder, counts, lambda item: template.item_text(item) is not None, self.memory[0])

    def gate_inputs(self, request: Request, scores: Scores) -> Inputs:
        """What a gate reads of a scored request, for a log that one is fitted on."""
        return self.routing_inputs.of_scores(request, scores)

    def finish(self, draft: Draft) -> Scores:
        """The scores as far as the LLM has answered; the rest of its work is called off. Never waits."""
        routed = draft.routed
        if draft.asking is None:
            answers = routed.unasked(draft.refusal)
        else:
            answers = draft.asking.answers()
            draft.asking.tell(draft.trace)
            if self.control is not None and routed.route is not None:
                self.control.worked(draft.trace.seconds["prefill"])
                self.control.keep(routed.route, routed.of_route(answers))
        return self._scores(draft, answers)

    def before_llm(self, draft: Draft) -> Scores:
        """The CRM's own ranking, while the LLM is at work: rows it was asked about have the reason "pending"."""
        return self._scores(draft, draft.routed.unasked(NoAnswer.PENDING))

    def _scores(self, draft: Draft, answers: Answers) -> Scores:
        """What is known of each candidate, from the answers to what was asked: P(Yes), or the reason for none."""
        slate, routed = draft.slate, draft.routed
        llm, counts, reason = routed.columns(len(draft.crm), answers)
        return Scores(
            tuple(slate.candidates.items), draft.crm, llm, counts, reason, draft.unknown, draft.trace, self.fusion,
            draft.notes, slate.fallback, slate.strength, routed.inputs, routed.propensity, value=slate.value,
            adapters=draft.adapters,
        )  # fmt: skip

    def warm_up(self) -> None:
        """Run both models once, and prepare filters by what the CRM reads and the items' vectors where products rank
        the catalogue, so that no request is the first."""
        plain = self.encoder.schema.of("categorical", "multi", "numeric", side="item")
        if not self.encoder.catalog.tables:  # else nothing is to be parsed before something asks for it
            self.slates.filters.prepare([field.source for field in plain if field.source != "id"])
        if self.products:
            self.products.make()
        sample = self.slates.everything[:2]
        if sample:
            self.rank(Request(User(), sample, threshold="ratio:1"))
        if self.llm and not self.llm.answers:
            self.llm.prove()

    def stats(self) -> dict[str, float]:
        """Counters of the LLM side, of what the CRM keeps, of what holds the routing; empty of what is not there."""
        control = self.control.stats() if self.control else {}
        return {**(self.llm.stats() if self.llm else {}), **self.crm.stats(), **control}

    def forget(self, user: str | None = None) -> None:
        """Drop what is kept from request to request of a user, and of all others where users are not told apart;
        None: of everybody."""
        self.crm.forget()
        if self.llm:
            self.llm.forget()
        if self.control:
            self.control.forget(user)

    def close(self) -> None:
        if self.llm:
            self.llm.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
