"""`corella-edge serve`."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.common import Finite, engine_options, open_log, tell_threshold, trusted_key
from corella_edge.cli.serve_options import ACCESS, CHANCE, HELD, LIMITS, MEMORY, control_settings, grouped
from corella_edge.errors import MissingExtraError, OutputError
from corella_edge.routing.forms import HELP, read_threshold

if TYPE_CHECKING:
    from corella_edge_runtime.engine import Engine
    from corella_edge_runtime.server.guard.access import Guard
    from corella_edge_runtime.server.run import Memory, ServeSettings
    from corella_edge_runtime.store.users import UserStore

_EXTRA_MODULES = {"starlette", "uvicorn", "httptools", "prometheus_client", "anyio", "orjson"}


@click.command(cls=Command)
@click.argument("bundle", metavar="BUNDLE|SITE", type=click.Path(path_type=Path))
@click.option("--threshold", help=f"{HELP} Default: the bundle's own.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@engine_options("process")
@grouped("limits", LIMITS)
@grouped("memory", MEMORY)
@grouped("chance", CHANCE)
@grouped("access", ACCESS)
@grouped("held", HELD)
@click.option("--grace", default=30.0, show_default=True, type=Finite(0),
              help="Seconds for requests in flight when stopping.")  # fmt: skip
@click.option("--access-log", is_flag=True, help="Log one line a request to stderr (address, path, status).")
def serve(
    bundle: Path, threshold: str | None, host: str, port: int, engine: dict[str, Any], limits: dict[str, Any],
    memory: dict[str, Any], chance: dict[str, Any], access: dict[str, Any], held: dict[str, Any], grace: float,
    access_log: bool,
) -> None:  # fmt: skip
    """Serve a bundle, or the live version of a site (`corella-edge deploy`), over HTTP.

    Ends at SIGTERM, SIGQUIT or Ctrl-C.

    POST /v1/rank, /v1/score, /v1/events and the Open Inference Protocol at /v2; /v1/popular, /v1/items/ID/similar
    and /v1/availability; a page for people at /; /metrics and /openapi.json.
    """
    _check_early(bundle, threshold)
    _check_chance(chance, memory, engine, held)
    _check_extra()
    engine["control"] = control_settings(held, threshold)
    if held["target_ratio"] is not None:
        threshold = f"ratio:{held['target_ratio']:g}"  # where it begins, and stays where nothing can move it
    from corella_edge_runtime.server.following import open_source
    from corella_edge_runtime.server.run import listen, run

    _log()
    guard = _guard(host, access)
    engine |= {"trust": trusted_key(access["trust"]), "explore": chance["explore"] or 0.0}
    cores = os.sched_getaffinity(0)
    # At a start there is no other version to stay with: an LLM that does not start must not end the server.
    first = partial(_load, threshold, {**engine, "retry_llm": True}, cores)
    source = open_source(bundle, partial(_load, threshold, engine, cores), first)
    with _memory(memory, chance["shadow"]) as kept:
        settings = _settings(limits, grace, access_log, chance["slo"])
        ready = _ReadyLine(time.monotonic(), limits["timeout_ms"])
        say = _say_nothing if talk.quiet() and port else _say_listening  # which port is free, nobody else tells
        run(source, listen(host, port), settings, guard, kept, say, ready)


def _log() -> None:
    logging.basicConfig(format=talk.FORMAT, level=logging.WARNING)
    for name in ("serve", "store", "decisions"):  # swaps, and what retention removes
        if talk.usual():
            logging.getLogger(f"corella_edge.{name}").setLevel(logging.INFO)


def _load(threshold: str | None, engine: dict[str, Any], cores: set[int], bundle: Path) -> Engine:
    from corella_edge_runtime.engine import Engine
    from corella_edge_runtime.machine.threads import bind_process

    # An earlier version may have bound the process to the CRM's cores: this thread sees all of them again.
    os.sched_setaffinity(0, cores)
    opened = Engine.open(bundle, threshold=threshold, **engine)
    # The LLM's process has cores of its own; in a thread of this one, it keeps its own cores itself.
    if opened.llm and opened.setup and opened.setup.crm_cores and engine["llm"] == "process":
        bind_process(opened.setup.crm_cores)
    return opened


def _guard(host: str, access: dict[str, Any]) -> Guard:
    """Raises InputError for keys that cannot be read, and for an address beyond this machine without keys."""
    from corella_edge_runtime.server.guard.access import Guard, require_access
    from corella_edge_runtime.server.guard.key_time import KeyTime
    from corella_edge_runtime.server.guard.keys import KeyFile

    require_access(host, access["keys"], access["insecure"])
    keys = KeyFile(access["keys"], time_now=KeyTime.of(access["keys"]).now) if access["keys"] else None
    return Guard(keys, access["open_metrics"])


def _settings(limits: dict[str, Any], grace: float, access_log: bool, slo: str | None) -> ServeSettings:
    from corella_edge.routing.load import QUANTILES, parse_slo
    from corella_edge.routing.objective import Objective
    from corella_edge_runtime.server.guard.connections import ConnectionLimits
    from corella_edge_runtime.server.guard.limits import Limits
    from corella_edge_runtime.server.run import ServeSettings

    body_bytes = int(limits["max_body_mib"] * 2**20)
    bounds = Limits(limits["max_requests"], limits["worker_threads"], limits["timeout_ms"], body_bytes)
    connections = ConnectionLimits(limits["max_connections"], limits["max_connections_per_client"])
    objective = None
    if slo is not None:
        quantile, seconds = parse_slo(slo)
        objective = Objective(QUANTILES[quantile] / 100.0, seconds)
    return ServeSettings(bounds, grace, access_log, limits["keep_alive"], connections, objective)


@contextmanager
def _memory(memory: dict[str, Any], shadow: float | None) -> Iterator[Memory]:
    import numpy as np

    from corella_edge_runtime.server.run import Memory
    from corella_edge_runtime.server.shadow import Shadow
    from corella_edge_runtime.store.stock import StockFile

    with ExitStack() as opened:
        store = opened.enter_context(_store(memory))
        stock = StockFile.open(memory["availability"]) if memory["availability"] else None
        decisions = None
        if memory["log"]:
            decisions = opened.enter_context(open_log(memory["log"], memory["log_mib"]))
        beside = None if shadow is None else Shadow(shadow, np.random.default_rng())
        yield Memory(store, stock, decisions, beside)


@contextmanager
def _store(users: dict[str, Any]) -> Iterator[UserStore | None]:
    if users["store"] is None:
        if users["retain_days"] or users["retain_events"]:
            raise click.UsageError("--retain-days and --retain-events need --store")
        yield None
        return
    from corella_edge_runtime.store.users import UserStore, retention_task

    with UserStore.open(users["store"]) as store:
        retention_task(store, users["retain_days"], users["retain_events"])
        yield store


def _check_early(bundle: Path, threshold: str | None) -> None:
    """What a person mistypes is told before a port is opened; the engine checks the rest while loading."""
    from corella_edge.bundle.artefact import MANIFEST, not_a_bundle
    from corella_edge_runtime.site.layout import is_site

    if not (bundle / MANIFEST).is_file() and not is_site(bundle):
        raise not_a_bundle(bundle, "bundle or site")
    if threshold is not None:
        read_threshold(threshold)


def _check_chance(chance: dict[str, Any], memory: dict[str, Any], engine: dict[str, Any], held: dict[str, Any]) -> None:
    """Raises UsageError for options that would have no effect, InputError for an objective that cannot be read."""
    from corella_edge.routing.load import parse_slo

    if chance["slo"] is not None:
        parse_slo(chance["slo"])
        if chance["shadow"]:
            raise click.UsageError("--shadow and --slo exclude each other: in the shadow no request waits for the LLM")
    if chance["shadow"] and (held["target_ratio"] is not None or held["target_ms"] is not None):
        raise click.UsageError("--shadow and a target exclude each other: in the shadow no request asks the LLM")
    if chance["shadow"] and chance["explore"]:
        raise click.UsageError("--shadow and --explore exclude each other: in the shadow no request asks the LLM")
    for name in ("shadow", "explore"):
        if chance[name] and memory["log"] is None:
            raise click.UsageError(f"--{name} needs --log DIR: the log is what it is for")
        if chance[name] and engine["llm"] is None:
            raise click.UsageError(f"--{name} and --no-llm exclude each other")


def _check_extra() -> None:
    try:
        import corella_edge_runtime.server.run  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA_MODULES:
            raise
        raise MissingExtraError("serve", "serve") from None


def _say_listening(address: str) -> None:
    with suppress(OutputError):  # a server goes on serving when nobody reads its output
        click.echo(f"corella-edge: listening on {address}")


def _say_nothing(address: str) -> None:
    """-q, and the address is the one that was asked for."""


class _ReadyLine:
    """Says on stderr what is served and what is missing, once it is loaded."""

    def __init__(self, start: float, timeout_ms: float) -> None:
        self.start, self.timeout_ms = start, timeout_ms

    def __call__(self, ranker: Engine) -> None:
        from corella_edge.routing.told import too_slow

        for warning in ranker.warnings:
            talk.warn(warning)
        verdict = None if ranker.llm is None else ranker.llm.verdict
        computes = f"; llama.cpp computes with its library for: {verdict.variant}" if verdict else ""
        seconds = time.monotonic() - self.start
        talk.say(f"corella-edge: {ranker.name} is ready after {seconds:.1f} s{computes}")
        tell_threshold(ranker)
        if slow := too_slow(ranker.routing, self.timeout_ms):
            talk.warn(slow)
        for sentence in ranker.control.told() if ranker.control else ():
            talk.say(sentence)
