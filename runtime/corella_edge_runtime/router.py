"""The routing step of a request: which of its candidates the LLM is asked about, and why, once the CRM has scored them.

In this order: the policy in use routes (`Router.policy` says which that is); a user's routes of last time hold within
the score's tolerance; candidates that cannot change the top k are left out; kept answers and caps take some of the
rest (`control.py`); and a few others are drawn at random (`--explore`), which no cap looks at and whose answers are not
kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from corella_edge.adapters import weights_of
from corella_edge.request import Candidates, Request
from corella_edge.routing.decision import UNWEIGHTED, Weighting, open_places
from corella_edge.routing.exploring import EXPLORE, explore
from corella_edge.routing.gate import MADE
from corella_edge.routing.measure import NEVER, NO_INPUTS, NO_ROWS, NO_VALUES, Inputs
from corella_edge.routing.objective import lowered
from corella_edge.routing.policy import Policy, Routing
from corella_edge.routing.reasons import KEPT
from corella_edge.scores import BoolArray, FloatArray
from corella_edge_runtime.control import Control, Route
from corella_edge_runtime.held_target import Candidacy
from corella_edge_runtime.llm.contract.messages import Answers
from corella_edge_runtime.routing_inputs import RoutingInputs

Places = npt.NDArray[np.int64]
Unknown = Sequence[tuple[str, ...]]
NOBODY_ASKED = Answers.none(0, "")


@dataclass(slots=True)
class Routed:
    """One request's candidates after routing.

    Attributes:
        chosen: int64 [m], places of the routed: the policy's, then the `drawn` that were routed at random.
        hardness: float64 [m], how much the LLM is wanted for each.
        route: what becomes of the policy's, where routing is held in operation; None = all are asked.
        propensity: float64 [n], the chance with which each candidate is asked; None where nothing is left to chance.
        inputs: float64 [n] by name, what measure and fusion rule look at beside the scores.
    """

    policy: Policy
    chosen: Places = field(default_factory=lambda: NO_ROWS)
    hardness: FloatArray = field(default_factory=lambda: NO_VALUES)
    route: Route | None = None
    drawn: int = 0
    propensity: FloatArray | None = None
    inputs: Inputs = field(default_factory=dict)

    @property
    def asked(self) -> Places:
        """Which of the chosen the LLM is asked about, int64 [k]: those of the route, then those drawn."""
        if self.route is None:
            return np.arange(len(self.chosen))
        own = len(self.chosen) - self.drawn
        return np.concatenate([self.route.asked, np.arange(own, own + self.drawn)]) if self.drawn else self.route.asked

    def of_route(self, answers: Answers) -> Answers:
        """Of the answers to all that was asked, those to the route's questions."""
        return Answers(answers.rows[: len(answers) - self.drawn]) if self.drawn else answers

    def unasked(self, reason: str) -> Answers:
        """The same reason for each of the candidates that were to be asked."""
        number = len(self.asked)
        return Answers.none(number, reason) if number else NOBODY_ASKED

    def columns(self, n: int, answers: Answers) -> tuple[FloatArray, BoolArray, tuple[str, ...]]:
        """P(Yes), whether it counts, and the reason, of n candidates, from the answers to what was asked."""
        llm, routed, reason = _none_asked(n)
        if not len(self.chosen):
            return llm, routed, reason
        llm, reasons = llm.copy(), list(reason)
        every = answers
        if self.route is not None:
            of_route = self.route.filled(self.of_route(answers))
            every = Answers(np.concatenate([of_route.rows, answers.rows[len(answers) - self.drawn :]]))
        llm[self.chosen] = every.probability
        words = [self.policy.reason] * (len(self.chosen) - self.drawn) + [EXPLORE] * self.drawn
        for i, why, word in zip(self.chosen.tolist(), every.reasons, words, strict=True):
            reasons[i] = why or word
        if self.route is not None:
            for i in self.chosen[: len(self.route.kept)][self.route.kept].tolist():
                reasons[i] = KEPT
        return llm, ~np.isnan(llm), tuple(reasons)


