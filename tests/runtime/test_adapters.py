"""A bundle with adapters in the engine: who asks which, what is kept, what the log says, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bundles import make_bundle, reseal, write_adapter
from corella_edge.bundle.artefact import Bundle
from corella_edge.cli import cli, main
from corella_edge.errors import BundleError, InputError
from corella_edge.request import Request
from corella_edge.request_message import parse_request
from corella_edge.scores import answer
from corella_edge_runtime.control import ControlSettings
from corella_edge_runtime.decisions import line
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.reference import compare, read, unheld

ONE: dict[str, Any] = {"llm_threads": 1, "crm_threads": 1, "tuned": False, "threshold": "ratio:1"}
CHOICES: list[dict[str, Any]] = [
    {}, {"adapter": "a"}, {"adapter": "b"}, {"adapters": {}}, {"adapters": {"a": 0.5, "b": 0.5}},
]  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("adapters") / "bundle", adapters=("a", "b"))


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[Engine]:
    with Engine.open(bundle, require_llm=True, **ONE) as opened:
        yield opened


def request(user: int, **more: Any) -> Request:
    history = [{"item": f"i{(user * 7 + n) % 40}", "rating": 1 + n % 5} for n in range(4)]
    candidates = [{"item": f"i{n}"} for n in (1, 5, 9)]
    return parse_request({"user": {"id": f"u{user}", "history": history}, "candidates": candidates, **more})


def asked(engine: Engine, user: int, **more: Any) -> list[float]:
    found: list[float] = engine.rank(request(user, **more)).llm.tolist()
    return found


def test_the_answers_of_a_bundle_are_those_of_its_usual_adapters(engine: Engine) -> None:
    assert asked(engine, 1) == pytest.approx(asked(engine, 1, adapter="a"), abs=5e-3)
    assert compare(engine).problems == []


def test_requests_of_several_adapters_at_once_are_answered_as_one_by_one(engine: Engine, bundle: Path) -> None:
    rows = list(product(range(6), CHOICES))
    drafts = [engine.begin(request(user, **more)) for user, more in rows]
    for draft in drafts:
        assert draft.asking is not None
        assert draft.asking.future is not None
        draft.asking.future.result(60)
    together = [engine.finish(draft).llm for draft in drafts]
    with Engine.open(bundle, deterministic=True, **ONE) as alone:
        for (user, more), found in zip(rows, together, strict=True):
            assert found.tolist() == pytest.approx(asked(alone, user, **more), abs=5e-3)
    answers = np.array([found for (user, _), found in zip(rows, together, strict=True) if user == 0])
    lead = np.log(answers / (1.0 - answers))
    assert np.abs(lead[1] - lead[2:]).max(axis=1).min() > 0.1


def test_kept_answers_are_of_the_adapters_that_gave_them(bundle: Path) -> None:
    control = ControlSettings(kept_answers=100)
    with Engine.open(bundle, control=control, **ONE) as engine:
        first = [asked(engine, 3, **more) for more in CHOICES[1:]]
        assert engine.stats()["kept_answer_hits"] == 0
        again = [engine.rank(request(3, **more)) for more in CHOICES[1:]]
        assert [row.llm.tolist() for row in again] == first
        assert {reason for row in again for reason in row.reason} == {"kept"}
        assert engine.rank(request(3)).llm.tolist() == first[0]  # which is what the bundle says by itself
        engine.forget("u3")
        assert "kept" not in engine.rank(request(3, adapter="a")).reason


def test_the_answer_explains_and_the_log_tells_by_which_adapters(engine: Engine, tmp_path: Path) -> None:
    for more, expected in zip(CHOICES, [{"a": 1.0}, {"a": 1.0}, {"b": 1.0}, {}, {"a": 0.5, "b": 0.5}], strict=True):
        wanted = request(2, explain=True, **more)
        scores = engine.rank(wanted)
        assert answer(wanted, scores, engine.name)["explain"]["adapters"] == expected
        assert json.loads(line(wanted, scores, engine.name, 0.0))["adapters"] == expected
    make_bundle(tmp_path / "plain")
    with Engine.open(tmp_path / "plain", **ONE) as plain:
        scores = plain.rank(request(2, explain=True))
        assert "adapters" not in answer(request(2, explain=True), scores, plain.name)["explain"]
        assert "adapters" not in json.loads(line(request(2), scores, plain.name, 0.0))
        with pytest.raises(InputError, match="'a' is no adapter of this bundle, which has none"):
            plain.rank(request(2, adapter="a"))


@pytest.mark.parametrize("llm", ["thread", None])
def test_an_unknown_adapter_is_refused_before_anything_is_computed(bundle: Path, llm: str | None) -> None:
    with Engine.open(bundle, llm=llm, **ONE) as engine:
        for act in (engine.rank, engine.begin, engine.check):
            with pytest.raises(InputError, match="adapters: 'c' is no adapter of this bundle, which has a, b"):
                act(request(1, adapter="c"))


def test_an_earlier_bundle_opens_and_one_with_adapters_says_its_format(bundle: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "plain")
    assert Bundle.open(tmp_path / "plain").manifest.to_json()["format_version"] == 1
    assert Bundle.open(tmp_path / "plain").adapters().names == ()
    assert json.loads((bundle / "manifest.json").read_text())["format_version"] == 2


def test_a_row_of_an_adapter_that_is_not_there_is_told(bundle: Path, tmp_path: Path) -> None:
    one = damaged(bundle, tmp_path / "one")
    rows = [json.loads(line) for line in (one / "reference.jsonl").read_text().splitlines()]
    lines = [json.dumps({**row, "adapters": {"x": 0.5}}) for row in rows]
    (one / "reference.jsonl").write_text("\n".join(lines) + "\n")
    reseal(one)
    with Engine.open(one, llm="thread", **ONE) as engine:
        problems = compare(engine).problems
    assert "reference.jsonl: the adapter x is not in the bundle" in problems


def damaged(bundle: Path, out: Path) -> Path:
    return Path(shutil.copytree(bundle, out))


def with_rows(bundle: Path, out: Path, change: Callable[[dict[str, Any]], dict[str, Any]], **default: float) -> Path:
    """A copy whose reference rows are changed, and where given what answers by itself."""
    one = damaged(bundle, out)
    rows = [change(json.loads(line)) for line in (one / "reference.jsonl").read_text().splitlines()]
    (one / "reference.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if default:
        (one / "adapters.json").write_text(json.dumps({"adapters": ["a", "b"], "default": default}))
    reseal(one)
    return one


def bare(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "adapters"}


@pytest.mark.parametrize(
    ("change", "default", "missing"),
    [
        (bare, {}, ["b"]),
        (lambda row: {**row, "llm": None}, {}, ["a"]),
        (bare, {"b": 1.0}, ["a"]),
        (bare, {"a": 0.5}, ["a", "b"]),
        (lambda row: row, {"a": 0.5, "b": 0.5}, ["a"]),
        (lambda row: row, {}, []),
    ],
)
def test_every_adapter_has_a_reference_row_or_is_named(
    bundle: Path, tmp_path: Path, change: Any, default: dict[str, float], missing: list[str]
) -> None:
    one = with_rows(bundle, tmp_path / "one", change, **default)
    assert unheld(read(Bundle.open(one)), Bundle.open(one).adapters()) == missing
    with Engine.open(one, llm=None, **ONE) as engine:  # nothing has to be computed to see it
        told = [problem for problem in compare(engine).problems if "no row is of" in problem]
    assert [problem.split()[7].rstrip(",") for problem in told] == missing


def test_verify_fails_where_an_adapter_has_no_row(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = with_rows(bundle, tmp_path / "one", bare)
    with pytest.raises(SystemExit) as left:
        main(["verify", str(one), "--llm-threads", "1"])
    assert left.value.code == 3
    shown = capsys.readouterr()
    assert "reference.jsonl: no row is of the adapter b, so nothing tells whether it answers here" in shown.out
    assert "too different from the reference in 1 place(s)" in shown.err


def test_a_list_that_is_not_of_the_files_is_refused(bundle: Path, tmp_path: Path) -> None:
    one = damaged(bundle, tmp_path / "one")
    (one / "adapters.json").write_text(json.dumps({"adapters": ["a"], "default": {}}))
    reseal(one)
    with pytest.raises(BundleError, match=r"adapters\.json: the adapter 'b' is missing in adapters\.json"):
        Bundle.open(one).adapters()
    two = damaged(bundle, tmp_path / "two")
    (two / "adapters" / "b.gguf").unlink()
    with pytest.raises(BundleError, match=r"adapters/b\.gguf: missing"):
        Bundle.open(two)
    reseal_unlisted = damaged(bundle, tmp_path / "three")
    (reseal_unlisted / "adapters.json").unlink()
    with pytest.raises(BundleError, match=r"lacks adapters\.json, which belongs to its adapters"):
        reseal(reseal_unlisted)


def test_an_adapter_that_is_dangerous_is_refused_when_the_bundle_opens(bundle: Path, tmp_path: Path) -> None:
    other = damaged(bundle, tmp_path / "other")
    write_adapter(other / "adapters" / "b.gguf", np.random.default_rng(1), 64)
    reseal(other)
    with pytest.raises(BundleError, match=r"b\.gguf: not an adapter that this release can run"):
        Engine.open(other, **ONE)
    changed = damaged(bundle, tmp_path / "changed")
    raw = bytearray((changed / "adapters" / "a.gguf").read_bytes())
    raw[-1] ^= 1
    (changed / "adapters" / "a.gguf").write_bytes(raw)
    with pytest.raises(BundleError, match=r"adapters/a\.gguf: its contents differ"):
        Engine.open(changed, **ONE)


def test_score_takes_adapters_line_by_line(bundle: Path, tmp_path: Path, engine: Engine) -> None:
    lines = [{"id": f"r{i}", "user": {"id": f"u{i}"}, "candidates": [{"item": "i1"}], "threshold": "ratio:1", **more}
             for i, more in enumerate(CHOICES)]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    cli(["score", str(bundle), str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl")], standalone_mode=False)
    found = [json.loads(row)["candidates"][0]["llm"] for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    expected = [engine.rank(parse_request(row)).llm[0] for row in lines]
    assert found == pytest.approx(expected, abs=5e-3)


def test_a_successor_keeps_the_adapters(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text('{"item": "i1", "title": "Another Film"}\n')
    cli(["catalog", "update", str(bundle), str(tmp_path / "items.jsonl"), "--out", str(tmp_path / "next")],
        standalone_mode=False)  # fmt: skip
    assert Bundle.open(tmp_path / "next").adapters() == Bundle.open(bundle).adapters()
    assert Bundle.open(tmp_path / "next").manifest.format_version == 2


def test_a_replaced_catalogue_has_rows_of_every_adapter(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "items.jsonl").write_text("".join(f'{{"item": "n{i}", "title": "New {i}"}}\n' for i in range(9)))
    cli(["catalog", "replace", str(bundle), str(tmp_path / "items.jsonl"), "--out", str(tmp_path / "next")],
        standalone_mode=False)  # fmt: skip
    with Engine.open(tmp_path / "next", require_llm=True, **ONE) as engine:
        found = compare(engine)
    assert (found.problems, [*found.adapters]) == ([], ["b"])


def test_an_update_that_would_leave_an_adapter_without_a_row_is_refused(bundle: Path, tmp_path: Path) -> None:
    rows = [json.loads(line)["request"] for line in (bundle / "reference.jsonl").read_text().splitlines()]
    seen = {event["item"] for row in rows[:-1] for event in row["user"]["history"]}
    item = next(event["item"] for event in rows[0]["user"]["history"])

    def only_the_first(row: dict[str, Any]) -> dict[str, Any]:
        return row if row["request"] == rows[0] else bare(row)

    one = with_rows(bundle, tmp_path / "one", only_the_first)
    assert item in seen
    (tmp_path / "items.jsonl").write_text(json.dumps({"item": item, "title": "Another Film"}) + "\n")
    with pytest.raises(InputError, match=r"every row of reference\.jsonl of the adapter b has one of these items"):
        cli(["catalog", "update", str(one), str(tmp_path / "items.jsonl"), "--out", str(tmp_path / "next")],
            standalone_mode=False)  # fmt: skip
    assert not (tmp_path / "next").exists()


def table(path: Path, rows: list[dict[str, Any]]) -> Path:
    from request_tables import row_of, table_of, write

    adapter = pa.array([row_of(row)["adapter"] for row in rows], pa.string())
    return write(path, table_of(rows, adapter=adapter))


def test_tables_name_an_adapter_in_a_column(bundle: Path, tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "user": {"id": f"u{i}"}, "candidates": [{"item": "i1"}], **more}
            for i, more in enumerate([{}, {"adapter": "a"}, {"adapter": "b"}])]  # fmt: skip
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--threshold", "ratio:1", "--deterministic", "--llm-threads", "1"]
    for source, out in ((tmp_path / "in.jsonl", "out.jsonl"), (table(tmp_path / "in.parquet", rows), "out.parquet")):
        cli(["score", str(bundle), str(source), "--out", str(tmp_path / out), *options], standalone_mode=False)
    expected = [json.loads(row)["candidates"][0]["llm"] for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    found = pq.read_table(tmp_path / "out.parquet")["llm"].to_pylist()
    assert found == expected
    assert abs(found[1] - found[2]) > 0.01


@pytest.mark.parametrize(
    ("adapters", "message"),
    [
        ((), "adapter: 'a' is no adapter of this bundle, which has none"),
        (("b",), "adapter: 'a' is no adapter of this bundle, which has b"),
    ],
)
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_an_adapter_that_a_bundle_has_not_is_refused_before_the_first_row(
    tmp_path: Path, adapters: tuple[str, ...], message: str, kind: str
) -> None:
    plain = make_bundle(tmp_path / "plain", adapters=adapters)
    rows = [{"user": {"id": f"u{i}"}, "candidates": [{"item": "i1"}], **more} for i, more in enumerate([{}] * 9)]
    rows.append({**rows[0], "adapter": "a"})
    if kind == "parquet":
        source, message = table(tmp_path / "in.parquet", rows), f"row 9 (from 0): {message}"
    else:
        source, message = tmp_path / "in.jsonl", "'a' is no adapter of this bundle"
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=re.escape(message)):
        cli(["score", str(plain), str(source), "--out", str(tmp_path / f"out.{kind}")], standalone_mode=False)
    assert not [*tmp_path.glob("out*")]


def test_inspect_shows_the_adapters_and_which_answers(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli(["inspect", str(bundle)], standalone_mode=False)
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("adapters")]
    assert line.split(maxsplit=1)[1] == "a, b; by itself a (1)"
    cli(["inspect", str(bundle), "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["adapters"] == {"adapters": ["a", "b"], "default": {"a": 1.0}}
