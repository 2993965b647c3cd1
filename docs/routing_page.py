"""What docs/results.md says of logs: what of a gain is the LLM's, which shares are certified, what is refused. And
whether the law behind `corella-edge plan` holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corella_edge_export.evaluation.tables import figure, table_head, table_row
from load_law import conclusion, off, verdict

Json = dict[str, Any]
NAMES = "policy-checks-*.json"
LAWS = "load-law*.json"
BEFORE = "llm_spread"  # what the law of before knew of a machine


def lines(results: Path) -> Iterator[str]:
    """Two tables of every log that `benchmarks/policy_checks.py` has looked at, and the refusals."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(results.glob(NAMES))]
    made, refused = ([one for one in found if ("refused" in one["fitted"]) is of] for of in (False, True))
    yield "`benchmarks/policy_checks.py` fits the policy as `calibrate` does, once by the LLM's answers and once with"
    yield "0.5 in place of each, where only the fusion's other weights and the measure can gain. AUC on the later rows:"
    yield ""
    yield from table_head(
        "log", "later rows", "policy", "asked", "gain", "of it, by the LLM's answers", "gain with 0.5"
    )
    yield from map(_gain, made)
    yield ""
    for one in refused:
        settings = one["settings"]
        yield f"{settings['name']}, {one['rows']:,} rows, `--gain {settings['gain']:g}`: nothing is fitted;"
        yield f"`calibrate` refuses: *{one['fitted']['refused']}*."
        yield ""
    yield "Certified by the earlier rows (`calibrate --risk`, confidence 0.95; rows are taken for independent, where"
    yield "`--one-row-a-user` takes those of a user for one): if that share is asked, P(wrong and not asked) is at"
    yield "most the risk."
    yield ""
    yield from table_head("log", "risk", "share", "wrong and not asked, earlier rows", "the same on the later rows")
    yield from (_certified(one["settings"]["name"], risk) for one in found for risk in one["certified"])


def _gain(one: Json) -> str:
    policy, same = one["fitted"], one["same_answer"]
    return table_row(
        one["settings"]["name"], f"{policy['rows']:,} of {policy['users']:,} users",
        f"{policy['measure']}, `{policy['rule']}`", f"{policy['share']['value']:.1%}", figure(policy["gain"], "+"),
        "" if policy["by_llm"] is None else figure(policy["by_llm"], "+"), figure(same["gain"], "+"),
    )  # fmt: skip


def _certified(name: str, one: Json) -> str:
    if "refused" in one:
        return table_row(name, f"{one['risk']:g}", "none", one["refused"], "")
    rows = f"{one['missed']:,} of {one['rows']:,}"
    return table_row(name, f"{one['risk']:g}", f"{one['share']:.1%}", rows, figure(one["later"]))


def law(results: Path) -> Iterator[str]:
    """The law beside what was measured, of every kept result of `benchmarks/load_law.py`: the law of before last."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted(results.rglob(LAWS))]
    for place, one in enumerate(sorted(found, key=_of_before)):
        yield from [""] * (place > 0)
        yield from _measured_law(one)


def _of_before(one: Json) -> bool:
    return BEFORE in one["box"]["cold"]


def _measured_law(one: Json) -> Iterator[str]:
    load, machine, within = one["load"], one["machine"], one["within"]
    rounds = f" in {one['rounds']} rounds" if "rounds" in one else ""
    which = ", by the law as it was before, with one log-normal spread for all shares" * _of_before(one)
    yield f"`{one['bundle']}`, {load['qps']:g} requests a second of {load['candidates']} candidates,"
    yield f"{one['requests']:,} requests{rounds}, {machine['cpu']}, {machine['cores']} cores, {one['made'][:10]},"
    yield f"commit {one['commit']}"
    yield f"({one['other']['foreign']:.1%} of the machine went to other processes){which}:"
    yield ""
    yield from table_head(
        "share asked for", "requests touched, predicted", "measured", "p99 predicted, ms", "measured, ms",
        "p99 off by", f"both within {within:.0%}",
    )  # fmt: skip
    yield from (_at_share(row, within) for row in one["ratios"])
    yield ""
    yield conclusion(one)


def _at_share(row: Json, within: float) -> str:
    seen, said = row["measured"], row["predicted"]
    low, high = seen.get("p99_low"), seen.get("p99_high")
    p99 = f"{1000 * seen['p99']:.1f}" + ("" if low is None else f" [{1000 * low:.1f}, {1000 * high:.1f}]")
    return table_row(
        f"{row['ratio']:.0%}", f"{said['touched']:.1%}", f"{seen['touched']:.1%}", f"{1000 * said['p99']:.1f}", p99,
        f"{off(row, 'p99'):+.0%}", verdict(row, within),
    )  # fmt: skip
