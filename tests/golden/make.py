"""How the golden bundles and answers were made: `python tests/golden/make.py NEW_FOLDER` (v1), or with `v2` behind it.

v2 needs the tests' helpers as well: `PYTHONPATH=tests/helpers python tests/golden/make.py NEW_FOLDER v2`.
"""

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
    write_answers(bundle, drafts(prepared), root / "answers-v1.jsonl")


def write_answers(bundle: Path, asked: list[dict[str, Any]], out: Path) -> None:
    with Engine.open(bundle, llm_threads=1, require_llm=True) as engine, out.open("w") as file:
        for chosen in [robust(engine, draft) for draft in asked]:
            request = parse_request(chosen)
            found = answer(request, engine.rank(request), engine.name)
            file.write(json.dumps({"request": chosen, "answer": found}, separators=(",", ":")) + "\n")


def make_v2(root: Path) -> None:
    """root/bundle-v2, with adapters of two runs on one checkpoint of random weights, and root/answers-v2.jsonl."""
    from checkpoints import save_checkpoint

    torch.set_num_threads(1)
    data, bundle = root / "data", root / "bundle-v2"
    prepare("synthetic", None, data, seed=0, requests=30, options=SIZES)
    checkpoint = save_checkpoint(root / "checkpoint", num_hidden_layers=1, intermediate_size=32)
    text = RECIPE.with_name("golden-v2.toml").read_text("utf-8")
    for seed in (1, 2):
        (root / f"seed-{seed}.toml").write_text(text.replace("seed = 1", f"seed = {seed}"), "utf-8")
        cli(["train", str(root / f"seed-{seed}.toml"), "--data", str(data), "--out", str(root / f"run-{seed}"),
             "--checkpoint", str(checkpoint)], standalone_mode=False)  # fmt: skip
    cli(["export", str(root / "run-1"), "--out", str(bundle), "--llm-threads", "1", "--checkpoint", str(checkpoint),
         "--adapter", "separate", "--name", "first", "--add", f"second={root / 'run-2'}"],
        standalone_mode=False)  # fmt: skip
    prepared = [json.loads(line) for line in (data / "requests.jsonl").read_text("utf-8").splitlines()]
    chosen = by_adapters(prepared[0])
    with Engine.open(bundle, llm_threads=1, require_llm=True) as engine:
        for draft in chosen:  # candidates that are apart by all of them
            for other in chosen:
                other["candidates"] = robust(engine, {**draft, "candidates": other["candidates"]})["candidates"]
    write_answers(bundle, chosen, root / "answers-v2.jsonl")


def by_adapters(prepared: dict[str, Any]) -> list[dict[str, Any]]:
    """One request by the bundle's own adapter, by each name, by a mixture, and by the LLM alone."""
    chosen: list[dict[str, Any]] = [
        {"id": "usual"}, {"id": "first", "adapter": "first"}, {"id": "second", "adapter": "second"},
        {"id": "mixed", "adapters": {"first": 0.5, "second": 0.5}}, {"id": "alone", "adapters": {}},
    ]  # fmt: skip
    return [{**prepared, **more, "threshold": "ratio:1"} for more in chosen]


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
    (make_v2 if sys.argv[2:] == ["v2"] else make)(Path(sys.argv[1]))
