"""The options of `corella-edge serve` that go together; the command gets each group as one dict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import click

from corella_edge.cli.common import LOG, LOG_MIB, Finite

Command = Callable[..., Any]
_FILE = click.Path(path_type=Path)

LIMITS = {
    "timeout_ms": click.option(
        "--timeout-ms", default=1000.0, show_default=True, type=Finite(0),
        help="Time for the LLM in requests that bring no `timeout_ms`; after it the base model (CRM) decides.",
    ),
    "max_requests": click.option(
        "--max-requests", default=1024, show_default=True, type=click.IntRange(1),
        help="Requests in flight; a further one gets 503. From half of this number on the LLM is not asked.",
    ),
    "max_connections": click.option(
        "--max-connections", default=1000, show_default=True, type=click.IntRange(1),
        help="Open connections; a further one gets 503.",
    ),
    "max_connections_per_client": click.option(
        "--max-connections-per-client", type=click.IntRange(1),
        help="Open connections of one address; behind a proxy all clients share one. Default: no limit of its own.",
    ),
    "keep_alive": click.option(
        "--keep-alive", default=75, show_default=True, type=click.IntRange(1, 86_400), metavar="SECONDS",
        help="Keep an idle connection open this long; a load balancer in front of it must have a shorter idle time.",
    ),
    "worker_threads": click.option(
        "--worker-threads", default=2, show_default=True, type=click.IntRange(1, 1024),
        help="Threads for requests with a large body or more than 500 candidates.",
    ),
    "max_body_mib": click.option(
        "--max-body-mib", default=8.0, show_default=True, type=Finite(0, min_open=True),
        help="Largest body of a request; a larger one gets 413.",
    ),
}  # fmt: skip

MEMORY = {
    "store": click.option(
        "--store", type=_FILE, help="File of users' profiles and histories; made if there is none. Default: no store.",
    ),
    "retain_days": click.option(
        "--retain-days", type=Finite(0, min_open=True), help="Forget events after this many days.",
    ),
    "retain_events": click.option(
        "--retain-events", type=click.IntRange(1), help="Keep only so many of the latest events of each user.",
    ),
    "availability": click.option(
        "--availability", type=_FILE,
        help="File of what is available now, changed by /v1/availability. Default: all items are.",
    ),
    "log": LOG, "log_mib": LOG_MIB,
}  # fmt: skip

CHANCE = {
    "shadow": click.option(
        "--shadow", type=Finite(0, 1, min_open=True), metavar="SHARE",
        help="The base model alone answers; of this share of the requests the LLM is asked afterwards, for the log.",
    ),
    "explore": click.option(
        "--explore", type=Finite(0, 1, min_open=True), metavar="SHARE",
        help="Ask the LLM about this share of the candidates of which the base model is sure, drawn at random, so that "
        "the log can speak for other thresholds.",
    ),
    "slo": click.option(
        "--slo", metavar="QUANTILE=TIME",
        help="Ask the LLM about less while more requests take longer than p99=30ms (p50, p95 or p99; ms or s).",
    ),
}  # fmt: skip

ACCESS = {
    "keys": click.option("--keys", type=_FILE, help="File of API keys, written by `corella-edge keys add`."),
    "insecure": click.option("--insecure", is_flag=True, help="Listen on any address without keys."),
    "open_metrics": click.option("--open-metrics", is_flag=True, help="/metrics needs no key on this machine."),
    "trust": click.option("--trust", metavar="KEY", help="Serve only bundles signed with this minisign key: its file "
                          "or its text."),
}  # fmt: skip


def grouped(name: str, options: Mapping[str, Callable[[Command], Command]]) -> Callable[[Command], Command]:
    """Give a command these options as one dict argument."""

    def decorate(command: Command) -> Command:
        @wraps(command)
        def with_group(**given: Any) -> Any:
            group = {option: given.pop(option) for option in options}
            return command(**{name: group}, **given)

        decorated: Command = with_group
        for option in reversed(list(options.values())):
            decorated = option(decorated)
        return decorated

    return decorate
