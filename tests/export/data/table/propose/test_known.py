"""Publishers' forms, told by names of files and columns."""

from __future__ import annotations

from pathlib import Path

import pytest

from corella_edge_export.data.table.propose.known import recognise
from corella_edge_export.data.table.propose.sheet import read
from shop_tables import as_csv, put

REVIEW = '{"reviewerID": "a", "asin": "b", "overall": 5, "unixReviewTime": 1, '
CASES: dict[str, dict[str, str]] = {
    "amazon-2014": {"a.json": REVIEW + '"helpful": [0, 0]}\n'},
    "amazon-2018": {"a.json": REVIEW + '"verified": true}\n'},
    "amazon-2023": {"a.csv": "user_id,parent_asin,rating,timestamp\na,b,5.0,1\nc,d,4.0,2\n"},
    "ml-100k": {"u.data": "1\t2\t3\t881250949\n2\t3\t4\t881250950\n"},
    "ml-1m": {"ratings.dat": "1::2::3::978300760\n1::3::4::978300761\n"},
    "ml-csv": {"ratings.csv": "userId,movieId,rating,timestamp\n1,2,3.0,4\n2,3,4.0,5\n"},
    "recbole": {"x.inter": "user_id:token\titem_id:token\trating:float\n1\t2\t3\n2\t3\t4\n"},
    "mind": {"behaviors.tsv": "1\tU1\tN1-0 N2-1\n2\tU2\tN3-0 N2-1\n"},
    "book-crossing": {"BX-Book-Ratings.csv": '"User-ID";"ISBN";"Book-Rating"\n"1";"2";"0"\n"2";"3";"5"\n'},
    "gorse": {"feedback.jsonl": '{"FeedbackType": "like", "UserId": "a", "ItemId": "b", "Timestamp": "2020-01-01"}\n'},
}


@pytest.mark.parametrize("name", CASES)
def test_forms(tmp_path: Path, name: str) -> None:
    sheets = [read(put(tmp_path, file, text)) for file, text in CASES[name].items()]
    assert recognise(sheets) == name


def test_anybody_s_table_has_no_publisher(tmp_path: Path) -> None:
    text = as_csv([{"user": "a", "item": "b", "rating": 3}, {"user": "b", "item": "c", "rating": 4}])
    assert recognise([read(put(tmp_path, "e.csv", text))]) is None
