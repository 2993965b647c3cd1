"""Decisions, read: each row once, so that what is written of them is a log that `calibrate` takes."""

from __future__ import annotations

import json
from pathlib import Path

from corella_edge.decision_log import read_logged
from corella_edge.labelled_files import read_json_lines


def test_a_request_s_item_and_a_request_count_once(tmp_path: Path) -> None:
    def shown(item: str, crm: float) -> dict[str, object]:
        return {"item": item, "rank": 1, "probability": crm, "crm": crm}

    three = [shown("a", 0.1), shown("b", 0.2), shown("a", 0.3)]
    decisions = [{"id": "r", "user": "u", "time": 5.0, "candidates": three},
                 {"id": "r", "user": "u", "time": 6.0, "candidates": [shown("c", 0.4)]},
                 {"id": "s", "user": "u", "time": 7.0, "candidates": [shown("a", 0.5)]}]  # fmt: skip
    log, labelled = tmp_path / "log.jsonl", tmp_path / "labelled.jsonl"
    log.write_text("".join(json.dumps(decision) + "\n" for decision in decisions))
    rows = read_logged([log]).rows
    found = zip(rows.request.tolist(), rows.item.tolist(), rows.crm.tolist(), strict=True)
    assert sorted(found) == [("r", "a", 0.1), ("r", "b", 0.2), ("s", "a", 0.5)]
    labelled.write_text("".join(line.replace('"label": null', '"label": 1') for line in rows.lines()))
    assert len(read_json_lines(labelled)) == 3
