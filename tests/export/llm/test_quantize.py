"""Every file type that llama.cpp names, or one clear error."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import pytest
import torch

from checkpoints import random_llama, save_scratch_tokenizer
from corella_edge.errors import ExportError, InputError
from corella_edge.prompt import Tokens
from corella_edge_export.bundling.write import ExportOptions, export
from corella_edge_export.llm.to_gguf import write_gguf
from corella_edge_export.llm.tokenizer import load_tokenizer
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.llama.binding import Model, check_file_type, file_types, quantize
from corella_edge_runtime.llm.llama.scorer import YesNoScorer

PROMPTS = [Prompt((1, *range(5, 5 + n)), (n + 7, n + 9)) for n in range(12)]
NEED_IMPORTANCE = ["IQ1_M", "IQ1_S", "IQ2_S", "IQ2_XS", "IQ2_XXS"]


def write(folder: Path, width: int) -> Path:
    model = random_llama(save_scratch_tokenizer(folder), hidden_size=width, intermediate_size=2 * width)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(min(1.0, 6 / width**0.5) if parameter.ndim > 1 else 1.0)
    write_gguf(model, load_tokenizer(folder), folder / "f16.gguf", "x")
    return folder / "f16.gguf"


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 256: what K-quants need."""
    return write(tmp_path_factory.mktemp("wide"), 256)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 64: K-quants fall back."""
    return write(tmp_path_factory.mktemp("narrow"), 64)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 40: no quantised type holds them."""
    return write(tmp_path_factory.mktemp("odd"), 40)


def scores(path: Path) -> np.ndarray:
    model = Model(path)
    scorer = YesNoScorer(model, Tokens(300, 301, None))
    found = np.array([scorer.score([prompt])[0].probability for prompt in PROMPTS])
    scorer.close()
    model.close()
    return found


@pytest.mark.parametrize(
    ("kind", "near"), [("F32", 2e-3), ("BF16", 2e-2), ("Q8_0", 2e-2), ("Q6_K", 0.1), ("Q4_K_M", 0.3), ("Q4_0", 0.3)]
)
def test_a_type_scores_near_f16(wide: Path, tmp_path: Path, kind: str, near: float) -> None:
    quantize(wide, tmp_path / "x.gguf", kind)
    expected = scores(wide)
    assert expected.std() > 0.02
    assert np.abs(scores(tmp_path / "x.gguf") - expected).max() <= near
    smaller = (tmp_path / "x.gguf").stat().st_size < wide.stat().st_size
    assert smaller == (kind not in ("F32", "BF16"))


@pytest.mark.parametrize("kind", ["Q4_K_M", "Q2_K", "IQ4_XS", "Q4_0"])
def test_rows_of_64_fall_back_to_a_type_that_fits(narrow: Path, tmp_path: Path, kind: str) -> None:
    quantize(narrow, tmp_path / "x.gguf", kind)
    assert np.isfinite(scores(tmp_path / "x.gguf")).all()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M", "Q4_0"])
def test_rows_that_fit_no_block_stay_f16(odd: Path, tmp_path: Path, kind: str) -> None:
    quantize(odd, tmp_path / "x.gguf", kind)
    assert {tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "x.gguf").tensors} == {"F16", "F32"}
    np.testing.assert_array_equal(scores(tmp_path / "x.gguf"), scores(odd))


@pytest.mark.parametrize("kind", NEED_IMPORTANCE)
def test_types_that_need_an_importance_matrix_say_so(wide: Path, tmp_path: Path, kind: str) -> None:
    with pytest.raises(ExportError, match=f"as {kind}.*importance matrix"):
        quantize(wide, tmp_path / "x.gguf", kind)


@pytest.mark.slow
def test_every_named_type_works_or_is_refused_in_one_line(wide: Path, tmp_path: Path) -> None:
    refused = []
    for kind in file_types():
        try:
            quantize(wide, tmp_path / "x.gguf", kind)
        except ExportError as error:
            refused.append((kind, str(error)))
        else:
            assert np.isfinite(scores(tmp_path / "x.gguf")).all(), kind
    assert not [message for _, message in refused if "\n" in message]
    assert set(NEED_IMPORTANCE) <= {kind for kind, _ in refused}
    assert len(refused) < len(file_types()) / 2


@pytest.mark.parametrize("name", ["q8_0", "Q9", "", "MOSTLY_Q8_0"])
def test_an_unknown_type_lists_the_known(name: str) -> None:
    with pytest.raises(InputError, match=r"llama\.cpp knows BF16, F16, F32.*Q8_0"):
        check_file_type(name)


def test_types_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    nothing = SimpleNamespace(recipe=SimpleNamespace(trains_llm=True))
    for types, message in ((("Q8_0", "F16", "Q8_0"), "given twice"), (("Q8_0", "Q7"), "'Q7'"), ((), "none")):
        with pytest.raises(InputError, match=message):
            export(nothing, tmp_path / "out", ExportOptions(types))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_source_is_named(tmp_path: Path) -> None:
    (tmp_path / "no.gguf").write_bytes(b"nothing")
    with pytest.raises(ExportError, match=r"no\.gguf as Q8_0"):
        quantize(tmp_path / "no.gguf", tmp_path / "x.gguf", "Q8_0")
