"""The sections [label] and [negatives] of a data.toml."""

from __future__ import annotations

import polars as pl

from corella_edge_export.data.table.propose.columns import as_float
from corella_edge_export.data.table.propose.event_sections import Names
from corella_edge_export.data.table.propose.labels import Cut, find_silent, propose_cut, twin_of_rating
from corella_edge_export.data.table.propose.survey import FilesSurvey
from corella_edge_export.data.table.propose.toml import WrittenSection, toml


def label_section(found: FilesSurvey, names: Names) -> WrittenSection:
    """[label]."""
    section, labels = WrittenSection("label"), found.labels
    if labels.ratings:
        _rating_keys(section, found, names)
    elif labels.flags:
        _flag_keys(section, found, names)
    else:
        _positive_keys(section, found, names)
    return section


def _rating_keys(section: WrittenSection, found: FilesSurvey, names: Names) -> None:
    labels = found.labels
    column = found.events.columns[labels.ratings[0]]
    numbers = column.numbers
    assert numbers is not None
    name = names[labels.ratings[0]]
    scale = f"{numbers.n_unique()} different numbers from {column.range[0]:g} to {column.range[1]:g}"
    if len(labels.ratings) > 1:
        told = "which rating says whether the item was liked? The others tell it too, and are left out"
        section.ask("rating", [names[column] for column in labels.ratings], "which rating is the one?", told)
    elif labels.guessed:
        told = f"do these numbers ({scale}) say how much an item was liked?"
        section.ask("rating", (name, "none (see below)"), "is it a rating?", told)
        section.say("If not, delete the keys of [label], write positives_only = true, and add a table [negatives].")
    else:
        section.key("rating", name, scale)
    silent = find_silent(numbers)
    told_numbers = numbers.filter(numbers != silent[0]) if silent else numbers
    cut = propose_cut(told_numbers)
    if twin := _twin(found):
        cut = Cut(twin[1], as_float((told_numbers > twin[1]).mean()), f"{names[twin[0]]} is 1 exactly there")
    warning = "; nearly one class: think of another cut" if not 0.05 <= cut.share <= 0.95 else ""
    without = f" of the ratings other than {silent[0]:g}" if silent else ""
    section.key("like_above", cut.above, f"a proposal: {cut.share:.1%}{without} are likes ({cut.told}){warning}")
    if silent:
        why = f"{silent[1]}; does it say nothing (ignored), or is it the worst mark?"
        section.ask(
            "ignore", (f"[{silent[0]:g}]", "[]"), f"ignore the ratings {silent[0]:g}, or take them as marks?", why
        )
    for flag in labels.flags if not twin else ():
        section.say(
            f"{names[flag]} is 0 or 1 and may be the label instead: column = {toml(names[flag])}. It is left out."
        )


def _twin(found: FilesSurvey) -> tuple[str, float] | None:
    """(flag, cut) of a column that is 1 exactly where the rating is above the cut, if there is one."""
    rating = found.events.frame[found.labels.ratings[0]].cast(pl.Float64, strict=False)
    for flag in found.labels.flags:
        cut = twin_of_rating(found.events.frame[flag].cast(pl.Float64, strict=False), rating)
        if cut is not None:
            return flag, cut
    return None


def _flag_keys(section: WrittenSection, found: FilesSurvey, names: Names) -> None:
    flags = found.labels.flags
    column = found.events.columns[flags[0]]
    values = column.numbers if column.numbers is not None else column.answers
    assert values is not None
    if len(flags) > 1:
        told = "which column says whether the user liked the item? The others tell it too, and are left out"
        section.ask("column", [names[flag] for flag in flags], "which column is the label?", told)
    else:
        texts = "0 and 1" if column.numbers is not None else " and ".join(sorted(column.filled.unique().to_list())[:2])
        section.key("column", names[flags[0]], f"{texts}, {as_float(values.mean()):.1%} are likes")


def _positive_keys(section: WrittenSection, found: FilesSurvey, names: Names) -> None:
    labels, roles = found.labels, found.roles
    flags = [
        c.name
        for c in found.events.columns.values()
        if c.flag and c.name not in (*roles.user.options, *roles.item.options)
    ]
    if labels.counts and not found.rows.pairs and found.time is None:
        _count_keys(section, found, names)
    elif labels.unread:
        _unread_keys(section, found, names)
    elif flags:
        told = " or ".join(names[flag] for flag in flags)
        why = f"is every event a like, or does {told} (0 and 1) tell which one is?"
        section.ask("positives_only", ("true", "a column (see below)"), "is every event a like?", why)
        section.say("For a column, delete the line above and all of [negatives], and take this instead:")
        section.off(f"column = {toml(names[flags[0]])}")
    else:
        ones = f"{names[labels.ones]} is 1 in every row" if labels.ones else "no column says how much an item was liked"
        section.key("positives_only", True, f"{ones}: every event is a like")


def _unread_keys(section: WrittenSection, found: FilesSurvey, names: Names) -> None:
    """A column that is called a rating and holds no numbers: whether it is one, only a person knows."""
    column = found.events.columns[found.labels.unread[0]]
    shown = ", ".join(repr(text) for text, _ in column.top)
    why = f"{names[column.name]} is called like a rating, and its values are no numbers ({shown})"
    section.ask("positives_only", ("true", "a rating (see below)"), "is every event a like?", why)
    section.say("If it is a rating, write its values as numbers in the file, and run init again.")


def _count_keys(section: WrittenSection, found: FilesSurvey, names: Names) -> None:
    """Counts over a user's whole time: each is a like, or a high one is."""
    column = found.events.columns[found.labels.counts[0]]
    numbers, (low, high) = column.numbers, column.range
    assert numbers is not None
    name, cut = names[found.labels.counts[0]], propose_cut(numbers)
    span = f"{name} {low:,.0f} to {high:,.0f}"
    why = f"each row is one user's count for one item ({span}): is every count a like, or a high one?"
    section.ask("positives_only", ("true", "a rating (see below)"), "is every count a like?", why)
    section.say("For a rating, delete the line above and all of [negatives], and take these instead:")
    section.off(f"rating = {toml(name)}")
    section.off(f"like_above = {toml(cut.above)}", cut.told)


def negatives_section(found: FilesSurvey) -> WrittenSection | None:
    """[negatives], where every event is a like."""
    if found.labels.ratings or found.labels.flags:
        return None
    section = WrittenSection("negatives")
    section.say("Rows with label 0 are drawn, since the files have none.")
    section.key("per_positive", 4, "for each like")
    if found.time is None:
        section.key("from", "catalogue", "without times nobody knows what had been seen before")
        section.key("weight", "uniform", "the same holds of popularity")
    else:
        section.key("from", "seen-before", "items that somebody had before that moment")
        section.key("weight", "popularity-before", "as often as they were had, so that popularity alone tells nothing")
    section.key("seed", 1)
    if found.time is not None:
        again = found.rows.pairs - found.rows.repeats
        why = f"{again:,} rows are of an item that their user had before, others of one that nobody had before"
        section.key("unlike_drawn", "keep", f'{why}; no drawn row is such a one; "history" leaves them out')
    return section
