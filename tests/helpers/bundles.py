"""A small real bundle, made once a test run without torch: an additive CRM and a Llama with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from corella_edge import metrics
from corella_edge.atomic import new_folder
from corella_edge.bundle import artefact as bundle
from corella_edge.bundle import schema_files
from corella_edge.catalog import Catalog
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import Field, Schema, Vocabulary
from corella_edge.prompt import PromptEncoder, Template, Tokens
from corella_edge.request_message import parse_request
from corella_edge.routing.measure import entropy
from corella_edge.routing.policy import Calibration
from made_once import copy_of

Json = dict[str, Any]
GENRES = ["Action", "Comedy", "Drama"]
ITEMS, USERS, ROWS, WINDOW = 40, 30, 240, 5
TEMPLATE = Template(history_lines=4, block=2)


def make_bundle(
    out: Path, *, llm: bool = True, sample: bool = True, seed: int = 0, version: str = "1", llm_type: str = "F32",
    adapters: tuple[str, ...] = (),
) -> Path:  # fmt: skip
    """Write a sealed bundle at `out`; the last item of its catalogue has no title. By itself it is answered by the
    first of the adapters."""
    name = f"bundle-{llm}-{sample}-{seed}-{version}-{llm_type}-{'+'.join(adapters)}"
    return copy_of(name, out, lambda kept: _make(kept, llm, sample, seed, version, llm_type, adapters))


def _make(
    out: Path, llm: bool, sample: bool, seed: int, version: str, llm_type: str, adapters: tuple[str, ...]
) -> None:
    rng = np.random.default_rng(seed)
    with new_folder(out) as folder:
        schema, catalog = _schema(), _catalog(rng)
        schema_files.write_schema(folder, schema, catalog)
        _write_crm(folder / "crm.onnx", schema, rng)
        rows = _requests(rng)
        crm = _crm_scores(folder, schema, catalog, rows)
        chosen = [*range(63), _row_without_text(rows)]
        _write_adapters(folder, adapters, 32 if llm_type == "F32" else 256)
        asked: list[Json] = [{"prompt": None, "llm": None}] * 64
        if llm:
            asked = _write_llm(folder, catalog, [rows[i] for i in chosen], rng, llm_type, adapters)
        labels = (rng.random(len(rows)) < crm).astype(int).tolist()
        _lines(folder / "reference.jsonl", [
            {"request": rows[i], "crm": float(crm[i]), **answers} for i, answers in zip(chosen, asked, strict=True)
        ])  # fmt: skip
        if sample:
            pairs = zip(rows, labels, strict=True)
            _lines(folder / "sample.jsonl", [{"request": row, "label": label} for row, label in pairs])
        _write_figures(folder, crm, labels)
        bundle.seal(folder, "tiny", version, {"recipe": "tiny", "created": "2024-01-01T00:00:00Z"})


def _schema() -> Schema:
    vocabularies = [
        Vocabulary("user", [f"u{i}" for i in range(USERS - 5)]),
        Vocabulary("item", [f"i{i}" for i in range(ITEMS - 5)]),
        Vocabulary("genre", GENRES),
    ]
    fields = (
        Field("user", "categorical", "user", "id", "user"),
        Field("history", "sequence", "user", "item", "item", WINDOW),
        Field("item", "categorical", "item", "id", "item"),
        Field("genres", "multi", "item", "genres", "genre", 2),
    )
    return Schema(fields, {v.name: v for v in vocabularies})


def _catalog(rng: np.random.Generator) -> Catalog:
    genres = [[GENRES[g] for g in rng.permutation(3)[: 1 + i % 2]] for i in range(ITEMS)]
    records: list[dict[str, Any]] = [{"title": f"Film {i}", "genres": g} for i, g in enumerate(genres)]
    del records[-1]["title"]
    return Catalog([f"i{i}" for i in range(ITEMS)], records)


def _write_crm(path: Path, schema: Schema, rng: np.random.Generator) -> None:
    """logit = user + item + mean of genres + mean of history."""
    tables = {name: rng.normal(0, 0.8, len(v)).astype(np.float32) for name, v in schema.vocabularies.items()}
    nodes, parts = [], []
    for item in schema.fields:
        many = item.kind in ("multi", "sequence")
        nodes.append(helper.make_node("Gather", [f"table_{item.vocab}", item.name], [f"value_{item.name}"]))
        if many:
            nodes.append(
                helper.make_node("ReduceMean", [f"value_{item.name}"], [f"mean_{item.name}"], axes=[1], keepdims=0)
            )
        parts.append(f"{'mean' if many else 'value'}_{item.name}")
    for i, part in enumerate(parts[1:], 1):
        left = parts[0] if i == 1 else f"sum_{i - 1}"
        nodes.append(helper.make_node("Add", [left, part], ["logits" if i == len(parts) - 1 else f"sum_{i}"]))
    inputs = [helper.make_tensor_value_info(f.name, TensorProto.INT64, _shape(f)) for f in schema.fields]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n"])]
    constants = [numpy_helper.from_array(table, f"table_{name}") for name, table in tables.items()]
    graph = helper.make_graph(nodes, "crm", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, {f"corella.vocab.{n}": str(len(v)) for n, v in schema.vocabularies.items()})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _shape(item: Field) -> list[Any]:
    lead = [1 if item.side == "user" else "n"]
    return lead if item.kind == "categorical" else [*lead, item.length]


def _requests(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Single-candidate requests, each user's in time order."""
    rows = []
    for user in range(USERS):
        items = rng.permutation(ITEMS)[:13].tolist()
        events = [{"item": f"i{i}", "rating": int(rng.integers(1, 6)), "time": t} for t, i in enumerate(items)]
        for place in range(5, 13):
            profile = {"id": f"u{user}", "history": events[:place]}
            rows.append({"user": profile, "candidates": [{"item": f"i{items[place]}"}]})
    assert len(rows) == ROWS
    return rows


