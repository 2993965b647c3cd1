"""How bundle-v1 and answers-v1.jsonl were made: `python tests/golden/make.py NEW_FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from corella_edge.cli import cli
from corella_edge.request_message import parse_request
from corella_edge.scores import Scores, answer
from corella_edge_export.data.prepare import prepare
from corella_edge_runtime.engine import Engine

RECIPE = Path(__file__).parent / "golden.toml"
SIZES = {"users": 80, "items": 40, "events": 14.0, "genres": 2}
# No rank and no routing of the answers hangs on the last digits of a machine.
APART, CLEAR = 0.012, 0.002
NEW = {"item": "new-1", "features": {"title": "The Silent Galaxy of Pirates", "genres": ["adventure"]}}


def make(root: Path) -> None:
    """root/bundle-v1 and root/answers-v1.jsonl; data and run stay beside them."""
    torch.set_num_threads(1)
    data, run, bundle = root / "data", root / "run", root / "bundle-v1"
    prepare("synthetic", None, data, seed=0, requests=30, options=SIZES)
    cli(["train", str(RECIPE), "--data", str(data), "--out", str(run)], standalone_mode=False)
    cli(["export", str(run), "--out", str(bundle), "--llm-threads", "1"], standalone_mode=False)
    prepared = [json.loads(line) for line in (data / "requests.jsonl").read_text("utf-8").splitlines()]
    with Engine.open(bundle, llm_threads=1, require_llm=True) as engine, (root / "answers-v1.jsonl").open("w") as file:
        for draft in drafts(prepared):
            asked = robust(engine, draft)
            request = parse_request(asked)
            found = answer(request, engine.rank(request), engine.name)
            file.write(json.dumps({"request": asked, "answer": found}, separators=(",", ":")) + "\n")


def drafts(prepared: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The bundle's own policy, everything routed, a threshold in nats with strangers, the catalogue, no text."""
    own, routed, nats, whole, bare = prepared[:5]
    stranger = {"id": "nobody", "features": {"age": "over 100"}, "history": nats["user"]["history"]}
    return [
        {**own, "id": "policy"},
        {**routed, "id": "all-routed", "threshold": "ratio:1"},
        {"id": "strangers", "user": stranger, "candidates": [*nats["candidates"], NEW], "threshold": 0.65},
        {"id": "catalogue", "user": whole["user"], "top_k": 3, "threshold": "ratio:0"},
        {"id": "no-history", "user": {}, "candidates": [*bare["candidates"], {"item": "bare"}], "threshold": 0.0},
    ]


def robust(engine: Engine, asked: dict[str, Any]) -> dict[str, Any]:
    """The request with six candidates of which none lies near another one or the threshold; from the last on."""
    if "candidates" not in asked:
        return asked
    scores: Scores = engine.rank(parse_request(asked))
    nats = engine.parse_threshold(asked.get("threshold", "policy")).threshold
    kept: dict[float, dict[str, Any]] = {}
    columns = zip(asked["candidates"], scores.probability.tolist(), scores.entropy.tolist(), strict=True)
    for candidate, probability, entropy in reversed(list(columns)):
        apart = all(abs(probability - other) > APART for other in kept)
        if apart and abs(entropy - nats) > CLEAR and len(kept) < 6:
            kept[probability] = candidate
    return {**asked, "candidates": list(kept.values())}


if __name__ == "__main__":
    make(Path(sys.argv[1]))
