"""The Llama that llama.cpp reads from our GGUF is the one transformers has."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from checkpoints import BARE, TITLES, data_folder, random_llama, save_checkpoint, save_scratch_tokenizer
from corella_edge.catalog import Catalog
from corella_edge.errors import ExportError
from corella_edge.prompt import PromptEncoder, Template
from corella_edge.request import Event, User
from corella_edge_export.llm.model import checkpoint_model
from corella_edge_export.llm.to_gguf import write_gguf
from corella_edge_export.llm.tokenizer import load_tokenizer, resolve_answers, segment_tokenizer
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.llama.binding import Context, Model
from corella_edge_runtime.llm.llama.scorer import YesNoScorer
from corella_edge_runtime.llm.llama.tree import Branches, unfold

SHAPES: list[Any] = [
    ("smollm2", {"rope_theta": 100000.0}),
    ("llama2", {"tie_word_embeddings": False}),
    pytest.param("qwen2.5", {"extra_rows": 7, "num_key_value_heads": 1}, marks=pytest.mark.slow),
    ("scratch", {"num_key_value_heads": 4, "tie_word_embeddings": False}),
    ("scratch", {"head_dim": 16, "rms_norm_eps": 1e-3}),
    ("scratch", {"extra_rows": 5, "hidden_size": 48, "intermediate_size": 40, "rope_theta": 500.0}),
]


@pytest.mark.parametrize(("kind", "changes"), SHAPES)
def test_p_yes_is_that_of_transformers(tmp_path: Path, kind: str, changes: dict[str, Any]) -> None:
    save_checkpoint(tmp_path, kind, **changes)
    model, trainer = checkpoint_model(tmp_path).eval(), load_tokenizer(tmp_path)
    path, spm = tmp_path / "x.gguf", tmp_path / "tokenizer.model"
    write_gguf(model, trainer, path, "x", spm if spm.is_file() else None)
    encoder = _encoder(trainer, BARE if kind == "llama2" else Template())
    prompts = _prompts(encoder)
    expected: npt.NDArray[np.float64] = np.array([_torch_probability(model, prompt, encoder) for prompt in prompts])
    assert expected.std() > 0.02
    opened = Model(path)
    scorer = YesNoScorer(opened, encoder.tokens)
    single = np.array([scorer.score([prompt])[0].probability for prompt in prompts])
    batched = np.array([answer.probability for answer in scorer.score(prompts)])
    scorer.close()
    opened.close()
    assert np.abs(single - expected).max() <= 2e-3
    assert np.abs(batched - expected).max() <= 5e-3


def _encoder(trainer: Any, template: Template) -> PromptEncoder:
    tokenize = segment_tokenizer(trainer)
    catalog = Catalog([str(i) for i in range(len(TITLES))], [{"title": title} for title in TITLES])
    tokens = resolve_answers(tokenize, template, trainer.bos_token_id)
    return PromptEncoder(template, catalog, tokenize, tokens)


def _prompts(encoder: PromptEncoder) -> list[Prompt]:
    histories = [(), (Event("0", 5.0), Event("3", 1.0)), tuple(Event(str(i), float(i + 1)) for i in range(5))]
    prefixes = [tuple(encoder.prefix(User("u", {}, history))) for history in histories]
    return [Prompt(prefix, tuple(encoder.item(item) or ())) for prefix in prefixes for item in range(len(TITLES))]


def _torch_probability(model: Any, prompt: Prompt, encoder: PromptEncoder) -> float:
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt.prefix, *prompt.suffix]]), logits_to_keep=1).logits[0, -1]
    return float(torch.softmax(logits[[encoder.tokens.yes, encoder.tokens.no]].double(), 0)[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_scaling 'dynamic'"),
        ({"hidden_act": "gelu"}, "the activation is 'gelu'"),
        ({"vocab_size": 50}, "the model embeddings for 50"),
    ],
)
def test_models_without_a_counterpart_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    count = save_scratch_tokenizer(tmp_path)
    model = random_llama(**{"vocab_size": count, **changes})
    with pytest.raises(ExportError, match=message):
        write_gguf(model, load_tokenizer(tmp_path), tmp_path / "x.gguf", "x")


def test_weights_beyond_f16_are_refused(tmp_path: Path) -> None:
    model = random_llama(save_scratch_tokenizer(tmp_path))
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = 1e5
    with pytest.raises(ExportError, match=r"layers\.1\.mlp\.up_proj.*f16"):
        write_gguf(model, load_tokenizer(tmp_path), tmp_path / "x.gguf", "x")


@pytest.mark.parametrize(("asked", "found"), [(None, 256), (100, 100), (9999, 256)])
def test_the_context_is_the_recipes_where_that_is_less(tmp_path: Path, asked: int | None, found: int) -> None:
    model = random_llama(save_scratch_tokenizer(tmp_path))
    write_gguf(model, load_tokenizer(tmp_path), tmp_path / "x.gguf", "x", context=asked)
    opened = Model(tmp_path / "x.gguf")
    assert opened.trained_context == found
    opened.close()


STORY = (
    "Once upon a time, there was a little girl named Lily. She loved to play outside in the park. "
    "One day, she saw a big, red ball. She wanted to play with it, but it was too high."
)


def test_stories260k_tells_its_story(tmp_path: Path) -> None:
    """Really trained weights, read from another program's format: the greedy sample published with them."""
    source = data_folder("stories260K")
    pieces = _sentencepiece(source / "tok512.bin", tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer", "legacy": true}')
    model = _llama2c(source / "stories260K.bin")
    write_gguf(model, load_tokenizer(tmp_path), tmp_path / "x.gguf", "stories", tmp_path / "tokenizer.model")
    opened = Model(tmp_path / "x.gguf")
    tokenize = segment_tokenizer(load_tokenizer(tmp_path))
    texts = [*STORY.split(". "), *TITLES, " two  spaces", "<s>"]
    assert [tokenize(text) for text in texts] == [opened.tokenize(text) for text in texts]
    ids = _greedy(opened, 80)
    opened.close()
    with torch.inference_mode():
        theirs = model.generate(torch.tensor([[1]]), max_new_tokens=80, do_sample=False, eos_token_id=None)
    assert ids == theirs[0, 1:].tolist()  # word for word, in float32
    assert "".join(pieces[i] for i in ids).replace("▁", " ").strip().startswith(STORY)


def _greedy(model: Model, count: int) -> list[int]:
    context = Context(model, 256, 1, 32, 1)
    ids = [1]
    for position in range(count):
        context.decode(unfold(Branches.one(tuple(ids), position))[1])
        ids.append(int(np.argmax(context.logits([0], range(model.vocab_size)))))
    context.close()
    return ids[1:]


def _sentencepiece(source: Path, target: Path) -> list[str]:
    """llama2.c's vocabulary as a SentencePiece model."""
    from sentencepiece import sentencepiece_model_pb2 as pb

    raw, at, proto = source.read_bytes(), 4, pb.ModelProto()
    proto.trainer_spec.model_type, proto.trainer_spec.byte_fallback = pb.TrainerSpec.BPE, True
    proto.normalizer_spec.name, proto.normalizer_spec.remove_extra_whitespaces = "identity", False
    while at < len(raw):
        score, length = struct.unpack_from("<fi", raw, at)
        text = raw[at + 8 : at + 8 + length].decode()
        at += 8 + length
        i = len(proto.pieces)
        kind = pb.ModelProto.SentencePiece
        kinds = {0: kind.UNKNOWN, 1: kind.CONTROL, 2: kind.CONTROL}
        names = {0: "<unk>", 1: "<s>", 2: "</s>"}
        usual = kind.BYTE if 3 <= i < 259 else kind.NORMAL
        proto.pieces.add(piece=names.get(i, text.replace(" ", "▁")), score=score, type=kinds.get(i, usual))
    target.write_bytes(proto.SerializeToString())
    return [piece.piece for piece in proto.pieces]


def _llama2c(path: Path) -> Any:
    """llama2.c's checkpoint for transformers: rotary pairs are neighbours in the one, halves in the other."""
    raw = path.read_bytes()
    dim, inner, layers, heads, kv, vocab, context = struct.unpack_from("<7i", raw)
    flat, at, size = np.frombuffer(raw, "<f4", offset=28), 0, dim // heads

    def take(*shape: int) -> npt.NDArray[np.float32]:
        nonlocal at
        at += int(np.prod(shape))
        return flat[at - int(np.prod(shape)) : at].reshape(shape)

    def halves(weight: npt.NDArray[np.float32], count: int) -> npt.NDArray[np.float32]:
        return weight.reshape(layers, count, size // 2, 2, dim).swapaxes(2, 3).reshape(layers, count * size, dim)

    tensors: dict[str, npt.NDArray[np.float32]] = {"model.embed_tokens.weight": take(vocab, dim)}
    blocks = {"input_layernorm": take(layers, dim), "self_attn.q_proj": halves(take(layers, dim, dim), heads)}
    blocks["self_attn.k_proj"] = halves(take(layers, kv * size, dim), kv)
    blocks |= {"self_attn.v_proj": take(layers, kv * size, dim), "self_attn.o_proj": take(layers, dim, dim)}
    blocks |= {"post_attention_layernorm": take(layers, dim), "mlp.gate_proj": take(layers, inner, dim)}
    blocks |= {"mlp.down_proj": take(layers, dim, inner), "mlp.up_proj": take(layers, inner, dim)}
    tensors["model.norm.weight"] = take(dim)
    tensors |= {f"model.layers.{i}.{name}.weight": w[i] for name, w in blocks.items() for i in range(layers)}
    sizes = {"hidden_size": dim, "intermediate_size": inner, "num_hidden_layers": layers, "rms_norm_eps": 1e-5}
    sizes |= {"num_attention_heads": heads, "num_key_value_heads": kv, "max_position_embeddings": context}
    model = random_llama(vocab, **sizes)
    model.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in tensors.items()}, strict=False)
    return model