def _row_without_text(rows: list[dict[str, Any]]) -> int:
    last = [{"item": f"i{ITEMS - 1}"}]
    return next(i for i in range(63, ROWS) if rows[i]["candidates"] == last)


def _crm_scores(folder: Path, schema: Schema, catalog: Catalog, rows: list[dict[str, Any]]) -> np.ndarray:
    from corella_edge_runtime.crm import Crm

    crm, encoder = Crm(folder / "crm.onnx", schema), FeatureEncoder(schema, catalog)
    requests = [parse_request(row) for row in rows]
    return np.array([crm.probability(encoder.encode(r.user, r.candidates or ())[0])[0] for r in requests])


def _write_adapters(folder: Path, names: tuple[str, ...], width: int) -> None:
    """adapters.json and the files it lists."""
    if names:
        (folder / "adapters").mkdir()
        (folder / "adapters.json").write_text(json.dumps({"adapters": [*names], "default": {names[0]: 1}}), "utf-8")
    for seed, name in enumerate(names):
        write_adapter(folder / "adapters" / f"{name}.gguf", np.random.default_rng(100 + seed), width)


def _write_llm(
    folder: Path, catalog: Catalog, rows: list[dict[str, Any]], rng: np.random.Generator, llm_type: str,
    adapters: tuple[str, ...],
) -> list[Json]:  # fmt: skip
    """llm.gguf and prompt.json; each row's prompt and P(Yes), by the first adapter and by each further one, a prompt at
    a time."""
    from corella_edge_runtime.llm.contract.messages import Prompt, Prompts
    from corella_edge_runtime.llm.llama.binding import Model, quantize
    from corella_edge_runtime.llm.llama.scorer import YesNoScorer

    # Wide enough for the blocks of every type and the tiles of AMX, unless nothing is quantised.
    words = write_gguf(folder / "llm.gguf", rng, 32 if llm_type == "F32" else 256)
    if llm_type != "F32":
        made = (folder / "llm.gguf").rename(folder.with_name("f32.gguf"))
        quantize(made, folder / "llm.gguf", llm_type)
        made.unlink()
    tokens = Tokens(words.index("ĠYes"), words.index("ĠNo"), None)
    data = {"template": TEMPLATE.to_json(), "tokens": {"yes": tokens.yes, "no": tokens.no, "bos": None}}
    (folder / "prompt.json").write_text(json.dumps(data), "utf-8")
    model = Model(folder / "llm.gguf", adapters={name: folder / "adapters" / f"{name}.gguf" for name in adapters})
    prompts, scorer = PromptEncoder(TEMPLATE, catalog, model.tokenize, tokens), YesNoScorer(model, tokens)
    found: list[Json] = []
    for request in map(parse_request, rows):
        assert request.candidates
        prefix, suffix = prompts.prefix(request.user), prompts.suffix(request.candidates[0])
        if suffix is None:
            found.append({"prompt": None, "llm": None})
            continue
        asked = Prompts.of([Prompt(tuple(prefix), tuple(suffix))])
        usual, *further = [scorer.score(asked.by(by))[0].probability for by in [((n, 1.0),) for n in adapters] or [()]]
        more = {"adapters": dict(zip(adapters[1:], further, strict=True))} if further else {}
        found.append({"prompt": [*prefix, *suffix], "llm": usual, **more})
    scorer.close()
    model.close()
    return found


# Vectors of a block that an architecture has besides a Llama's, with their sizes as shares of the width.
_MORE: dict[str, dict[str, float]] = {
    "llama": {}, "smollm3": {}, "qwen2": {"attn_q.bias": 1, "attn_k.bias": 1, "attn_v.bias": 1},
    "qwen3": {"attn_q_norm.weight": 0.5, "attn_k_norm.weight": 0.5},
    "gemma2": {"post_attention_norm.weight": 1, "post_ffw_norm.weight": 1},
    "gemma3": {"post_attention_norm.weight": 1, "post_ffw_norm.weight": 1, "attn_q_norm.weight": 0.5,
               "attn_k_norm.weight": 0.5},
}  # fmt: skip


