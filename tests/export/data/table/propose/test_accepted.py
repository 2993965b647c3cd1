"""What `init` writes, `prepare table` reads: questions are refused by their line, answers prepare every row."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from corella_edge.cli import main
from corella_edge.errors import InputError
from corella_edge_export.data.table.parse import parse_description
from corella_edge_export.data.table.propose.proposal import Proposal, propose
from quick import others_slow
from shop_tables import as_csv, changed, events, items, put, without

E, ITEMS = events(), items()
TABLES = {
    "ratings": {"e.csv": as_csv(E), "i.csv": as_csv(ITEMS)},
    "no header": {"e.tsv": as_csv(E, "\t", header=False)},
    "double colons": {"e.dat": as_csv(E, "::", header=False), "i.dat": as_csv(ITEMS, "::", header=False)},
    "quoted": {"e.csv": as_csv(E, ";", quoting=csv.QUOTE_ALL), "i.csv": as_csv(ITEMS, ";", line_end="\r\n")},
    "lines": {"e.jsonl": "".join(json.dumps(row) + "\n" for row in E)},
    "purchases": {"e.csv": as_csv(without(E, "rating"))},
    "clicks": {"e.csv": as_csv(without(changed(E, clicked=lambda i, r: r["rating"] > 3), "rating"))},
    "kinds": {"e.csv": as_csv(without(changed(E, event=lambda i, r: ["view", "buy"][i % 2]), "rating"))},
    "zeros": {"e.csv": as_csv(changed(E, rating=lambda i, r: 0 if i % 2 else 1 + i % 10))},
    "no times": {"e.csv": as_csv(without(E, "timestamp"))},
    "flags": {"e.csv": as_csv(E), "i.csv": as_csv(changed(ITEMS, a=lambda i, r: i % 2, b=lambda i, r: i % 3 % 2,
                                                         c=lambda i, r: i % 5 % 2))},
    "parts": {"train.csv": as_csv(E[:300]), "valid.csv": as_csv(E[300:350]), "test.csv": as_csv(E[350:])},
    "mixed parts": {"train.csv": as_csv(E[50:350]), "valid.csv": as_csv(E[350:]), "test.csv": as_csv(E[:50])},
    "own attributes": {"e.csv": as_csv(changed(
        E, title=lambda i, r: f"tea no {r['item_id']}", country=lambda i, r: "XYZ"[int(r["user_id"][1:]) % 3]))},
    "cancelled": {"e.csv": as_csv(changed(
        without(E, "rating"), InvoiceNo=lambda i, r: ("C" if i % 20 == 0 else "") + str(5000 + i),
        Quantity=lambda i, r: -1 if i % 20 == 0 else 2))},
    "no users": {"e.csv": as_csv(changed(E, user_id=lambda i, r: "?" if i % 10 == 0 else r["user_id"]))},
}  # fmt: skip


def answered(text: str) -> str:
    """The description with the first answer to every question, as a person would write it."""

    def first(found: re.Match[str]) -> str:
        answer = found[1].partition(" — ")[0].split(" | ")[0].strip()
        return answer if answer in ("true", "false") or answer.startswith("[") else f"'{answer}'"

    return re.sub(r'"CHOOSE: ([^"]*)"', first, text)


def proposed(folder: Path, name: str) -> Proposal:
    files = [put(folder, file, text) for file, text in TABLES[name].items()]
    return propose(files, folder / "data.toml", lambda message: None)


@pytest.mark.parametrize("name", TABLES)
def test_questions_are_refused_by_line_and_answers_are_read(tmp_path: Path, name: str) -> None:
    proposal = proposed(tmp_path, name)
    if proposal.questions:
        line = proposal.questions[0].partition(":")[0]
        with pytest.raises(InputError, match=rf"data\.toml {line}: .*: choose "):
            parse_description(proposal.text, tmp_path)
    parse_description(answered(proposal.text), tmp_path)


@pytest.mark.parametrize("name", others_slow(TABLES, ("cancelled", "no users", "zeros", "no times")))
def test_every_row_is_prepared(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    proposal = proposed(tmp_path, name)
    (tmp_path / "data.toml").write_text(answered(proposal.text))
    with pytest.raises(SystemExit) as left:
        main(["prepare", "table", "--config", str(tmp_path / "data.toml"), "--out", str(tmp_path / "data"), "--dry"])
    output = capsys.readouterr()
    assert left.value.code in (0, None), output.err
    assert "400 rows read" in output.out
    repeated = len(E) - len({(row["user_id"], row["item_id"], row["rating"] > 4) for row in E})
    dropped = {"cancelled": 20, "no users": 40, "zeros": 200, "no times": repeated}.get(name, 0)
    assert f"{400 - dropped} kept" in output.out
