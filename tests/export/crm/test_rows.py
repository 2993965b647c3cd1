from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from corella_edge.features.schema import FIRST, OOV
from corella_edge_export.crm.fitted.schema import MULTI_MAX, catalog_of, fit_schema
from corella_edge_export.crm.recipe import FeaturesRecipe
from corella_edge_export.crm.rows import EncodedRows, Masking
from corella_edge_export.data.prepared import SPLITS


@pytest.mark.parametrize("split", SPLITS)
def test_a_training_row_is_the_request_it_stands_for(fitted: Any, split: str) -> None:
    rows = EncodedRows(fitted.data, split, fitted.encoder)
    chosen = np.random.default_rng(0).permutation(len(rows))[:80]
    batch = rows.batch(chosen)
    assert batch.keys() == {f.name for f in fitted.encoder.schema.fields}
    for place, row in enumerate(chosen.tolist()):
        user, item = int(rows.split.users[row]), int(rows.split.items[row])
        request = fitted.data.request(user, int(rows.split.positions[row]), [item])
        feed, _ = fitted.encoder.encode(request.user, request.candidates or ())
        for name, values in feed.items():
            assert values.dtype == batch[name].dtype, name
            np.testing.assert_array_equal(values[0], batch[name][place], err_msg=name)


def test_derived_inputs_do_not_depend_on_the_chunk(fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = EncodedRows(fitted.data, "train", fitted.encoder).derived
    monkeypatch.setattr("corella_edge_export.crm.rows.CHUNK", 7)
    told: list[int] = []
    chunks = EncodedRows(fitted.data, "train", fitted.encoder, told.append)
    assert sum(told) == len(chunks)
    for name, values in whole.items():
        np.testing.assert_array_equal(values, chunks.derived[name], err_msg=name)


def test_vocabularies_hold_what_training_rows_hold(fitted: Any) -> None:
    data, schema = fitted.data, fitted.encoder.schema
    train = data.split("train")
    assert schema.vocabularies["user_id"].values == sorted({data.user_ids[u] for u in train.users})
    assert schema.vocabularies["item_id"].values == sorted({data.item_ids[i] for i in train.items})
    genres = {g for i in set(train.items.tolist()) for g in data.items["genres"][i] or []}
    assert schema.vocabularies["item_genres"].values == sorted(genres)
    ratings = train.ratings[~np.isnan(train.ratings)]
    assert [np.float32(v) for v in schema.vocabularies["rating"].values] == np.unique(ratings).tolist()


def test_every_rating_of_a_training_row_is_known(fitted: Any) -> None:
    rows = EncodedRows(fitted.data, "train", fitted.encoder)
    codes = rows.batch(np.arange(len(rows)))["history_ratings"]
    ratings = rows.histories(np.arange(len(rows)), codes.shape[1]).ratings
    known = set(np.unique(fitted.data.split("train").ratings).tolist())
    expected = np.isin(ratings, [r for r in known if r == r])
    np.testing.assert_array_equal(codes >= FIRST, expected)


def test_long_lists_are_cut_and_empty_columns_have_a_slot(fitted: Any) -> None:
    data = fitted.data
    catalog = catalog_of(data)
    assert catalog.ids == data.item_ids
    assert catalog.attributes[3]["title"] == data.items["title"][3]
    lengths = {f.name: f.length for f in fit_schema(data, FeaturesRecipe()).of("multi")}
    assert all(1 <= length <= MULTI_MAX for length in lengths.values())
    numeric = fit_schema(data, FeaturesRecipe()).of("numeric")
    assert all(f.args["scale"] > 0 for f in numeric)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
def test_masking_hides_ids_and_nothing_else(fitted: Any, rate: float) -> None:
    rows = EncodedRows(fitted.data, "train", fitted.encoder)
    feed = rows.batch(np.arange(len(rows)))
    before = {name: values.copy() for name, values in feed.items()}
    masked = Masking(fitted.encoder.schema, FeaturesRecipe(), rate).hide(feed, np.random.default_rng(1))
    for name, values in masked.items():
        np.testing.assert_array_equal(feed[name], before[name])
        if name not in ("user_id", "item_id"):
            assert values is feed[name]
            continue
        hidden = values != before[name]
        assert (values[hidden] == OOV).all()
        assert hidden.mean() == pytest.approx(rate, abs=0.12)
    both = (masked["user_id"] == OOV) == (masked["item_id"] == OOV)
    assert both.all() == (rate != 0.3)
