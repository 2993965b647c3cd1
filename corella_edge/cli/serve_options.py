"""The options of `corella-edge serve` that go together; the command gets each group as one dict."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli.common import LOG, LOG_MIB, Duration, Finite

if TYPE_CHECKING:
    from corella_edge_runtime.control import ControlSettings

Command = Callable[..., Any]
CAPS = {"new-items": "new_items", "new-users": "new_users", "one-user": "one_user"}
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
        help="Ask the LLM about less while more requests take longer than p99=30ms (p50, p90, p95, p99 or p99.9; ms or "
        "s).",
    ),
}  # fmt: skip

ACCESS = {
    "keys": click.option("--keys", type=_FILE, help="File of API keys, written by `corella-edge keys add`."),
    "insecure": click.option("--insecure", is_flag=True, help="Listen on any address without keys."),
    "open_metrics": click.option("--open-metrics", is_flag=True, help="/metrics needs no key on this machine."),
    "trust": click.option("--trust", metavar="KEY", help="Serve only bundles signed with this minisign key: its file "
                          "or its text."),
}  # fmt: skip


HELD = {
    "target_ratio": click.option(
        "--target-ratio", type=Finite(0, 1), metavar="SHARE",
        help="Hold the share of the candidates that the LLM is asked about: the threshold moves with the traffic. For "
        "requests that bring no `threshold`.",
    ),
    "target_ms": click.option(
        "--target-ms", type=Finite(0), metavar="MS",
        help="Hold the LLM's work at so many milliseconds a second, in place of a share.",
    ),
    "window": click.option(
        "--window", default="10m", show_default=True, type=Duration(10, 86_400),
        help="Time over which the target is held, such as 90s, 10m or 1h.",
    ),
    "cap": click.option(
        "--cap", multiple=True, metavar="KIND=SHARE",
        help=f"The most that a kind of candidate may take of what the target allows; KIND is {', '.join(CAPS)}. May be "
        "given for each. Default: no cap.",
    ),
    "kept_answers": click.option(
        "--kept-answers", default=0, show_default=True, type=click.IntRange(0, 100_000_000), metavar="N",
        help="Keep so many of the LLM's answers, and give them again for the same item and the same user with the same "
        "history and features.",
    ),
    "kept_age": click.option(
        "--kept-age", default="1h", show_default=True, type=Duration(1, 30 * 86_400),
        help="The greatest age of a kept answer.",
    ),
}  # fmt: skip


def control_settings(held: Mapping[str, Any], threshold: str | None) -> ControlSettings | None:
    """What holds the routing of a server in operation; None where nothing is asked for.

    Raises:
        UsageError: options that contradict each other, or a cap that cannot be read.
    """
    from corella_edge.routing.budget import BudgetTarget, Caps
    from corella_edge_runtime.control import ControlSettings

    share, ms = held["target_ratio"], held["target_ms"]
    caps = dict(map(_cap, held["cap"]))
    if share is not None and ms is not None:
        raise click.UsageError("give one of --target-ratio and --target-ms")
    if share is not None and threshold is not None:
        raise click.UsageError("--target-ratio moves the threshold: leave --threshold out")
    if caps and share is None and ms is None:
        raise click.UsageError("--cap needs --target-ratio or --target-ms")
    if share is None and ms is None:
        return ControlSettings(None, held["kept_answers"], held["kept_age"]) if held["kept_answers"] else None
    target = BudgetTarget(share, ms or 0.0, held["window"], Caps(**caps))
    return ControlSettings(target, held["kept_answers"], held["kept_age"])


def _cap(text: str) -> tuple[str, float]:
    kind, _, number = text.partition("=")
    try:
        share = float(number)
    except ValueError:
        share = math.nan
    if kind not in CAPS or not 0.0 <= share <= 1.0:
        raise click.UsageError(f"--cap {text[:60]}: give KIND=SHARE, KIND one of {', '.join(CAPS)}, SHARE from 0 to 1")
    return CAPS[kind], share


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
