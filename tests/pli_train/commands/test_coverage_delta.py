"""The interval of an event's change of loss on a real run: a reduced form of `tests/benchmarks/coverage_delta.py`."""

import numpy as np
import pytest

from tests.benchmarks.coverage_delta import SMALL, drawn, in_a_row, rows


@pytest.mark.slow
def test_intervals_of_delta_hold_that_over_all_held_out_text(tmp_path):
    """And rarely do where blocks in a row are taken for independent ones."""
    table = list(rows(tmp_path / "run", 0, 200, [drawn, in_a_row], [*SMALL, "train.steps=120"]))
    covered = {rule: [row["covered"] for row in table if row["rule"] == rule] for rule in ("drawn", "in_a_row")}
    assert len(covered["drawn"]) == 5 and min(covered["drawn"]) > 0.88 and np.mean(covered["drawn"]) > 0.92
    assert max(covered["in_a_row"]) < 0.85
