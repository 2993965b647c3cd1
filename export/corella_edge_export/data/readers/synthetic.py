"""A generated data set in which ids and titles carry different parts of the truth.

How much a user likes an item is the sum of what only ids can tell (the item's quality, latent factors of
user and item) and what titles tell (a word of praise or blame, and a theme that suits the user or not).
Each user likes exactly half of every genre's themes, so that the genre alone says next to nothing. Late
items appear near the end of the time axis: a model over ids knows nothing of them and is unsure, a model
that reads titles is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from corella_edge.errors import InputError
from corella_edge_export.data.contract import RawData, Reader
from corella_edge_export.data.readers.synthetic_words import BLAME, PATTERNS, PRAISE, THEMES

START = 1_609_459_200  # 2021-01-01, Unix seconds
SPAN = 2 * 365 * 86_400
# Utilities at which a rating rises from 1 to 2, …, 5; zero lies between 3 and 4, so it decides the label.
CUTS = (-3.0, -1.2, 0.0, 1.8)
AGES = ("under 25", "25-34", "35-49", "50+")
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Schema = dict[str, pl.DataType | type[pl.DataType]]


@dataclass(frozen=True)
class SyntheticConfig:
    """Sizes and strengths; strengths are in units of the utility, whose sign makes a like.

    Attributes:
        events: mean events a user. late_items, late_users: shares that appear only after `late_from` (a
            share of the time axis). late_pick: probability that an event takes a late item once one is out.
        tone: strength of the praise or blame in an item's title.
        words: theme words used of the six a theme has. stated: probability that a liked theme is listed
            among the profile's interests. theme, quality, latent, genre, bias: strengths of the terms of the
            utility; late_quality: the quality's strength among late items. noise: scale of the logistic
            noise. popularity: spread of the log popularity.
    """

    seed: int = 0
    users: int = 1000
    items: int = 600
    genres: int = 6
    themes_per_genre: int = 2
    words: int = 5
    events: float = 41.0
    late_items: float = 0.25
    late_users: float = 0.05
    late_from: float = 0.82
    late_pick: float = 0.45
    stated: float = 0.8
    theme: float = 1.2
    tone: float = 1.5
    quality: float = 1.6
    late_quality: float = 0.6
    latent: float = 1.0
    latent_size: int = 2
    genre: float = 0.2
    bias: float = 0.3
    noise: float = 0.6
    popularity: float = 0.5

    def __post_init__(self) -> None:
        """Raises InputError naming the first impossible setting."""
        for name, low, high in _LIMITS:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise InputError(f"synthetic: {name} is {value!r}; it must be a number from {low:g} to {high:g}")
            if _TYPES[name] == "int" and not isinstance(value, int):
                raise InputError(f"synthetic: {name} is {value!r}; it must be a whole number")
        if self.themes_per_genre % 2:
            raise InputError("synthetic: themes_per_genre must be even: each user likes half of them")
        # Half of the titles that can be made, so that drawing an unused one stays quick.
        most = len(PRAISE) * self.words * (self.words - 1) * len(PATTERNS) // 2
        if self.items > most * self.genres * self.themes_per_genre:
            raise InputError(f"synthetic: items is {self.items}; at most {most} a theme, or titles run out")


_LIMITS: tuple[tuple[str, float, float], ...] = (
    ("seed", 0, 2**63),
    ("users", 20, 10**6),
    ("items", 20, 10**5),
    ("genres", 1, len(THEMES)),
    ("themes_per_genre", 2, 4),
    ("words", 3, 6),
    ("events", 10, 10_000),
    *((name, 0, 1) for name in ("late_items", "late_users", "late_from", "late_pick", "stated")),
    *((name, 0, 100) for name in ("theme", "tone", "quality", "late_quality", "latent", "genre", "bias", "noise")),
    ("latent_size", 1, 100),
    ("popularity", 0, 3),
)
_TYPES = {field.name: field.type for field in fields(SyntheticConfig)}


@dataclass(frozen=True)
class World:
    """The truth behind the ratings; U users, I items, T themes, G genres, d latent factors.

    Attributes:
        taste: ±1 [U, T]. user_latent [U, d], item_latent [I, d]: standard normal. genre_taste [U, G].
        bias [U]. theme: int [I]. tone: ±1 [I]. quality [I]: about ±1. late: bool [I]. release: seconds [I].
    """

    taste: Floats
    user_latent: Floats
    item_latent: Floats
    genre_taste: Floats
    bias: Floats
    theme: Ints
    tone: Floats
    quality: Floats
    late: NDArray[np.bool_]
    release: Ints

    def utility(self, config: SyntheticConfig, users: Ints, items: Ints) -> Floats:
        """Noise-free utility of each (user, item) pair, float64 [n]; above zero means "more likely liked"."""
        theme = self.theme[items]
        quality = np.where(self.late[items], config.late_quality, config.quality) * self.quality[items]
        latent = (self.user_latent[users] * self.item_latent[items]).sum(1) / math.sqrt(config.latent_size)
        return np.asarray(
            config.theme * self.taste[users, theme]
            + config.tone * self.tone[items]
            + quality
            + config.latent * latent
            + config.genre * self.genre_taste[users, theme // config.themes_per_genre]
            + config.bias * self.bias[users],
            dtype=np.float64,
        )


def read(source: Path | None, options: Mapping[str, Any]) -> RawData:
    """Generate a data set; `options` are settings of `SyntheticConfig`, `source` is unused.

    Raises:
        InputError: an unknown or impossible setting.
    """
    unknown = sorted(options.keys() - _TYPES.keys())
    if unknown:
        raise InputError(f"synthetic: unknown setting {unknown[0]!r}; known: {', '.join(_TYPES)}")
    return generate(SyntheticConfig(**options))


READERS = {"synthetic": Reader(read, "generated from --seed, no files needed", needs_source=False)}


def generate(config: SyntheticConfig) -> RawData:
    """The data set of that configuration; the same configuration gives the same data."""
    rng = np.random.default_rng(config.seed)
    world = make_world(config, rng)
    users, items, times = _events(config, world, rng)
    utility = world.utility(config, users, items) + config.noise * rng.logistic(size=len(users))
    user_ids, item_ids = _ids("u", config.users), _ids("i", config.items)
    interactions = pl.DataFrame(
        {
            "user_id": user_ids[users],
            "item_id": item_ids[items],
            "rating": (1 + np.searchsorted(CUTS, utility)).astype(np.float32),
            "timestamp": times,
        },
        schema={"user_id": pl.String, "item_id": pl.String, "rating": pl.Float32, "timestamp": pl.Int64},
    )
    return RawData(
        name="synthetic",
        interactions=interactions,
        users=_users(config, world, user_ids, rng),
        items=_items(config, world, item_ids, rng),
        user_attributes={"age": "categorical", "interests": "multi"},
        item_attributes={"genres": "multi", "minutes": "numeric"},
        like_above=3.0,
        licence="generated by corella-edge; no rights claimed (CC0-1.0)",
        redistributable=True,
        notes=("synthetic data: no figure from it says anything about real users",),
        generator=asdict(config),
    )


def make_world(config: SyntheticConfig, rng: np.random.Generator) -> World:
    """Draw the truth: tastes, latent factors, qualities, release times."""
    late = np.zeros(config.items, dtype=np.bool_)
    late[rng.choice(config.items, size=round(config.late_items * config.items), replace=False)] = True
    moments = rng.uniform(config.late_from, 1.0, size=config.items)
    return World(
        taste=_tastes(config, rng),
        user_latent=rng.normal(size=(config.users, config.latent_size)),
        item_latent=rng.normal(size=(config.items, config.latent_size)),
        genre_taste=rng.normal(size=(config.users, config.genres)),
        bias=rng.normal(size=config.users),
        theme=rng.permutation(config.items) % (config.genres * config.themes_per_genre),
        tone=rng.choice([-1.0, 1.0], size=config.items),
        # Two-sided: most known items are clearly good or bad, so a model that knows them is sure.
        quality=rng.choice([-1.0, 1.0], size=config.items) * rng.uniform(0.6, 1.4, size=config.items),
        late=late,
        release=np.where(late, START + moments * SPAN, START).astype(np.int64),
    )


def _tastes(config: SyntheticConfig, rng: np.random.Generator) -> Floats:
    half = config.themes_per_genre // 2
    signs = np.tile(np.repeat([1.0, -1.0], half), (config.users, config.genres, 1))
    return rng.permuted(signs, axis=2).reshape(config.users, -1)


def _events(config: SyntheticConfig, world: World, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Users, items and times of all events, user by user."""
    appeal = config.popularity * rng.normal(size=config.items)
    users, items, times = [], [], []
    for user in range(config.users):
        moments = _moments(config, user >= (1 - config.late_users) * config.users, rng)
        # Adding Gumbel noise and sorting draws items without repetition, in proportion to exp(appeal).
        order = np.argsort(-(appeal + rng.gumbel(size=config.items)))
        chosen = _choose(order, moments, config.late_pick, world, rng)
        users.append(np.full(len(chosen), user))
        items.append(np.asarray(chosen, dtype=np.int64))
        times.append(moments[: len(chosen)])
    return np.concatenate(users), np.concatenate(items), np.concatenate(times)


