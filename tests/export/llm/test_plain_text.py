"""Plain text: from files to documents to blocks, and a model that learns them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

torch = pytest.importorskip("torch")

from corella_edge.errors import InputError  # noqa: E402
from corella_edge_export.llm.model import scratch_model  # noqa: E402
from corella_edge_export.llm.recipe import LlmRecipe, PlainTextRecipe  # noqa: E402
from corella_edge_export.training import loop  # noqa: E402
from corella_edge_export.training.tasks import text as plain_text  # noqa: E402
from corella_edge_export.training.tasks.llm import LlmReader  # noqa: E402
from corella_edge_export.training.tasks.text import TextTask, blocks_of, digest, read, seed_whole_tokens  # noqa: E402

MODEL = LlmRecipe(hidden=16, layers=1, heads=2, kv_heads=1, intermediate=24, context=64)
RECIPE = PlainTextRecipe(block=16, batch_tokens=128, learning_rate=1e-2, evaluations=2, epochs=2)


def test_documents_of_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("één\ntwee\n", "utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "x"}\n{"text": "", "more": 3}\n', "utf-8")
    pl.DataFrame({"id": [1, 2, 3], "text": ["p", None, "q"]}).write_parquet(tmp_path / "c.parquet")
    pl.DataFrame({"abstract": ["r"]}).write_parquet(tmp_path / "d.parquet")
    files = [str(tmp_path / name) for name in ("d.parquet", "a.txt", "b.jsonl", "c.parquet")]
    assert list(read(files)) == ["r", "één\ntwee\n", "x", "", "p", "q"]
    assert list(read([])) == []


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("absent.txt", None, "absent.txt is no file"),
        ("a.csv", b"text\nx\n", "is none of .txt, .jsonl, .parquet"),
        ("a.txt", b"\xff", "not UTF-8"),
        ("a.jsonl", b'{"text": "x"}\n{"title": "y"}\n', "a.jsonl line 2: expected an object with a `text`"),
        ("a.jsonl", b"x", "line 1"),
        ("a.jsonl", b'["text"]', "line 1"),
        ("a.jsonl", b'{"text": null}', "line 1"),
        ("a.jsonl", b'{"text": "\xff"}', "line 1"),
        ("a.jsonl", b"[" * 100_000, "the array that it begins with has no end"),
        ("a.parquet", b"PAR1", "cannot be read as Parquet"),
        ("a.parquet", b"", "cannot be read as Parquet"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes | None, part: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read([str(tmp_path / name)]))
    assert part in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("column", [pl.Series("title", ["x"]), pl.Series("text", [3]), pl.Series("text", [["x"]])])
def test_a_parquet_without_texts_is_told_so(tmp_path: Path, column: Any) -> None:
    pl.DataFrame([column]).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="has no text column text or abstract; it has t"):
        list(read([str(tmp_path / "a.parquet")]))


def test_a_digest_is_of_the_content(tmp_path: Path) -> None:
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(text)
    a, b, c = (digest(str(tmp_path / name)) for name in "abc")
    assert a == b != c
    with pytest.raises(InputError, match="is no file"):
        digest(str(tmp_path / "d"))


def test_blocks_hold_every_document_after_a_begin_token() -> None:
    documents = ["abcd", "", "efg", "hijklm"]
    found = blocks_of(iter(documents), lambda text: [ord(c) for c in text], 1, 5)
    flat = [t for document in documents for t in (1, *map(ord, document))]
    assert found.dtype == np.int32
    assert found.shape == (len(flat) // 5, 5)
    assert found.ravel().tolist() == flat[: len(flat) // 5 * 5]
    assert blocks_of(iter([]), lambda text: [], 1, 5).shape == (0, 5)


def task(recipe: PlainTextRecipe = RECIPE, seed: int = 1) -> TextTask:
    torch.manual_seed(0)
    words = np.resize([*range(3, 20), *range(9, 3, -1)], 128 * recipe.block)
    blocks = words.reshape(-1, recipe.block).astype(np.int32)
    return TextTask(LlmReader(scratch_model(MODEL, 32, 1, 2, 0), (3, 4), "float32"), blocks, recipe, seed)


def test_a_regular_text_is_learnt(tmp_path: Path) -> None:
    made = task()
    made.model.eval()
    with torch.inference_mode():
        before = made.evaluate()["perplexity"]
    schedule = loop.Schedule(RECIPE.learning_rate, 0.0, RECIPE.epochs, RECIPE.evaluations, 4)
    line = loop.fit(made, schedule, tmp_path, seed=1, quiet=True)
    assert 20 < before < 60
    assert line["perplexity"] < 0.3 * before
    lines = [json.loads(text) for text in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert line["perplexity"] == min(found["perplexity"] for found in lines if found["kind"] == "valid")
    with torch.inference_mode():
        assert made.evaluate()["perplexity"] == line["perplexity"]


def test_every_block_is_read_once_an_epoch_and_none_of_validation() -> None:
    made = task()
    assert len(made.valid) + len(made.train) == 128
    for epoch in range(2):
        batches = made.batches(epoch)
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(made.train)))
        assert max(map(len, batches)) == RECIPE.batch_tokens // RECIPE.block
    assert [b.tolist() for b in made.batches(0)] != [b.tolist() for b in made.batches(1)]


def test_fewer_blocks_are_drawn_from_those_of_training() -> None:
    every, some, again, other = (
        task(replace(RECIPE, blocks=count), seed=seed) for count, seed in ((0, 1), (9, 1), (9, 1), (9, 2))
    )
    assert len(some.train) == 9
    assert {row.tobytes() for row in some.train} < {row.tobytes() for row in every.train}
    assert np.array_equal(some.train, again.train)
    assert not np.array_equal(some.train, other.train)
    assert np.array_equal(some.valid, every.valid)
    assert len(task(replace(RECIPE, blocks=10**6)).train) == len(every.train)


def test_parts_add_up_to_the_batch() -> None:
    made = task()
    batch = made.batches(0)[0]
    whole = float(made.losses(batch, 0, 0, loop.Part())["loss"].detach())
    parts = [made.losses(batch, 0, 0, loop.Part(i, 3))["loss"].detach() for i in range(3)]
    assert float(sum(parts)) == pytest.approx(whole, rel=1e-6)
    assert made.losses(batch[:2], 0, 0, loop.Part(2, 3)) == {}


def test_too_little_text_is_one_error() -> None:
    with pytest.raises(InputError, match="784 tokens are too few, 50 blocks are needed"):
        TextTask(task().reader, np.zeros((49, 16), np.int32), replace(RECIPE), 1)
    assert plain_text.HELD_OUT == 50


def test_a_whole_token_starts_as_the_mean_of_its_words() -> None:
    model = scratch_model(MODEL, 32, 1, 2, 0)
    before = model.get_input_embeddings().weight.detach().clone()

    class Tokenizer:
        all_special_tokens = ("<s>",)

        def get_added_vocab(self) -> dict[str, int]:
            return {"<s>": 1, "[ab]": 30, "[c]": 31}

    seed_whole_tokens(model, Tokenizer(), lambda text: [ord(c) - 91 + 5 for c in text])
    after = model.get_input_embeddings().weight.detach()
    torch.testing.assert_close(after[30], before[[5, 11, 12, 7]].mean(dim=0))
    torch.testing.assert_close(after[31], before[[5, 13, 7]].mean(dim=0))
    assert torch.equal(after[:30], before[:30])
    assert model.lm_head.weight is model.get_input_embeddings().weight
