"""What the scenarios share: the server under test, its traffic, and whether the machine was ours meanwhile."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corella_edge_runtime.bench.load.mix import Mix
from corella_edge_runtime.bench.load.outcome import MOST_OF_A_CORE, Outcome, put
from corella_edge_runtime.bench.load.plan import address_of
from harness.load.server import Server
from harness.load.traffic import TrafficSource
from harness.quiet import Watch, is_void

Row = dict[str, Any]


class ServerUnderLoad:
    """A server that is ready, and who puts load on it."""

    def __init__(self, server: Server, source: TrafficSource, core: int | None) -> None:
        self.server, self.source = server, source
        self.port = address_of(server.address)[1]
        self._core, self._shares = core, [0.0]
        self._watch = Watch(server.processes)

    def put(self, load: Mix, judged: bool = True, **more: Any) -> Outcome:
        """Send a load and wait for its end; `more` are fields of `Plan`.

        Args:
            judged: whether the generator's share of a core counts: not where a rate is only tried out.
        """
        done = put(load.plan(self.port, core=self._core, **more), load.requests)
        if judged:
            self._shares.append(done.share)
        return done

    def quiet_from_now(self) -> None:
        """What came before, such as loading and trying out, does not count."""
        self._watch, self._shares = Watch(self.server.processes), [0.0]

    def verdict(self, timed: bool = True) -> Row:
        """Load from elsewhere, the generator's own, and whether either makes the run void.

        Args:
            timed: whether what is judged is time: memory does not depend on who else is at work.
        """
        load, heaviest = self._watch.read(), max(self._shares)
        void = (timed and is_void(load)) or heaviest > MOST_OF_A_CORE
        return {"load": load, "generator_share": round(heaviest, 4), "void": void}


def arguments(parser: argparse.ArgumentParser) -> None:
    """What every scenario is told."""
    parser.add_argument("--bundle", type=Path, required=True, help="the demo bundle, unless something else is wanted")
    parser.add_argument("--log", type=Path, default=Path("runs/serving.log"), help="what the server says")
    parser.add_argument("--serve", action="append", default=[], metavar="OPTION", help="a further option of `serve`")
    parser.add_argument("--core", type=int, help="what the load generator is bound to")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="result file; its other parts stay")


@contextmanager
def setting(
    options: argparse.Namespace, serve: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[ServerUnderLoad]:
    """The server, ready, until the end of the block."""
    options.log.parent.mkdir(parents=True, exist_ok=True)
    source = TrafficSource.open(options.bundle)
    with Server(options.bundle, options.log, [*serve, *options.serve], environment) as server:
        server.wait_ready()
        yield ServerUnderLoad(server, source, options.core)
