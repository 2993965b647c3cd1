"""`corella-edge evaluate --log`: what routing would have been worth at each share, from a log of decisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from corella_edge.cli import talk
from corella_edge.cli.common import columns, echo_json
from corella_edge.cli.logs import HEAD, cells, labelled_rows, read_policy, read_rows, write_rows
from corella_edge.errors import InputError

DRAWS = 2000


def evaluate_log(
    bundle: Path, log: Path, labels: Path | None, window_hours: float, clip: float, shares: Sequence[float],
    out: Path | None, json: bool,
) -> None:  # fmt: skip
    """Print the curve, and keep the labelled rows at `out` for `calibrate`.

    Raises:
        InputError: a bad line; no labels; a taken `out`.
    """
    from corella_edge.metrics import Bootstrap
    from corella_edge.routing.offpolicy import curve

    if out is not None and out.exists():
        raise InputError(f"--out {out}: exists; remove it or name another one")
    known, policy = labelled_rows(read_rows(log), labels, window_hours), read_policy(bundle, None)
    rows = known.rows
    found = curve(rows, policy, shares, Bootstrap(rows.user, DRAWS), known.mute, clip)
    if out is not None:
        write_rows(rows.columns(), out, lambda: "".join(rows.lines()))
    told = _counts(known)
    if json:
        echo_json(
            {**told, "curve": [{"asked": share, **asdict(one)} for share, one in zip(shares, found, strict=True)]}
        )
    else:
        click.echo("\n".join(_report(told)) + "\n")
        named = [cells(f"ratio:{share:g}", one) for share, one in zip(shares, found, strict=True)]
        click.echo("\n".join(columns([HEAD, *named])))
    if out is not None:
        talk.say(f"{out}: written")
        talk.then("calibrate", bundle, "--log", out, "--out", "NEW")


def _counts(known: Any) -> dict[str, Any]:
    import numpy as np

    rows = known.rows
    requests, users = (len(np.unique(ids.astype(str))) for ids in (rows.request, rows.user))
    return {
        "rows": len(rows), "requests": requests, "users": users, "positives": int(rows.label.sum()),
        "answers": int(rows.known.sum()), "random": int((rows.known & (rows.propensity < 1.0)).sum()),
    }  # fmt: skip


def _report(told: dict[str, Any]) -> list[str]:
    lines = [f"{told['rows']:,} labelled rows ({told['positives']:,} positive) of {told['requests']:,} requests and "
             f"{told['users']:,} users; the LLM's answer to {told['answers']:,} of them, {told['random']:,} of which "
             "were asked at random"]  # fmt: skip
    if not told["random"] and told["answers"] < told["rows"]:
        lines += ["Nothing in this log was left to chance: it speaks for shares up to its own alone. `serve --explore` "
                  "or `serve --shadow` makes a log that speaks for all."]  # fmt: skip
    return lines
