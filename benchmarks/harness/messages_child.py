"""One checkout's part in `messages.py`: a line with what to time comes in, a line with microseconds goes out.

It runs with the packages of this checkout or of an older one, which has other functions for the same steps.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import corella_edge.scores as answers
from corella_edge.features.schema import PAD
from corella_edge_runtime.engine import Engine
from harness.checkout import module

clock = time.perf_counter if len(sys.argv) < 4 else time.thread_time
Times = dict[str, list[float]]


def steps() -> tuple[Callable[[bytes], Any], Callable[..., bytes]]:
    """From a body to a request, and from scores to an answer's bytes."""
    requests = module("corella_edge.request_message", "corella_edge.request")
    if hasattr(requests, "read_request"):
        return requests.read_request, answers.answer_json
    import orjson

    decode = module("corella_edge.formats.strict_json", "corella_edge.strict_json").decode
    return (lambda body: requests.parse_request(decode(body))), (lambda *of: orjson.dumps(answers.answer(*of)))


def messages(engine: Engine, bodies: list[bytes]) -> dict[str, float]:
    """Median microseconds of each step."""
    parse, write = steps()
    spent: Times = {"parse": [], "encode": [], "serialise": []}
    for body in bodies:
        began = clock()
        request = parse(body)
        parsed = clock()
        engine.encoder.encode(request.user, request.candidates)
        encoded = clock()
        scores = engine.rank(request)
        ranked = clock()
        write(request, scores, engine.name)
        written = clock()
        for name, took in zip(spent, (parsed - began, encoded - parsed, written - ranked), strict=True):
            spent[name].append(took)
    return middle(spent)


def rank(engine: Engine, bodies: list[bytes]) -> dict[str, float]:
    """Median microseconds of `Engine.rank` and of a bare run on the same arrays, by turns. Nothing is kept of users."""
    parse = steps()[0]
    spent: Times = {"rank": [], "bare": []}
    for number, body in enumerate(bodies):
        feed = engine.encoder.encode(*of(parse(body)))[0]
        request = parse(body)
        works: list[tuple[str, Callable[[], object]]]
        works = [("rank", partial(engine.rank, request)), ("bare", bare_run(engine.crm, feed))]
        for name, work in works[:: 1 if number % 2 else -1]:
            forget(engine.crm)
            began = clock()
            work()
            spent[name].append(clock() - began)
    return middle(spent)


def bare_run(crm: Any, feed: dict[str, Any]) -> Callable[[], object]:
    """The sessions alone: the CRM's and, where the events are read by a graph of their own, that one before it.

    A user without events has nothing to be read.
    """
    reader = getattr(crm, "reader", None)  # an older checkout knows one graph
    if reader is None:
        return partial(crm._session.run, crm._outputs, feed)
    padding = int((feed[reader._first] == PAD).sum())
    events = {name: feed[name][:, padding:] for name in reader.names}
    rest = {name: values for name, values in feed.items() if name not in reader.names}

    def run() -> object:
        states = reader._read(events, reader.nothing) if events[reader._first].size else reader.nothing
        return crm._session.run(crm._outputs, {**rest, "states": states})

    return run


def forget(crm: Any) -> None:
    """Drop what is kept of users' events, where anything is: every request is a new user's."""
    if hasattr(crm, "forget"):
        crm.forget()


def middle(spent: Times) -> dict[str, float]:
    """Microseconds; the median, since a turn is short and a stray task of the system is long."""
    return {name: 1e6 * median(times) for name, times in spent.items()}


def of(request: Any) -> tuple[Any, Any]:
    return request.user, request.candidates


def main() -> None:
    bundle, folder = map(Path, sys.argv[1:3])
    with Engine.open(bundle, llm=None) as engine:
        engine.warm_up()
        for turn, line in enumerate(sys.stdin):
            asked = json.loads(line)
            every = json.loads((folder / f"bodies-{asked['candidates']}.json").read_text())
            bodies = [every[(turn * 7 + i) % len(every)].encode() for i in range(asked["bodies"])]
            work = {"messages": messages, "rank": rank}[asked["what"]]
            print(json.dumps(work(engine, bodies)), flush=True)


if __name__ == "__main__":
    main()
