"""One session for all integration tests: prepared, trained and exported once."""

from __future__ import annotations

import pytest

from sessions import Session, make_session


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Session:
    return make_session(tmp_path_factory.mktemp("session"))
