"""The rows of MovieLens-100K on which TALLRec (arXiv 2305.00447) and others print an AUC, from the publisher's u.data.

The authors' `preprocess_movie.py` takes users in the order in which u.data first names them, and of each user, in order
of time, every row behind the tenth. Of that list it takes the last 10,000: 8,000 to train, 1,000 to validate, 1,000 to
test. It is no split by time: its test rows are of 16 users, none of whom has a training row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from corella_edge_export.data.contract import Work
from corella_edge_export.data.readers.movielens_tables import describe_100k

HISTORY = 10
PARTS = {"train": 8000, "valid": 1000, "test": 1000}


def describe(source: Path, folder: Path) -> str:
    """A data.toml of those rows; writes their three files to `folder`.

    Each file also has the rows before its first ones that are in no part: ten a user, history alone.
    """
    lines = (source / "u.data").read_text("utf-8").splitlines()
    for part, rows in parts(lines).items():
        (folder / f"{part}.tsv").write_text("".join(f"{row}\n" for row in rows), "utf-8")
    split = ["[split]", 'rule = "files"', *(f'{part} = ["{part}.tsv"]' for part in PARTS),
             f"min_history = {HISTORY}", 'ties = "include"', ""]  # fmt: skip
    described = re.sub(r"^files = .*u\.data.*\n", "", describe_100k(source, Work(folder)), flags=re.MULTILINE)
    return described.partition("[split]")[0].replace('"ml-100k"', '"ml-100k-tallrec"') + "\n".join(split)


def parts(lines: list[str]) -> Mapping[str, list[str]]:
    """The lines of each part, in order; rows that only serve as history stand before the first row they belong to."""
    users: dict[str, list[str]] = {}
    for line in lines:
        users.setdefault(line.split("\t")[0], []).append(line)
    for rows in users.values():
        rows.sort(key=lambda line: int(line.split("\t")[3]))
    places = [(user, row) for user, rows in users.items() for row in range(HISTORY, len(rows))]
    places = places[-sum(PARTS.values()) :]
    found: dict[str, list[str]] = {}
    begun: set[str] = set()
    for part, count in PARTS.items():
        found[part] = []
        for user, row in places[:count]:
            first = row if user in begun else row - HISTORY
            begun.add(user)
            found[part] += users[user][first : row + 1]
        places = places[count:]
    return found
