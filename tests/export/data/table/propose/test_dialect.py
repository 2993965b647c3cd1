"""Separator, quote, escape and header: a table that any program wrote is cut as it was meant."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge_export.data.table.propose.dialect import find_dialect, rows
from corella_edge_export.data.table.propose.header import find_header
from shop_tables import as_csv, events, items

NUMBERS = st.integers(0, 99).map(str)
WORDS = st.text("abcdefgh éß'.-()", min_size=1, max_size=12).filter(lambda text: text.strip() == text)
AWKWARD = st.text('ab ,;|\t"\n.', min_size=1, max_size=12)


def written(table: list[list[str]], separator: str, line_end: str, quoting: int) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, delimiter=separator, lineterminator=line_end, quoting=quoting).writerows(table)  # type: ignore[arg-type]
    return out.getvalue()


@settings(max_examples=120, deadline=None)
@given(
    table=st.lists(st.tuples(NUMBERS, WORDS, AWKWARD, NUMBERS), min_size=4, max_size=30),
    separator=st.sampled_from(",;|\t"),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
)  # fmt: skip
def test_a_table_in_any_dialect_is_read_back(table: list[tuple[str, ...]], separator: str, line_end: str) -> None:
    lines = [["id", "name", "note", "mark"], *map(list, table)]
    text = written(lines, separator, line_end, csv.QUOTE_ALL)
    found = find_dialect(text)
    assert found is not None
    assert (found.separator, found.quote, found.escape, found.columns) == (separator, '"', "", 4)
    assert list(rows(text, found.separator, found.quote, found.escape)) == lines


@pytest.mark.parametrize("separator", ["\t", ",", ";", "|", "::"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_plain_tables(separator: str, line_end: str) -> None:
    found = find_dialect(as_csv(events(), separator, line_end=line_end))
    assert found is not None
    assert (found.separator, found.quote, found.escape, found.columns) == (separator, '"', "", 4)


def test_several_values_in_a_field_are_no_columns() -> None:
    found = find_dialect(as_csv(items(), "::", header=False))
    assert found is not None
    assert found.separator == "::"


def test_a_comma_inside_numbers_does_not_separate() -> None:
    found = find_dialect("a;b;c\n1,5;2,5;3,5\n2,5;7,5;1,5\n")
    assert found is not None
    assert found.separator == ";"


def test_blanks_separate_where_nothing_else_does() -> None:
    found = find_dialect("1 7 5\n2 8 4\n3 9 1\n")
    assert found is not None
    assert (found.separator, found.columns) == (" ", 3)


def test_text_without_columns_has_no_dialect() -> None:
    assert find_dialect("These are the terms.\nRead them, please.\nAll of them, and then\nsign.\n") is None


def test_quotes_that_are_letters() -> None:
    """As of names written without quoting: `"Heroes"` is a title, `12" single` a size."""
    text = "id\tname\n" + "".join(f"{i}\tname {i}\n" for i in range(50)) + '51\t"Heroes"\n52\t12" single\n53\t"x\n'
    found = find_dialect(text)
    assert found is not None
    assert found.quote == ""
    assert "letters of the text" in found.why["quote"]


def test_a_quote_that_wraps_separators_and_line_ends() -> None:
    text = 'id,name\n1,"a, b"\n2,"two\nlines"\n3,plain\n4,"with ""quotes"""\n'
    found = find_dialect(text)
    assert found is not None
    assert found.quote == '"'
    assert len(list(rows(text, ",", '"', ""))) == 5


def test_apostrophes_round_fields() -> None:
    text = "".join(f"'c{i}','p{i}, x',5\n" for i in range(30))
    found = find_dialect(text)
    assert found is not None
    assert (found.quote, found.columns) == ("'", 3)


def test_a_backslash_that_ends_fields_is_no_escape() -> None:
    r"""Taking \ for an escape would glue the fields "a\";"b" together, and swallow rows."""
    text = "".join(f'"{i}";"title {i}";"x"\n' for i in range(60)) + '"61";"ends in \\";"x"\n"62";"so \\";"y"\n'
    found = find_dialect(text)
    assert found is not None
    assert found.escape == ""
    assert "as an escape it would swallow" in found.why["escape"]
    assert len(list(rows(text, ";", found.quote, found.escape))) == 62


def test_a_backslash_before_quotes_inside_fields_is_an_escape() -> None:
    text = "".join(f'"{i}","say \\"hi, you\\" {i}"\n' for i in range(20))
    found = find_dialect(text)
    assert found is not None
    assert (found.quote, found.escape) == ('"', "\\")
    assert next(rows(text, ",", '"', "\\")) == ["0", 'say "hi, you" 0']


@pytest.mark.parametrize(
    ("lines", "header"),
    [
        (["user,item,rating", "1,2,3", "2,3,4"], True),
        (["1,2,3", "2,3,4", "3,4,5"], False),
        (["0,1,2", "a7,tea,1999", "b8,oil,2001"], True),  # the numbers of the columns
        (["N1,news,sport", "N2,news,art", "N3,tv,art"], False),
        (["user,title", "ann,Green tea", "bob,Black tea"], True),
        ([",index,title", "0,44,Tea", "1,45,Oil"], True),
        (["a1,tea", "a2,oil", "a3,rice"], False),
        (["1,Toy (1995),x|y", "2,Game (1996),x"], False),
    ],
)
def test_header(lines: list[str], header: bool) -> None:
    assert find_header([line.split(",") for line in lines])[0] is header
