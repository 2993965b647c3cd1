"""Broken tables: small files with their data.toml, which are refused with the lines in broken_tables.txt."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

GOOD = b"user,item,when,stars\nu1,i1,1600000000,5\nu1,i2,1600000060,1\nu2,i1,1600000120,4\n"
ITEMS = b"id,title,kind,price\ni1,Tea,drink,1.5\ni2,Cup,ware,2\n"
EVENTS = {
    "files": ["e.csv"], "user": "user", "item": "item", "time": "when", "time_unit": "s"
}  # fmt: skip
LABEL = {"rating": "stars", "like_above": 3}
FORM: dict[str, dict[str, Any]] = {
    "events": EVENTS,
    "label": LABEL,
    "items": {"files": ["i.csv"], "id": "id", "title": "title"},
    "split": {"rule": "random"},
}


@dataclass(frozen=True)
class Broken:
    """A case.

    Attributes:
        files: name → bytes; None = the file is not there. The others of e.csv and i.csv are good.
        form: table → key → value beside the usual ones; a value of None leaves a key out, a table of None the table.
        toml: the whole text in place of the form.
    """

    files: dict[str, bytes | None] = field(default_factory=dict)
    form: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    toml: str = ""


def events(data: bytes | str, **form: Any) -> Broken:
    """A case of another e.csv."""
    return Broken({"e.csv": data.encode() if isinstance(data, str) else data}, {"events": form})


def rows(*lines: str, **form: Any) -> Broken:
    """A case of further rows in e.csv."""
    return events(GOOD.decode() + "".join(f"{line}\n" for line in lines), **form)


def items(data: str, **form: Any) -> Broken:
    """A case of another i.csv."""
    return Broken({"i.csv": data.encode()}, {"items": form})


def described(**tables: Any) -> Broken:
    """A case of another data.toml."""
    return Broken({}, tables)


_GZIP, _ZSTD = gzip.compress(GOOD * 300, mtime=0), zstandard.compress(GOOD * 300)
_JSON = {"files": ["e.jsonl"]}


def json_lines(data: str, **form: Any) -> Broken:
    return Broken({"e.jsonl": data.encode()}, {"events": {**_JSON, **form}})


J = '{"user": "u1", "item": "i1", "when": 1600000000, "stars": 5}\n'
BROKEN = {
    # files
    "missing file": Broken({"e.csv": None}),
    "no match": described(events={"files": ["x*.csv"]}),
    "file twice": described(events={"files": ["e.csv", "*.csv"]}),
    "folder": described(events={"files": ["."]}),
    "empty": events(b""),
    "header only": events(b"user,item,when,stars\n"),
    "cut gzip": events(_GZIP[: len(_GZIP) // 2]),
    "damaged gzip": events(_GZIP[:-8] + bytes(4) + _GZIP[-4:]),
    "cut zstd": events(_ZSTD[:-4]),
    "empty gzip": events(gzip.compress(b"", mtime=0)),
    "zip": events(b"PK\x03\x04" + bytes(40)),
    "xz": events(b"\xfd7zXZ\0" + bytes(40)),
    "parquet as csv": events(b"PAR1" + bytes(40) + b"PAR1"),
    "csv as parquet": Broken({}, {"events": {"format": "parquet"}}),
    "cut parquet": Broken({"e.parquet": b"PAR1" + bytes(40)}, {"events": {"files": ["e.parquet"]}}),
    "damaged parquet": Broken({"e.parquet": b"PAR1" + bytes(40) + b"PAR1"}, {"events": {"files": ["e.parquet"]}}),
    # text
    "undecodable": events(GOOD + "u3,caf\u00e9,1600000000,3\n".encode("latin-1")),
    "undecodable late": events(GOOD * 20_000 + b"u3,i1,1600000000,3\nu3,\xff,1600000000,3\n"),
    "utf-16 as utf-8": events(GOOD.decode().encode("utf-16-le")),
    "utf-8 as utf-16": events(GOOD + b"x", encoding="utf-16"),
    "nul": events(GOOD + b"u3,i\x001,1600000000,3\n"),
    # records
    "short row": rows("u3,i1,1600000000", "u3,i1,1600000000,3"),
    "long row": rows("u3,i1,1600000000,3,4"),
    "cut last line": events(GOOD + b"u3,i1,16000"),
    "wrong separator": events(GOOD, separator=";"),
    "open quote": rows('u3,"i1,1600000000,3', "u3,i1,1600000000,3"),
    "inner quote": rows('u3,"i"1,1600000000,3'),
    "escaped quote": rows('u3,"i\\"1",1600000000,3'),
    "quoted newline before": rows('u3,"i\n1",1600000000,3', "u3,i1,never,3"),
    "long value": rows('u3,"' + "x" * 2_000_001 + '",1600000000,3'),
    "columns that differ between files": Broken(
        {"e2.csv": b"user,item,stars\nu1,i1,5\n"}, {"events": {"files": ["e.csv", "e2.csv"]}}
    ),
    # columns
    "unknown column": described(events={"user": "usr"}),
    "unknown drop column": described(events={"drop": {"Item": "^x"}}),
    "column twice": events(b"user,item,when,stars,user\nu1,i1,1600000000,5,u2\n"),
    "too few columns named": events(GOOD, header=False, columns=["user", "item", "when"]),
    "unknown item column": described(items={"title": "tittle"}),
    # values
    "no user": rows(",i1,1600000000,3"),
    "no item": rows("u3,,1600000000,3", "u3,?,1600000000,3", missing=["?"]),
    "no time": rows("u3,i1,,3"),
    "no rating": rows("u3,i1,1600000000,"),
    "all without user": events(b"user,item,when,stars\n,i1,1600000000,5\n", require=["user"]),
    "milliseconds": rows("u3,i1,1600000000000,3"),
    "seconds as ms": described(events={"time_unit": "ms"}),
    "microseconds": events(b"user,item,when,stars\nu1,i1,1600000000000000,5\n"),
    "date as seconds": rows("u3,i1,2020-01-01,3"),
    "seconds as date": described(events={"time_unit": "%Y-%m-%d"}),
    "day and month": events(b"user,item,when,stars\nu1,i1,01/02/2020,5\nu1,i2,13/02/2020,5\n", time_unit="%m/%d/%Y"),
    "before 1995": rows("u3,i1,86400,3"),
    "in the future": rows("u3,i1,4102444800,3"),
    "two-digit year": events(b"user,item,when,stars\nu1,i1,01/02/20,5\n", time_unit="%m/%d/%Y"),
    "decimal comma": rows('u3,i1,1600000000,"4,5"'),
    "rating nan": rows("u3,i1,1600000000,nan"),
    "rating word": rows("u3,i1,1600000000,good", "u3,i2,1600000000,bad"),
    "rating infinite": rows("u3,i1,1600000000,1e999"),
    "label of ratings": Broken({}, {"label": {"rating": None, "like_above": None, "column": "stars"}}),
    "quantity word": described(events={"quantity": "item"}),
    "drop compares words": described(events={"drop": {"item": "<=0"}}),
    "long id": rows("u" * 300 + ",i1,1600000000,3"),
    "nothing left": described(events={"drop": {"stars": ">0"}}),
    # json
    "json cut": json_lines(J + J[:30]),
    "json list": json_lines(J + "[1]\n"),
    "json array": json_lines("[" + J.strip() + "]\n"),
    "python dict": json_lines("{'user': 'u1'}\n"),
    "json key unknown": json_lines(J, user="User"),
    "json value": json_lines(J + J.replace("5}", '"five"}')),
    "json user missing": json_lines(J + '{"item": "i1", "when": 1600000000, "stars": 5}\n'),
    "json NaN": json_lines(J + J.replace("5}", "NaN}")),
    # items
    "leading zeros": Broken(
        {"e.csv": GOOD.replace(b"i1", b"007").replace(b"i2", b"008"), "i.csv": b"id,title\n7,Tea\n8,Cup\n"}
    ),
    "case": items("id,title\nI1,Tea\nI2,Cup\n"),
    "blanks": items("id,title\ni1 ,Tea\ni2 ,Cup\n"),
    "other ids": items("id,title\nx,Tea\ny,Cup\n"),
    "item without title": items("id,title\ni1,Tea\ni2,\n"),
    "item without id": items("id,title\ni1,Tea\n,Cup\n"),
    "item absent": items("id,title\ni1,Tea\n", min_join=0.5),
    "numeric attribute": items(ITEMS.decode(), attributes={"kind": "numeric"}),
    "multi without separator": items(ITEMS.decode(), attributes={"kind": "multi"}),
    "flags that are none": items(ITEMS.decode(), attributes={"x": {"kind": "multi", "columns": ["kind", "price"]}}),
    "users absent": Broken(
        {"u.csv": b"id,age\nx,1\n"}, {"users": {"files": ["u.csv"], "id": "id", "attributes": {"age": "numeric"}}}
    ),
    # data.toml
    "not toml": Broken(toml="name = \n"),
    "unknown table": described(event={"x": 1}),
    "unknown key": described(events={"seperator": ","}),
    "wrong type": described(events={"header": "yes"}),
    "missing key": described(events={"user": None}),
    "missing table": described(label=None),
    "to choose": described(events={"time_unit": "CHOOSE: s or ms"}, label={"rating": "CHOOSE: stars or when"}),
    "two rules": described(label={"column": "stars"}),
    "no rule": described(label={"rating": None, "like_above": None}),
    "no threshold": described(label={"like_above": None}),
    "positives without negatives": described(label={"rating": None, "like_above": None, "positives_only": True}),
    "negatives without positives": described(negatives={"per_positive": 1}),
    "unknown negatives": described(
        label={"rating": None, "like_above": None, "positives_only": True}, negatives={"from": "seen before"}
    ),
    "no time and no unit": described(events={"time": None, "time_unit": None}),
    "time and none": described(events={"time_unit": "none"}),
    "time split without times": described(events={"time": None, "time_unit": "none"}, split={"rule": "time"}),
    "bad pattern": described(events={"time_unit": "%Y-%Q"}),
    "no pattern": described(events={"time_unit": "sec"}),
    "bad zone": described(events={"timezone": "Berlin"}),
    "bad expression": described(events={"drop": {"item": "(^C"}}),
    "bad comparison": described(events={"drop": {"stars": "<=few"}}),
    "bad encoding": described(events={"encoding": "utf8x"}),
    "long separator": described(events={"separator": "<---->"}),
    "two quotes": described(events={"quote": "''"}),
    "header and columns": described(events={"columns": ["a", "b"]}),
    "csv key of json": Broken({"e.jsonl": J.encode()}, {"events": {**_JSON, "separator": ","}}),
    "unknown role": described(events={"require": ["usr"]}),
    "role without column": described(events={"require": ["time"], "time": None, "time_unit": "none"}),
    "shares": described(split={"shares": [0.8, 0.1]}),
    "unknown rule": described(split={"rule": "by-time"}),
    "files of no rule": described(split={"train": ["e.csv"]}),
    "no title": described(items={"title": None}),
    "unknown kind": described(items={"attributes": {"kind": "category"}}),
    "attribute called title": described(items={"attributes": {"title": "text"}}),
    "dotted attribute": described(items={"attributes": {"details": {"color": "categorical"}}}),
    "timestamp of csv": described(events={"time_unit": "timestamp"}),
    "nameless": Broken(toml="[events]\n"),
}


def lay_out(case: Broken, folder: Path) -> None:
    """Write a case's files and its data.toml."""
    for name, data in {"e.csv": GOOD, "i.csv": ITEMS, **case.files}.items():
        if data is not None:
            (folder / name).write_bytes(data)
    (folder / "data.toml").write_text(case.toml or text_of(case.form), encoding="utf-8")


def text_of(form: dict[str, dict[str, Any] | None]) -> str:
    """The usual data.toml with other values."""
    lines = ['name = "shop"']
    for table in dict.fromkeys([*FORM, *form]):
        own = form.get(table, {})
        if own is not None:
            values = {**FORM.get(table, {}), **own}
            lines += ["", f"[{table}]"]
            lines += [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(below)}" for key, below in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
