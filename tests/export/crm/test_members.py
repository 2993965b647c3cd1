"""Several DCNv2 as one CRM: the mean of them, each trained as if it were alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge_export.crm.dcnv2 import DCNv2  # noqa: E402
from corella_edge_export.crm.ensemble import Members, members_of, new_crm  # noqa: E402
from corella_edge_export.crm.rows import EncodedRows  # noqa: E402
from corella_edge_export.training.loop import Part  # noqa: E402
from corella_edge_export.training.tasks.crm import CrmTask, tensors  # noqa: E402
from tiny_run import crm_recipe  # noqa: E402

RECIPE = crm_recipe(embedding_dim=4, cross_layers=2, hidden=(8,), dropout=0.0, oov_rate=0.2, members=3)


def made(fitted: Any) -> Members:
    torch.manual_seed(1)
    model = new_crm(fitted.encoder.schema, RECIPE)
    assert isinstance(model, Members)
    return model


def test_one_member_is_the_dcn_itself(fitted: Any) -> None:
    alone = new_crm(fitted.encoder.schema, replace(RECIPE, members=1))
    assert isinstance(alone, DCNv2)
    assert members_of(alone) == [alone]


def test_logits_and_layers_are_means(fitted: Any) -> None:
    model = made(fitted).eval()
    feed = tensors(EncodedRows(fitted.data, "train", fitted.encoder).batch(np.arange(9)))
    logits, layers = model.states(feed)
    each = [member.states(feed) for member in members_of(model)]
    assert len({own[0][0].item() for own in each}) == 3
    torch.testing.assert_close(logits, sum(own[0] for own in each) / 3)
    for number, layer in enumerate(layers):
        torch.testing.assert_close(layer, sum(own[1][number] for own in each) / 3)
    assert layers[0].shape[1] == model.width


def test_a_members_gradient_is_a_third_of_what_it_is_alone(fitted: Any) -> None:
    rows = EncodedRows(fitted.data, "train", fitted.encoder)
    together = made(fitted)
    task = CrmTask(together, rows, rows, RECIPE, 1)
    batch = np.arange(20)
    task.losses(batch, 0, 0, Part())["loss"].backward()
    second = members_of(together)[1]
    alone = new_crm(fitted.encoder.schema, replace(RECIPE, members=1))
    alone.load_state_dict(second.state_dict())
    CrmTask(alone, rows, rows, RECIPE, 1).losses(batch, 0, 0, Part())["loss"].backward()
    for own, same in zip(second.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(own.grad * 3, same.grad)
