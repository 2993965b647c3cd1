"""`corella-edge serve` as a process, with a bundle that was really trained: start, answers, stop, refusal."""

from __future__ import annotations

import json
import shutil
import signal

import httpx
import pytest

from sessions import ONE, run, serving, start


def test_from_start_to_sigterm(tiny, capsys):
    line = tiny.requests.read_text("utf-8").splitlines()[0]
    with serving(start("serve", tiny.bundle, "--port", 0, "--threshold", "ratio:0.5", *ONE)) as served:
        with capsys.disabled():
            print(f" [ready {served.ready_after:.2f} s after the start of the process] ", end="")
        assert served.ready_after < 10
        for path in ("/v2/health/live", "/v2/health/ready", "/openapi.json"):
            assert httpx.get(served.url + path).status_code == 200, path
        answer = httpx.post(f"{served.url}/v1/rank", content=line, timeout=30).json()
        asked = json.loads(line)["candidates"]
        assert [row["item"] for row in answer["candidates"]] == [candidate["item"] for candidate in asked]
        assert sorted(row["rank"] for row in answer["candidates"]) == list(range(1, len(asked) + 1))
        assert {row["routed"] for row in answer["candidates"]} == {True, False}
        metrics = httpx.get(f"{served.url}/metrics").text
        routed = sum(row["routed"] for row in answer["candidates"])
        assert f'corella_edge_candidates_total{{bundle="tiny@1",outcome="llm"}} {routed:.1f}' in metrics
        assert 'corella_edge_requests_total{route="/v1/rank",status="200"} 1.0' in metrics
        served.process.send_signal(signal.SIGTERM)
        assert served.end() == 0
        assert "Traceback" not in served.errors
        assert served.says("tiny@1 is ready")


@pytest.mark.parametrize(
    ("file", "place"),
    [("crm.onnx", -100), ("llm.gguf", 5000), ("llm.F16.gguf", -1), ("manifest.json", 40), ("manifest.sha256", 3),
     ("catalog.jsonl", 10), ("vocab/user_id.json", 20), ("routing.json", -5), ("sample.jsonl", 100)],
)  # fmt: skip
def test_a_flipped_byte_is_refused_by_name(tiny, tmp_path, file, place):
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny.bundle, bundle)
    data = bytearray((bundle / file).read_bytes())
    data[place] ^= 1
    (bundle / file).write_bytes(data)
    for command in (["serve", bundle, "--port", 0], ["verify", bundle, *ONE]):
        done = run(*command)
        assert done.code == 3
        assert file in done.out + done.err
        assert done.err.count("\n") == 1
