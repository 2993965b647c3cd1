"""`corella-edge calibrate`: a routing policy fitted on one's own log, and a new bundle that carries it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.common import Finite, Ratios, ThreadCount, echo_json, json_option, need
from corella_edge.routing.decision import MISS
from corella_edge.routing.forms import parse_share
from corella_edge.routing.policy import RATIOS

if TYPE_CHECKING:
    from corella_edge.routing.labelled import LabelledRows
    from corella_edge.routing.policy import AskCost
    from corella_edge.routing.promised import Promise

_PATH = click.Path(path_type=Path)


@click.command(cls=Command)
@click.argument("bundle", type=_PATH)
@click.option("--log", type=_PATH, help="Labelled rows as Parquet, JSON lines or CSV: request, user, item, time, "
              "label, crm, llm; optional: propensity, input.NAME.")  # fmt: skip
@click.option("--held-out", type=_PATH, help="A later log to report on. Default: the later part of --log.")
@click.option("--data", type=_PATH, help="Instead of --log: folder written by `prepare`, scored by both models.")
@click.option("--split", type=click.Choice(["train", "valid", "test"]), default="valid", show_default=True,
              help="With --data: which rows of it.")  # fmt: skip
@click.option("--rows", type=click.IntRange(0), default=0, show_default=True,
              help="With --data: about this many rows, of whole users; 0 takes all.")  # fmt: skip
@click.option("--scores", type=_PATH, help="With --data: folder of `evaluate` with scores of these rows; those that "
              "are not there are made. Default: evaluation-BUNDLE-SPLIT.")  # fmt: skip
@click.option("--llm-threads", type=ThreadCount(), help="With --data: threads of the LLM. Default: all cores but one.")
@click.option("--out", type=_PATH, required=True, metavar="NEW", help="The new bundle's folder.")
@click.option("--report", type=_PATH, help="Folder of the report: report.html, report.md, report.json. Default: "
              "NEW-report.")  # fmt: skip
@click.option("--share", metavar="SHARE|knee", help="Share of the candidates to ask about, or the knee of the curve. "
              "Default: the share of BUNDLE's own policy.")  # fmt: skip
@click.option("--measure", metavar="NAME", help="What orders the candidates: entropy, margin, band:LOW-HIGH or "
              "disagreement. Default: BUNDLE's.")  # fmt: skip
@click.option("--centre", is_flag=True, help="Centre the measure on the share of positives, where these are rare.")
@click.option("--fusion", type=click.Choice(["best", "keep", "replace", "blend", "stack"]), default="best",
              show_default=True, help="How both scores of a routed candidate become one. best: the rule and maps with "
              "the lowest log-loss on rows that fitted none of them; keep: as in BUNDLE.")  # fmt: skip
@click.option("--gate", is_flag=True, help="Fit a gate that predicts what asking gains, from columns input.NAME; "
              "it is taken where it is better than the entropy, with an interval above 0.")  # fmt: skip
@click.option("--risk", type=Finite(0, 1, min_open=True, max_open=True), help="Take the smallest share at which the "
              "chance that a row is wrong and not asked about is at most RISK, with confidence 1 - DELTA; --share is "
              "then the largest that may be taken.")  # fmt: skip
@click.option("--delta", type=Finite(0, 1, min_open=True, max_open=True), help="With --risk: see there; default 0.05. "
              "Without: the share is a limit that later rows keep with confidence 1 - DELTA.")  # fmt: skip
@click.option("--one-row-a-user", is_flag=True, help="With --risk or --delta: look at one row of each user, since rows "
              "of one user are not independent.")  # fmt: skip
@click.option("--miss", type=Finite(0, 1, max_open=True), default=MISS, show_default=True,
              help="Of the rows, whose score may move further than NEW assumes when it leaves out candidates that "
              "cannot change the top_k; 0 leaves out none.")  # fmt: skip
@click.option("--gain", default=0.01, show_default=True, type=Finite(0, min_open=True),
              help="The smallest gain in AUC that the rows must be able to show; fewer rows are refused.")  # fmt: skip
@click.option("--fit-part", default=0.5, show_default=True, type=Finite(0, 1, min_open=True, max_open=True),
              help="About this share of the rows, the earliest, is fitted on; the rest is reported on.")  # fmt: skip
@click.option("--ratios", type=Ratios(), default=",".join(f"{r:g}" for r in RATIOS), show_default=True,
              help="Shares to report on beside 0 and 1, separated by commas.")  # fmt: skip
@click.option("--cost/--no-cost", default=True, show_default=True,
              help="Whether to measure what asking the LLM costs here, for an axis of milliseconds.")  # fmt: skip
@click.option("--verify/--no-verify", default=True, show_default=True,
              help="Whether to repeat the reference rows before NEW appears.")  # fmt: skip
@json_option
def calibrate(
    bundle: Path, log: Path | None, held_out: Path | None, data: Path | None, split: str, rows: int,
    scores: Path | None, llm_threads: int | None, out: Path, report: Path | None, share: str | None,
    measure: str | None, centre: bool, fusion: str, gate: bool, risk: float | None, delta: float | None,
    one_row_a_user: bool, miss: float, gain: float, fit_part: float, ratios: list[float], cost: bool, verify: bool,
    json: bool,
) -> None:  # fmt: skip
    """Write NEW: BUNDLE with a routing policy that is fitted on a log, and a report on it.

    The policy is fitted on the earlier part of the rows; every figure of the report is of the later part, with 95 %
    intervals over users. Rows that are too few to show a gain of --gain are refused, with the number that is needed.
    The models are not touched, and unchanged files are hard-linked.
    """
    from corella_edge.cli.checking import reference_check
    from corella_edge.routing.calibrated import Wanted
    from corella_edge_runtime.calibrate import run

    if (log is None) == (data is None):
        raise click.UsageError("give --log FILE or --data DIR, one of the two")
    if held_out is not None and log is None:
        raise click.UsageError("--held-out belongs to --log")
    folder = report or out.with_name(f"{out.name}-report")
    opened = run.check(bundle, out, folder)
    found, later, traps = _rows(bundle, log, held_out, data, split, rows, scores, llm_threads)
    routing = opened.routing()
    wanted = Wanted(
        run.measure_of(measure, routing, found, centre), routing.fusion, run.share_of(share, routing), ratios, gain,
        fit_part, promise=_promise(risk, delta, one_row_a_user, share), miss=miss or None,
    )  # fmt: skip
    asked = _cost(bundle) if cost else None
    parts = (
        f"the earlier of {len(found):,} rows, judging the later"
        if later is None
        else f"{len(found):,} rows, judging {len(later):,}"
    )
    talk.say(f"fitting on {parts} …")
    label, result = run.calibrate(
        opened, found, wanted, out, folder, later, asked, traps, reference_check(verify), gate, fusion
    )  # fmt: skip
    _tell(label, result, out, folder, json)


def _promise(risk: float | None, delta: float | None, one_row_a_user: bool, share: str | None) -> Promise | None:
    """The promise that the threshold has to keep. Raises InputError if `share` is not a share."""
    from corella_edge.routing.promised import Promise

    if risk is None and delta is None:
        if one_row_a_user:
            raise click.UsageError("--one-row-a-user belongs to --risk or --delta")
        return None
    largest = 1.0 if risk is None or share in (None, "knee") else parse_share(str(share).removeprefix("ratio:"))
    return Promise(0.05 if delta is None else delta, risk, largest, one_row_a_user)


def _rows(
    bundle: Path, log: Path | None, held_out: Path | None, data: Path | None, split: str, rows: int,
    scores: Path | None, llm_threads: int | None,
) -> tuple[LabelledRows, LabelledRows | None, tuple[str, ...]]:  # fmt: skip
    """Rows, rows to report on if they are given apart, and what is known of them besides."""
    from corella_edge_runtime.calibrate.log import read

    if log is not None:
        return read(log), None if held_out is None else read(held_out), ()
    assert data is not None
    need("calibrate --data", "report", "polars")
    need("calibrate --data", "cpu", "onnxruntime")
    from corella_edge.cli.common import open_engine
    from corella_edge.cli.evaluate import Show
    from corella_edge_export.data.prepared import PreparedData
    from corella_edge_export.evaluation import labelled

    prepared, show = PreparedData.open(data), Show()
    with open_engine(bundle, llm="thread", llm_threads=llm_threads, tuned=False, require_llm=True) as engine:
        kept = scores or Path(f"evaluation-{bundle.name}-{split}")
        found = labelled.labelled(engine, prepared, split, kept, rows, 0, show)
    show.line.done()
    return found, None, tuple(labelled.traps(prepared, split))


def _cost(bundle: Path) -> AskCost | None:
    """What asking costs here, if that can be measured."""
    from corella_edge_runtime.calibrate.run import cost_here

    missing = [name for name in ("onnxruntime", "llama_cpp") if find_spec(name) is None]
    found, why = (None, f"{missing[0]} is not installed") if missing else cost_here(bundle)
    if found is None:
        talk.note(f"no axis of milliseconds: {why}")
    return found


def _tell(label: str, result: dict[str, Any], out: Path, folder: Path, json: bool) -> None:
    from corella_edge.judge import better, worse_order
    from corella_edge.routing.calibrated import asks
    from corella_edge_runtime.calibrate.report import summary

    for warning in result["warnings"]:
        talk.warn(warning)
    if json:
        echo_json(result)
    else:
        click.echo("\n".join(summary(result)))
        click.echo(f"{folder}: report.html, report.md, report.json")
        click.echo(f"{out}: {label}")
    gain = result["policy"]["over_crm"]
    if (better(gain) or not asks(result["policy"])) and not worse_order(gain):
        talk.then("deploy", "push", "SITE", out, "--canary", "0.1")
