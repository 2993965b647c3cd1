"""The calibration report: one list of sections, written as HTML with plots, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corella_edge.atomic import write_file
from corella_edge.judge import NDCG
from corella_edge.routing.decision_curve import ALL, OPEN
from corella_edge_runtime.calibrate import plots
from corella_edge_runtime.calibrate.plots import NAMES
from corella_edge_runtime.document import Section, as_html, as_markdown, document

Json = dict[str, Any]
FILES = {"report.html": "the report with plots", "report.md": "the same as text", "report.json": "every figure"}
NONE = "-"
OLD_GAINS = "Gains are over the base model behind the fusion's maps, as this report of an earlier version has them."
VERDICTS = {
    "monotone": "rises with the measure: the measure orders it",
    "in part": "rises with the measure, but falls in between by more than chance",
    "none": "does not rise with the measure by more than chance: the measure does not order it on this log",
    "reversed": "falls with the measure: the measure orders it the wrong way round",
}


def write(result: Json, out: Path) -> None:
    """The three files of `FILES` into an existing folder, in place of earlier ones."""
    made = list(sections(result))
    title = f"Routing policy of {result['bundle']}"
    texts = {
        "report.html": document(title, (part for one in made for part in as_html(one))),
        "report.md": "\n".join([f"# {title}", "", *(line for one in made for line in as_markdown(one))]),
        "report.json": json.dumps(result, ensure_ascii=False, allow_nan=False, indent=1) + "\n",
    }
    for name, contents in texts.items():
        write_file(out / name, contents.encode("utf-8", "xmlcharrefreplace"))


def sections(result: Json) -> Iterator[Section]:
    """What the report says, in order."""
    yield Section("Result", [*summary(result), *(f"Warning: {text}." for text in result["warnings"])])
    yield _by_share(result)
    yield _other_metrics(result)
    yield _area(result)
    yield from _top(result)
    yield from _orders(result)
    yield from _fusions(result)
    yield from _gate(result)
    yield from _promise(result)
    yield _log(result)


def summary(result: Json) -> list[str]:
    """The policy and what it brings, in sentences; also what the command prints."""
    own = result["policy"]
    auc, share = own["over_crm"]["auc"], own["share"]
    cost = "" if own["llm_ms"] is None else f", for {own['llm_ms']:.1f} ms of the LLM a request"
    bend = "no share gains anything" if result["knee"] is None else f"the knee of the curve is at {result['knee']:.0%}"
    how = "the wanted share" if result["wanted"] is not None else "the knee of the curve"
    if result["promise"]:
        how = "the share that keeps the promise"
    asked = "about nothing"
    if own["threshold"] is not None:
        asked = f"where {_measure(result)} is at or above {_number(own['threshold'])}"
    return [
        f"Policy: ask the LLM {asked}: {how}, {result['share']:.1%}, on the earlier rows ({bend} there).",
        f"On the later rows it asks about {_percent(share)} of the candidates and touches "
        f"{own['requests_touched']:.1%} of the requests{cost}.",
        f"AUC {_interval(own['auc'])}, {_interval(auc, '+')} over the base model; log-loss "
        f"{_interval(own['over_crm']['logloss'], '+')}.",
        *([_by_llm(result["by_llm"], own["over_crm"], result["fusion"])] if result["by_llm"] else []),
        *([OLD_GAINS] if result.get("format") == 1 and result["fusion"].get("maps") else []),
        f"By the measure, what asking gains {VERDICTS[result['order']['gain']['verdict']]}.",
        *([f"{result['promise']['text']}"] if result["promise"] else []),
        *([_sentence(result["gate"]["text"])] if result["gate"] else []),
    ]


def _measure(result: Json) -> str:
    found = dict(result["measure"])
    name = str(found.pop("name"))
    more = ", ".join(f"{key} {value}" for key, value in found.items() if not isinstance(value, (list, dict)))
    return f"the measure {name}" + (f" ({more})" if more else "")


def _by_llm(found: Json, gain: Json, fusion: Json) -> str:
    """What the LLM's answers bring of the policy's gain; a part may be larger than the whole."""
    brings = f"AUC {_interval(found['auc'], '+')}, log-loss {_interval(found['logloss'], '+')}"
    auc, logloss = (round((gain[name]["value"] or 0.0) - (found[name]["value"] or 0.0), 4) for name in
                    ("auc", "logloss"))  # fmt: skip
    if auc >= 0.0 and logloss <= 0.0:
        return (f"Of that, the LLM's answers bring {brings}: the rest is what the fusion makes of the base model's "
                "score and of inputs, without any LLM.")  # fmt: skip
    inputs = " and inputs" if fusion.get("inputs") else ""
    stacked = "stack" in fusion["rule"]
    does = f"weighing the base model's score{inputs} anew" if stacked else "mapping the base model's score"
    return (f"The LLM's answers bring {brings}. The remainder is what {does} does, without any LLM: it "
            f"{_moves(auc)} AUC and {_moves(logloss)} log-loss.")  # fmt: skip


def _moves(change: float) -> str:
    """As in "takes 0.0024 off the log-loss"."""
    return f"adds {change:.4f} to the" if change >= 0.0 else f"takes {-change:.4f} off the"


def _by_share(result: Json) -> Section:
    header = ["asked for", "routed share", "threshold", "requests touched", "LLM ms", "AUC", "gain in AUC",
              "random AUC", "oracle AUC"]  # fmt: skip
    said = ["Thresholds are quantiles of the measure on the earlier rows; every figure is of the later rows, with its "
            "95 % interval by bootstrap over users. Random: as many candidates, drawn; oracle: those that gain most, "
            "labels known."]  # fmt: skip
    if result["weights"] is not None:
        said.append(_weighted(result["weights"]))
    if result["policy"]["llm_ms"] is None:
        said.append("What asking costs on this machine was not measured, so there is no axis of milliseconds.")
    rows = [[name, *_work(row), _interval(row["auc"]), _interval(row["over_crm"]["auc"], "+"),
             _figure(row["random"]["auc"]), _figure(row["oracle"]["auc"])]
            for name, row in _points(result)]  # fmt: skip
    figures = [(plots.quality(result, name), f"{NAMES[name]} of the later rows; the ring is the fitted policy.")
               for name in _metrics(result)]  # fmt: skip
    if result["policy"]["llm_ms"] is not None:
        figures += [(plots.cost(result, name), f"{NAMES[name]} against time: a touched request pays for its user's "
                     "history once, then for each candidate.") for name in ("auc", "logloss")]  # fmt: skip
    return Section("Quality by share", said, header, rows, figures)


def _weighted(found: Json) -> str:
    rows, largest, effective = found["rows"], found["largest"], found["effective"]
    return ("The LLM was asked about some rows by chance. In every figure of quality, and every draw of users, each of "
            f"the {rows:,} rows whose answer is known (or is known not to exist) counts by the inverse of its chance: "
            f"inverse propensity weights, self-normalised, of at most {largest:.3g} rows. They tell as much as "
            f"{effective:,.0f} rows of equal weight. Shares and times are of all rows.")  # fmt: skip


def _other_metrics(result: Json) -> Section:
    names = [name for name in _metrics(result) if name != "auc"]
    said = ["ECE: 15 bins of equal mass; noise counts as error there, so draws lie above the value as a rule. NDCG@10: "
            "over requests that have a positive and a negative row, equal scores in the worst order."]  # fmt: skip
    if NDCG not in names:
        said.append("NDCG@10 is missing: it takes requests of which every answer is known, and which were drawn in "
                    "whole where they were drawn.")  # fmt: skip
    if result["weights"] is not None:
        said.append("Within-user AUC is of the users who have known rows of both classes.")
    rows = [[name, _percent(row["share"]), *(_interval(row[metric]) for metric in names)]
            for name, row in _points(result)]  # fmt: skip
    return Section("Other metrics by share", said, ["asked for", "routed share", *map(NAMES.__getitem__, names)], rows)


def _metrics(result: Json) -> list[str]:
    return [name for name in NAMES if name in result["policy"]]


def _points(result: Json) -> list[tuple[str, Json]]:
    return [(f"{row['ratio']:.0%}", row) for row in result["curve"]] + [("policy", result["policy"])]


def _work(row: Json) -> list[str]:
    cost = NONE if row["llm_ms"] is None else f"{row['llm_ms']:.1f}"
    return [_percent(row["share"]), _number(row["threshold"]), f"{row['requests_touched']:.1%}", cost]


def _area(result: Json) -> Section:
    said = ["APGR (RouteLLM, arXiv 2406.18665): of the gap between asking about nothing and asking about everything, "
            "what is won in the mean over all shares. Asking at random wins about 0.5."]  # fmt: skip
    rows = [[NAMES[name], _interval(found["gap"], "+"), _interval(found) if found["value"] is not None
             else f"{NONE} ({found['reason']})"] for name, found in result["apgr"].items()]  # fmt: skip
    return Section("Area won", said, ["metric", "gap, LLM - base (as improvement)", "APGR"], rows)


def _top(result: Json) -> Iterator[Section]:
    found = result["top"]
    if found is None:
        return
    every, open_ = ([row for row in found["points"] if row["way"] == way] for way in (ALL, OPEN))
    interval = (
        "whatever the LLM answers" if found["miss"] is None else f"by intervals that {found['miss']:.0%} of rows leave"
    )
    said = [f"NDCG@{found['k']} of {found['judged']:,} later requests whose candidates had different outcomes, if the "
            "LLM is asked about every routed candidate, and if it is asked about those alone that can change the "
            f"{found['k']} best, {interval}. A request with top_k does the latter."]  # fmt: skip
    rows = [[f"{one['ratio']:.0%}", f"{one['asked']:.2f}", _ms(one), _interval(one["ndcg"]), f"{other['asked']:.2f}",
             _ms(other), _interval(other["loss"], "+")] for one, other in zip(every, open_, strict=True)]  # fmt: skip
    header = ["asked for", "asked a request", "LLM ms", f"NDCG@{found['k']}", "that can change the top", "LLM ms",
              "difference in NDCG"]  # fmt: skip
    about = "time" if every[-1]["llm_ms"] is not None else "candidates asked about"
    figures = [(plots.top(found), f"NDCG@{found['k']} against {about}; the nearer to the upper left, the better.")]
    yield Section("Only what can change the top", said, header, rows, figures)


def _ms(row: Json) -> str:
    return NONE if row["llm_ms"] is None else f"{row['llm_ms']:.1f}"


def _orders(result: Json) -> Iterator[Section]:
    about = {"gain": ("Is the measure monotone on this log?", "log-loss that asking takes away", "What asking gains"),
             "errors": ("Does the measure order the base model's errors?", "log-loss of the base model",
                        "The base model's log-loss")}  # fmt: skip
    for key, (title, axis, subject) in about.items():
        found = result["order"][key]
        said = [f"{subject} {VERDICTS[found['verdict']]} (from the least to the most unsure part "
                f"{_interval(found['trend'], '+')} nats)."]  # fmt: skip
        if key == "gain" and found["verdict"] != "monotone":
            said.append("A confidence that does not order what asking brings is none (arXiv 2603.09947): try another "
                        "measure, or a learned gate.")  # fmt: skip
        rows = [[str(place), _number(one["from"]), _number(one["to"]), f"{one['rows']:,}", _interval(one, "+")]
                for place, one in enumerate(found["deciles"], 1)]  # fmt: skip
        header = ["part", "measure from", "to", "rows", f"{axis}, nats"]
        drawn = plots.deciles(found, f"{subject} by the measure", f"{axis}, nats")
        yield Section(title, said, header, rows, [(drawn, "Bars: means of parts of about equal size, with 95 % "
                                                   "intervals over users.")])  # fmt: skip


def _fusions(result: Json) -> Iterator[Section]:
    found = result.get("fusions")
    if not found:
        return
    said = [
        "Every rule that makes one probability of both models', behind every kind of monotone map of theirs (none: as "
        "the models give them). ECE is the calibration error in 15 bins of equal mass: of all rows, of those that the "
        "LLM decides, and of the others.",
        "On the earlier part each row is judged by what the rows of other users have fitted; that chose. On the later "
        "part every rule is the one that the whole earlier part has fitted.",
        f"Taken ({found['wanted']}): {found['taken']['rule']}.",
        *(_sentence(text) for text in (found["note"], found["new_items"]["told"]) if text),
    ]
    names = ("logloss", "auc", "ece", "ece_llm", "ece_alone")
    rows = [[part, row["rule"], row["maps"], *(_figure(row[name]) for name in names), "best" if row["chosen"] else ""]
            for part in ("earlier", "later") for row in found[part]]  # fmt: skip
    rows += [[f"{part}, new items", row["rule"], row["maps"], *(_figure(row[name]) for name in names), ""]
             for part in ("earlier", "later") for row in found["new_items"][part]]  # fmt: skip
    header = ["part", "rule", "maps", "log-loss", "AUC", "ECE", "ECE, LLM decides", "ECE, others", "by log-loss"]
    yield Section("One scale for both models", said, header, rows)


def _gate(result: Json) -> Iterator[Section]:
    found = result["gate"]
    if found is None:
        return
    fitted, judged = found["parts"]
    tried = ", ".join(f"{one['kind']} {one['strength']:g}: {one['gain']:+.5f}" for one in found["forms"])
    inputs = ", ".join([*found["inputs"], "the base model's score"])
    said = [
        f"{_sentence(found['text'])} It was fitted on {fitted:,} asked rows, by {inputs}, "
        f"and judged on {judged:,} later ones of the earlier part.",
        f"Out-of-fold gains that chose its form (kind and strength of the penalty): {tried} nats a row.",
        "Every figure is a mean over all asked rows: log-loss that asking saves at that share of them, in nats; gain: "
        "the gate's minus the entropy's, paired, with 95 % intervals over users.",
    ]  # fmt: skip
    parts = [("earlier", found["versus"]), ("later", found.get("later", []))]
    rows = [[name, f"{one['share']:.0%}", *(_fine(one[key]) for key in ("gate", "entropy", "gain")),
             _interval(one["auc"], "+")] for name, part in parts for one in part]  # fmt: skip
    header = ["part", "share", "gate saves", "entropy saves", "gain", "gain in AUC"]
    yield Section("The learned gate against the entropy", said, header, rows)


def _promise(result: Json) -> Iterator[Section]:
    found = result["promise"]
    if found is None:
        return
    rows = f"{found['rows']:,} rows of {found['users']:,} users"
    one = "one row of each user" if found["one_row_a_user"] else "every row, also several of one user"
    missed = f"On the later rows {_interval(found['missed_later'])} are wrong and not routed."
    yield Section("What the threshold promises", [found["text"], f"From {rows}; {one}. {found['assumed']}", missed])


def _fine(found: Json) -> str:
    """Nats a row are small numbers."""
    return f"{found['value']:+.5f} [{found['low']:+.5f}, {found['high']:+.5f}]"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _log(result: Json) -> Section:
    parts, power = result["parts"], result["power"]
    said = [
        f"{power['told']}." if power else "The LLM is asked about nothing, so no gain was looked for.",
        "The log is cut by time: requests are never torn, users may be in both parts "
        f"({parts['users_in_both']:,} are), as before and after a policy goes into operation.",
    ]
    names = {"rows": "rows", "users": "users", "requests": "requests", "positive": "share of positives",
             "llm_known": "LLM's score known", "from": "from", "to": "to", "sha256": "sha256 of the rows"}  # fmt: skip
    rows = [[title, *(_about(parts[part][name]) for part in ("fit", "held_out"))] for name, title in names.items()]
    return Section("The log", said, ["", "earlier part (fit)", "later part (report)"], rows)


def _about(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2%}" if isinstance(value, float) else str(value)


def _figure(value: float | None) -> str:
    return NONE if value is None else f"{value:.4f}"


def _number(value: float | None) -> str:
    return "never" if value is None else f"{value:.4g}"


def _interval(found: Json, sign: str = "") -> str:
    if None in (found["value"], found["low"], found["high"]):
        return _figure(found["value"])
    return f"{found['value']:{sign}.4f} [{found['low']:{sign}.4f}, {found['high']:{sign}.4f}]"


def _percent(found: Json) -> str:
    return f"{found['value']:.1%} [{found['low']:.1%}, {found['high']:.1%}]"
