"""Numbers that are none, as options of `serve`: told before anything is opened."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from corella_edge.cli.serve import serve


@pytest.mark.parametrize("option", ["--timeout-ms", "--max-body-mib", "--retain-days", "--grace"])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "x"])
def test_a_number_that_is_none_is_refused(option: str, value: str) -> None:
    done = CliRunner().invoke(serve, ["bundle", option, value])
    assert done.exit_code == 2
    assert option in done.output
