"""What a threshold means: the same in every form, its share of the calibration rows, and its cost on this machine."""

from __future__ import annotations

from collections.abc import Iterator

from corella_edge.routing.measure import LN2, NEVER, Measure, entropy
from corella_edge.routing.policy import USUAL, Policy, Routing

RARE = 0.1  # a base rate from which on downwards few probabilities come near one half


def told(policy: Policy, routing: Routing, written: str) -> list[str]:
    """Sentences for people: what a start prints of its threshold, which is `written` so."""
    return [*_share(policy, routing, written), *_cost(policy, routing), *_rare(policy, routing)]


def too_slow(routing: Routing, milliseconds: float) -> str:
    """What to say where requests have so much time for the LLM, and its first answer takes longer; else nothing."""
    cost = routing.cost
    if cost is None or not cost.finite or cost.first <= milliseconds:
        return ""
    return (f"a request has {milliseconds:g} ms for the LLM (--timeout-ms), and its first answer takes about "
            f"{cost.first:.0f} ms on this machine, so that hardly any candidate gets one (reason: busy): raise "
            "--timeout-ms, take a smaller LLM or file type, or leave it more of the machine")  # fmt: skip


def margin_of(nats: float) -> float:
    """The distance from one half at which a probability has this entropy: the m of `margin:m`."""
    low, high = 0.0, 0.5
    for _ in range(60):  # entropy falls with the distance
        middle = 0.5 * (low + high)
        low, high = (middle, high) if float(entropy(0.5 - middle)) >= nats else (low, middle)
    return low


def forms(policy: Policy, routing: Routing) -> list[str]:
    """The policy as nats, margin and band: the same rows of a policy by entropy, as many of any other."""
    nats = routing.as_nats(policy)
    if nats == NEVER or nats > LN2:
        return []
    away = margin_of(nats)
    return [f"{nats:.4f} nats", f"margin:{away:.4f}", f"band:{0.5 - away:.4f}-{0.5 + away:.4f}"]


def _share(policy: Policy, routing: Routing, written: str) -> Iterator[str]:
    share = routing.share(policy)
    if share == 0.0:
        yield f"threshold {written}: the LLM is never asked"
        return
    head = f"threshold {written}: {policy}" if policy.nats is None else f"threshold {written}"
    if share is None:
        yield f"{head}; the bundle does not tell what share of its calibration rows that is"
        return
    about = "" if routing.counts(policy.measure) else "about "
    rows = f" ({about}{round(share * routing.rows):,} of {routing.rows:,})" if routing.rows else ""
    where = f", in requests of {USUAL} candidates" if policy.budget else ""
    same = "the same as" if policy.nats is not None else "as many as by"
    also = forms(policy, routing)
    yield (f"{head}: the LLM is asked about {share:.2%} of the calibration rows{rows}{where}"
           + (f"; {same} {', '.join([f'ratio:{share:.4g}', *also])}" if also else ""))  # fmt: skip


def _cost(policy: Policy, routing: Routing) -> Iterator[str]:
    share, cost = routing.share(policy), routing.cost
    if share == 0.0 or (cost is not None and not cost.finite):
        return
    if cost is None:
        yield "what asking the LLM costs on this machine is not known"
        return
    price = (f"asking the LLM costs {cost.first:.1f} ms for the first candidate of a request and {cost.further:.1f} ms "
             "for each further one on this machine")  # fmt: skip
    if share is None:
        yield price
        return
    touched = 1.0 - (1.0 - share) ** USUAL
    yield (f"{price}; of requests of {USUAL} candidates {touched:.0%} ask it, and the mean of all is "
           f"ms:{cost.expected(share, USUAL):.3g}")  # fmt: skip


def rare(measure: Measure, rate: float | None, rows: str, way: str) -> str:
    """What to say where such a share of `rows` is positive that a measure which is greatest at one half finds little,
    and `way` is another one; else nothing."""
    if rate is None or min(rate, 1.0 - rate) >= RARE or getattr(measure, "centre", None) != 0.5:
        return ""
    return (f"{rate:.1%} of the {rows} are positive, so few probabilities are near one half: {way} orders candidates "
            "by how near they are to that rate")  # fmt: skip


def _rare(policy: Policy, routing: Routing) -> Iterator[str]:
    way = "a bundle exported with `--measure centred`, or calibrated with `--centre`,"
    if routing.share(policy) != 0.0 and (said := rare(policy.measure, routing.base_rate, "calibration rows", way)):
        yield said