class Router:
    """Of one engine. Threads may share one.

    Attributes:
        control: what holds routing in operation; None = every request is routed by itself.
        share: of the candidates that the policy leaves to the CRM, about which the LLM is asked at random.
        factor: of the share that would be asked, what a server's latency objective leaves.
    """

    def __init__(self, share: float, rng: np.random.Generator) -> None:
        self.control: Control | None = None
        self.share, self.factor = share, 1.0
        self._rng = rng

    def ease(self, factor: float) -> None:
        """Take the factor of a latency objective; a target stands still while it is below 1."""
        self.factor = factor
        if self.control is not None:
            self.control.ease(factor < 1.0)

    def policy(self, own: Policy, routing: Routing) -> Policy:
        """The policy of a request that says nothing of it: what the target has come to, without one the engine's own;
        and of that, less while a latency objective demands so."""
        found = (None if self.control is None else self.control.policy()) or own
        return found if self.factor >= 1.0 else lowered(found, routing, self.factor)

    def route(
        self, request: Request, candidates: Candidates, policy: Policy, routing: Routing, p: FloatArray,
        unknown: Unknown, refusal: str, known: Callable[[], RoutingInputs], ranked: Weighting | None = None,
    ) -> Routed:  # fmt: skip
        """Decide about the candidates with the base model's probabilities p, float64 [n].

        Args:
            refusal: why the LLM is not asked at all; empty if it is.
            known: asked for when something first needs them, as the entropy does not.
            ranked: by what the final probabilities rank, where not by themselves.
        """

        def inputs_for(needs: Sequence[str]) -> Inputs:
            return self._inputs(needs, request, candidates, p, unknown, known)

        inputs, seen = inputs_for(policy.measure.needs), None
        chosen, value = policy.route(p, inputs)
        if self.control is not None:
            seen = Candidacy.of(request, candidates, policy, p, inputs, unknown, ranked or UNWEIGHTED)
            chosen, value = self.control.steady(seen, chosen, value)
        closed = NO_ROWS
        if request.top_k is not None and len(chosen):
            alone, whole = routing.fusion.alone(p), request.candidates is None
            open_ = open_places(alone, chosen, request.top_k, routing.reach, whole, ranked or UNWEIGHTED)
            chosen, closed, value = chosen[open_], chosen[~open_], value[open_]
        route = None
        if self.control is not None and seen is not None:
            route = self.control.route(seen, chosen, value, refusal, closed)
        found = Routed(policy, chosen, value, route)
        # A request that says "never", or that fails where an answer is late, leaves nothing to chance.
        never = request.threshold is not None and policy.threshold == NEVER
        if self.share and not (refusal or never or request.strict):
            self._explore(request, routing, p, found, ranked or UNWEIGHTED)
        found.inputs = {**inputs, **inputs_for(routing.fusion.needs)} if len(found.chosen) else inputs
        return found

    def _explore(self, request: Request, routing: Routing, p: FloatArray, found: Routed, ranked: Weighting) -> None:
        """Add what is drawn at random; as with the policy's, only what can change the top k."""
        drawn, propensity = explore(found.chosen, len(p), self.share, self._rng)
        if request.top_k is not None:
            alone, every = routing.fusion.alone(p), np.arange(len(p))
            open_ = open_places(alone, every, request.top_k, routing.reach, request.candidates is None, ranked)
            drawn, propensity = drawn[open_[drawn]], np.where(open_, propensity, 1.0)
        found.drawn, found.propensity = len(drawn), propensity
        found.chosen = np.concatenate([found.chosen, drawn])
        # Behind all that the policy wants: they are the first to be left out.
        found.hardness = np.concatenate([found.hardness, np.full(len(drawn), -np.inf)])

    def _inputs(
        self, needs: Sequence[str], request: Request, candidates: Candidates, p: FloatArray, unknown: Unknown,
        made: Callable[[], RoutingInputs],
    ) -> Inputs:  # fmt: skip
        """float64 [n] by name: what a measure or a fusion rule needs to know beside the probabilities."""
        if not needs:
            return NO_INPUTS
        known = [name for name in needs if name in MADE]
        events = len(request.user.history)
        found = made().of(p, candidates, events, unknown, known) if known else NO_INPUTS
        if "kept" in needs and self.control is not None:
            kept = self.control.known(request.user, candidates, weights_of(request.adapters))
            found = {**found, "kept": kept}
        return {name: found[name] if name in found else np.full(len(p), np.nan) for name in needs}


@lru_cache(32)
def _none_asked(n: int) -> tuple[FloatArray, BoolArray, tuple[str, ...]]:
    """The LLM's scores, what was routed and why, of n candidates that it was not asked about; for all such requests."""
    llm, routed = np.full(n, np.nan), np.zeros(n, np.bool_)
    llm.flags.writeable = routed.flags.writeable = False
    return llm, routed, ("",) * n
