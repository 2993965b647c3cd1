"""Training along whole users: parts add up, a broken run ends as a whole one, both losses learn what they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge import ranking  # noqa: E402
from corella_edge.errors import RecipeError  # noqa: E402
from corella_edge.features.encoder import FeatureEncoder  # noqa: E402
from corella_edge.features.schema import FIRST, OOV, Schema  # noqa: E402
from corella_edge_export.crm.ensemble import members_of, new_crm  # noqa: E402
from corella_edge_export.crm.fitted.schema import catalog_of, fit_schema  # noqa: E402
from corella_edge_export.crm.rows import EncodedRows  # noqa: E402
from corella_edge_export.crm.sequence import LEAST_SCALE  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.training import loop  # noqa: E402
from corella_edge_export.training.checkpoint import load_tensors  # noqa: E402
from corella_edge_export.training.loop import Part, Schedule  # noqa: E402
from corella_edge_export.training.tasks.crm import new_task, predict, tensors  # noqa: E402
from corella_edge_export.training.tasks.sequences import (  # noqa: E402
    NextItemTask,
    SequencesTask,
    item_feed,
    places_of,
)
from quick import others_slow  # noqa: E402
from tiny_run import crm_recipe  # noqa: E402

KEYS = {"kind": "sequence", "embedding_dim": 8, "heads": 2, "inner": 12, "history": 6, "history_block": 3,
        "batch_events": 100}  # fmt: skip
NEXT = {"head": "dot", "loss": "softmax"}
MORE = {"rating_weight": 0.5, "next_weight": 0.2, "negatives": 9}
LOSSES = {"labels": {}, "ratings and next items beside": MORE, "ratings beside": {"rating_weight": 0.5},
          "next item": NEXT, "drawn items": {**NEXT, "negatives": 9, "drawn": "by count"},
          "hstu": {**MORE, "block": "hstu"}}  # fmt: skip


def made(data: PreparedData, **keys: Any) -> Any:
    """A new task of these keys."""
    chosen = crm_recipe(**KEYS, **keys)
    encoder = FeatureEncoder(fit_schema(data, chosen.features), catalog_of(data))
    torch.manual_seed(4)
    model = new_crm(encoder.schema, chosen)
    train, valid = (EncodedRows(data, split, encoder) for split in ("train", "valid"))
    return new_task(model, train, valid, chosen, 1)


@pytest.mark.parametrize("keys", LOSSES.values(), ids=LOSSES)
@pytest.mark.parametrize("members", [1, 2])
def test_parts_of_a_batch_add_up_to_it(data: PreparedData, keys: Any, members: int) -> None:
    task = made(data, members=members, dropout=0.0, **keys)
    batch = task.batches(0)[0]
    assert len(batch) > 3
    whole = task.losses(batch, 0, 0, Part())
    parts = [task.losses(batch, 0, 0, Part(k, 3)) for k in range(3)]
    assert whole.keys() == parts[0].keys()
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value, rtol=1e-5, atol=1e-6)
    assert task.losses(batch, 0, 0, Part(len(batch), len(batch) + 1)) == {}


@pytest.mark.parametrize("loss", others_slow(LOSSES, ("ratings and next items beside", "drawn items")))
def test_a_run_that_broke_off_ends_like_one_that_did_not(
    data: PreparedData, tmp_path: Path, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys: Any = LOSSES[loss]
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    schedule = Schedule(1e-2, 1e-4, 2, 2, 3)
    whole, broken = (made(data, dropout=0.2, **keys) for _ in range(2))
    best = loop.fit(whole, schedule, tmp_path / "whole" / "crm", 1, quiet=True)
    losses, steps = broken.losses, []

    def cut(*args: Any) -> Any:
        steps.append(args)
        if len(steps) == 5:
            raise RuntimeError("the power is gone")
        return losses(*args)

    monkeypatch.setattr(broken, "losses", cut)
    with pytest.raises(RuntimeError, match="power"):
        loop.fit(broken, schedule, tmp_path / "broken" / "crm", 1, quiet=True)
    again = made(data, dropout=0.2, **keys)
    found = loop.fit(again, schedule, tmp_path / "broken" / "crm", 1, quiet=True)
    assert {**found, "seconds": 0} == {**best, "seconds": 0}
    for name, tensor in load_tensors(tmp_path / "whole" / "crm" / loop.BEST).items():
        assert torch.equal(tensor, dict(again.model.state_dict())[name]), name


def test_labels_are_learnt(data: PreparedData, tmp_path: Path) -> None:
    task = made(data)
    assert type(task) is SequencesTask
    before = task.evaluate()
    best = loop.fit(task, Schedule(1e-2, 1e-4, 5, 1, 5), tmp_path / "run" / "crm", 1, quiet=True)
    assert best["auc"] > max(0.6, before["auc"])


def test_the_next_item_is_learnt_and_its_probability_fitted(data: PreparedData, tmp_path: Path) -> None:
    """The scale and the bias learn from labels; nothing else does."""
    task = made(data, **NEXT)
    assert type(task) is NextItemTask
    found: Any = task.losses(task.batches(0)[0], 0, 0, Part())
    found["label_loss"].backward(retain_graph=True)
    learning = {name for name, p in task.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learning == {"scale", "offset"}
    before = task.evaluate()
    best = loop.fit(task, Schedule(1e-2, 1e-4, 6, 1, 6), tmp_path / "run" / "crm", 1, quiet=True)
    assert best["ndcg"] > before["ndcg"]
    assert abs(predict(task.model, task.train).mean() - task.train.labels.mean()) < 0.12


def test_probabilities_keep_the_order_of_the_products_whatever_the_labels_want(data: PreparedData) -> None:
    """Labels against the products bring the scale down to its least, also where a run saved a negative one."""
    task = made(data, dropout=0.0, oov_rate=0.0, **NEXT)
    with torch.no_grad():
        task.model.scale.fill_(-0.5)
    products = torch.linspace(-3, 3, 50)
    assert (task.model.fitted(products).diff() > 0).all()
    task.losses(task.batches(0)[0], 0, 0, Part())["label_loss"].backward()
    assert task.model.scale.item() == pytest.approx(LEAST_SCALE)
    assert task.model.scale.grad.abs() > 0  # it can rise again


def test_members_rank_by_the_logits_that_are_served(data: PreparedData) -> None:
    """A member of large products and a small scale does not outvote another."""
    task = made(data, members=2, dropout=0.0, **NEXT)
    first, second = members_of(task.model)
    with torch.no_grad():
        first.scale.fill_(0.01)
        first.last.weight.mul_(50.0)
        second.scale.fill_(2.0)
    rows, chosen = task.valid, task.ranked
    catalogue = tensors(item_feed(rows, np.arange(len(rows.data.item_ids))), torch.device("cpu"))
    served = []
    with torch.inference_mode():
        for row in chosen:
            feed = tensors(rows.batch(np.array([row])), torch.device("cpu"))
            own = {name: catalogue.get(name, values) for name, values in feed.items()}
            served.append(task.model.states(own)[0].numpy())
    split, log = rows.split, rows.data.log
    first_event = log.offsets[split.users[chosen]]
    seen = [log.items[a : a + n] for a, n in zip(first_event.tolist(), split.positions[chosen].tolist(), strict=True)]
    expected = ranking.ranks(np.stack(served), split.items[chosen].astype(np.int64), seen)
    assert places_of([first, second], rows, chosen).tolist() == expected.tolist()


def test_drawing_every_item_once_is_the_full_softmax(data: PreparedData) -> None:
    task = made(data, dropout=0.0, oov_rate=0.0, **NEXT)
    liked, n = 5, len(task.others.items)
    table = torch.randn(liked, n, generator=torch.Generator().manual_seed(3))
    wanted = np.arange(liked) * 2
    expected = torch.nn.functional.cross_entropy(table, torch.from_numpy(wanted), reduction="sum")
    found = task.others._sampled(table[np.arange(liked), wanted], table, wanted, np.arange(n))
    torch.testing.assert_close(found, expected)


def test_an_item_whose_id_is_hidden_is_told_from_the_others_less_the_bonus(data: PreparedData) -> None:
    plain = {**NEXT, "dropout": 0.0, "oov_rate": 0.5, "negatives": 9}
    task, bold = made(data, **plain), made(data, **plain, new_bonus=2.0)
    feed, shown = {"item_id": np.array([OOV, FIRST, OOV])}, {"item_id": np.array([FIRST, FIRST])}
    assert bold.less(feed).tolist() == [2.0, 0.0, 2.0]
    assert bold.less(shown).tolist() == [0.0, 0.0]
    assert not task.less(feed).any()
    users, own, table = (torch.randn(n, 8, generator=torch.Generator().manual_seed(n)) for n in (4, 4, 9))
    wanted, drawn = np.arange(4), np.arange(5, 14)
    less = torch.tensor([2.0, 0.0, 0.0, 2.0]), torch.tensor([2.0] * 4 + [0.0] * 5)
    expected = torch.cat([((users * own).sum(dim=1) - less[0]).unsqueeze(1), users @ table.T - less[1]], dim=1)
    first = torch.zeros(4, dtype=torch.int64)
    found = bold.others.loss(users, own, table, wanted, drawn, less)
    # Evenly drawn, the wanted and the drawn are corrected alike.
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(expected, first, reduction="sum"))


def test_with_the_bonus_unknown_items_come_out_higher_beside_the_known(data: PreparedData) -> None:
    ahead = []
    for bonus in (0.0, 3.0):
        task = made(data, **NEXT, dropout=0.0, oov_rate=0.4, new_bonus=bonus)
        optimizer = torch.optim.Adam(task.model.parameters(), 1e-2)
        for step in range(60):
            optimizer.zero_grad()
            task.losses(task.batches(0)[step % len(task.batches(0))], 0, step, Part())["loss"].backward()
            optimizer.step()
        task.model.eval()
        items = item_feed(task.valid, np.arange(len(data.item_ids)))
        feed, unknown = tensors(task.valid.batch(np.arange(20))), {**items, "item_id": np.full(len(data.item_ids), OOV)}
        with torch.inference_mode():
            scores = [task.model.catalogue_scores(feed, tensors(one)).mean() for one in (items, unknown)]
        ahead.append(float(scores[1] - scores[0]))
    assert ahead[1] > ahead[0] + 1.0


def test_a_bonus_wants_the_softmax_and_ids() -> None:
    with pytest.raises(RecipeError, match="new_bonus goes with loss = 'softmax'"):
        crm_recipe(**KEYS, new_bonus=1.0)
    with pytest.raises(RecipeError, match="new_bonus: no item is known by its id"):
        crm_recipe(kind="text-sequence", source="encoder", path="anywhere", new_bonus=1.0)


def test_rows_are_those_of_the_split(data: PreparedData) -> None:
    task = made(data)
    for epoch in (0, 1):
        rows = np.concatenate([task.chunks.along(batch).rows for batch in task.batches(epoch)])
        assert sorted(rows.tolist()) == list(range(len(task.train)))
    assert [b.tolist() for b in task.batches(0)] != [b.tolist() for b in task.batches(1)]


def test_what_is_taught_beside_the_labels_is_learnt_and_not_served(data: PreparedData, tmp_path: Path) -> None:
    task = made(data, dropout=0.0, **MORE)
    rows = np.arange(30)
    before = predict(task.model, task.valid)[rows]
    for name in ("rates", "follows"):
        for p in getattr(task.model, name).parameters():
            torch.nn.init.normal_(p, std=3.0)
    np.testing.assert_array_equal(predict(task.model, task.valid)[rows], before)
    first = task.losses(task.batches(0)[0], 0, 0, Part())
    loop.fit(task, Schedule(1e-2, 0.0, 4, 1, 9), tmp_path / "crm", 1, quiet=True)
    later = task.losses(task.batches(0)[0], 0, 0, Part())
    assert all(later[name] < first[name] for name in ("rating_loss", "next_loss"))


def test_no_next_item_is_drawn_where_none_is_taught(data: PreparedData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratings alone beside the labels; the labels' loss is that of a model which is taught nothing else."""
    task, plain = made(data, dropout=0.0, rating_weight=0.5), made(data, dropout=0.0)

    def drawn(*_: Any) -> Any:
        raise AssertionError("items were drawn")

    monkeypatch.setattr(task.others, "table", drawn)
    batch = task.batches(0)[0]
    found, alone = task.losses(batch, 0, 0, Part()), plain.losses(batch, 0, 0, Part())
    assert found.keys() == {"loss", "label_loss", "rating_loss"}
    torch.testing.assert_close(found["label_loss"], alone["loss"])
    torch.testing.assert_close(found["loss"], found["label_loss"] + 0.5 * found["rating_loss"])


@pytest.mark.parametrize("name", ["rating_weight", "next_weight"])
def test_products_are_not_taught_beside(name: str) -> None:
    with pytest.raises(RecipeError, match=f"{name} goes with loss = 'pointwise' and head = 'attention'"):
        crm_recipe(**KEYS, **NEXT, **{name: 0.1})


def test_rows_without_ratings_are_taught_no_rating(data: PreparedData) -> None:
    chosen = crm_recipe(**KEYS, **MORE)
    fitted = fit_schema(data, chosen.features)
    fields = tuple(field for field in fitted.fields if field.vocab != "rating")
    schema = Schema(fields, {name: vocab for name, vocab in fitted.vocabularies.items() if name != "rating"})
    encoder = FeatureEncoder(schema, catalog_of(data))
    train, valid = (EncodedRows(data, split, encoder) for split in ("train", "valid"))
    task = new_task(new_crm(schema, chosen), train, valid, chosen, 1)
    assert task.losses(task.batches(0)[0], 0, 0, Part()).keys() == {"loss", "label_loss", "next_loss"}
