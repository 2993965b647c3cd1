"""The generated data: reproducible, and with the signals where its description says they are."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from corella_edge.errors import InputError
from corella_edge_export.data.contract import RawData, check
from corella_edge_export.data.prepare import split_tables
from corella_edge_export.data.readers.synthetic import SyntheticConfig, generate, make_world, read
from corella_edge_export.data.readers.synthetic_words import BLAME, PRAISE, THEMES

WORDS = {word: theme for themes in THEMES.values() for theme, words in themes.items() for word in words}


@pytest.fixture(scope="module")
def raw() -> RawData:
    return generate(SyntheticConfig())


def numbers(ids: pl.Series) -> NDArray[np.int64]:
    return ids.str.slice(1).cast(pl.Int64).to_numpy() - 1


def auc(labels: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Probability that a liked row is above a disliked one, ties half."""
    ranks = pl.Series(scores).rank("average").to_numpy()
    likes, others = labels.sum(), (~labels).sum()
    return float((ranks[labels].sum() - likes * (likes + 1) / 2) / (likes * others))


def test_words_belong_to_one_theme() -> None:
    words = [word for themes in THEMES.values() for words in themes.values() for word in words]
    assert len(set(words)) == len(words)
    assert not set(words) & {*PRAISE, *BLAME}


def test_sizes(raw: RawData) -> None:
    check(raw)
    assert (len(raw.users), len(raw.items)) == (1000, 600)
    assert 36_000 <= len(raw.interactions) <= 44_000
    pairs = raw.interactions.select(pl.struct("user_id", "item_id").is_duplicated().any())
    assert not pairs.item()
    assert set(raw.interactions["rating"].to_list()) == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_seeds(raw: RawData) -> None:
    again, other = generate(SyntheticConfig()), read(None, {"seed": 1})
    assert again.interactions.equals(raw.interactions)
    assert again.items.equals(raw.items)
    assert not other.interactions.equals(raw.interactions)


def test_a_title_has_two_words_of_its_theme(raw: RawData) -> None:
    titles = raw.items["title"].to_list()
    assert len(set(titles)) == len(titles)
    for title, (genre,) in zip(titles, raw.items["genres"].to_list(), strict=True):
        themes = [WORDS[word] for word in title.split() if word in WORDS]
        assert len(themes) == 2
        assert len(set(themes)) == 1
        assert themes[0] in THEMES[genre]


def test_interests_are_liked_themes_and_genres_say_nothing(raw: RawData) -> None:
    config = SyntheticConfig()
    world = make_world(config, np.random.default_rng(config.seed))
    assert not world.taste.reshape(config.users, config.genres, -1).sum(2).any()
    names = [theme for themes in list(THEMES.values())[: config.genres] for theme in list(themes)[:2]]
    for taste, interests in zip(world.taste, raw.users["interests"].to_list(), strict=True):
        assert all(taste[names.index(interest)] > 0 for interest in interests)


def test_late_items_are_unseen_in_train_and_only_titles_tell_them_apart(raw: RawData) -> None:
    config, tables = SyntheticConfig(), split_tables(raw)
    world = make_world(config, np.random.default_rng(config.seed))
    train, test = tables["train"], tables["test"]
    new = ~test["item_id"].is_in(train["item_id"].implode()).to_numpy()
    assert 0.25 < new.mean() < 0.5
    users, items = numbers(test["user_id"]), numbers(test["item_id"])
    assert world.late[items][new].all()
    labels = test["label"].to_numpy() == 1
    truth = world.utility(config, users, items)
    text = config.theme * world.taste[users, world.theme[items]] + config.tone * world.tone[items]
    quality = train.group_by("item_id").agg(pl.col("label").mean())
    known = test.join(quality, on="item_id", how="left", maintain_order="left")["label_right"].to_numpy()
    # On known items an id alone tells much and all together more; on new ones the title tells most.
    assert auc(labels[~new], known[~new]) > 0.65
    assert auc(labels[~new], truth[~new]) > auc(labels[~new], text[~new]) + 0.1
    assert auc(labels[new], text[new]) > 0.82


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"user": 3}, "unknown setting 'user'; known: seed, users, items"),
        ({"users": 3}, "users is 3; it must be a number from 20"),
        ({"users": 50.5}, "users is 50.5; it must be a whole number"),
        ({"users": True}, "users is True"),
        ({"stated": "much"}, "stated is 'much'"),
        ({"noise": float("nan")}, "noise is nan"),
        ({"themes_per_genre": 3}, "themes_per_genre must be even"),
        ({"items": 90_000}, "titles run out"),
    ],
)
def test_impossible_settings(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(None, options)


def test_users_may_run_out_of_items() -> None:
    check(generate(SyntheticConfig(users=20, items=20, events=100.0)))
