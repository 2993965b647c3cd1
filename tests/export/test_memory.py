"""Memory that is kept changes no number, and what is free is read as the system tells it."""

from __future__ import annotations

import ctypes
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


def heeded() -> bool:
    """Whether this libc takes the threshold that `freed_kept` gives it: musl has none, an older glibc refuses it."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    taken = mallopt(-3, 2**31 - 1)
    mallopt(-3, 2**25)
    return bool(taken)


@pytest.mark.skipif(not heeded(), reason="this libc does not keep what is freed when it is told to")
def test_kept_memory_changes_no_number_and_is_not_asked_for_again() -> None:
    expected, as_a_rule = product(), faults(2)
    with freed_kept():
        assert torch.equal(product(), expected)
        kept = faults(2)
    assert kept < as_a_rule / 2 or as_a_rule < 1000  # few where the system gives memory in large pages
    assert torch.equal(product(), expected)


def system(root: Path, files: dict[str, str]) -> Path:
    """A root folder with these files of the system."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


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
    assert available(tmp_path) == 0
    assert available(system(tmp_path, {"proc/meminfo": text})) == bytes_


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux says how much memory is free")
def test_this_machine_has_some_memory() -> None:
    assert available() > 2**20


FREE = {"proc/meminfo": "MemAvailable: 100 kB\n"}
V1 = "sys/fs/cgroup/memory/memory"


@pytest.mark.parametrize(
    ("files", "bytes_"),
    [
        ({"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/memory.current": "5000\n"}, 102400),
        ({"sys/fs/cgroup/memory.max": "9000\n", "sys/fs/cgroup/memory.current": "5000\n"}, 4000),
        ({"sys/fs/cgroup/memory.max": "9000\n"}, 9000),
        ({"sys/fs/cgroup/memory.max": "9000\n", "sys/fs/cgroup/memory.current": "9500\n"}, 0),
        ({"sys/fs/cgroup/memory.max": "9000000\n", "sys/fs/cgroup/memory.current": "5000\n"}, 102400),
        (
            {"sys/fs/cgroup/memory.max": "9000\n", "sys/fs/cgroup/memory.current": "8000\n",
             "sys/fs/cgroup/memory.stat": "anon 100\ninactive_file 3000\nactive_file 7\n"},
            4000,
        ),
        ({f"{V1}.limit_in_bytes": "9223372036854771712\n", f"{V1}.usage_in_bytes": "5000\n"}, 102400),
        (
            {f"{V1}.limit_in_bytes": "9000\n", f"{V1}.usage_in_bytes": "5000\n",
             f"{V1}.stat": "inactive_file 1\ntotal_inactive_file 1000\n"},
            5000,
        ),
    ],
)  # fmt: skip
def test_a_container_has_no_more_than_its_limit_leaves(tmp_path: Path, files: dict[str, str], bytes_: int) -> None:
    assert available(system(tmp_path, {**FREE, **files})) == bytes_
