"""One calibration from beginning to end: rows, what asking costs here, the fit, the new bundle and its report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from corella_edge.atomic import check_free, new_folder
from corella_edge.bundle.artefact import Bundle
from corella_edge.errors import BundleError, InputError
from corella_edge.judge import Json
from corella_edge.routing.calibrated import BEST, Calibrated, Wanted, calibrated, check_parts, fused
from corella_edge.routing.forms import OWN, RATIO, parse_threshold, read_threshold
from corella_edge.routing.gated import gated
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.measure import Band, Disagreement, Entropy, Margin, Measure
from corella_edge.routing.parts import Parts, by_time
from corella_edge.routing.policy import UNASKABLE, AskCost, Routing
from corella_edge.routing.told import rare
from corella_edge_runtime.calibrate import bundle as bundles
from corella_edge_runtime.calibrate import report

KNEE = "knee"
MEASURES = ("entropy", "margin", "band:LOW-HIGH", "disagreement")
BAND = "band"
REPORT = "--report "


def check(bundle: Path, out: Path, folder: Path) -> Bundle:
    """The opened bundle, once it is clear that both folders can be written and that there is an LLM to ask.

    Raises:
        InputError, BundleError.
    """
    check_free(out)
    check_free(folder, REPORT)
    _check_apart(bundle, out, folder)
    opened = Bundle.open(bundle)
    if not opened.has("prompt.json"):
        raise InputError(f"{bundle}: the bundle has no LLM, so there is nothing to be asked more or less often")
    return opened


def _check_apart(bundle: Path, out: Path, folder: Path) -> None:
    """A bundle holds no files but its own, so no folder may be in another one. Raises InputError."""
    known = {"BUNDLE": bundle.resolve()}
    for option, path in (("--out ", out), (REPORT, folder)):
        place = path.resolve()
        for name, other in known.items():
            if place.is_relative_to(other) or other.is_relative_to(place):
                raise InputError(f"{option}{path}: overlaps with {name}; name a folder beside it")
        known[option.strip()] = place


def share_of(text: str | None, routing: Routing) -> float | None:
    """The wanted share: a number, None for the knee; where nothing is given, what the bundle's own policy routes.

    Raises:
        InputError: neither a share nor `knee`.
    """
    if text == KNEE:
        return None
    if text is not None:
        return _number(text.removeprefix(RATIO.prefix))
    form, numbers = read_threshold(routing.threshold)
    if form is RATIO:
        return numbers[0]
    policy = parse_threshold(OWN.prefix, replace(routing, cost=UNASKABLE))
    return None if policy.budget else routing.share(policy)


def _number(text: str) -> float:
    try:
        return RATIO.number(text)
    except InputError as error:
        why = str(error).removeprefix(f"{RATIO.name}: ")
        raise InputError(f"--share: {why}; give a number, or {KNEE}") from None


def measure_of(text: str | None, routing: Routing, rows: LabelledRows, centred: bool) -> Measure:
    """The measure of that name, or the bundle's; `centred` turns it about the base rate, where positives are rare.

    Raises:
        InputError: there is no such measure, or it has no centre.
    """
    found = routing.measure if text is None else _named(text)
    if not centred:
        return found
    if not isinstance(found, (Entropy, Margin)):
        raise InputError(f"--centre: the measure {found.name} has no centre; entropy and margin have one")
    rate = float(np.mean(rows.label))
    if not 0.0 < rate < 1.0:
        raise InputError("--centre: all rows have the same label, so there is no base rate to centre on")
    return replace(found, centre=rate)


def _named(text: str) -> Measure:
    head, _, rest = text.partition(":")
    plain: dict[str, Measure] = {"entropy": Entropy(), "margin": Margin(), "disagreement": Disagreement()}
    if head == BAND and rest:
        return Band(*read_threshold(text)[1])
    if text not in plain:
        raise InputError(f"--measure: {text[:40]!r} is not one of {', '.join(MEASURES)}")
    return plain[text]


def calibrate(
    bundle: Bundle, rows: LabelledRows, wanted: Wanted, out: Path, folder: Path,
    later: LabelledRows | None = None, cost: AskCost | None = None, traps: tuple[str, ...] = (),
    check: Callable[[Path], None] = lambda folder: None, learned: bool = False,
    fusion: str = BEST,
) -> tuple[str, Json]:  # fmt: skip
    """Fit, write the bundle `out` and the report `folder`, when both are made; the new bundle's label, and all figures.

    Args:
        later: rows to report on; None cuts `rows` by time.
        traps: sentences on what is known of the rows besides the rows.
        check: called with the new bundle before it appears.
        fusion: see `fused`.
        learned: whether a gate is fitted, and taken in place of the wanted measure where it is better.

    Raises:
        InputError: too few rows, a promise that cannot be made, or what the measure needs is not in the log.
        BundleError: a file was changed.
    """
    wanted, gate = replace(wanted, cost=None if cost is None else cost.of), None
    parts = by_time(rows, wanted.part) if later is None else Parts(rows, later)
    check_parts(parts, wanted)
    wanted, fusions = fused(parts, wanted, fusion)
    if learned:
        wanted, gate = gated(parts, wanted)
    found = calibrated(rows, wanted, later)
    said = (*found.result["warnings"], rare(wanted.measure, float(np.mean(rows.label)), "rows", "`--centre`"), *traps)
    result = {**found.result, "fusions": fusions, "gate": gate, "warnings": list(filter(None, said))}
    result["cost"] = None if cost is None else {"first_ms": cost.first, "further_ms": cost.further}
    found = Calibrated(found.share, found.threshold, found.parts, found.values, result)
    with bundles.written(bundle, found, wanted, out, check) as label, new_folder(folder, REPORT) as made:
        result = {"bundle": label, "parent": bundle.label, **result}
        report.write(result, made)
    return label, result


def cost_here(root: Path, plan: Path | None = None) -> tuple[AskCost | None, str]:
    """What asking the bundle's LLM costs on this machine; None with the reason where it cannot be measured.

    `plan`: by the settings of this one, which tells no cost yet.
    """
    from corella_edge_runtime.engine import Engine

    try:
        with Engine.open(root, llm="process", tuned=plan is not None, plan=plan) as engine:
            engine.know_cost()
            cost = engine.routing.cost
            why = "; ".join(engine.warnings) or "the LLM does not answer"
    except BundleError as error:
        return None, str(error)
    return (None, why) if cost is None or cost == UNASKABLE else (cost, "")
