"""The sequence family's blocks: HSTU's against its formula, and what holds of either, whatever they ask."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge_export.crm.blocks import BLOCKS, LEAST  # noqa: E402
from corella_edge_export.crm.recipe import SequenceRecipe  # noqa: E402

D, HEADS, REACH, EVENTS = 6, 2, 9, 5


def made(form: str, dropout: float = 0.0) -> Any:
    torch.manual_seed(1)
    recipe = SequenceRecipe(embedding_dim=D, block=form, heads=HEADS, inner=7, dropout=dropout)  # type: ignore[arg-type]
    block = BLOCKS[form](recipe, REACH).eval()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.5)
    return block


def events(count: int = EVENTS) -> Any:
    return torch.randn(1, count, D, generator=torch.Generator().manual_seed(2))


def seen(block: Any, x: Any) -> Any:
    """What the block gives of each event, which sees itself and those before."""
    e = x.shape[1]
    return block(x, block.keep(x), block.bias(torch.arange(e), e, 0).unsqueeze(0))


def silu(x: Any) -> Any:
    return x / (1 + np.exp(-x))


def normal(x: Any, least: float) -> Any:
    return (x - x.mean()) / np.sqrt(x.var() + least)


def formula(block: Any, x: Any, e: int) -> Any:
    """Equations 1 to 3 for the event at place e, in float64: [D]."""
    weights = {name: value.detach().double().numpy() for name, value in block.named_parameters()}

    def through(name: str, value: Any) -> Any:
        return weights[f"{name}.weight"] @ value + weights[f"{name}.bias"]

    def before(value: Any) -> Any:
        return normal(value, 1e-5) * weights["before.weight"] + weights["before.bias"]

    rows = x[0].double().numpy()
    query, gate = (silu(through(name, before(rows[e]))) for name in ("query", "gate"))
    kept = [np.concatenate(weights["none"][:, 0]), *(silu(through("kept", before(row))) for row in rows[: e + 1])]
    added = np.zeros(D)
    for head in range(HEADS):
        own = slice(head * D // HEADS, (head + 1) * D // HEADS)
        for place, both in enumerate(kept):
            key, value = both[:D][own], both[D:][own]
            bias = weights["back"][head, e + 1 - place] if place else 0.0
            added[own] += silu(query[own] @ key + bias) / REACH * value
    return rows[e] + through("found", normal(added, LEAST) * gate)


def test_hstu_computes_its_formula() -> None:
    block, x = made("hstu"), events()
    with torch.no_grad():
        found = seen(block, x)[0].double().numpy()
    np.testing.assert_allclose(found, [formula(block, x, e) for e in range(EVENTS)], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", BLOCKS)
def test_hidden_events_say_nothing_and_teach_nothing(form: str) -> None:
    """Whatever stands there, and without a figure that is none."""
    block, x = made(form), events().requires_grad_()
    seen(block, x)[0, 1].sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad[0, :2] != 0).any(dim=1).all()
    assert (x.grad[0, 2:] == 0).all()
    assert all(torch.isfinite(p.grad).all() for p in block.parameters() if p.grad is not None)


@pytest.mark.parametrize("form", BLOCKS)
def test_who_has_no_event_gets_an_answer(form: str) -> None:
    block, asked = made(form), events(1)
    with torch.no_grad():
        nothing = block.keep(events(0))
        found = block(asked, nothing, block.bias(torch.tensor([0]), 0, 1).unsqueeze(0))
        hidden = block(asked, block.keep(events()), torch.full((1, 1, 1, EVENTS), -math.inf))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(hidden, found)


@pytest.mark.parametrize("form", BLOCKS)
def test_it_may_begin_as_the_identity(form: str) -> None:
    block, x = made(form), events()
    block.start_alike(latest=False)
    with torch.no_grad():
        torch.testing.assert_close(seen(block, x), x)
