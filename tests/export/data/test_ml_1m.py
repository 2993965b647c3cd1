"""The MovieLens-1M reader: what it makes of good files, and one error for each kind of bad one."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge_export.data.contract import check
from corella_edge_export.data.readers.delimited import read_table
from corella_edge_export.data.readers.movielens import RATINGS
from corella_edge_export.data.registry import read

Writer = Callable[..., Path]
GOOD = "".join(f"{user}::{movie}::3::97830{user}{movie}\n" for user in range(1, 6) for movie in range(1, 6))


def test_reads_codes_titles_and_genres(official: Writer) -> None:
    source = official()
    raw = read("ml-1m", source, {"seed": 0})
    check(raw)
    assert raw.users.rows() == [
        ("1", "F", "under 18", "K-12 student", "4"),
        ("2", "M", "56+", "self-employed", "9"),
        ("12", "M", "25-34", "writer", "0"),
    ]
    titles = ["Toy Story", "The Matrix", "Les Misérables", "L'Avventura"]
    assert raw.items["title"].to_list() == [*titles, "Il Postino (The Postman)"]
    assert raw.items["genres"].to_list()[0] == ["Animation", "Children's", "Comedy"]
    assert raw.items.row(1)[3:] == ("1999", "1990s")
    assert raw.interactions.row(0) == ("1", "2", 5.0, 978300760)
    assert raw.sources["users.dat"]["bytes"] == (source / "users.dat").stat().st_size
    assert not raw.redistributable


def test_a_part_of_the_data_set_is_noted(official: Writer) -> None:
    (note,) = read("ml-1m", official(), {}).notes
    assert "5 ratings, 3 users and 5 movies" in note


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_files_that_were_saved_again_are_the_same(official: Writer, encoding: str, end: str) -> None:
    published = read("ml-1m", official(), {})
    saved = {path.stem: path.read_bytes().decode("latin-1") for path in official().iterdir()}
    again = read("ml-1m", official(**{n: t.replace("\n", end).encode(encoding) for n, t in saved.items()}), {})
    assert again.items.equals(published.items)
    assert again.users.equals(published.users)
    assert again.interactions.equals(published.interactions)


BAD = [
    ("ratings", b"", "ratings.dat: the file is empty"),
    ("ratings", None, "ratings.dat: the file is missing"),
    ("ratings", b"1::2::5\n", "ratings.dat line 1: 3 fields instead of 4"),
    ("ratings", b"1::2::5::978300760::\n", "line 1: 5 fields instead of 4"),
    ("ratings", b"1::2::5::978300760\n\n", "line 2: 1 field instead of 4"),
    ("ratings", b"1::2::6::978300760\n", "line 1: Rating '6' is not an integer from 1 to 5"),
    ("ratings", b"1::2::4.5::978300760\n", "line 1: Rating '4.5'"),
    ("ratings", b"1::2::5::-1\n", "line 1: Timestamp '-1'"),
    ("ratings", b"1::2::5::99999999999\n", "line 1: Timestamp '99999999999'"),
    ("ratings", b"01::2::5::978300760\n", "line 1: UserID '01' is not a positive integer"),
    ("ratings", b"1::2::5::978300760\n1::x::5::9\n", "line 2: MovieID 'x'"),
    ("ratings", b"1::2::5::978300760\n1::10::5::97830", "line 2: the last line is cut"),
    ("ratings", b"1::2::5::978300760\r\n1::10::5\r\n", "line 2: 3 fields instead of 4"),
    ("movies", b"1::A\xe9 (1995)::Drama\n2::A\xc3\xa9 (1995)::Drama\n", "line 2: is UTF-8 and line 1 is not"),
    ("movies", b"1::A (1995)::Drama\n2::\xe9 \xc3\xa9 (1995)::Drama\n", "line 2: is UTF-8 and line 2 is not"),
    ("movies", b"\x28\xb5\x2f\xfd", "movies.dat: is compressed with zstd; unpack it first"),
    ("movies", b"1::A (1995)::Drama\n2::\0 (1995)::Drama\n", "movies.dat line 2: holds a NUL byte"),
    ("ratings", b"1::2::5::9\n3::2::5::9\n", "line 2: the user 3 is not in users.dat"),
    ("ratings", b"1::2::5::9\n2::3::5::9\n", "line 2: the movie 3 is not in movies.dat"),
    ("ratings", b"1::2::5::9\n2::2::5::9\n1::2::4::8\n", "line 3: user 1 rates movie 2 a second time"),
    ("users", None, "users.dat: the file is missing"),
    ("users", b"1::X::1::10::48067\n", "users.dat line 1: Gender 'X' is not F or M"),
    ("users", b"1::F::2::10::48067\n", "line 1: Age '2' is not one of the codes"),
    ("users", b"1::F::1::21::48067\n", "line 1: Occupation '21'"),
    ("users", b"1::F::1::10::4806\n", "line 1: Zip '4806'"),
    ("users", b"1::F::1::10::48067\n1::F::1::10::48067\n", "line 2: the user 1 is listed before"),
    ("movies", None, "movies.dat: the file is missing"),
    ("movies", b"1::Toy Story::Comedy\n", "movies.dat line 1: Title 'Toy Story' is not a title that ends"),
    ("movies", b"1:: (1995)::Comedy\n", "line 1: Title ' (1995)'"),
    ("movies", b"1::Toy Story (1995)::Come\n", "line 1: Genres 'Come'"),
    ("movies", b"1::Toy Story (1995)::\n", "line 1: Genres ''"),
    ("movies", b"1::Toy::Story (1995)::Comedy\n", "line 1: 4 fields instead of 3"),
    ("movies", b"1::A (1995)::Drama\n1::B (1995)::Drama\n", "line 2: the movie 1 is listed before"),
]


@pytest.mark.parametrize(("name", "content", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_input_is_one_error(official: Writer, name: str, content: bytes | None, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read("ml-1m", official(**{name: content}), {})
    assert "\n" not in str(error.value)


def test_an_unreadable_file_is_one_error(official: Writer) -> None:
    source = official(ratings=None)
    (source / "ratings.dat").mkdir()
    with pytest.raises(InputError, match=r"ratings\.dat: cannot be read: Is a directory"):
        read("ml-1m", source, {})


def _read(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ratings.dat"
        path.write_bytes(content)
        read_table(path, RATINGS)


@given(st.integers(1, len(GOOD) - 1))
@settings(deadline=None, max_examples=60)
def test_a_cut_inside_a_line_names_that_line(size: int) -> None:
    content = GOOD[:size].encode()
    if content.endswith(b"\n"):
        _read(content)
        return
    line = GOOD[:size].count("\n") + 1
    with pytest.raises(InputError, match=rf"ratings\.dat line {line}: "):
        _read(content)


@given(st.integers(0, 24), st.text(st.characters(max_codepoint=255), max_size=40))
@settings(deadline=None, max_examples=150)
def test_any_line_not_of_the_form_is_named(row: int, text: str) -> None:
    text = text.replace("\n", "").replace("\r", "")
    assume(row or not text.startswith(("ÿþ", "þÿ", "\x1f\x8b")))  # the first bytes of other kinds of files
    lines = GOOD.splitlines()
    lines[row] = text
    content = ("\n".join(lines) + "\n").encode("latin-1")
    if re.fullmatch(r"[1-9][0-9]{0,9}::[1-9][0-9]{0,9}::[1-5]::[0-9]{1,10}", text):
        _read(content)
        return
    with pytest.raises(InputError, match=rf"ratings\.dat line {row + 1}: "):
        _read(content)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
@example(321, 13)
@settings(deadline=None, max_examples=100)
def test_a_changed_byte_is_read_or_refused_with_a_line(place: int, byte: int) -> None:
    content = bytearray(GOOD.encode())
    content[place] = byte
    good = re.fullmatch(rb"([1-9][0-9]{0,9}::[1-9][0-9]{0,9}::[1-5]::[0-9]{1,10}(\r\n|\r|\n))*", content)
    with nullcontext() if good else pytest.raises(InputError, match=r"ratings\.dat line [0-9]+: "):
        _read(bytes(content))
