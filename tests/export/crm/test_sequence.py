"""The sequence family: events read once, in parts or along a user's rows, give what each row gives by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge.features.encoder import FeatureEncoder  # noqa: E402
from corella_edge.features.schema import OOV, PAD  # noqa: E402
from corella_edge.request import Candidate, Request, User  # noqa: E402
from corella_edge_export.crm.ensemble import new_crm  # noqa: E402
from corella_edge_export.crm.fitted.schema import catalog_of, fit_schema  # noqa: E402
from corella_edge_export.crm.recipe import CrmRecipe  # noqa: E402
from corella_edge_export.crm.rows import EncodedRows  # noqa: E402
from corella_edge_export.training.tasks.crm import tensors  # noqa: E402
from tiny_run import crm_recipe  # noqa: E402

KEYS = {"kind": "sequence", "embedding_dim": 8, "heads": 2, "inner": 12, "hidden": (8,), "dropout": 0.5,
        "history": 7, "history_block": 3, "window": 11, "history_pace": True}  # fmt: skip
SHAPES = [
    crm_recipe(**KEYS),
    crm_recipe(**{**KEYS, "blocks": 3, "hidden": ()}),
    crm_recipe(**KEYS, head="dot"),
    crm_recipe(**KEYS, members=2, blocks=1),
]
NAMES = ["attention", "three blocks, no hidden layers", "dot", "two members"]


def make(schema: Any, chosen: CrmRecipe) -> Any:
    torch.manual_seed(0)
    model = new_crm(schema, chosen).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


@pytest.fixture(scope="module")
def encoder(fitted: Any) -> FeatureEncoder:
    return FeatureEncoder(fit_schema(fitted.data, SHAPES[0].features), catalog_of(fitted.data))


def feed_of(encoder: FeatureEncoder, user: User, items: list[str]) -> Any:
    """Inputs of a request, its events without padding."""
    feed, _ = encoder.encode(user, [Candidate(item) for item in items])
    kept = feed["history_items"][0] != PAD
    for item in encoder.schema.of("sequence"):
        feed[item.name] = feed[item.name][:, kept]
    return tensors(feed)


def users(fitted: Any) -> list[User]:
    """With a long history, a short one, one of unknown items, and none."""
    positions = fitted.data.split("test").positions
    long, short = int(positions.argmax()), int(positions.argmin())
    found = [request(fitted, row).user for row in (long, short)]
    odd = [(f"unknown {n}", event.rating) for n, event in enumerate(found[0].history)]
    strange = User("nobody", {}, tuple(type(next(iter(found[0].history)))(i, r, None) for i, r in odd))
    return [*found, strange, User("nobody", {}, ())]


def request(fitted: Any, row: int) -> Request:
    split = fitted.data.split("test")
    return fitted.data.request(int(split.users[row]), int(split.positions[row]), [0])


@pytest.mark.parametrize("chosen", SHAPES, ids=NAMES)
def test_events_read_in_parts_are_kept_as_if_read_at_once(fitted: Any, encoder: Any, chosen: CrmRecipe) -> None:
    model = make(encoder.schema, chosen)
    feed = feed_of(encoder, users(fitted)[0], encoder.catalog.ids[:3])
    names = [f.name for f in encoder.schema.of("sequence")]
    e = feed["history_items"].shape[1]
    assert e > 4
    with torch.inference_mode():
        whole = model.read(feed, model.nothing())
        assert whole.shape == (model.memory[0], 2, e, model.memory[1])
        for cut in (0, 1, e - 1):
            first = model.read({name: feed[name][:, :cut] for name in names}, model.nothing())
            second = model.read({name: feed[name][:, cut:] for name in names}, first)
            torch.testing.assert_close(second, whole, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(first, whole[:, :, :cut], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chosen", SHAPES, ids=NAMES)
def test_one_candidate_is_scored_as_among_many_and_as_a_row(fitted: Any, encoder: Any, chosen: CrmRecipe) -> None:
    model, items = make(encoder.schema, chosen), [*encoder.catalog.ids[:5], "no such item"]
    for user in users(fitted):
        padded, _ = encoder.encode(user, [Candidate(item) for item in items])
        rows = {name: np.repeat(v, 6, axis=0) if len(v) == 1 else v for name, v in padded.items()}
        with torch.inference_mode():
            many = model.serving_forward(feed_of(encoder, user, items))
            alone = [model.serving_forward(feed_of(encoder, user, [item])) for item in items]
            torch.testing.assert_close(torch.cat(alone), many, rtol=1e-5, atol=1e-5)
            for feed in (tensors(padded), tensors(rows)):
                torch.testing.assert_close(model(feed), many, rtol=1e-5, atol=1e-5)
        assert many.std() > 0
