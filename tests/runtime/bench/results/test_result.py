"""The form of a benchmark's result: out to JSON and in again, newer and damaged files."""

from __future__ import annotations

import json

import pytest

from bench_results import result
from corella_edge.errors import InputError
from corella_edge_runtime.bench.results.result import FILE, decode, encode, read, write


@pytest.fixture(scope="module")
def made():
    return result(requests=60)


def test_round_trip(made, tmp_path):
    write(made, tmp_path)
    assert read(tmp_path) == made
    assert read(tmp_path / FILE) == made
    assert len({point.key for point in made.points}) == len(made.points)


def test_arrays_of_numbers_are_one_line_each(made):
    lines = encode(made).splitlines()
    assert any(line.strip().startswith(b'"counts": [') and line.rstrip(b",").endswith(b"]") for line in lines)


def test_fields_of_a_newer_version_are_passed_over(made):
    newer = json.loads(encode(made))
    newer["later"] = {"a": 1}
    newer["points"][0]["later"] = [1]
    assert decode(json.dumps(newer).encode(), "newer.json") == made


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda found: found.pop("points"), None),
        (lambda found: found.pop("machine"), "damaged: .*machine"),
        (lambda found: found.update(format=1), "has format 1, and this version reads format 2; measure again"),
        (lambda found: found["points"][0].update(share=3), r"damaged: .*points\[0\]\.share"),
        (lambda found: found["points"][0]["histogram"]["counts"].append(1), "damaged: .*histogram"),
    ],
)
def test_damage_is_named(made, change, says):
    found = json.loads(encode(made))
    change(found)
    data = json.dumps(found).encode()
    if says is None:
        assert decode(data, "b.json").points == ()
        return
    with pytest.raises(InputError, match=says) as raised:
        decode(data, "b.json")
    assert str(raised.value).startswith("b.json: ")


def test_no_result_at_all(tmp_path):
    for data in (b"", b"{}", b"[1]", b"\xff", b'{"format": "two"}'):
        with pytest.raises(InputError, match=r"x\.json: not a benchmark\.json"):
            decode(data, "x.json")
    with pytest.raises(InputError, match=r"benchmark\.json: cannot be read"):
        read(tmp_path)
