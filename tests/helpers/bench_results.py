"""Results of benchmarks that nobody measured: plausible, whole, and the same for the same arguments."""

from __future__ import annotations

import numpy as np

from corella_edge.routing.load import touched
from corella_edge_runtime.bench.results import circumstances as c
from corella_edge_runtime.bench.results import points as p
from corella_edge_runtime.bench.results.figures import figure, latency, part, ratio_of
from corella_edge_runtime.bench.results.histogram import counted
from corella_edge_runtime.bench.results.result import FORMAT, QualityLines, QualityPoint, Result

RATIOS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
STAGES = {"parse": 0.05, "encode": 0.2, "crm": 0.6, "policy": 0.05, "queue": 0.1, "fuse": 0.02, "serialise": 0.05}
CORRELATION = 0.2


def result(seed: int = 0, slower: float = 1.0, requests: int = 400, labels: bool = True, **changed) -> Result:
    """A bundle on a quiet machine: all ratios, all scenarios. `slower` is a factor on all times."""
    rng = np.random.default_rng(seed)
    points = [point(rng, scenario, ratio, routing, users, slower, requests)
              for scenario in ("single", "server", "offline") for routing in ("policy", "random")
              for users in ("new", "returning") for ratio in RATIOS
              if scenario == "single" or (routing, users) == ("policy", "new")]  # fmt: skip
    fields = {
        "format": FORMAT, "created": "2026-11-30T23:00:00+00:00", "measured": "Engine.rank in process",
        "bundle": c.BundleFacts(label="tiny@1", manifest_sha256="ab" * 32, llm=True, llm_file="llm.gguf",
                                llm_type="Q8_0", llm_parameters=1_200_000, policy="ratio:0.05", fusion="stack"),
        "data": c.Data(source="the bundle's sample", sha256="cd" * 32, requests=requests, users=requests,
                       candidates=20.0, labelled_rows=2000 if labels else 0),
        "machine": c.MachineFacts(cpu="AMD EPYC, AVX-512 BF16", cores=2, memory_bytes=8 << 30, architecture="x86_64",
                             os="Debian GNU/Linux 12", kernel="6.1"),
        "software": c.Software(versions={"python": "3.11.2", "numpy": "2.4.6", "corella_edge": "0.1.0"},
                               llama_cpp_compiler="GNU 12.2", llama_cpp_instructions="AVX512_BF16",
                               provider="CPUExecutionProvider"),
        "threads": c.Threads(crm=1, llm=1, source="the machine"),
        "settings": c.Settings(thresholds=tuple(f"ratio:{r:g}" for r in RATIOS),
                               scenarios=("single", "server", "offline"), users=("new", "returning"), candidates=20,
                               slo="p99=30ms", budget_s=300.0, repeats=3),
        "verified": c.Verified(passed=True, rows=64),
        "quiet": c.Quiet(before=c.Noise(foreign=0.01), during=c.Noise(foreign=0.012, steal=0.001), noisy=False),
        "ceilings": c.Ceilings(crm_ms=0.5 * slower, crm_candidates=20, llm_tokens_per_s=9000.0 / slower,
                               llm_prompt_tokens=120.0, multiply_gflops=90.0, llm_gflops=21.6),
        "points": tuple(points), "planned": len(points),
        "quality": quality() if labels else QualityLines(why="no row of these requests has a label"),
    }  # fmt: skip
    return Result(**{**fields, **changed})


