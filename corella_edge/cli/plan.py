"""`corella-edge plan`: the largest share that keeps a latency objective on this machine."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli.base import Command
from corella_edge.cli.common import Finite, columns, echo_json, engine_options, json_option, open_engine
from corella_edge.cli.logs import PATH, read_rows
from corella_edge.cli.talk import Progress
from corella_edge.errors import BundleError, InputError

if TYPE_CHECKING:
    from corella_edge.routing.load import Correlations, Reached
    from corella_edge.routing.policy import Policy
    from corella_edge_runtime.bench.results.result import Result
    from corella_edge_runtime.bench.results.slo import LargestShare, Measured

KINDS = {"cold": "new users", "warm": "returning users"}
RATIOS = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)  # of a measurement of its own, and of a correlation
LONGEST = 0.05  # seconds between two requests of a measurement, in the mean; by then the processor's caches are cold
LEAST_REQUESTS = 30  # of a log, for a correlation
HEAD = ("", "largest share", "as threshold", "requests that ask", "LLM at work")


@click.command(cls=Command)
@click.argument("bundle", type=PATH)
@click.option("--slo", required=True, metavar="QUANTILE=TIME", help="The objective, such as p99=30ms.")
@click.option("--qps", required=True, type=Finite(0, min_open=True), help="Requests a second.")
@click.option("--candidates", default=20, show_default=True, type=click.IntRange(1, 10_000),
              help="Candidates of each request.")  # fmt: skip
@click.option("--threshold", help="The policy to look at, in any form that `serve` takes. Default: the bundle's own.")
@click.option("--benchmark", type=PATH, metavar="FILE",
              help="benchmark.json of this machine, by `benchmark --out`. Default: measure now.")  # fmt: skip
@click.option("--log", type=PATH, metavar="LOG",
              help="Decisions or labelled rows: how the hard candidates of a request come together is taken from them. "
              "Default: from the benchmark's requests.")  # fmt: skip
@click.option("--seconds", default=60.0, show_default=True, type=Finite(0, min_open=True),
              help="Time to measure for, without --benchmark.")  # fmt: skip
@engine_options("thread")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0), help="Seed of the simulated traffic.")
@json_option
def plan(
    bundle: Path, slo: str, qps: float, candidates: int, threshold: str | None, benchmark: Path | None,
    log: Path | None, seconds: float, engine: dict[str, Any], seed: int, json: bool,
) -> None:  # fmt: skip
    """Say the largest share of the candidates that the LLM can be asked about while BUNDLE keeps a latency objective.

    From how long requests take on this machine and how they arrive: the base model and the LLM are queues, and
    requests come at random. Counted is the time from the bytes of a request to those of its answer, without HTTP.
    """
    import numpy as np

    from corella_edge.routing.load import Draws, Load, parse_slo
    from corella_edge_runtime.bench.results.result import read
    from corella_edge_runtime.bench.results.slo import answer, measured

    objective = parse_slo(slo)
    policy, share = _policy(bundle, threshold)
    result = (
        read(benchmark) if benchmark is not None else _measure(bundle, engine, candidates, 1.0 / qps, seconds, seed)
    )
    found = measured(result)
    correlations = found.correlations if log is None else _correlations(log, policy)
    load, draws = Load(qps, candidates, correlations), Draws.of(np.random.default_rng(seed))
    here = None if share is None else found.share(share)
    answers = {kind: answer(getattr(found, kind), load, objective, here, draws) for kind in KINDS}
    if json:
        head = {"objective": dict([objective]), "load": asdict(load), "box": asdict(found), "policy": str(policy)}
        kinds = {kind: asdict(one) for kind, one in answers.items()}
        echo_json({**head, "machine": result.machine.cpu, **kinds})
        return
    click.echo("\n".join(_report(objective, load, found, policy, answers)))


def _policy(bundle: Path, threshold: str | None) -> tuple[Policy, float | None]:
    """The policy, and the share of the calibration rows that it asks; None where the bundle does not tell."""
    from corella_edge.bundle.artefact import Bundle
    from corella_edge.routing.forms import OWN, parse_threshold
    from corella_edge.routing.policy import UNASKABLE

    routing = replace(Bundle.open(bundle).routing(), cost=UNASKABLE)
    policy = parse_threshold(OWN.prefix if threshold is None else threshold, routing)
    return policy, routing.share(policy)


def _measure(bundle: Path, engine: dict[str, Any], candidates: int, apart: float, seconds: float, seed: int) -> Result:
    """Of requests one at a time, as far apart as those that are planned for."""
    from corella_edge_runtime.bench.run import run
    from corella_edge_runtime.bench.settings import BenchSettings

    line = Progress()
    with open_engine(bundle, **engine) as opened:
        settings = BenchSettings(
            thresholds=tuple(f"ratio:{ratio:g}" for ratio in RATIOS), scenarios=("single",), users=("new",),
            candidates=candidates, budget=seconds, apart=min(apart, LONGEST), repeats=1, max_labelled=0,
            seed=seed, controls=False,
        )  # fmt: skip
        result = run(opened, None, settings, lambda what, done, of: line.show(f"{what}: {done:,} of {of:,}"))
    line.done()
    if result.void:
        raise BundleError(f"{bundle}: {result.void}; nothing was measured")
    return result


def _correlations(log: Path, policy: Policy) -> Correlations:
    """Of the candidates of one request, in the rows of a log, at several shares.

    Raises:
        InputError: too few requests.
    """
    import numpy as np

    from corella_edge.routing.load import correlation
    from corella_edge.routing.policy import threshold_for

    rows = read_rows(log).rows
    number = np.unique(rows.request.astype(str), return_inverse=True)[1]
    sizes = np.bincount(number)
    if len(sizes) < LEAST_REQUESTS:
        raise InputError(f"--log {log}: holds {len(sizes)} requests; it takes {LEAST_REQUESTS}")
    values = policy.measure(rows.crm, rows.inputs_for(policy.measure.needs))

    def at(share: float) -> float:
        asked = np.bincount(number, weights=values >= threshold_for(values, share))
        return correlation(asked.astype(np.int64), sizes)

    return tuple((share, at(share)) for share in RATIOS[1:-1])


def _report(
    objective: tuple[str, float], load: Any, found: Measured, policy: Policy, answers: dict[str, LargestShare]
) -> list[str]:
    from corella_edge.routing.load import QUANTILES

    (quantile, limit), cold, warm = objective, found.cold, found.warm
    arrive = f"{load.qps:g} requests a second of {load.candidates} candidates"
    costs = f"a request costs {_ms(cold.crm)}; asking adds {_ms(cold.prefix)} (returning users {_ms(warm.prefix)})"
    lines = [f"{quantile} of at most {1000 * limit:g} ms at {arrive}", f"{costs} and {_ms(cold.suffix)} a candidate",
             f"correlation within a request: {_of_shares(load.correlations)}", ""]  # fmt: skip
    lines += columns(
        [(*HEAD, *QUANTILES), *(_row(kind, found, one, tuple(QUANTILES)) for kind, one in answers.items())]
    )
    for kind, one in answers.items():
        if one.share is None:
            lines += [f"{KINDS[kind]}: no share holds; the base model alone has a {quantile} of "
                      f"{_ms(one.alone.at(quantile))}"]  # fmt: skip
        lines += _too_few(kind, quantile, getattr(found, kind).requests)
    return [*lines, "", *(_of_policy(kind, policy, one, objective) for kind, one in answers.items())]


def _too_few(kind: str, quantile: str, requests: int) -> list[str]:
    """That a quantile is read off a few slow requests."""
    from corella_edge_runtime.bench.results.figures import needed

    wanted = needed(quantile.replace(".", ""))
    if requests >= wanted:
        return []
    few = f"{requests:,} requests were measured at a share, at the least, and {quantile} takes {wanted:,}"
    return [f"{KINDS[kind]}: not sure, {few}; a benchmark with a longer --budget tells more"]


def _row(kind: str, found: Measured, one: LargestShare, quantiles: tuple[str, ...]) -> tuple[str, ...]:
    best = one.best
    if best is None:
        return (KINDS[kind], "none", *[""] * (len(HEAD) - 2 + len(quantiles)))
    return (KINDS[kind], f"{best.share:.2%}", f"ratio:{found.ratio(best.share):.3g}", f"{best.touched:.1%}",
            f"{best.utilisation:.0%}", *(_ms(best.at(name)) for name in quantiles))  # fmt: skip


def _of_policy(kind: str, policy: Policy, one: LargestShare, objective: tuple[str, float]) -> str:
    if one.policy is None:
        return f"{KINDS[kind]}: the bundle does not tell which share {policy} asks"
    quantile, limit = objective
    reached: Reached = one.policy
    reaches = reached.at(quantile)
    verdict = "holds" if reaches <= limit else "does not hold"
    return f"{KINDS[kind]}: {policy} asks {reached.share:.2%}, {quantile} {_ms(reaches)}: {verdict}"


def _of_shares(correlations: Correlations) -> str:
    return ", ".join(f"{found:.2f} at {share:.1%}" for share, found in correlations) or "not known"


def _ms(seconds: float) -> str:
    return f"{1000.0 * seconds:.3g} ms" if seconds < float("inf") else "without end"
