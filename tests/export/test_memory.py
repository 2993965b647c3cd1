"""Memory that is kept changes no number, and what is free is read as the system tells it."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from corella_edge_export.memory import available, freed_kept


def product() -> torch.Tensor:
    """Pieces of 36 MiB, which glibc gives back as a rule."""
    one = torch.arange(9 * 2**20, dtype=torch.float32).reshape(3 * 2**10, -1) / 2**23
    return (one * 3.0 + one).sqrt()


def faults(rounds: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        product()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_kept_memory_changes_no_number_and_is_not_asked_for_again() -> None:
    expected, as_a_rule = product(), faults(2)
    with freed_kept():
        assert torch.equal(product(), expected)
        kept = faults(2)
    assert kept < as_a_rule / 2 or as_a_rule < 1000  # few where the system gives memory in large pages
    assert torch.equal(product(), expected)


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("MemTotal: 100 kB\nMemAvailable:    42 kB\n", 43008),
        ("MemTotal: 100 kB\n", 0),
        ("MemAvailable: much\n", 0),
        ("MemAvailable:\n", 0),
    ],
)
def test_free_memory_is_what_the_system_says(tmp_path: Path, text: str, bytes_: int) -> None:
    (tmp_path / "meminfo").write_text(text)
    assert available(tmp_path / "meminfo") == bytes_
    assert available(tmp_path / "nothing") == 0
    assert available() > 2**20
