"""The recipe `generic`: made for prepared data, loaded like any other, and shown with its reasons."""

from __future__ import annotations

from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.generic import sizes, words
from corella_edge_export.generic.choice import Reasons, Table, reasons, values
from corella_edge_export.generic.facts import Facts, look
from corella_edge_export.recipe import GENERIC, Recipe, load_recipe, table_of


def recipe_for(name_or_path: str, data: PreparedData) -> Recipe:
    """A recipe as `load_recipe`, where `generic` is made for these data. Raises RecipeError."""
    return load_recipe(name_or_path, lambda kind: values(table(look(data), kind)))


def explained(name_or_path: str, data: PreparedData) -> tuple[Recipe, Reasons]:
    """A recipe as `recipe_for`, and place of a key → why `generic` has that value for these data.

    Only values that are `generic`'s own have a reason: not those of another recipe, or those that a file changes.
    """
    made: list[Table] = []  # where the recipe is `generic`, or over it

    def make(kind: str) -> Table:
        made.append(table(look(data), kind))
        return values(made[0])

    found = load_recipe(name_or_path, make)
    own = table_of(found)
    why = {place: reason for every in made for place, reason in reasons(every).items()}
    return found, {place: reason for place, reason in why.items() if same(own, values(made[0]), place)}


def same(table: Table, other: Table, place: tuple[str, ...]) -> bool:
    """Whether both have the same value there."""
    first, *rest = place
    if rest:
        return first in table and same(table[first], other[first], tuple(rest))
    return bool(first in table and table[first] == other[first])


def table(facts: Facts, kind: str = "") -> Table:
    """The recipe's table, with a reason beside each value that the facts decide.

    Args:
        kind: the family of the CRM; empty leaves it to the facts.
    """
    return {
        "name": facts.name or GENERIC,
        "seed": 1,
        "crm": sizes.crm(facts, kind),
        "llm": sizes.llm(facts),
        "joint": {**sizes.later_stage(facts), "learning_rate": 2e-4, "crm_learning_rate": 1e-4},
        "continuation": {**sizes.later_stage(facts), "learning_rate": 2e-4},
        "prompt": words.prompt(facts, sizes.whole_items(facts)),
        "export": sizes.export(facts),
    }
