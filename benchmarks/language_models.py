"""Which language models come through alike: architectures, tokenizers and file types, llama.cpp against transformers.

    python benchmarks/language_models.py [--gguf SmolLM2.gguf] [--out benchmarks/results/language-models.json]

Random weights of each architecture with a tokenizer, a real one from `CORELLA_EDGE_TEST_DATA` or one of our own, are
written as f16 and quantised. Told are the greatest difference of a logit and of P(Yes) to float32 transformers, how
many of 10,000 texts (film titles, control characters, emoji, CJK, the template's own words) have the same tokens, and
what each type does to P(Yes). Models that were really trained continue a text, word for word or not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from checkpoints import (  # type: ignore[import-not-found]  # a folder of the tests
    TEXTS,
    copy_tokenizer,
    random_model,
    random_texts,
    save_scratch_tokenizer,
    save_tiktoken_tokenizer,
)
from corella_edge.prompt import Template, Tokens
from corella_edge_export.llm.from_gguf import GgufModel
from corella_edge_export.llm.to_gguf import write_gguf
from corella_edge_export.llm.tokenizer import load_tokenizer, segment_tokenizer
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.llama.binding import Context, Model, quantize
from corella_edge_runtime.llm.llama.library import C
from corella_edge_runtime.llm.llama.scorer import YesNoScorer
from corella_edge_runtime.llm.llama.tree import Branches, unfold
from harness.results import ended

Json = dict[str, Any]
SIZES = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 4, "max_position_embeddings": 512}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
WIDE = {"head_dim": 64, "query_pre_attn_scalar": 64, "sliding_window": 24}
# (name, transformers' type, its changes, tokenizer)
ROWS: tuple[tuple[str, str, Json, str], ...] = (
    ("Llama 2", "llama", {"tie_word_embeddings": False, "num_key_value_heads": 4}, "llama2"),
    ("Llama 3 (scaled positions)", "llama", {"rope_scaling": LLAMA3, "rope_theta": 500000.0}, "tiktoken"),
    ("Llama with biases", "llama", {"attention_bias": True, "mlp_bias": True}, "scratch"),
    ("Llama, linear scaling", "llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "scratch"),
    ("Mistral", "mistral", {}, "llama2"),
    ("SmolLM2", "llama", {"rope_theta": 100000.0}, "smollm2"),
    ("SmolLM3", "smollm3", {}, "tiktoken"),
    ("Qwen2.5", "qwen2", {"rope_theta": 1000000.0}, "qwen2.5"),
    ("Qwen2.5, YaRN", "qwen2", {"rope_scaling": YARN}, "scratch"),
    ("Qwen3", "qwen3", {"head_dim": 64}, "qwen2.5"),
    ("Gemma 2", "gemma2", WIDE, "llama2"),
    ("Gemma 3", "gemma3_text", WIDE, "llama2"),
)
# Tokenizers that are made here, by how they split: of our own, and with the rules of Llama 3.
OWN = {"scratch": save_scratch_tokenizer, "tiktoken": save_tiktoken_tokenizer}
TYPES = ("Q8_0", "Q4_K_M", "Q4_0")
STORY = "Once upon a time, there was a little"
ENGLISH = "The capital of France is Paris, and the capital of Italy is"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--gguf", type=Path, help="SmolLM2-135M-Instruct as a GGUF file, with real weights")
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    return ended("language_models", lambda: measure(ROWS, options.texts, options.gguf), options.out)


def measure(rows: Sequence[tuple[str, str, Json, str]], texts: int, real: Path | None = None) -> Json:
    """The figures of all rows, and of real weights where they are at hand."""
    asked = several_texts(texts)
    with tempfile.TemporaryDirectory() as work:
        known: dict[str, Json] = {}
        made = [one(Path(work), i, row, asked, known) for i, row in enumerate(rows)]
        trained = [continued(real, ENGLISH, Path(work), 24)] if real else []
    return {"what": "language-models", "texts": len(asked), "types": list(TYPES), "rows": made, "trained": trained}


def several_texts(count: int) -> list[str]:
    """Titles of MovieLens-1M where they are at hand, and texts that tell tokenizers apart."""
    path = Path(os.environ.get("CORELLA_EDGE_TEST_DATA", "")) / "ml-1m" / "movies.dat"
    titles = [line.split("::")[1] for line in path.read_text("latin-1").splitlines()] if path.is_file() else []
    template = Template()
    words = [template.instruction, template.yes, template.no, template.item.format(title="Heat"), " 5\n"]
    found = [*words, *TEXTS, *titles]
    return [*found, *random_texts(max(0, count - len(found)))][:count]


def one(work: Path, number: int, row: tuple[str, str, Json, str], texts: Sequence[str], known: dict[str, Json]) -> Json:
    """One architecture with one tokenizer; `known`: what was found of a tokenizer, whatever the architecture."""
    name, kind, changes, tokenizer = row
    folder = work / str(number)
    folder.mkdir()
    count = OWN[tokenizer](folder) if tokenizer in OWN else copy_tokenizer(tokenizer, folder)
    model = random_model(kind, count, **{**SIZES, "num_key_value_heads": 2, **changes})
    with torch.no_grad():  # logits as large as those of trained models
        for parameter in model.parameters():
            parameter.mul_(0.5 if parameter.ndim > 1 else 1.0)
    trainer, spm, f16 = load_tokenizer(folder), folder / "tokenizer.model", folder / "f16.gguf"
    write_gguf(model, trainer, f16, name, spm if spm.is_file() else None)
    rng = np.random.default_rng(number)
    prompts = [rng.integers(0, count, length).tolist() for length in (5, 20, 40, 40, 60, 60)]
    yes, no = (int(token) for token in rng.choice(count, 2, replace=False))
    answers = Tokens(yes, no, None)
    expected, logits = by_transformers(model, prompts, answers)
    if tokenizer not in known:
        known[tokenizer] = alike(f16, trainer, texts)
    found = {"name": name, "type": kind, "tokenizer": tokenizer, **known[tokenizer]}
    found["logits"] = float(np.abs(by_llama(f16, prompts[-1], count) - logits).max())
    found["p_yes"] = float(np.abs(probabilities(f16, prompts, answers, exact=True) - expected).max())
    for target in TYPES:
        quantize(f16, folder / f"{target}.gguf", target)
        moved = np.abs(probabilities(folder / f"{target}.gguf", prompts, answers) - expected)
        share = (folder / f"{target}.gguf").stat().st_size / f16.stat().st_size
        found[target] = {"mean": float(moved.mean()), "greatest": float(moved.max()), "size": share}
    print(f"{name}: logits {found['logits']:.1e}, P(Yes) {found['p_yes']:.1e}", file=sys.stderr)
    return found


def by_transformers(model: Any, prompts: Sequence[list[int]], answers: Tokens) -> tuple[Any, Any]:
    """(P(Yes) of every prompt, all logits of the last prompt), float64."""
    chosen = torch.tensor([answers.yes, answers.no])
    with torch.inference_mode():
        whole = [model(torch.tensor([ids])).logits[0].double() for ids in prompts]
    yes = [float(torch.softmax(logits[-1, chosen], 0)[0]) for logits in whole]
    return np.asarray(yes), whole[-1].numpy()


def by_llama(path: Path, ids: list[int], width: int) -> Any:
    """float64 [ids, width], keys and values in float32, one token a decode."""
    model = Model(path)
    context = Context(model, 512, 1, 64, 1, exact=True)
    rows = [logits for _, logits in decoded(context, ids, width, len(ids))]
    context.close()
    model.close()
    return np.asarray(rows)


def decoded(context: Context, ids: Sequence[int], width: int, end: int) -> Iterator[tuple[int, Any]]:
    """(position, logits behind it), one token a decode; `ids` may grow while they are read, up to `end`."""
    for position in range(end):
        context.decode(unfold(Branches.one(tuple(ids[: position + 1]), position))[1])
        # A view of llama.cpp's own row: a list of all logits would cost more than to compute them.
        yield position, np.ctypeslib.as_array(C.llama_get_logits_ith(context.handle, 0), (width,)).astype(np.float64)


def probabilities(path: Path, prompts: Sequence[list[int]], answers: Tokens, exact: bool = False) -> Any:
    """P(Yes), float64 [n], one prompt a decode."""
    model = Model(path)
    scorer = YesNoScorer(model, answers, exact=exact)
    found = []
    for ids in prompts:
        scorer.forget()
        found.append(scorer.score([Prompt(tuple(ids[:-2]), tuple(ids[-2:]))])[0].probability)
    scorer.close()
    model.close()
    return np.asarray(found)


def alike(path: Path, trainer: Any, texts: Sequence[str]) -> Json:
    """How many texts llama.cpp splits as the trainer's tokenizer does."""
    model, tokenize = Model(path, vocabulary_only=True), segment_tokenizer(trainer)
    composed = [unicodedata.normalize("NFC", text) for text in texts]  # as every prompt is
    same = sum(tokenize(text) == model.tokenize(text) for text in composed)
    model.close()
    return {"same_tokens": same}


def continued(file: Path, text: str, work: Path, count: int) -> Json:
    """Greedy words of a real model, by transformers in float32 and by llama.cpp from the same weights in f16."""
    model, f16 = GgufModel(file).model(), work / "real.gguf"
    quantize(file, f16, "F16", again=True)
    opened = Model(f16)
    ids = opened.tokenize(text)
    theirs = model.generate(torch.tensor([ids]), max_new_tokens=count, do_sample=False)[0, len(ids) :].tolist()
    context, ours = Context(opened, 512, 1, 64, 1, exact=True), list(ids)
    for position, logits in decoded(context, ours, opened.vocab_size, len(ids) + count - 1):
        if position >= len(ids) - 1:
            ours.append(int(np.argmax(logits)))
    context.close()
    opened.close()
    words = GgufModel(file).tokenizer().decode(ours[len(ids) :])
    return {"name": file.stem, "text": text, "continued": words, "same": ours[len(ids) :] == theirs}


if __name__ == "__main__":
    sys.exit(main())
