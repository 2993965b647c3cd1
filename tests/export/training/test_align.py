"""The alignment is the formula, its gradients reach both sides, and it is zero only where the projections agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge_export.training.align import Alignment, pairs_for  # noqa: E402

PAIRS = [(1, 2), (3, 1), (3, 3)]


def make(exponent: float) -> tuple[Any, list[Any], list[Any]]:
    torch.manual_seed(1)
    llm = [torch.randn(5, 6, requires_grad=True) for _ in range(3)]
    crm = [torch.randn(5, 4, requires_grad=True) for _ in range(3)]
    return Alignment(PAIRS, 6, 4, 7, exponent), llm, crm


@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.5])
def test_the_loss_is_the_formula(exponent: float) -> None:
    align, llm, crm = make(exponent)
    loss, distance = align(llm, crm)
    weights = {name: value.double().numpy() for name, value in align.state_dict().items()}

    def projected(side: str, k: int, x: Any) -> Any:
        return x.detach().double().numpy() @ weights[f"{side}.{k}.weight"].T + weights[f"{side}.{k}.bias"]

    expected, distances = 0.0, []
    for k, (block, layer) in enumerate(PAIRS):
        gap = projected("g_llm", k, llm[block - 1]) - projected("g_crm", k, crm[layer - 1])
        norms = np.sqrt((gap**2).sum(axis=1))
        distances.append(norms.mean())
        expected += (norms**exponent).mean() / 7
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    np.testing.assert_allclose(distance.numpy(), distances, rtol=1e-5)
    assert not distance.requires_grad


@pytest.mark.parametrize("exponent", [1.0, 2.0])
def test_gradients_reach_both_models_and_every_projection(exponent: float) -> None:
    align, llm, crm = make(exponent)
    align(llm, crm)[0].backward()
    reached = [llm[0], llm[2], *crm, *align.parameters()]
    assert all(float(tensor.grad.abs().sum()) > 0 for tensor in reached)
    assert llm[1].grad is None  # in no pair


def test_the_distance_is_zero_only_where_projections_agree() -> None:
    align, llm, crm = make(2.0)
    with torch.no_grad():
        for side in (align.g_llm, align.g_crm):
            for layer in side:
                layer.weight.zero_()
                layer.bias.fill_(0.5)
        loss, distance = align(llm, crm)
        assert float(loss) == 0.0
        assert distance.tolist() == [0.0, 0.0, 0.0]
        align.g_crm[1].bias[0] += 1e-3
        loss, distance = align(llm, crm)
        assert float(loss) > 0
        assert [value > 0 for value in distance.tolist()] == [False, True, False]


def test_equal_projections_have_a_gradient() -> None:
    """The derivative of a norm at 0 is nothing that may become nan."""
    align, llm, crm = make(1.0)
    with torch.no_grad():
        for parameter in align.parameters():
            parameter.zero_()
    align(llm, crm)[0].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in align.parameters())


@pytest.mark.parametrize(
    ("chosen", "blocks", "layers", "expected"),
    [
        ([], 4, 3, [(2, 1), (3, 2), (4, 3)]),
        ([], 3, 3, [(1, 1), (2, 2), (3, 3)]),
        ([], 1, 3, [(1, 1), (1, 2), (1, 3)]),
        ([], 32, 1, [(32, 1)]),
        ([], 4, 0, []),
        (((4, 1), (1, 2)), 4, 3, [(4, 1), (1, 2)]),
    ],
)
def test_the_pairs(chosen: Any, blocks: int, layers: int, expected: list[tuple[int, int]]) -> None:
    assert pairs_for(chosen, blocks, layers) == expected
