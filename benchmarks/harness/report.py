"""Figures as tables, and the targets they are held against."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.pairs import ENOUGH
from harness.results import write

Row = dict[str, Any]
# (shape, peer or "cold" = the fastest of those that share nothing) → ours over theirs is at most
TARGETS = {
    ("a1", "cold"): 0.30, ("a2", "cold"): 0.15, ("a1", "completion-reuse"): 0.5, ("a2", "completion-reuse"): 0.5,
    ("a1", "server"): 0.8, ("a2", "server"): 0.8, ("a1", "torch-bf16-shared"): 1.0, ("a2", "torch-bf16-shared"): 1.0,
}  # fmt: skip
JUDGED = "135m"  # the shape whose targets are written down


def judged(name: str, figure: Row, sign: str, limit: float, void: bool) -> Row:
    """Met when the interval's far end meets it, and there are enough pairs."""
    end = figure["high"] if sign == "<=" else figure["low"]
    met = figure["pairs"] >= ENOUGH and bool(end <= limit if sign == "<=" else end >= limit)
    return {"target": name, "value": figure["median"], **{key: figure[key] for key in ("low", "high", "pairs")},
            "sign": sign, "limit": limit, "met": met, "void": void}  # fmt: skip


def bounded(name: str, value: float, limit: float, void: bool = False) -> Row:
    """One without an interval: met when it is at most the limit."""
    return {"target": name, "value": value, "sign": "<=", "limit": limit, "met": value <= limit, "void": void}


def targets(result: Row) -> list[Row]:
    """Every target that this run has figures for, and whether it is met."""
    return [*_blocks(result), *_memory(result), *_parity(result)]


def _blocks(result: Row) -> Iterator[Row]:
    for block in result["blocks"]:
        if block["model"] == JUDGED:
            yield from {"b": _bulk, "c": _returning}.get(block["shape"], _sharing)(block)


def _sharing(block: Row) -> Iterator[Row]:
    for row in block["rows"]:
        if row["stage"] != "best":
            continue
        for peer in (row["peer"], "cold" if row["peer"] == block["cold"] else None):
            limit = TARGETS.get((block["shape"], str(peer)))
            if limit is not None:
                name = f"({block['shape']}) against {peer}" + (f": {row['peer']}" if peer == "cold" else "")
                yield judged(name, row["ratio"], "<=", limit, row["void"])


def _bulk(block: Row) -> Iterator[Row]:
    rows = block["rows"]
    for row in rows:
        if row["ours_type"] == "BF16":
            yield judged("(b) share of torch's bfloat16 rate, BF16", row["share_of_bf16"], ">=", 0.5, row["void"])
    fastest = max(rows, key=lambda row: float(row["ours_tokens_per_s"]))
    name = f"(b) tokens/s against llama-bench, {fastest['ours_type']}"
    yield judged(name, fastest["speed"], ">=", 0.95, fastest["void"])


def _returning(block: Row) -> Iterator[Row]:
    first, alone = (
        "(c) returning user to the first request, 3 candidates",
        "(c) 20 candidates to the suffix decodes alone",
    )
    for row in block["rows"]:
        if row["stage"] == "best" and row["shape"] == "c3":
            yield judged(first, row["to_first"], "<=", 0.25, row["void"])
        if row["stage"] == "best" and row["shape"] == "c20":
            yield judged(alone, row["to_suffixes_alone"], "<=", 1.15, row["void"])


def _memory(result: Row) -> Iterator[Row]:
    if "memory" in result:
        yield bounded("MiB beyond model files and KV", result["memory"]["beyond_model_and_kv"], 120.0)
    if "start" in result:
        start = result["start"]
        yield bounded("seconds to the first score", start["first_score_s"], 0.7, start["void"])


def _parity(result: Row) -> Iterator[Row]:
    for found in result.get("parity", []):
        name = f"P(Yes) against transformers float32, f16 GGUF, {found['model']}"
        yield bounded(f"{name}, one a decode", found["one_a_decode"], 2e-3)
        yield bounded(f"{name}, batched", found["batched"], 5e-3)


def ceilings_table(found: Sequence[Row]) -> str:
    """What bounds each model here."""
    lines = []
    for one in found:
        rates = ", ".join(f"{name} {rate} GFLOP/s = {one['tokens_per_s_by_multiply'][name]} tokens/s"
                          for name, rate in one["gflops"].items())  # fmt: skip
        lines.append(f"ceilings {one['model']} ({one['blocks'] / 1e6:.1f} M parameters in blocks): multiply {rates}")
        lines += [f"  llama-bench -p 240 -n 0, {kind}: {speed['tokens_per_s']} tokens/s at -ub {speed['ubatch']}"
                  for kind, speed in one["llama_bench"].items()]  # fmt: skip
    return "\n".join(lines)


def block_table(block: Row) -> str:
    """The rows of a block."""
    return "\n".join(_SHOW.get(block["shape"], _sharing_row)(row) for row in block["rows"])


def _sharing_row(row: Row) -> str:
    gap = "-" if row["difference"] is None else f"{row['difference']:.1e}"
    return (f"{row['model']:8}{row['shape']:4}{row['stage']:5} ours {row['ours_type']:5}{row['ours_ms']:10.1f} ms  "
            f"{row['peer']:18}{row['peer_type']:5}{row['peer_ms']:10.1f} ms  ours/peer {_interval(row['ratio'])}"
            f"  dP {gap}/{row['compared']}{_void(row)}")  # fmt: skip


def _bulk_row(row: Row) -> str:
    return (f"{row['model']:8}b    ours {row['ours_type']:5}{row['ours_tokens_per_s']:9.1f} tok/s  llama-bench -ub "
            f"{row['ubatch']}{row['peer_tokens_per_s']:9.1f} tok/s  ours/peer {_interval(row['speed'])}  share of "
            f"bf16 rate {_interval(row['share_of_bf16'])}{_void(row)}")  # fmt: skip


def _returning_row(row: Row) -> str:
    return (f"{row['model']:8}{row['shape']:4}{row['stage']:5} ours {row['ours_type']:5} first {row['first_ms']:8.1f} "
            f"ms  returning {row['returning_ms']:8.1f} ms  suffixes alone {row['suffixes_alone_ms']:8.1f} ms  to first "
            f"{_interval(row['to_first'])}  to suffixes {_interval(row['to_suffixes_alone'])}{_void(row)}")  # fmt: skip


_SHOW = {"b": _bulk_row, "c": _returning_row}


def targets_table(found: Sequence[Row]) -> str:
    """One line a target."""
    lines = []
    for one in found:
        interval = _interval({**one, "median": one["value"]}) if "low" in one else f"{one['value']:g}"
        state = "void" if one["void"] else "met" if one["met"] else "NOT MET"
        lines.append(f"{one['target']:70} {interval}  {one['sign']} {one['limit']:g}  {state}")
    return "\n".join(lines)


def finish(figures: Row, out: Path | None) -> None:
    """Print targets and figures, and keep them in `out`; a run beside other load ends here, and is not kept."""
    load = figures["load"]
    print(targets_table(figures["targets"]))
    print(json.dumps(figures))
    if figures["void"]:
        sys.exit(f"void: other load took {load['foreign']:.0%}, steal {load['steal']:.0%} of the cores; 5 % is allowed")
    if out:
        write(out, figures)


def _interval(ratio: Row) -> str:
    return f"{ratio['median']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] n={ratio['pairs']}"


def _void(row: Row) -> str:
    return f"  VOID {row['load']}" if row["void"] else ""