def _moments(config: SyntheticConfig, is_late: bool, rng: np.random.Generator) -> Ints:
    """A user's event times, ascending; a late user has come recently and has fewer events."""
    begin = rng.uniform(config.late_from, 0.97) if is_late else 0.0
    mean = config.events / 2 if is_late else config.events
    count = max(8, int(mean * rng.lognormal(-0.08, 0.4)))
    return np.sort(START + (rng.uniform(begin, 1.0, size=count) * SPAN).astype(np.int64))


def _choose(order: Ints, moments: Ints, late_pick: float, world: World, rng: np.random.Generator) -> list[int]:
    """An item for each moment: a late one that is out already with probability `late_pick`, else another."""
    early = [item for item in order.tolist() if not world.late[item]]
    late = [item for item in order.tolist() if world.late[item]]
    chosen: list[int] = []
    for moment, draw in zip(moments.tolist(), rng.uniform(size=len(moments)).tolist(), strict=True):
        out = next((item for item in late if world.release[item] <= moment), None) if draw < late_pick else None
        if out is not None:
            late.remove(out)
            chosen.append(out)
        elif early:
            chosen.append(early.pop(0))
        else:
            break
    return chosen


def _ids(prefix: str, count: int) -> NDArray[np.object_]:
    width = len(str(count))
    return np.array([f"{prefix}{number:0{width}d}" for number in range(1, count + 1)], dtype=object)