def point(rng, scenario, ratio, routing, users, slower, requests) -> p.Point:
    """One point: the base model's milliseconds, and the LLM's where a candidate is routed: two humps."""
    r = CORRELATION if routing == "policy" else 0.0
    chance = rng.beta(ratio * (1 - r) / r, (1 - ratio) * (1 - r) / r, requests) if r and 0 < ratio < 1 else ratio
    asked = rng.binomial(20, chance, requests)
    hit = asked > 0
    prefix = 0.008 if users == "new" else 0.002
    seconds = slower * (0.0011 * rng.lognormal(0, 0.1, requests)
                        + np.where(hit, prefix + 0.0005 * asked, 0) * rng.lognormal(0, 0.15, requests))  # fmt: skip
    histogram, wall = counted(seconds), float(seconds.sum())
    busy = 1000 * float((seconds - 0.0011 * slower).clip(0).mean())
    stages = {**{name: ms * slower for name, ms in STAGES.items()}, "prefill": busy}
    share, p99 = ratio_of(asked.astype(float), np.full(requests, 20.0)), 1000 * histogram.quantile(0.99)
    p50, told = 1000 * histogram.quantile(0.5), latency([seconds], histogram)
    rate = figure(1000 / told.mean.value, 1000 / told.mean.high, 1000 / told.mean.low)
    return p.Point(
        scenario=scenario, threshold=f"ratio:{ratio:g}", ratio=ratio, routing=routing, users=users, share=share,
        touched=part(int(hit.sum()), requests), latency=told, histogram=histogram,
        unrouted=counted(seconds[~hit]), requests_per_s=rate,
        candidates_per_s=figure(rate.value, rate.low, rate.high, 20.0),
        goodput=figure(histogram.within(0.03) / wall),
        outcomes=p.Outcomes(requests=requests, late=requests - histogram.within(0.03),
                            easy=20 * requests - int(asked.sum()), llm=int(asked.sum())),
        law=p.Law(correlation=r, touched=touched(ratio, 20, r), independent=touched(ratio, 20), p99=1.05 * p99),
        noise=c.Noise(foreign=0.01), energy=p.Energy(why="this machine has no RAPL counters"), candidates=20.0,
        seconds=wall, rate=20.0 if scenario == "server" else None,
        rates=p.Rates(largest=80.0 / (1 + 5 * ratio), first_failed=84.0 / (1 + 5 * ratio),
                      tries=(p.Try(rate=40.0, p99=9.0, held=True), p.Try(rate=160.0, p99=90.0, held=False)))
        if scenario == "server" else None,
        stages=tuple(p.Stage(name=name, ms=ms, p50=ms, p99=2 * ms, requests=requests) for name, ms in stages.items()),
        tokens_evaluated=40.0 * float(hit.mean()) + 6.0 * float(asked.mean()),
        tokens_reused=80.0 * float(asked.mean()), llm_ms_per_thousand=1000 * busy, memory_bytes=300 << 20,
        over_time=tuple(p.Moment(at_s=wall * (i + 1) / 10, requests=requests // 10, share=share.value, p50=p50,
                                 p99=p99) for i in range(10)),
        repeats=tuple(p.Repeat(requests=requests // 3, seconds=wall / 3, share=share.value, p50=p50,
                               p99=p99 * k, requests_per_s=requests / wall, noise=c.Noise())
                      for k in (0.98, 1.0, 1.02)),
        workers=2 if scenario == "offline" else 1,
    )  # fmt: skip


def quality() -> QualityLines:
    """The policy gains more than chance, the oracle more than both."""

    def metrics(gain):
        return {"auc": figure(0.79 + gain, 0.78 + gain, 0.80 + gain), "ece": figure(0.02, 0.015, 0.025),
                "logloss": figure(0.55 - gain, 0.54 - gain, 0.56 - gain),
                "uauc": figure(0.70 + gain, 0.69 + gain, 0.71 + gain)}  # fmt: skip

    def one(line, ratio, gain):
        threshold = None if line in ("crm", "llm") else f"ratio:{ratio:g}"
        return QualityPoint(line=line, threshold=threshold, ratio=ratio, share=ratio, metrics=metrics(gain),
                            gains={"auc": figure(gain, 0.8 * gain, 1.2 * gain)})  # fmt: skip

    lines = {"policy": 0.5, "random": 1.0, "oracle": 0.25}
    rules = {"rare items": 0.9, "learned win": 0.6, "learned gain": 0.45}
    points = [one(line, ratio, 0.02 * ratio**power) for line, power in lines.items() for ratio in RATIOS]
    points += [one(line, ratio, 0.02 * ratio**power) for line, power in rules.items() for ratio in RATIOS[1:-1]]
    return QualityLines(rows=2000, users=600, points=(*points, one("crm", 0.0, 0.0), one("llm", 1.0, 0.02)), knee=0.2)
