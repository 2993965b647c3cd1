"""docs/data-toml.md: its table names every key that a description may have, and its example is one."""

from __future__ import annotations

import re
from pathlib import Path

from corella_edge_export.data.table import parse
from pages import blocks, read

PAGE = read("data-toml.md")
KEYS = {
    "": {*parse._TOP} - {"events", "label", "negatives", "items", "users", "split"},
    "[events]": {*parse._FILES, *parse._EVENTS},
    "[items]": {*parse._FILES, *parse._ITEMS},
    "[users]": {*parse._FILES, *parse._USERS},
    "[label]": {*parse._LABEL},
    "[negatives]": {*parse._NEGATIVES},
    "[split]": {*parse._SPLIT},
}


def test_the_table_has_every_key_and_no_other() -> None:
    told: dict[str, set[str]] = {table: set() for table in KEYS}
    tables = [""]
    for first, keys in re.findall(r"^\| ((?:`\[\w+\]`(?:, )?)*) ?\| (`\w+`(?:, `\w+`)*) \|", PAGE, re.MULTILINE):
        tables = re.findall(r"`(\[\w+\])`", first) or tables
        for table in tables:
            told[table] |= set(re.findall(r"`(\w+)`", keys))
    told["[users]"] -= {"title", "missing_title"}
    kinds = {"categorical", "numeric", "text", "multi", "sequence"}  # the page's second table
    assert {table: keys - (kinds - KEYS[table]) for table, keys in told.items()} == KEYS


def test_the_example_is_a_description(tmp_path: Path) -> None:
    (tmp_path / "sales.csv").touch()
    found = parse.parse_description(blocks(PAGE, "toml")[0], tmp_path)
    assert (found.name, found.events.user, found.items.title) == ("shop", "CustomerID", "Description")
