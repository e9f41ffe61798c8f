"""Coverage of the intervals of a comparison on simulated groups: a reduced form of the benchmark, and its table."""

import re

import numpy as np
import pandas as pd
import pytest

from pli_analysis.metrics.comparison import compare
from pli_analysis.report import compare as report
from tests.benchmarks import coverage_compare as benchmark

ZEROS = np.zeros((3, 2))
RESULTS = benchmark.Path(benchmark.__file__).parent / "results"


@pytest.mark.slow
@pytest.mark.parametrize("pairing", ["seed", "none"])
@pytest.mark.parametrize("ratio", [1, 3])
def test_intervals_cover_the_truth_for_few_runs(pairing, ratio):
    found = benchmark.table([(n, n, pairing, ratio) for n in (2, 3, 5, 10)], replicates=400)
    assert (found["intervals"] == 400).all()
    assert (found["coverage"] >= 0.92).all(), found.to_string()


@pytest.mark.slow
def test_the_bootstrap_that_was_before_does_not_cover():
    cells = [(1, 2, "none", 1), (2, 2, "none", 1), (3, 3, "none", 1), (5, 5, "none", 1)]
    found = benchmark.table(cells, replicates=400, old=True)
    assert (found["coverage"] < 0.92).all(), found.to_string()


def test_a_single_run_has_no_interval():
    assert (benchmark.table([(1, 2, "none", 1), (1, 1, "none", 1)], replicates=3)["intervals"] == 0).all()


def test_the_benchmark_checks_the_intervals_that_a_comparison_states():
    chance = np.random.default_rng(0)
    rates = {"a": 0.02, "b": 0.03}
    curves = [c for name, rate in rates.items() for c in benchmark.group(chance, name, rate, range(3), ZEROS, 0.1)]
    message = compare.compared(curves)
    stated = re.findall(r"interval (\S+) to (\S+),", f"{report.verdict(message)} {report.speed_up_words(message)}")
    loss, up = (tuple(map(float, bounds)) for bounds in stated)
    expected = benchmark.intervals(curves)
    assert up == pytest.approx(expected[0], rel=0.005) and loss == pytest.approx(expected[1], abs=0.0005)


def test_the_committed_table_covers_and_the_one_of_the_old_rule_does_not():
    now, before = (pd.read_csv(RESULTS / f"coverage_compare{end}.csv") for end in ("", "_old"))
    assert len(now) == len(before) == 2 * len(benchmark.CELLS)
    given = now[now["intervals"] > 0]
    assert (given["coverage"] >= 0.92).all() and (given["replicates"] >= 2000).all()
    assert set(now[now["intervals"] == 0]["runs"]) == {"1 v 2"}
    few = before[before["runs"].isin(["1 v 2", "2 v 2", "3 v 3"]) & (before["pairing"] == "none")]
    assert (few["coverage"] < 0.85).all()