def write_gguf(
    path: Path, rng: np.random.Generator, width: int, architecture: str = "llama", blocks: int = 1
) -> list[str]:
    """A model of two heads with 256 byte tokens and two answers; returns the token list."""
    words = [*_byte_letters(), "ĠY", "es", "ĠYes", "ĠN", "ĠNo"]
    inner = 2 * width
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(512)
    writer.add_embedding_length(width)
    writer.add_block_count(blocks)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_rope_dimension_count(width // 2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(words))
    if architecture.startswith("gemma"):
        writer.add_sliding_window(16)
    if architecture == "gemma2":
        writer.add_attn_logit_softcapping(50.0)
        writer.add_final_logit_softcapping(30.0)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(words))
    writer.add_token_merges(["Ġ Y", "e s", "ĠY es", "Ġ N", "ĠN o"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    shapes = {"attn_q": (width, width), "attn_k": (width, width), "attn_v": (width, width),
              "attn_output": (width, width), "ffn_gate": (inner, width), "ffn_up": (inner, width),
              "ffn_down": (width, inner)}  # fmt: skip
    tensors: dict[str, np.ndarray] = {}
    for block in range(blocks):
        start = f"blk.{block}"
        tensors |= {f"{start}.{name}.weight": rng.normal(0, 0.3, shape) for name, shape in shapes.items()}
        tensors |= {f"{start}.{name}.weight": np.ones(width) for name in ("attn_norm", "ffn_norm")}
        tensors |= {f"{start}.{name}": np.ones(int(part * width)) for name, part in _MORE[architecture].items()}
    own = () if architecture == "gemma2" else ("output",)
    tensors |= {f"{name}.weight": rng.normal(0, 0.5, (len(words), width)) for name in ("token_embd", *own)}
    tensors["output_norm.weight"] = np.ones(width)
    for name, values in tensors.items():
        writer.add_tensor(name, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return words


def write_adapter(
    path: Path, rng: np.random.Generator, width: int, architecture: str = "llama", blocks: int = 1, rank: int = 3,
    kind: type[np.floating[Any]] = np.float16, **values: Any,
) -> Path:  # fmt: skip
    """A LoRA on every matrix of what `write_gguf` writes; `values` of other keys replace those that are right."""
    inner, writer = 2 * width, gguf.GGUFWriter(path, architecture)
    own = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": np.float32(6.0), **values}
    for key, value in own.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, (int, np.floating)):
            (writer.add_float32 if isinstance(value, np.floating) else writer.add_uint32)(key, value)
    shapes = {"attn_q": (width, width), "attn_k": (width, width), "attn_v": (width, width),
              "attn_output": (width, width), "ffn_gate": (inner, width), "ffn_up": (inner, width),
              "ffn_down": (width, inner)}  # fmt: skip
    for block in range(blocks):
        for name, (rows, columns) in shapes.items():
            start = f"blk.{block}.{name}.weight"
            writer.add_tensor(f"{start}.lora_a", rng.normal(0, 0.3, (rank, columns)).astype(kind))
            writer.add_tensor(f"{start}.lora_b", rng.normal(0, 0.1, (rows, rank)).astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _byte_letters() -> list[str]:
    """GPT-2's printable letter of each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in plain]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(len(others))]


def _write_figures(folder: Path, crm: np.ndarray, labels: list[int]) -> None:
    fitted = Calibration.fit(entropy(crm), points=101)
    thresholds = [None if t == np.inf else t for t in fitted.thresholds.tolist()]
    found = metrics.quality(crm, labels)
    table = [{"ratio": 0.0, "threshold": None, "share": 0.0, "auc": found.auc, "logloss": found.logloss,
              "accuracy": found.accuracy}]  # fmt: skip
    routing = {"threshold": "ratio:0.05", "calibration": {"shares": fitted.shares.tolist(), "thresholds": thresholds},
               "table": table, "rows": len(labels)}  # fmt: skip
    (folder / "routing.json").write_text(json.dumps(routing))
    verification = {"tolerance": {"crm": 1e-5, "llm": 5e-3}, "differences": {"crm": 0.0},
                    "metrics": {"crm": {"auc": found.auc, "logloss": found.logloss}}}  # fmt: skip
    (folder / "verification.json").write_text(json.dumps(verification))


def reseal(root: Path) -> None:
    """Make the manifest fit files that a test has changed."""
    manifest = bundle.Manifest.parse(json.loads((root / bundle.MANIFEST).read_text()))
    bundle.seal(root, manifest.name, manifest.version, manifest.about)


def _lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
