"""Other clients against a real server with a real bundle: tritonclient, perf_analyzer, our own for SGLang."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from bundles import ITEMS, make_bundle
from corella_edge.request_message import parse_request
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.contract.backend import ModelSpec
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.opening import open_backend
from sessions import ONE, Served, serving, start

TOLERANCE = 5e-3  # of prompts decoded together, as published
HISTORY = [("i1", 5.0), ("i2", math.nan), ("i7", 2.0)]
KNOWN = [("i1", 5.0), ("i2", 1.0), ("i7", 2.0)]
CANDIDATES = [f"i{i}" for i in range(ITEMS)] + ["never seen", "Zoë 🎬"]
OUTPUTS = {"rank": ("probability", "crm", "llm", "entropy", "routed"), "crm": ("probability",), "llm": ("probability",)}
# For the LLM of two busy cores: none of these tests is about time.
PATIENT = 60_000_000


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("protocols") / "bundle")


@pytest.fixture(scope="module")
def served(bundle: Path) -> Iterator[Served]:
    with serving(start("serve", bundle, "--port", 0, "--threshold", "ratio:0.5", *ONE)) as running:
        yield running


@pytest.fixture(scope="module")
def triton(served: Served) -> Iterator[InferenceServerClient]:
    client = InferenceServerClient(served.url.removeprefix("http://"), connection_timeout=60, network_timeout=60)
    yield client
    client.close()


def inputs(binary: bool = True, history: Sequence[tuple[str, float]] = HISTORY) -> list[InferInput]:
    tensors: dict[str, tuple[str, np.ndarray]] = {
        "user_id": ("BYTES", np.array(["u3"], dtype=object)),
        "history_items": ("BYTES", np.array([item for item, _ in history], dtype=object)),
        "history_ratings": ("FP32", np.array([rating for _, rating in history], dtype=np.float32)),
        "candidates": ("BYTES", np.array(CANDIDATES, dtype=object)),
    }
    made = []
    for name, (datatype, values) in tensors.items():
        made.append(InferInput(name, list(values.shape), datatype))
        made[-1].set_data_from_numpy(values, binary_data=binary)
    return made


def own_answer(served: Served, **options: Any) -> dict[str, np.ndarray]:
    """Columns of the server's own route's answer; NaN for null."""
    history = [{"item": item} | ({"rating": rating} if rating == rating else {}) for item, rating in HISTORY]
    body = {"user": {"id": "u3", "history": history}, "candidates": [{"item": item} for item in CANDIDATES], **options}
    answer = httpx.post(f"{served.url}/v1/rank", json=body, timeout=60).json()
    return {name: np.array([row[name] for row in answer["candidates"]], bool if name == "routed" else np.float32)
            for name in OUTPUTS["rank"]}  # fmt: skip


def same(found: Any, expected: dict[str, np.ndarray]) -> None:
    for name, values in expected.items():
        np.testing.assert_allclose(found.as_numpy(name), values, atol=TOLERANCE)


def test_tritonclient_finds_the_server_and_its_models(triton):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.get_server_metadata()["name"] == "corella-edge"
    assert [(entry["name"], entry["version"], entry["state"]) for entry in triton.get_model_repository_index()] == [
        (name, "1", "READY") for name in OUTPUTS
    ]
    for name, outputs in OUTPUTS.items():
        assert triton.is_model_ready(name)
        assert triton.is_model_ready(name, "1")
        assert not triton.is_model_ready(name, "2")
        assert [output["name"] for output in triton.get_model_metadata(name, "1")["outputs"]] == list(outputs)
        assert triton.get_model_config(name)["max_batch_size"] == 0
    assert not triton.is_model_ready("ranks")


def test_binary_json_the_servers_own_route_and_the_engine_agree(triton, served, bundle):
    expected = own_answer(served, threshold="ratio:1", timeout_ms=60_000)
    assert 0 < expected["routed"].sum() < len(CANDIDATES)
    options = {"timeout": PATIENT, "parameters": {"threshold": "ratio:1"}}
    same(triton.infer("rank", inputs(), **options), expected)
    wanted = [InferRequestedOutput(name, binary_data=False) for name in OUTPUTS["rank"]]
    same(triton.infer("rank", inputs(binary=False), outputs=wanted, **options), expected)
    history = [{"item": item} | ({"rating": rating} if rating == rating else {}) for item, rating in HISTORY]
    request = {"user": {"id": "u3", "history": history}, "candidates": [{"item": item} for item in CANDIDATES]}
    with Engine.open(bundle, llm_threads=1, threshold="ratio:1") as engine:
        scores = engine.rank(parse_request(request))
    np.testing.assert_allclose(expected["crm"], scores.crm, atol=1e-6)
    np.testing.assert_allclose(expected["llm"], scores.llm, atol=TOLERANCE)


def test_the_three_models_share_their_numbers(triton):
    options = {"timeout": PATIENT}
    whole = triton.infer("rank", inputs(), parameters={"threshold": "ratio:1"}, **options)
    np.testing.assert_array_equal(
        triton.infer("crm", inputs(), **options).as_numpy("probability"), whole.as_numpy("crm")
    )
    np.testing.assert_allclose(
        triton.infer("llm", inputs(), **options).as_numpy("probability"), whole.as_numpy("llm"), atol=TOLERANCE
    )
    routed = triton.infer("rank", inputs(), **options).as_numpy("routed")
    assert 0 < routed.sum() < whole.as_numpy("routed").sum()


def test_ids_versions_and_chosen_outputs(triton):
    wanted = [InferRequestedOutput("entropy"), InferRequestedOutput("routed", binary_data=False)]
    found = triton.infer("rank", inputs(), model_version="1", request_id="r 1", outputs=wanted)
    answer = found.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("r 1", "rank", "1")
    assert [output["name"] for output in answer["outputs"]] == ["entropy", "routed"]
    assert found.as_numpy("entropy").dtype == np.float32
    assert found.as_numpy("routed").dtype == np.bool_
    assert found.as_numpy("crm") is None


def test_a_timeout_is_in_microseconds(triton):
    hurried = triton.infer("llm", inputs(), timeout=1).as_numpy("probability")
    assert np.isnan(hurried).all()
    patient = triton.infer("llm", inputs(), timeout=PATIENT).as_numpy("probability")
    assert np.isnan(patient).sum() == CANDIDATES.count("i39") + 2  # those without text


def test_a_packed_request_is_the_same_request(triton):
    packed = triton.infer("crm", inputs(), request_compression_algorithm="gzip")
    same(packed, {"probability": triton.infer("crm", inputs()).as_numpy("probability")})


def test_many_requests_at_once(triton):
    expected = triton.infer("crm", inputs()).as_numpy("probability")
    waiting = [triton.async_infer("crm", inputs(), request_id=str(i)) for i in range(20)]
    for i, result in enumerate(waiting):
        found = result.get_result()
        assert found.get_response()["id"] == str(i)
        np.testing.assert_array_equal(found.as_numpy("probability"), expected)


@pytest.mark.parametrize(
    ("model", "options", "status", "said"),
    [
        ("ranks", {}, "404", "no model 'ranks'"),
        ("rank", {"model_version": "7"}, "404", "version '7'"),
        ("rank", {"inputs": inputs()[:3]}, "400", "candidates is missing"),
        ("rank", {"inputs": [*inputs(), inputs()[0]]}, "400", "user_id is given twice"),
        ("crm", {"outputs": [InferRequestedOutput("entropy")]}, "400", "'entropy' is not an output"),
        ("rank", {"outputs": [InferRequestedOutput("crm", class_count=2)]}, "400", "classification"),
        ("rank", {"parameters": {"threshold": 9.0}}, "400", "9.0 is not an entropy"),
        ("rank", {"sequence_id": 5}, "400", "'sequence_id' is not offered"),
        ("rank", {"request_compression_algorithm": "deflate"}, "415", "gzip"),
    ],
)
def test_errors_reach_tritonclient_with_their_message(triton, model, options, status, said):
    with pytest.raises(InferenceServerException) as error:
        triton.infer(model, **({"inputs": inputs()} | options))
    assert said in error.value.message()
    assert error.value.status() == status


def test_our_own_client_of_sglang_asks_our_own_server(served, bundle):
    """A server can be another box's LLM."""
    with Engine.open(bundle, llm_threads=1) as engine:
        assert engine.llm is not None
        rng, tokens = random.Random(0), engine.llm.prompts.tokens
        rows = [Prompt(tuple(rng.choices(range(250), k=rng.randint(0, 200))), tuple(rng.choices(range(250), k=k)))
                for k in (1, 5, 60, 100)]  # fmt: skip
        expected = [answer.probability for answer in engine.llm.backend.submit(rows).result(60)]
        backend = open_backend(f"sglang+{served.url}", ModelSpec(bundle / "llm.gguf", tokens, LlmSettings()))
        try:
            found = backend.submit(rows).result(60)
            assert [answer.reason for answer in found] == [""] * len(rows)
            assert [answer.probability for answer in found] == pytest.approx(expected, abs=TOLERANCE)
            too_long = Prompt((1,) * engine.llm.longest, (2,))
            assert backend.submit([too_long]).result(60)[0].reason == "too_long"
            late = backend.submit(rows, time.monotonic() + 1e-4).result(60)
            assert {answer.reason for answer in late} == {"deadline"}
        finally:
            backend.close()


