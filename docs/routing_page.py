"""What docs/results.md says of logs: what of a gain is the LLM's, which shares are certified, what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corella_edge_export.evaluation.tables import figure, table_head, table_row

Json = dict[str, Any]
NAMES = "policy-checks-*.json"


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
