"""`corella-edge replay`: a log of decisions, decided again by another policy."""

from __future__ import annotations

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli.base import Command
from corella_edge.cli.common import columns, echo_json, json_option
from corella_edge.cli.logs import (
    CLIP,
    HEAD,
    LABELS,
    PATH,
    WINDOW,
    cells,
    labelled_rows,
    read_policy,
    read_rows,
    write_rows,
)
from corella_edge.errors import InputError

if TYPE_CHECKING:
    from corella_edge.routing.policy import Policy
    from corella_edge.routing.replay import LoggedRows, Replayed

DRAWS = 2000


@click.command(cls=Command)
@click.argument("log", type=PATH)
@click.option("--policy", type=PATH, required=True, metavar="FILE",
              help="The policy to decide by: a bundle, its routing.json, or a file of measure and threshold.",
              )  # fmt: skip
@click.option("--threshold", help="Another threshold than the policy's own, in any form that `serve` takes.")
@LABELS
@WINDOW
@CLIP
@click.option("--rows", type=PATH, metavar="FILE",
              help="Also write every row with both decisions: Parquet if the name ends in .parquet, else JSON lines.",
              )  # fmt: skip
@json_option
def replay(
    log: Path, policy: Path, threshold: str | None, labels: Path | None, window_hours: float, clip: float,
    rows: Path | None, json: bool,
) -> None:  # fmt: skip
    """Decide the rows of LOG again by another policy, without any model.

    LOG is a folder that `serve --log` or `score --log` wrote, one file of it, or a table of labelled rows. Says which
    share would be asked, how many candidates would be decided otherwise, and for how many of them nobody knows the
    answer, because the LLM was never asked. With labels it says what the policy would have been worth.
    """
    from corella_edge.routing.replay import replay as decide

    logged, chosen = read_rows(log), read_policy(policy, threshold)
    _check_out(rows)
    found = decide(logged, chosen)
    told = {"policy": str(chosen), **_counts(logged, found)}
    worth = _worth(logged, chosen, labels, window_hours, clip)
    if rows is not None:
        _write(logged, found, rows)
    if json:
        echo_json(told | ({} if worth is None else {"quality": {name: asdict(one) for name, one in worth.items()}}))
        return
    click.echo("\n".join(_report(told)))
    if worth is not None:
        click.echo("\n" + "\n".join(columns([HEAD, *(cells(name, one) for name, one in worth.items())])))


def _check_out(path: Path | None) -> None:
    if path is not None and path.exists():
        raise InputError(f"--rows {path}: exists; remove it or name another one")


def _counts(logged: LoggedRows, found: Replayed) -> dict[str, Any]:
    import numpy as np

    requests = len(np.unique(logged.rows.request.astype(str)))
    return {
        "rows": len(logged), "requests": requests,
        "share": {"then": found.share_then, "now": found.share_now},
        "touched": {"then": found.touched_then, "now": found.touched_now},
        "differ": found.added + found.dropped, "added": found.added, "dropped": found.dropped,
        "wanted": int(found.wanted.sum()), "undecided": len(found.undecided),
    }  # fmt: skip


def _report(told: dict[str, Any]) -> list[str]:
    share, touched = told["share"], told["touched"]
    table = [("", "then", "now"), ("candidates asked", f"{share['then']:.2%}", f"{share['now']:.2%}"),
             ("requests that ask", f"{touched['then']:.2%}", f"{touched['now']:.2%}")]  # fmt: skip
    lines = [f"{told['rows']:,} rows of {told['requests']:,} requests; now by {told['policy']}", *columns(table)]
    lines += [f"{told['differ']:,} rows are decided otherwise: {told['added']:,} asked that were not, "
              f"{told['dropped']:,} the other way round"]  # fmt: skip
    if not told["undecided"]:
        return [*lines, f"every row to be asked ({told['wanted']:,}) has its answer in the log"]
    return [*lines, f"{told['undecided']:,} of the {told['wanted']:,} rows to be asked have no answer in the log: the "
            "LLM was not asked, or did not answer"]  # fmt: skip


def _worth(logged: LoggedRows, policy: Policy, labels: Path | None, window_hours: float, clip: float) -> Any:
    """By name; None without labels."""
    import numpy as np

    from corella_edge.metrics import Bootstrap
    from corella_edge.routing.offpolicy import answered, worth
    from corella_edge.routing.replay import wants

    if labels is None and bool(np.isnan(logged.rows.label).all()):
        return None
    known = labelled_rows(logged, labels, window_hours)
    bootstrap = Bootstrap(known.rows.user, DRAWS)
    none = np.zeros(len(known), bool)
    found = {"base model": worth(known.rows, none, policy.fusion, bootstrap, clip)}
    if not np.isnan(known.final).any():
        found["as answered"] = answered(known.final, known.routed, known.rows, bootstrap)
    return found | {"now": worth(known.rows, wants(policy, known), policy.fusion, bootstrap, clip)}


def _write(logged: LoggedRows, found: Replayed, path: Path) -> None:
    import numpy as np

    undecided = np.zeros(len(logged), bool)
    undecided[found.undecided] = True
    decided = {"routed": logged.routed, "reason": logged.reason, "wanted": found.wanted, "undecided": undecided}
    every = {**logged.rows.columns(), **decided}

    def lines() -> str:
        values = zip(*(column.tolist() for column in every.values()), strict=True)
        plain = ({name: None if one != one else one for name, one in zip(every, row, strict=True)} for row in values)
        return "".join(json_module.dumps(row, ensure_ascii=False) + "\n" for row in plain)

    write_rows(every, path, lines)
