"""A finished benchmark as text, Markdown, JSON and SVG; `write` puts the files into a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corella_edge.atomic import write_file
from corella_edge.errors import InputError
from corella_edge_runtime.bench import plot

Result = dict[str, Any]
DISTURBED = 0.05
FILES = tuple(f"benchmark.{ending}" for ending in ("json", "md", "svg"))
# With what a killed run may leave of them.
_OWN = {*FILES, *(f".{name}.partial" for name in FILES)}
HEADER = ("ratio", "share", "p50 ms", "p90 ms", "p99 ms", "p50 ms/cand.", "cand./s", "req./s", "LLM tok./req.",
          "AUC [95 %]", "AUC - CRM's [95 %]", "share (AUC)")  # fmt: skip


def floor_lines(result: Result) -> list[str]:
    """What the models alone cost."""
    floor = result["ceiling"]
    lines = [f"CRM alone, bare session run of {floor['crm_candidates']} candidates: {floor['crm_ms']:.3f} ms"]
    if floor["llm_tokens_per_s"]:
        lines.append(f"LLM alone, reading whole prompts of {floor['llm_prompt_tokens']:.0f} new tokens: "
                     f"{floor['llm_tokens_per_s']:,.0f} tokens/s")  # fmt: skip
    return lines


def cells(row: Result) -> list[str]:
    """One ratio as the cells of `HEADER`."""
    ms, quality = row["request_ms"], row.get("quality")
    shown = ["-"] * 3
    if quality:
        shown = [_interval(quality["auc"]), _interval(quality["gain"], sign="+"), f"{quality['share']:.3f}"]
    return [f"{row['ratio']:g}", f"{row['share']:.3f}", *(f"{ms[p]:.2f}" for p in ("p50", "p90", "p99")),
            f"{row['candidate_ms']['p50']:.3f}", f"{row['candidates_per_s']:,.0f}", f"{row['requests_per_s']:,.1f}",
            f"{row['llm_tokens_per_request']:,.0f}", *shown]  # fmt: skip


def _interval(value: Result, sign: str = "") -> str:
    if None in value.values():
        return "-"
    return f"{value['value']:{sign}.4f} [{value['low']:{sign}.4f}, {value['high']:{sign}.4f}]"


def table(result: Result) -> list[str]:
    """The ratios as aligned columns."""
    rows = [list(HEADER), *map(cells, result["ratios"])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def notes(result: Result) -> list[str]:
    """What a reader must know to read the table."""
    made, settings, found = result["traffic"], result["settings"], result["disturbance"]
    new = min(row["new_users"] for row in result["ratios"])
    timed = result["ratios"][0]["requests"]
    lines = [
        f"Measured: {result['measured']}; {timed} requests a ratio, ratios interleaved, after a warm-up.",
        f"Requests: {made['source']} ({made['users']} users); {new:.0%} of them by another user than the one before, "
        "so that the LLM has to read a history anew.",
        "ratio: asked for; share: of the timed candidates, those in which the LLM's score counts "
        f"({result['fusion']['rule']}); ms per candidate = request / candidates.",
        f"AUC: {made['labelled_rows']:,} labelled rows, each scored once by both models; 95 % by bootstrap over users.",
        f"Threads: CRM {settings['crm_threads']}, LLM {settings['llm_threads']}. "
        f"Other processes took {found['foreign']:.1%} of the cores, other machines (steal) {found['steal']:.1%}.",
    ]
    if not made["labelled_rows"]:
        lines[3] = "No labels in these requests: no AUC."
    if max(found.values()) > DISTURBED:
        lines.append(f"DISTURBED: over {DISTURBED:.0%} of the cores' time went elsewhere; repeat on a quiet machine.")
    return [*lines, *(f"Warning: {warning}." for warning in result["warnings"])]


def text(result: Result) -> str:
    """What the command prints: floors, table, notes, and one JSON line at the end."""
    line = json.dumps(result, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return "\n".join([*floor_lines(result), "", *table(result), "", *notes(result), line])


def markdown(result: Result) -> str:
    """The same as a page."""
    rows = [list(HEADER), ["---:"] * len(HEADER), *map(cells, result["ratios"])]
    lists = [_bullets(floor_lines(result)), *("| " + " | ".join(row) + " |" for row in rows), "",
             "![latency and AUC per ratio](benchmark.svg)", "",
             _bullets(notes(result)), _bullets(about(result))]  # fmt: skip
    return "\n".join([f"# Benchmark of {result['bundle']['label']}", "", *lists])


def about(result: Result) -> list[str]:
    """What ran, and on what."""
    box, bundle = result["machine"], result["bundle"]
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    memory = f"{box['memory_bytes'] / 2**30:.1f} GiB"
    return [
        f"Bundle {bundle['label']} (manifest sha256 {bundle['manifest_sha256']}), {result['created']}.",
        f"Machine: {box['cpu']}, {box['cores']} cores used, {memory}, {box['os']}, Linux {box['kernel']}.",
        f"Versions: {versions}.",
    ]


def _bullets(lines: Sequence[str]) -> str:
    return "".join(f"* {line}\n" for line in lines)


def check_folder(out: Path) -> None:
    """Make the folder before the measurement, so that a bad place is told at once.

    Raises:
        InputError: it can not be made, or holds anything but an earlier benchmark.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        foreign = sorted({path.name for path in out.iterdir()} - _OWN)
    except OSError as error:
        raise InputError(f"--out {out}: can not be made a folder: {error.strerror}") from None
    if foreign:
        raise InputError(f"--out {out}: holds {foreign[0]!r}, which is no benchmark's; name another folder")


def write(result: Result, out: Path) -> None:
    """benchmark.json, .md and .svg, in place of earlier ones."""
    pretty = json.dumps(result, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    files = {"json": pretty, "md": markdown(result), "svg": plot.svg(result)}
    for ending, contents in files.items():
        write_file(out / f"benchmark.{ending}", contents.encode())
