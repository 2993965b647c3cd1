"""A server process around the fake: `python serve_fake.py '{"load_seconds": 1, …}'`; run by test_process.py."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import click

from conftest import FakeDraft, FakeRanker
from corella_edge.errors import BundleError
from corella_edge.request import Request
from corella_edge.scores import Scores
from corella_edge_runtime.server import run as serving
from corella_edge_runtime.server.bodies import parse_body
from corella_edge_runtime.server.following import BundleSource
from corella_edge_runtime.server.guard.connections import ConnectionLimits
from corella_edge_runtime.server.guard.limits import Limits
from corella_edge_runtime.server.routes import rank
from corella_edge_runtime.server.run import ServeSettings, listen, run

OPTIONS = json.loads(sys.argv[1])


def until_there(option: str) -> None:
    """Wait for the file that an option names."""
    while option in OPTIONS and not Path(OPTIONS[option]).exists():
        time.sleep(0.01)


class Slow(FakeRanker):
    def told(self) -> list[str]:
        return ["threshold ratio:0.05"]

    def _ask(self) -> None:
        until_there("answer_until")
        super()._ask()

    def warm_up(self) -> None:
        time.sleep(OPTIONS.get("load_seconds", 0.0))
        until_there("load_until")
        if "load_error" in OPTIONS:
            raise BundleError(OPTIONS["load_error"])

    def finish(self, draft: FakeDraft) -> Scores:
        time.sleep(OPTIONS.get("finish_seconds", 0.0))
        return super().finish(draft)

    def close(self) -> None:
        click.echo("closed")


def slow_parse(body: bytes) -> Request:
    time.sleep(OPTIONS["parse_seconds"])
    return parse_body(body)


serving._CONNECTION_SECONDS = OPTIONS.get("connection_seconds", serving._CONNECTION_SECONDS)
if "parse_seconds" in OPTIONS:
    rank.parse_body = slow_parse
try:
    run(
        BundleSource(Path(), lambda _: Slow(delay=OPTIONS.get("delay", 0.0))),
        listen(OPTIONS.get("host", "127.0.0.1"), 0),
        ServeSettings(
            Limits(timeout_ms=OPTIONS.get("timeout_ms", 1000.0)), grace_seconds=OPTIONS.get("grace", 20.0),
            connections=ConnectionLimits(half_closed_seconds=OPTIONS.get("half_closed_seconds", 2.0)),
        ),
        on_listening=click.echo,
    )  # fmt: skip
except BundleError as error:
    sys.exit(f"failed: {error}")