def test_rankings_are_answered_in_time_during_long_questions(served):
    items = [[1 + i % 200, 1 + i // 200] for i in range(300)]
    question = {"query": [7] * 100, "items": items, "item_first": True, "apply_softmax": True, "timeout_ms": 300_000}
    ranking = {"user": {"id": "u3"}, "candidates": [{"item": "i1"}], "threshold": "ratio:1", "strict": True,
               "timeout_ms": 30_000}  # fmt: skip
    meanwhile = 0

    def ask() -> list[int]:
        url = f"{served.url}/v1/score"
        return [httpx.post(url, json=question, timeout=300).status_code for _ in range(4)]

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        while not asked.done():
            found = httpx.post(f"{served.url}/v1/rank", json=ranking, timeout=60)
            assert found.status_code == 200, found.text
            meanwhile += not asked.done()
    assert asked.result() == [200] * 4
    assert meanwhile


def test_texts_are_scored_as_the_bundles_own_tokenizer_reads_them(served, bundle):
    with Engine.open(bundle, llm_threads=1) as engine:
        assert engine.llm is not None
        ids = engine.llm.prompts.tokenize
        texts = {"query": "Film 1: Yes\n", "items": ["Film 2:", "<s>Film é:"], "apply_softmax": True}
        same = {"query": ids(texts["query"]), "items": [ids(item) for item in texts["items"]], "apply_softmax": True}
    answers = [httpx.post(f"{served.url}/v1/score", json=body, timeout=60).json() for body in (texts, same)]
    assert np.array(answers[0]["scores"]) == pytest.approx(np.array(answers[1]["scores"]), abs=TOLERANCE)
    assert answers[0]["usage"] == answers[1]["usage"]
    # Left out, as SGLang has it: in the whole vocabulary, in the same proportion.
    del texts["apply_softmax"]
    whole = np.array(httpx.post(f"{served.url}/v1/score", json=texts, timeout=60).json()["scores"])
    assert ((whole > 0) & (whole < 0.5)).all()
    shares = whole / whole.sum(axis=1, keepdims=True)
    assert shares == pytest.approx(np.array(answers[0]["scores"]), abs=TOLERANCE)


def test_a_bare_user_id_is_the_user_as_the_server_remembers_them(bundle, tmp_path):
    with serving(start("serve", bundle, "--port", 0, "--store", tmp_path / "users.db", *ONE)) as remembering:
        events = [{"item": item, "rating": rating, "time": time} for time, (item, rating) in enumerate(KNOWN)]
        added = httpx.post(f"{remembering.url}/v1/events", json={"user_id": "u3", "events": events})
        assert added.status_code == 200, added.text
        with InferenceServerClient(remembering.url.removeprefix("http://")) as client:
            brought = client.infer("crm", inputs(history=KNOWN))
            bare = client.infer("crm", [tensor for tensor in inputs() if not tensor.name().startswith("history")])
            unknown = client.infer("crm", inputs()[3:])
        same(bare, {"probability": brought.as_numpy("probability")})
        assert np.abs(unknown.as_numpy("probability") - brought.as_numpy("probability")).max() > 0.01


PAGE = Path(__file__).parents[2] / "docs" / "protocols.md"


def test_the_pages_examples_work(served, capsys):
    page = PAGE.read_text("utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(program.replace("127.0.0.1:8000", served.url.removeprefix("http://")), {})
    assert re.fullmatch(r"\[0\.\d+ 0\.\d+\] \[(True|False) +(True|False)\]\n", capsys.readouterr().out)
    calls = re.findall(r"curl -s http://127\.0\.0\.1:8000(\S+) -d '(.*?)'", page, re.DOTALL)
    assert [path for path, _ in calls] == ["/v2/models/rank/infer", "/v1/score"]
    inferred, scored = (httpx.post(served.url + path, content=body, timeout=60) for path, body in calls)
    assert [output["name"] for output in inferred.json()["outputs"]] == ["probability"]
    (shown,) = re.findall(r'^\{"scores".*\}$', page, re.MULTILINE)
    assert list(scored.json()) == re.findall(r'"(\w+)": (?!\d)', shown)
    assert np.array(scored.json()["scores"]).shape == (2, 2)


PERF_ANALYZER = "CORELLA_EDGE_PERF_ANALYZER"


def perf_analyzer() -> str:
    """Triton's load generator: the variable's, or the PATH's; it needs a newer C library than some systems have."""
    command = os.environ.get(PERF_ANALYZER) or shutil.which("perf_analyzer")
    if command is None:
        pytest.skip(f"no perf_analyzer on the PATH; {PERF_ANALYZER} may name one")
    if subprocess.run([command, "--version"], capture_output=True).returncode != 0:
        pytest.skip(f"{command} does not run here")
    return command


@pytest.mark.slow
@pytest.mark.parametrize("model", OUTPUTS)
def test_perf_analyzer_measures_each_model(served, tmp_path, model):
    rows = [
        {"user_id": {"content": ["u3"], "shape": [1]},
         "history_items": {"content": ["i1", "i2"], "shape": [2]},
         "history_ratings": {"content": [4.0, 5.0], "shape": [2]},
         "candidates": {"content": CANDIDATES[:count], "shape": [count]}}
        for count in (1, 5, 20)
    ]  # fmt: skip
    data = tmp_path / "data.json"
    data.write_text(json.dumps({"data": rows}), "utf-8")
    where = ["-u", served.url.removeprefix("http://"), "-i", "http"]
    how = ["--input-data", data, "--concurrency-range", "2", "--request-count", "200", "-f", tmp_path / "out.csv"]
    done = subprocess.run(
        [perf_analyzer(), "-m", model, *where, *map(str, how)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Request count: 200" in done.stdout
    assert "error" not in (done.stdout + done.stderr).lower()
    assert "Inferences/Second" in (tmp_path / "out.csv").read_text("utf-8")
