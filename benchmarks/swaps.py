"""Swaps and rollbacks under open load: requests lost, and answers that differ from the offline score of their version.

    python benchmarks/swaps.py BUNDLE [--swaps 50] [--rollbacks 5] [--out benchmarks/results/swaps.json]

The versions are made from BUNDLE: each has another constant in its CRM and another instruction in its prompts, so that
every score tells which one gave it. Requests arrive in random moments whatever came of those before, each on a
connection of its own. Afterwards every answer is held against `Engine.rank` of the version that it names.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from corella_edge.bundle import artefact as bundles
from corella_edge.bundle.artefact import Bundle
from corella_edge.errors import CorellaError
from corella_edge.request_message import parse_request
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.site import layout as sites
from corella_edge_runtime.site.deployment import promoted, rolled_back
from harness.results import write

TARGET = 0  # lost, and differing
# llama.cpp's scores move with the batch a prompt is decoded in (docs/llm.md); the CRM's never do.
LLM_TOLERANCE = 5e-3
THRESHOLDS = ("ratio:0", "ratio:0.05", "ratio:0.3")
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SentRequest:
    """One request that was sent: which, when it was meant to be and how long its answer took (seconds), the answer."""

    number: int
    at: float
    seconds: float
    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class DeploymentStep:
    """One deployment: when it was written and when the server had taken it up, seconds of `time.monotonic()`."""

    kind: str
    began: float
    ended: float
    memory: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--versions", type=int, default=4)
    parser.add_argument("--swaps", type=int, default=50)
    parser.add_argument("--rollbacks", type=int, default=5)
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second")
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two deployments")
    parser.add_argument("--note", default="", help="what a reader must know of the run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        figures = measured(options, Path(work))
    print(json.dumps(figures, indent=1))
    if options.out:
        write(options.out, {"what": "swaps", "note": options.note, **figures})
    sys.exit(figures["lost"] + figures["differing"] > TARGET)


def measured(options: argparse.Namespace, work: Path) -> Json:
    """The whole run."""
    versions = [variant(options.bundle, work / f"v{i}", i) for i in range(options.versions)]
    requests = drawn(versions[0], options.candidates)
    site = work / "site"
    sites.create(site, versions[0])
    for version in versions[1:]:
        sites.add(site, version)
    with SiteServer(site) as server:
        steps, asked, cpu = under_load(server, site, requests, options)
    offline = {(label, i): scores for path in versions for label, i, scores in scored(path, requests)}
    wrong, judged = judgement(asked, offline)
    settings = {
        name: getattr(options, name) for name in ("versions", "swaps", "rollbacks", "rate", "candidates", "pause")
    }
    return {
        "bundle": Bundle.open(options.bundle).label, "settings": settings, "requests": len(asked),
        "lost": sum(one.status != 200 for one in asked), "differing": len(wrong), "first_wrong": wrong[:3], **judged,
        **times(steps, asked), "generator_cpu_share": round(cpu, 4),
    }  # fmt: skip


def variant(source: Path, out: Path, number: int) -> Path:
    """A copy of a bundle whose CRM and LLM say something else of every candidate."""
    shutil.copytree(source, out)
    model = onnx.load(str(out / "crm.onnx"))
    for node in model.graph.node:
        node.output[:] = ["logits before" if name == "logits" else name for name in node.output]
    shift = numpy_helper.from_array(np.asarray(0.2 * number, np.float32), "shift")
    model.graph.initializer.append(shift)
    model.graph.node.append(helper.make_node("Add", ["logits before", "shift"], ["logits"]))
    onnx.save(model, str(out / "crm.onnx"))
    prompt = json.loads((out / "prompt.json").read_text("utf-8"))
    prompt["template"]["instruction"] += f"{number}\n"
    (out / "prompt.json").write_text(json.dumps(prompt), "utf-8")
    manifest = Bundle(source, bundles.read_manifest(source)).manifest
    bundles.seal(out, manifest.name, f"{manifest.version}.{number}", manifest.about)
    return out


def drawn(root: Path, candidates: int) -> list[Json]:
    """Requests of the bundle's sample, each with candidates drawn from its catalogue and one of the thresholds."""
    rng = random.Random(0)
    items = Bundle.open(root).schema()[1].ids
    lines = (root / "sample.jsonl").read_text("utf-8").splitlines()
    made = [json.loads(line)["request"] for line in rng.sample(lines, min(100, len(lines)))]
    for number, request in enumerate(made):
        chosen = rng.sample(items, min(candidates, len(items)))
        request |= {"id": str(number), "threshold": rng.choice(THRESHOLDS), "candidates": [{"item": i} for i in chosen]}
    return made


