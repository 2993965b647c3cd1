"""Results that are made once, because their intervals are drawn."""

from __future__ import annotations

import pytest

import bench_results
from corella_edge_runtime.bench.results.result import Result


@pytest.fixture(scope="session")
def measured() -> Result:
    """A whole benchmark."""
    return bench_results.result(requests=300)


@pytest.fixture(scope="session")
def again() -> Result:
    """The same machine and requests, measured once more."""
    return bench_results.result(seed=1, requests=300)


@pytest.fixture(scope="session")
def slower() -> Result:
    """The same with everything taking 1.3 times as long."""
    return bench_results.result(seed=2, slower=1.3, requests=300)
