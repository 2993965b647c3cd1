"""What `verify` repeats is read with one clear error for a damaged line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bundles import make_bundle, reseal
from corella_edge.bundle.artefact import TEXT_REFERENCE, Bundle
from corella_edge.errors import BundleError
from corella_edge_runtime import reference


def with_texts(root: Path, vector: str) -> Bundle:
    make_bundle(root)
    (root / "text").mkdir()
    (root / TEXT_REFERENCE).write_text(f'{{"text": "tea", "vector": {vector}}}\n')
    reseal(root)
    return Bundle.open(root)


@pytest.mark.parametrize("number", ["1e300", "1" + "0" * 400, "true", '"1"', "null"])
def test_a_text_s_vector_holds_numbers_of_float16(number: str, tmp_path: Path) -> None:
    bundle = with_texts(tmp_path / "bundle", f"[0.5, {number}]")
    with pytest.raises(BundleError, match=r"reference.jsonl line 1.*expected a list of numbers as float16 has them"):
        reference.read_texts(bundle)


def test_a_text_that_is_repeated_has_a_tolerance(tmp_path: Path) -> None:
    bundle = with_texts(tmp_path / "bundle", "[0.5, -65504]")
    [(text, vector)] = reference.read_texts(bundle)
    assert (text, vector.tolist()) == ("tea", [0.5, -65504.0])
    with pytest.raises(BundleError, match=f'must hold the number "text", as there is {TEXT_REFERENCE}'):
        reference.tolerance(bundle)
    file = bundle.path("verification.json")
    made = json.loads(file.read_text())
    file.write_text(json.dumps({**made, "tolerance": {**made["tolerance"], "text": 0.01}}))
    reseal(bundle.root)
    assert reference.tolerance(Bundle.open(bundle.root)).text == 0.01