class SiteServer:
    """`corella-edge serve SITE` as a process of its own; ready when entered, stopped by SIGTERM."""

    def __init__(self, site: Path) -> None:
        command = [sys.executable, "-m", "corella_edge", "serve", str(site), "--port", "0", "--timeout-ms", "60000"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.host, _, port = self.process.stdout.readline().split("http://")[-1].strip().rpartition(":")
        self.port, self.site = int(port), site

    def __enter__(self) -> SiteServer:
        self.dealt_with(1)
        return self

    def dealt_with(self, serial: int, seconds: float = 120.0) -> None:
        """Wait until the deployment is served. Raises RuntimeError if it is not."""
        end, wanted = time.monotonic() + seconds, sites.read(self.site)
        assert wanted.serial == serial
        while (found := sites.outcome(sites.read_serving(self.site), wanted)) == "waiting":
            if self.process.poll() is not None or time.monotonic() > end:
                break
            time.sleep(0.02)
        if found != "serving":
            raise RuntimeError(f"the deployment {serial} is {found}")

    def memory(self) -> int:
        """Resident bytes of the server's process, without its children."""
        status = Path(f"/proc/{self.process.pid}/status").read_text("utf-8")
        return 1024 * int(status.partition("VmRSS:")[2].split()[0])

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(60) != 0:
            raise RuntimeError(f"the server ended with {self.process.returncode}")


def under_load(
    server: SiteServer, site: Path, requests: Sequence[Json], options: argparse.Namespace
) -> tuple[list[DeploymentStep], list[SentRequest], float]:
    """All deployments, while requests arrive; and the generator's share of a core."""
    steps: list[DeploymentStep] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def deploy() -> None:
        try:
            steps.extend(deployed(server, site, options))
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)
        finally:
            done.set()

    deploying = threading.Thread(target=deploy)
    began, used = time.monotonic(), sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    deploying.start()
    asked = asyncio.run(arriving(server, requests, options.rate, done))
    deploying.join()
    if failures:
        raise failures[0]
    return steps, asked, (sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) - used) / (time.monotonic() - began)


def deployed(server: SiteServer, site: Path, options: argparse.Namespace) -> Iterator[DeploymentStep]:
    """The deployments in a seeded order, the first a swap."""
    rng, known = random.Random(1), sites.versions(site)
    order = ["swap"] * (options.swaps - 1) + ["rollback"] * options.rollbacks
    rng.shuffle(order)
    for kind in ["swap", *order]:
        time.sleep(options.pause)
        version = rng.choice([v for v in known if v != sites.read(site).live])
        began = time.monotonic()
        _, now = sites.change(site, partial(promoted, version=version) if kind == "swap" else rolled_back)
        server.dealt_with(now.serial)
        yield DeploymentStep(kind, began, time.monotonic(), server.memory())
    time.sleep(options.pause)


async def arriving(
    server: SiteServer, requests: Sequence[Json], rate: float, done: threading.Event
) -> list[SentRequest]:
    """Requests in random moments until `done`; then wait for the last answers."""
    rng, tasks, at = random.Random(2), [], time.monotonic()
    bodies = [json.dumps(request).encode() for request in requests]
    while not done.is_set():
        at += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, at - time.monotonic()))
        number = rng.randrange(len(bodies))
        tasks.append(asyncio.create_task(asked_at(server, number, bodies[number], at)))
    return await asyncio.gather(*tasks)


