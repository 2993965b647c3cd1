"""Small official-looking MovieLens folders, a small synthetic data set, and the real one where it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from corella_edge_export.data.contract import RawData
from corella_edge_export.data.prepare import prepare, write_prepared
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.readers.synthetic import SyntheticConfig, generate

USERS = "1::F::1::10::48067\n2::M::56::16::98107-2117\n12::M::25::20::02460\n"
MOVIES = (
    "1::Toy Story (1995)::Animation|Children's|Comedy\n"
    "2::Matrix, The (1999)::Sci-Fi\n"
    "10::Misérables, Les (1995)::Drama|Musical\n"
    "39::Avventura, L' (1960)::Drama\n"
    "40::Postino, Il (The Postman) (1994)::Drama|Romance\n"
)
RATINGS = "1::2::5::978300760\n1::10::3::978302109\n2::1::1::978301968\n12::39::4::978300275\n12::2::2::978300275\n"

Writer = Callable[..., Path]


@pytest.fixture
def official(tmp_path: Path) -> Writer:
    """Write the three files into a new folder, each replaceable by name (None = left out)."""

    def write(**replaced: bytes | None) -> Path:
        folder = tmp_path / "source"
        folder.mkdir(exist_ok=True)
        texts = {"users": USERS, "movies": MOVIES, "ratings": RATINGS}
        contents = {name: text.encode("latin-1") for name, text in texts.items()} | replaced
        for name, content in contents.items():
            if content is not None:
                (folder / f"{name}.dat").write_bytes(content)
        return folder

    return write


@pytest.fixture(scope="session")
def small_raw() -> RawData:
    return generate(SyntheticConfig(seed=3, users=60, items=80, genres=2, events=20.0))


@pytest.fixture(scope="session")
def small(small_raw: RawData, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    out = tmp_path_factory.mktemp("prepared") / "small"
    write_prepared(small_raw, out, requests=40)
    return PreparedData.open(out)


@pytest.fixture(scope="session")
def ml_1m(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """The full MovieLens-1M, prepared; skipped where the data folder is absent."""
    root = os.environ.get("CORELLA_EDGE_TEST_DATA")
    if not root:
        pytest.skip("CORELLA_EDGE_TEST_DATA is not set; its folder ml-1m holds MovieLens-1M")
    source = Path(root) / "ml-1m"
    if not source.is_dir():
        pytest.skip(f"{source} is absent: the full MovieLens-1M")
    out = tmp_path_factory.mktemp("ml-1m") / "prepared"
    prepare("ml-1m", source, out)
    return PreparedData.open(out)
