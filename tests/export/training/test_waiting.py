"""How torch's threads wait for each other: set before torch is loaded, unless the user has said otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from corella_edge_export import SPIN

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
# libgomp tells what it has read when it is loaded.
SHOW = "import os, corella_edge_export; assert 'torch' not in __import__('sys').modules; import torch; torch.ones(1)"


def told_by_libgomp(chosen: dict[str, str]) -> str:
    left = {name: value for name, value in os.environ.items() if name not in NAMES}
    done = subprocess.run(
        [sys.executable, "-c", SHOW], env={**left, **chosen, "OMP_DISPLAY_ENV": "verbose"}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch does not use libgomp")
    return next(line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line)


@pytest.mark.parametrize(
    ("chosen", "spin"),
    [({}, SPIN), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_torch_is_loaded_with_the_setting(chosen: dict[str, str], spin: str) -> None:
    assert told_by_libgomp(chosen).strip().endswith(f"'{spin}'")