async def asked_at(server: SiteServer, number: int, body: bytes, at: float) -> SentRequest:
    """Send a request; a connection that fails has the status 0."""
    head = f"POST /v1/rank HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    try:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        writer.write(head.encode() + body)
        answer = await reader.read()
        writer.close()
        status = int(answer.split(None, 2)[1])
    except (OSError, IndexError, ValueError) as error:
        answer, status = repr(error).encode(), 0
    return SentRequest(
        number, at, time.monotonic() - at, status, answer.partition(b"\r\n\r\n")[2] if status else answer
    )


def scored(root: Path, requests: Sequence[Json]) -> Iterator[tuple[str, int, Any]]:
    """(label, number, scores) of every request by a version, in this process."""
    with Engine.open(root, require_llm=True) as engine:
        for number, request in enumerate(requests):
            yield engine.name, number, engine.rank(parse_request(request))


def judgement(asked: Sequence[SentRequest], offline: dict[tuple[str, int], Any]) -> tuple[list[str], Json]:
    """What differs, a line an answer; and how often each version answered, with the LLM's greatest difference."""
    wrong, greatest, named = [], 0.0, Counter[str]()
    for one in asked:
        if one.status != 200:
            continue
        answer = json.loads(one.body)
        named[answer["bundle"]] += 1
        scores = offline[answer["bundle"], one.number]
        difference, same = compared(answer["candidates"], scores)
        greatest = max(greatest, difference)
        if not same or difference > LLM_TOLERANCE:
            wrong.append(f"request {one.number} by {answer['bundle']}: {difference:.1e} apart, rest alike: {same}")
    return wrong, {"answers": dict(sorted(named.items())), "llm_greatest_difference": greatest}


def compared(rows: Sequence[Json], scores: Any) -> tuple[float, bool]:
    """The LLM's greatest difference, and whether all else (bit for bit the CRM's) is as offline."""
    greatest, same = 0.0, len(rows) == len(scores.items)
    for i, row in enumerate(rows):
        llm, expected = row["llm"], float(scores.llm[i])
        same &= (row["item"], row["crm"], row["reason"]) == (scores.items[i], float(scores.crm[i]), scores.reason[i])
        same &= (llm is None) == math.isnan(expected)
        greatest = max(greatest, 0.0 if llm is None else abs(llm - expected))
    return greatest, same


def times(steps: Sequence[DeploymentStep], asked: Sequence[SentRequest]) -> Json:
    """How long deployments took, how long answers took beside them and apart from them, and the server's memory."""
    took = [step.ended - step.began for step in steps]
    beside = [a.seconds for a in asked if any(s.began <= a.at + a.seconds and a.at <= s.ended for s in steps)]
    apart = [a.seconds for a in asked if not any(s.began <= a.at + a.seconds and a.at <= s.ended for s in steps)]
    done = Counter(step.kind for step in steps)
    return {
        "done": dict(done), "deployment_seconds": quantiles(took),
        "answer_ms": {"while_a_version_loads": quantiles(beside, 1000), "otherwise": quantiles(apart, 1000)},
        "server_mib": [round(step.memory / 2**20, 1) for step in (steps[0], steps[len(steps) // 2], steps[-1])],
    }  # fmt: skip


def quantiles(seconds: Sequence[float], scale: float = 1.0) -> Json:
    if not seconds:
        return {"count": 0}
    p50, p99, most = (round(float(v) * scale, 3) for v in np.quantile(seconds, [0.5, 0.99, 1.0]))
    return {"count": len(seconds), "p50": p50, "p99": p99, "max": most}


if __name__ == "__main__":
    try:
        main()
    except CorellaError as error:
        sys.exit(str(error))
