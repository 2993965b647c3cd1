"""`corella-edge serve`."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli.common import engine_options
from corella_edge.errors import BundleError, MissingExtraError
from corella_edge.router import parse_share, parse_threshold

if TYPE_CHECKING:
    from corella_edge_runtime.engine import Engine
    from corella_edge_runtime.server.ranker import Ranker

_EXTRA_MODULES = {"starlette", "uvicorn", "prometheus_client", "anyio"}


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--threshold", help="Entropy in nats (0 to 0.693), or ratio:SHARE. Default: the bundle's own.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@engine_options("process")
@click.option("--timeout-ms", default=1000.0, show_default=True, type=click.FloatRange(0),
              help="Time for the LLM, of requests that bring no `timeout_ms`; then the CRM decides.")  # fmt: skip
@click.option("--max-requests", default=1024, show_default=True, type=click.IntRange(1),
              help="Requests in flight; beyond them: 503. From half of them on the LLM is not asked.")  # fmt: skip
@click.option("--worker-threads", default=2, show_default=True, type=click.IntRange(1, 1024),
              help="Threads for requests with a large body or more than 500 candidates.")  # fmt: skip
@click.option("--max-body-mib", default=8.0, show_default=True, type=click.FloatRange(0, min_open=True),
              help="Largest body; beyond it: 413.")  # fmt: skip
@click.option("--grace", default=30.0, show_default=True, type=click.FloatRange(0),
              help="Seconds for requests in flight when stopping.")  # fmt: skip
@click.option("--access-log", is_flag=True, help="Log one line a request to stderr (address, path, status).")
def serve(
    bundle: Path, threshold: str | None, host: str, port: int, engine: dict[str, Any], timeout_ms: float,
    max_requests: int, worker_threads: int, max_body_mib: float, grace: float, access_log: bool,
) -> None:  # fmt: skip
    """Serve BUNDLE over HTTP until SIGTERM or Ctrl-C.

    POST /v1/rank, GET /v2/health/live, /v2/health/ready, /metrics and /openapi.json.
    """
    _check_early(bundle, threshold)
    _check_extra()
    from corella_edge_runtime.server.limits import Limits
    from corella_edge_runtime.server.run import Settings, listen, run

    def load() -> Engine:
        from corella_edge_runtime.engine import Engine
        from corella_edge_runtime.threads import bind_process

        opened = Engine.open(bundle, threshold=threshold, **engine)
        # The LLM's process has cores of its own; in a thread of this one, it keeps its own cores itself.
        if opened.llm and opened.setup and opened.setup.crm_cores and engine["llm"] == "process":
            bind_process(opened.setup.crm_cores)
        return opened

    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.WARNING)
    limits = Limits(max_requests, worker_threads, timeout_ms, int(max_body_mib * 2**20))
    run(load, listen(host, port), Settings(limits, grace, access_log), _say_listening, _ReadyLine(time.monotonic()))


def _check_early(bundle: Path, threshold: str | None) -> None:
    """What a person mistypes is told before a port is opened; the engine checks the rest while loading."""
    if not bundle.is_dir():
        raise BundleError(f"{bundle}: no such bundle (a directory that `corella-edge export` writes)")
    if threshold is None:
        return
    if threshold.strip().startswith("ratio:"):
        parse_share(threshold.strip().removeprefix("ratio:"))
    else:
        parse_threshold(threshold, None)


def _check_extra() -> None:
    try:
        import corella_edge_runtime.server.run  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA_MODULES:
            raise
        raise MissingExtraError("serve", "serve") from None


def _say_listening(address: str) -> None:
    click.echo(f"corella-edge: listening on {address}")


class _ReadyLine:
    """Says on stderr what is served and what is missing, once it is loaded."""

    def __init__(self, start: float) -> None:
        self.start = start

    def __call__(self, ranker: Ranker) -> None:
        for warning in ranker.warnings:
            click.echo(f"corella-edge: warning: {warning}", err=True)
        seconds = time.monotonic() - self.start
        click.echo(f"corella-edge: {ranker.name} is ready after {seconds:.1f} s", err=True)
