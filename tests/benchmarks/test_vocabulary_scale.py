"""Both forms that `vocabulary_scale.py` compares hold the same world, and its processes answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from corella_edge.bundle.schema_files import read_schema
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.formats.text_table import TextTable
from corella_edge.request import Candidate, Event, User
from vocabulary_scale import FORMS, child, encoding, shared, write_both


def test_both_forms_are_one_world(tmp_path: Path) -> None:
    folders = {form: tmp_path / form for form in FORMS}
    sizes = write_both(folders, 1500)
    assert "vocab/item_id.json" in sizes["json"]
    assert {"vocab/item_id.safetensors", "catalog.safetensors"} <= sizes["mapped"].keys()
    plain, mapped = (FeatureEncoder(*read_schema(folders[form])) for form in FORMS)
    assert isinstance(mapped.catalog.ids, TextTable)
    user = User("U000000007", None, [Event(item, 4.0) for item in plain.catalog.ids[:40]])
    candidates = [*map(Candidate, plain.catalog.ids), Candidate("nowhere", {"title": "Blue steel", "price": 3.0})]
    expected, found = plain.encode(user, candidates), mapped.encode(user, candidates)
    assert expected[1] == found[1]
    for name, values in expected[0].items():
        np.testing.assert_array_equal(found[0][name], values, err_msg=name)
    with child(folders["mapped"]) as one:
        assert one.ask("open")["seconds"] > 0
        assert {"new", "warm"} == one.ask("encode 3").keys()
    assert [row["private_dirty"] > 0 for row in shared(folders["json"], 2)] == [True, True]
    assert encoding(folders, 2)["warm"]["ratio"]["pairs"] == 2
