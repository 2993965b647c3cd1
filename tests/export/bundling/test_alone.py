"""A bundle of the base model alone: of a run that trains no LLM, or of any run with --no-llm; also with two graphs."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from corella_edge.request import Request, User  # noqa: E402
from corella_edge_export.bundling.write import ExportOptions, export  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.training import stages  # noqa: E402
from corella_edge_export.training.run import Run  # noqa: E402
from corella_edge_runtime.engine import Engine  # noqa: E402
from corella_edge_runtime.reference import compare  # noqa: E402
from tiny_run import recipe  # noqa: E402

OFF = {"epochs": 0}
ALONE = {"llm": OFF, "joint": OFF, "continuation": OFF}
SEQUENCE = {"kind": "sequence", "heads": 2, "inner": 8, "history": 6, "history_block": 2, "event_attributes": True}


@pytest.fixture(scope="module")
def bundle(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    chosen = recipe(crm=SEQUENCE, **ALONE)
    assert not chosen.trains_llm
    assert list(stages.train(folder / "run", chosen, data, quiet=True)) == ["crm"]
    assert not (folder / "run" / "tokenizer").exists()
    export(Run.open(folder / "run", data), folder / "bundle", ExportOptions(crm_int8=True, threads=1))
    return folder / "bundle"


def test_the_bundle_holds_both_graphs_in_both_forms_and_no_llm(bundle: Path) -> None:
    names = {path.name for path in bundle.iterdir()}
    assert {"crm.onnx", "crm.events.onnx", "crm.int8.onnx", "crm.events.int8.onnx"} <= names
    assert not {"prompt.json", "llm.gguf"} & names
    with Engine.open(bundle, tuned=False) as engine:
        assert engine.bundle.manifest.about["models"] == {"crm": "SequenceModel", "llm": {}}
        found = engine.bundle.json("verification.json")
        assert found["differences"].keys() == {"crm"}
        assert found["differences"]["crm"] <= 1e-5
        assert {"crm", "crm_valid", "crm_int8"} == found["metrics"].keys()
        assert engine.policy.threshold == float("inf")
        assert list(compare(engine).problems) == []


def test_requests_are_answered_and_returning_users_remembered(bundle: Path) -> None:
    with Engine.open(bundle, llm=None, tuned=False) as engine:
        request = Request(engine_requests(engine)[0].user, None, top_k=10)
        first = engine.rank(request)
        seen = {event.item for event in request.user.history}  # which a ranking of everything leaves out
        assert set(first.items) == set(engine.encoder.catalog.ids) - seen
        assert set(first.reason) == {""}
        read = engine.stats()["crm_events_read"]
        assert read > 0
        assert engine.rank(request).crm.tolist() == first.crm.tolist()
        assert engine.stats()["crm_events_read"] == read
        assert engine.stats()["crm_history_hits"] == 1
        engine.forget()
        assert engine.stats()["crm_kept_histories"] == engine.stats()["crm_kept_bytes"] == 0


def test_nothing_is_kept_where_there_is_no_memory_for_it(bundle: Path) -> None:
    with Engine.open(bundle, llm=None, tuned=False, crm_memory_mib=0) as engine:
        for request in engine_requests(engine):
            engine.rank(request)
        assert engine.stats()["crm_events_read"] > 0
        assert engine.stats()["crm_kept_bytes"] == 0


def test_a_user_without_events_is_ranked(bundle: Path) -> None:
    with Engine.open(bundle, llm=None, tuned=False) as engine:
        assert len(engine.rank(Request(User("nobody"), None)).items) == len(engine.encoder.catalog)


def engine_requests(engine: Engine) -> list[Request]:
    from corella_edge_runtime.bench.measure import traffic

    rows = traffic.read(engine.bundle, None)
    return [row.request for row in rows if row.request.user.history][:5]


def test_of_a_run_with_an_llm_it_can_be_left_out(data: PreparedData, tmp_path: Path) -> None:
    chosen = recipe(llm={"epochs": 0}, continuation=OFF)
    stages.train(tmp_path / "run", chosen, data, quiet=True)
    made = export(Run.open(tmp_path / "run", data), tmp_path / "bundle", ExportOptions(llm=False))
    assert not made.has("llm.gguf")
    assert "llama-cpp-python" not in made.manifest.about["packages"]
    assert made.json("routing.json")["threshold"] == "ratio:0"
    with Engine.open(tmp_path / "bundle", tuned=False) as engine:
        assert engine.llm is None