def _theme_names(config: SyntheticConfig) -> list[tuple[str, str]]:
    """(genre, theme) of each theme number."""
    genres = list(THEMES.items())[: config.genres]
    return [(genre, theme) for genre, themes in genres for theme in list(themes)[: config.themes_per_genre]]


def _users(config: SyntheticConfig, world: World, ids: NDArray[np.object_], rng: np.random.Generator) -> pl.DataFrame:
    names = [theme for _, theme in _theme_names(config)]
    stated = (world.taste > 0) & (rng.uniform(size=world.taste.shape) < config.stated)
    interests = [[names[theme] for theme in np.flatnonzero(row)] for row in stated]
    ages = [AGES[age] for age in rng.integers(len(AGES), size=config.users)]
    schema: Schema = {"user_id": pl.String, "age": pl.String, "interests": pl.List(pl.String)}
    return pl.DataFrame({"user_id": ids, "age": ages, "interests": interests}, schema=schema)


def _items(config: SyntheticConfig, world: World, ids: NDArray[np.object_], rng: np.random.Generator) -> pl.DataFrame:
    names = _theme_names(config)
    columns = {
        "item_id": ids,
        "title": _titles(config, world, names, rng),
        "genres": [[names[theme][0]] for theme in world.theme],
        "minutes": rng.integers(80, 160, size=config.items).astype(np.float64),
    }
    schema: Schema = {"item_id": pl.String, "title": pl.String, "genres": pl.List(pl.String), "minutes": pl.Float64}
    return pl.DataFrame(columns, schema=schema)


def _titles(config: SyntheticConfig, world: World, names: list[tuple[str, str]], rng: np.random.Generator) -> list[str]:
    """One distinct title an item: a word of praise or blame and two words of its theme."""
    titles: dict[str, None] = {}
    for theme, tone in zip(world.theme, world.tone, strict=True):
        genre, name = names[theme]
        while True:
            first, second = rng.choice(THEMES[genre][name][: config.words], size=2, replace=False)
            word = rng.choice(PRAISE if tone > 0 else BLAME)
            title = PATTERNS[rng.integers(len(PATTERNS))].format(word, first, second)
            if title not in titles:
                break
        titles[title] = None
    return list(titles)
