"""`corella-edge score` of Parquet, here or on a Ray cluster; and how far any scoring is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli import talk
from corella_edge.cli.common import need, open_engine, tell_threshold
from corella_edge.cli.talk import Progress
from corella_edge.errors import InputError

if TYPE_CHECKING:
    from corella_edge.routing.policy import Policy
    from corella_edge_runtime.batch import Tally
    from corella_edge_runtime.partitions.layout import Partition


# What a worker's share of a machine decides.
_OF_ONE_MACHINE = ("crm_threads", "llm_threads", "plan", "tuned")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the workers of --engine ray are.

    Attributes:
        workers: None = as many as there are partitions, and CPUs for.
        cpus: of each worker.
    """

    address: str
    workers: int | None
    cpus: int


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--engine and what belongs to it; the command gets a `cluster`, None for this process. Stands above
    `engine_options`, which gives the command another `engine`."""
    options = [
        click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
                     help="Who scores Parquet: this process, or the workers of a Ray cluster."),
        click.option("--ray-address", metavar="WHERE", default="auto", show_default=True,
                     help="auto (the cluster that this machine belongs to), ray://HOST:PORT, or local (one that is "
                          "started here and ends with the command)."),
        click.option("--workers", type=click.IntRange(1),
                     help="Workers of --engine ray, each with the bundle opened once. Default: as many as there are "
                          "CPUs for."),
        click.option("--worker-cpus", type=click.IntRange(1), default=2, show_default=True,
                     help="CPUs of each worker; its threads are planned by them."),
    ]  # fmt: skip

    @wraps(command)
    def with_cluster(engine: str, ray_address: str, workers: int | None, worker_cpus: int, **others: Any) -> Any:
        cluster = Cluster(ray_address, workers, worker_cpus) if engine == "ray" else None
        if cluster and (others["crm_threads"] or others["llm_threads"] or others["plan"]):
            raise click.UsageError(
                "--engine ray plans threads by --worker-cpus: leave --crm-threads, --llm-threads and --plan out"
            )
        return command(cluster=cluster, **others)

    decorated: Callable[..., Any] = with_cluster
    for option in reversed(options):
        decorated = option(decorated)
    return decorated


def score_table(
    bundle: Path, source: Path, out: Path | None, threshold: str | None, engine: dict[str, Any], force: bool,
    cluster: Cluster | None,
) -> None:  # fmt: skip
    """Score every partition of `source` into `out`."""
    if out is None:
        raise InputError(f"{source}: is Parquet, whose answers are files; name an --out other than -")
    need("score of Parquet", "parquet", "pyarrow")
    from corella_edge_runtime.partitions import layout

    found = layout.partitions(source, out)
    layout.check_strays(out, found)
    if cluster is None:
        _here(bundle, found, threshold, engine, force)
    else:
        _on_ray(bundle, found, threshold, engine, force, cluster)


def _here(bundle: Path, found: list[Partition], threshold: str | None, engine: dict[str, Any], force: bool) -> None:
    from corella_edge_runtime.batch import Tally
    from corella_edge_runtime.partitions import scoring

    with open_engine(bundle, **engine, threshold=threshold) as opened:
        wanted = scoring.same(bundle, opened.policy.key, opened.llm is not None, engine["deterministic"])
        tally = Tally(scoring.count(found, opened.user_features, tell_unread))
        scoring.check_places(found, wanted, force)
        tell_threshold(opened)
        show = ScoreProgress(opened.policy)
        scoring.score_all(opened, found, wanted, tally, show)
        show.finish(tally, len(found))


def tell_unread(names: list[str]) -> None:
    if names:
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        talk.note(f"columns that nothing reads: {shown}")


def _on_ray(
    bundle: Path, found: list[Partition], threshold: str | None, engine: dict[str, Any], force: bool, cluster: Cluster
) -> None:
    need("--engine ray", "ray", "ray", "pyarrow")
    from corella_edge.bundle.artefact import Bundle
    from corella_edge.routing.forms import OWN, parse_threshold
    from corella_edge_runtime.partitions import on_ray

    options = {name: value for name, value in engine.items() if name not in _OF_ONE_MACHINE}
    opened = Bundle.open(bundle)  # before any worker opens it: what is wrong with it is told at once
    asked = parse_threshold(OWN.prefix if threshold is None else threshold, opened.routing())
    show = ScoreProgress(asked)
    tell = on_ray.Tell(show, talk.warn, tell_unread)
    job = on_ray.PartitionJob(bundle, cluster.cpus, {**options, "threshold": threshold}, force)
    tally = on_ray.score_all(found, job, cluster.address, cluster.workers, tell)
    show.finish(tally, len(found))


class ScoreProgress:
    """Progress while scoring, and one line at the end."""

    def __init__(self, policy: Policy) -> None:
        self._line, self._policy = Progress(), policy

    def __call__(self, tally: Tally) -> None:
        done, rate = tally.kept + tally.requests, tally.requests / max(tally.seconds, 1e-9)
        left = talk.left(tally.total - done, tally.requests, tally.seconds)
        self._line.show(f"{done:,} of {tally.total:,} requests, {rate:,.1f} a second{left}")

    def finish(self, tally: Tally, files: int = 0) -> None:
        """`files`: how many partitions there are, where the answers are in such."""
        from corella_edge_runtime.partitions.columns import in_columns

        self._line.done()
        seconds = max(tally.seconds, 1e-9)
        parts = [f"scored {tally.requests:,} requests, {tally.candidates:,} candidates in {seconds:.1f} s "
                 f"({tally.candidates / seconds:,.0f} candidates/s)"]  # fmt: skip
        parts += [f"{tally.kept:,} were there already"] if tally.kept else []
        if tally.candidates:
            parts.append(f"routed share {tally.routed / tally.candidates:.4f}, threshold {self._policy}")
        parts += [f"{tally.unanswered:,} wanted the LLM and have no answer of it"] if tally.unanswered else []
        talk.say("; ".join(parts))
        if tally.unknown:
            rates = [f"{name} {n / tally.candidates:.2%}" for name, n in tally.unknown.most_common()]
            talk.say(f"candidates with a value the base model has never seen: {', '.join(rates)}")
        if files and tally.noted:
            talk.note(f"of {tally.noted:,} requests there is something to tell, of the first: {in_columns(tally.note)}")
