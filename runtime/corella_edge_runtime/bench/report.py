"""A finished benchmark as text, Markdown, JSON and SVG; `write` puts the files into a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from corella_edge.atomic import write_file
from corella_edge.errors import InputError
from corella_edge_runtime.bench import plot

Result = dict[str, Any]
DISTURBED = 0.05
FILES = {"benchmark.json": "all figures", "benchmark.md": "all figures as a page, and how they were measured",
         "benchmark.svg": "a plot of latency and AUC"}  # fmt: skip
# With what a killed run may leave of them.
_OWN = {*FILES, *(f".{name}.partial" for name in FILES)}
HEADER = ("ratio", "share", "p50 ms", "p90 ms", "p99 ms", "p50 ms/cand.", "cand./s", "req./s", "LLM tok./req.",
          "AUC [95 %]", "AUC - CRM's [95 %]", "share (AUC)")  # fmt: skip
SHORT = ("ratio", "share", "threshold", "p50 ms", "p99 ms", "cand./s", "AUC", "gain [95 %]")


def floor_lines(result: Result) -> list[str]:
    """What the models alone cost."""
    floor = result["ceiling"]
    lines = [
        f"Base model (CRM) alone, bare session run of {floor['crm_candidates']} candidates: {floor['crm_ms']:.3f} ms"
    ]
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


def table(header: Sequence[str], cells: Iterable[Sequence[str]]) -> list[str]:
    """Aligned columns."""
    rows = [header, *cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def notes(result: Result) -> list[str]:
    """What a reader must know to read the table."""
    made, settings, found = result["traffic"], result["settings"], result["disturbance"]
    new = min(row["new_users"] for row in result["ratios"])
    timed = result["ratios"][0]["requests"]
    lines = [
        f"Measured: {result['measured']}; {timed} requests a ratio, ratios interleaved, after a warm-up.",
        f"Requests: {made['source']} ({made['users']} users); {new:.0%} of them by another user than the one before, "
        "so that the LLM has to read the whole history again.",
        "ratio: asked for; share: of the timed candidates, those in which the LLM's score counts "
        f"({result['fusion']['rule']}); ms per candidate = request / candidates.",
        f"AUC: {made['labelled_rows']:,} labelled rows, each scored once by both models; 95 % by bootstrap over users.",
        f"Threads: CRM {settings['crm_threads']}, LLM {settings['llm_threads']}. "
        f"Other processes took {found['foreign']:.1%} of the cores, other machines (steal) {found['steal']:.1%}.",
    ]
    if not made["labelled_rows"]:
        lines[3] = "No labels in these requests: no AUC."
    return [*lines, *cautions(result), *(f"Warning: {warning}." for warning in result["warnings"])]


def cautions(result: Result) -> list[str]:
    """Why the figures may not be those of the machine at rest."""
    if max(result["disturbance"].values()) <= DISTURBED:
        return []
    return [f"DISTURBED: over {DISTURBED:.0%} of the cores' time went elsewhere; repeat on a quiet machine."]


def text(result: Result, out: Path | None) -> str:
    """What the command prints: floors, a short table, what a reader must know, and where everything else is."""
    lines = [
        *floor_lines(result),
        "",
        *table(SHORT, map(short, result["ratios"])),
        "",
        *_reading(result),
        *cautions(result),
    ]
    if out is None:
        lines.append("--out DIR keeps all figures, how they were measured, and a plot; --json prints them.")
    else:
        lines += [f"{out / name}: {what}" for name, what in FILES.items()]
    return "\n".join(lines)


def _reading(result: Result) -> list[str]:
    """The columns that do not speak for themselves."""
    lines = ["share: of the timed candidates, those about which the LLM was asked; threshold: their least entropy."]
    if result["traffic"]["labelled_rows"]:
        lines.append("gain: of the AUC over the base model's, with its 95 % interval (bootstrap over users).")
    return lines


def short(row: Result) -> list[str]:
    """One ratio as the cells of `SHORT`."""
    nats, ms, quality = row["threshold"], row["request_ms"], row.get("quality")
    auc = (
        [f"{quality['auc']['value']:.4f}", _interval(quality["gain"], "+")]
        if quality and _known(quality)
        else ["-"] * 2
    )
    return [f"{row['ratio']:g}", f"{row['share']:.3f}", "never" if nats is None else f"{nats:.4f} nats",
            f"{ms['p50']:.2f}", f"{ms['p99']:.2f}", f"{row['candidates_per_s']:,.0f}", *auc]  # fmt: skip


def _known(quality: Result) -> bool:
    """An AUC needs both classes."""
    return quality["auc"]["value"] is not None


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
        InputError: it cannot be made, or holds anything but an earlier benchmark.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        foreign = sorted({path.name for path in out.iterdir()} - _OWN)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be made a folder: {error.strerror}") from None
    if foreign:
        raise InputError(f"--out {out}: holds {foreign[0]!r}, which `benchmark` did not write; name another folder")


def write(result: Result, out: Path) -> None:
    """benchmark.json, .md and .svg, in place of earlier ones."""
    pretty = json.dumps(result, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    files = {"json": pretty, "md": markdown(result), "svg": plot.svg(result)}
    for ending, contents in files.items():
        write_file(out / f"benchmark.{ending}", contents.encode())
