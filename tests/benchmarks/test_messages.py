"""What `Engine.rank` is held against: the bare sessions, which give the same logits and keep nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from exported_crm import ExportedCrm
from harness import messages_child
from tiny_run import crm_recipe, prepared

KINDS: dict[str, dict[str, Any]] = {
    "one graph": {"kind": "din", "attention": 4},
    "two graphs": {"kind": "sequence", "heads": 2, "inner": 8, "history_block": 3},
}


@pytest.mark.parametrize("name", KINDS)
def test_a_bare_run_gives_the_logits(name: str, tmp_path: Path) -> None:
    chosen = crm_recipe(**KINDS[name], embedding_dim=8, hidden=(8,), history=7, window=11)
    exported = ExportedCrm(prepared(tmp_path / "data"), chosen, tmp_path, deviation=0.3)
    crm = exported.crm()
    assert (crm.reader is not None) == (name == "two graphs")
    for events in (0, 1, 5, 12):
        feed = exported.feed(exported.user(1, range(events)), range(6))
        expected = crm.logits(feed)
        messages_child.forget(crm)
        (found,) = messages_child.bare_run(crm, feed)()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert not crm.stats().get("crm_kept_histories")
