"""The prompt of the recipe `generic`: its words from what the data have, whatever they are of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from corella_edge_export.generic.choice import Choice, Table
from corella_edge_export.generic.facts import TOLD, AttributeFacts, Facts

SHORT = 40  # characters of a text that stands in a prompt
LISTED = 60  # characters of a list of values
LINE = 100  # characters of all attributes of an item's line
PROFILE = 6  # attributes of a user at most
OWN = 0.5  # an attribute with more values than this share of what was looked at is another name, and says nothing
KNOWN = 0.2  # an attribute that fewer have is left out
NUMBERS = 200  # different numbers of a user's attribute that words may stand for
CHARS = 3.5  # characters a token of a text, about
LINES, TOKENS = 60, 600  # of a prompt's history, at most about
CONTEXT = 2048


def prompt(facts: Facts, whole_items: bool) -> Table:
    """Section [prompt]."""
    chosen = item_attributes(facts)
    item = "".join(["[{title}]", *(f" {{{one.name}}}" for one in chosen), ":"])
    lines, why = history_lines(facts, chosen, whole_items)
    return {
        "instruction": Choice(instruction(facts), f"an event tells whether it was liked by {_told(facts)}"),
        "item": Choice(item, left_out(facts.item_attributes, chosen, "an item")),
        "rating": _tail(facts),
        "history_lines": Choice(lines, why),
        "block": max(1, lines // 2),
        "value_chars": Choice(value_chars(facts), f"nine in ten titles have at most {facts.title_chars:.0f}"),
        "like_above": Choice(facts.like_above, _rule(facts)),
        "profile": {one.name: profile_text(one) for one in user_attributes(facts)},
    }  # fmt: skip


def instruction(facts: Facts) -> str:
    """The prompt's first line."""
    if facts.told_by == "labels":
        return "Items shown to a user, and whether they took them. Would they take the next one?\n"
    if facts.told_by == "being there":
        return "Items a user chose, the latest last. Would they choose the next one?\n"
    scale = f" from {facts.ratings[0]:g} to {facts.ratings[-1]:g}" if 1 < facts.steps <= TOLD else ""
    return f"Items a user rated{scale}. Would they rate the next one above {facts.like_above:g}?\n"


def _rule(facts: Facts) -> str:
    return "the rule of dataset.json" if facts.told_by == "ratings" else "labels are 0 and 1"


def _told(facts: Facts) -> str:
    return {"ratings": "its rating", "labels": "its label", "being there": "being there at all"}[facts.told_by]


def _tail(facts: Facts) -> Choice:
    """What follows an answered question: the rating where it says more than the answer."""
    if facts.told_by != "ratings" or facts.steps <= 2:
        return Choice("", "an event's answer says all there is of it")
    if facts.steps > TOLD:
        return Choice("", f"{facts.steps:,} different ratings are too many to have a token each")
    return Choice(" {}", f"{facts.steps} different ratings")


def item_attributes(facts: Facts) -> list[AttributeFacts]:
    """Those that an item's line shows: the first that fit."""
    found: list[AttributeFacts] = []
    for one in facts.item_attributes:
        if in_line(one) and sum(other.chars + 1 for other in [*found, one]) <= LINE:
            found.append(one)
    return found


def in_line(one: AttributeFacts) -> bool:
    """Whether an attribute says something in few words. A sequence and a number do not."""
    longest = {"categorical": SHORT, "text": SHORT, "multi": LISTED}.get(one.kind, 0)
    return _named(one, ".[]:!{}") and 0 < one.chars <= longest and _tells(one)


def user_attributes(facts: Facts) -> list[AttributeFacts]:
    """Those that the prompt's profile shows."""
    return [one for one in facts.user_attributes if in_line(one) or _number(one)][:PROFILE]


def _number(one: AttributeFacts) -> bool:
    return one.kind == "numeric" and _named(one, "{}") and _tells(one) and one.values <= NUMBERS


def _named(one: AttributeFacts, without: str) -> bool:
    """Whether its name can stand in a template's braces."""
    name = one.name
    return name.isprintable() and name == name.strip() and not name.isdigit() and not set(without) & set(name)


def _tells(one: AttributeFacts) -> bool:
    """Whether it has several values that several share, and most have one."""
    return one.values > 1 and one.shared >= OWN and one.known >= KNOWN


def profile_text(one: AttributeFacts) -> str:
    """A user's attribute in the profile: its name and its value."""
    return f"{one.name.replace('_', ' ')} {{}}"


def left_out(every: Sequence[AttributeFacts], chosen: Iterable[AttributeFacts], what: str) -> str:
    """Which attributes are not shown."""
    out = [one.name for one in every if one not in chosen]
    if not every:
        return f"{what} has no attributes"
    why = "long, a number, or a value of its own for each"
    return f"left out ({why}): {', '.join(out)}" if out else "all attributes are short"


def line_tokens(facts: Facts, chosen: Sequence[AttributeFacts], whole_items: bool) -> float:
    """Tokens of an answered question, about."""
    tail = 1 + (facts.told_by == "ratings" and 2 < facts.steps <= TOLD)
    shown = min(facts.title_chars, value_chars(facts)) + sum(one.chars + 1 for one in chosen)
    return tail + 1 + (1 if whole_items else 2 + shown / CHARS)


def history_lines(facts: Facts, chosen: Sequence[AttributeFacts], whole_items: bool) -> tuple[int, str]:
    """How many events a prompt shows."""
    fit = int(TOKENS / line_tokens(facts, chosen, whole_items) / 1.5)
    lines = max(2, min(LINES, fit, round(facts.events / 1.5)))
    shown = f"up to {lines + max(1, lines // 2)} are shown"
    return lines, f"nine in ten training rows have at most {facts.events:.0f} earlier events; {shown}"


def value_chars(facts: Facts) -> int:
    """Longest text of any one value."""
    return int(min(120, max(40, facts.title_chars)))
