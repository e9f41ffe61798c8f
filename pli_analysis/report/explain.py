"""Report section: inserted layers compared with matched layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import explain as figures
from pli_analysis.metrics.explain.contrasts import AGE, DEPTH, DEPTH_SCRATCH, REFERENCES, SCRATCH
from pli_analysis.metrics.explain.explain import PRIMARY
from pli_analysis.metrics.explain.measures import MEASURES, RECENT
from pli_analysis.report.parts import Figure, Report, Section, sample, signed
from pli_train.core.errors import counted

if TYPE_CHECKING:
    from typing import Any

    import pandas as pd

MISSING = "There is no primary test, as no gradient norms of layers of the same age are known."
LEVEL = 0.05
"""A p-value below this is called significant."""
NAMED = 3
"""Maximum number of differences that a sentence names."""
TITLES = {measure.name: measure.title for measure in MEASURES}
MATCHED = {
    AGE: "initial layers of the same age",
    DEPTH: "the initial layers next to them",
    SCRATCH: "layers at the same index of a run that did not grow",
    DEPTH_SCRATCH: "the initial layers next to them, corrected by a run that did not grow",
}
"""Reference → the matched layers, in words."""


def verdict(tests: pd.DataFrame) -> str:
    """Describe the primary test, and how many of the others are significant, in a few sentences.

    Args:
        tests: result of `pli_analysis.metrics.explain.explain.summary`.
    """
    runs = int(tests[col.RUNS].max())
    first = tests[(tests[col.MEASURE] == PRIMARY[0]) & (tests[col.REFERENCE] == PRIMARY[1])]
    others = tests.drop(first.index)
    primary = _of_gradients(first.iloc[0], runs) if len(first) else MISSING
    if runs == 1:
        return f"{primary} One run: these are descriptions, not tests."
    least = float(tests[col.MIN_P].min())
    words = f"{primary} {_of_others(others)}" if len(others) else primary
    if least < LEVEL:
        return words
    return f"{words} With {counted(runs, 'run')} the smallest possible p is {least:.2g}, so no test can be significant."


def _of_gradients(row: Any, runs: int) -> str:
    """Describe the primary test: a ratio of gradients, which may be known in fewer than all runs."""
    ratio = math.exp(row[col.DIFFERENCE])
    words = f"Gradients of inserted layers are {ratio:.2f} times those of {MATCHED[AGE]}"
    if row[col.RUNS] == 1:
        return f"{words}." if runs == 1 else f"{words} (known in 1 of {runs} runs)."
    low, high = (math.exp(row[end]) for end in (col.DIFFERENCE_LOW, col.DIFFERENCE_HIGH))
    interval = "" if math.isnan(low) else f"95 % {low:.2f} to {high:.2f}, "
    return f"{words} ({interval}n = {counted(row[col.RUNS], 'run')}, p = {row[col.P]:.2g})."


def _of_others(tests: pd.DataFrame) -> str:
    """Name the significant differences after adjustment, the smallest p first."""
    found = tests[tests[col.P_ADJUSTED] < LEVEL].sort_values(col.P_ADJUSTED, kind="stable")
    total = counted(len(tests), "other difference")
    if not len(found):
        return f"None of {total} is significant after adjustment for their number."
    each = [
        f"{TITLES[row[col.MEASURE]]} against {MATCHED[row[col.REFERENCE]]}: {signed(row[col.DIFFERENCE])}"
        for _, row in found.head(NAMED).iterrows()
    ]
    more = [f"and {len(found) - NAMED} more"] if len(found) > NAMED else []
    return f"{len(found)} of {total} are significant after adjustment for their number: {'; '.join(each + more)}."


def build(table: pd.DataFrame, tests: pd.DataFrame) -> Report:
    """Build the report: the differences, the tests and the methods.

    Args:
        table, tests: results of `contrasts` and `summary` of `pli_analysis.metrics.explain.explain`.
    """
    finding = verdict(tests)
    known = set(tests[col.REFERENCE]), set(tests[col.MEASURE])
    references = [name for name in REFERENCES if name in known[0]]
    measures = [(measure.name, measure.title) for measure in MEASURES if measure.name in known[1]]
    runs = int(tests[col.RUNS].max())
    caption = (
        f"{finding} Points are runs, diamonds their means with 95 % intervals. In the gray band, a difference is too "
        f"small to matter. {sample(runs=runs)}"
    )
    drawing = figures.differences(table, tests, measures, references)
    figure = Figure("explain", "Inserted − matched layers", caption, drawing, tests)
    section = Section("explain", "Inserted layers", figures=[figure], tables=[("Runs", table)], method=METHOD)
    return Report("Inserted layers against matched layers", finding, [section])


METHOD = [
    ("unit", "The run (seed). Layers of one run are not independent, so they are averaged first."),
    *((name, f"Inserted layers are compared with {words}.") for name, words in MATCHED.items()),
    (
        "gradients",
        "Mean of log(gradient norm ÷ √parameters) of a layer, as logged before clipping: over its life up to the age "
        f"of the inserted layer ({AGE}), or over the last {RECENT:.0%} of training.",
    ),
    ("other measures", "As in the ablation and lens commands, at the last checkpoint, or at the same age."),
    (
        "tests",
        "Exact sign-flip test over runs. The primary test was named in advance: gradients against layers of the same "
        "age. The p of all others are adjusted together, by the largest |t| over joint signs of the runs (Westfall and "
        "Young 1993). Interval: Student's t over runs.",
    ),
    (
        "Cliff's δ",
        "Share of runs in which inserted > matched − share in which inserted < matched (Cliff 1993), with the exact "
        "interval of Clopper and Pearson (1934).",
    ),
    ("p_equivalence", "Two one-sided t-tests (Schuirmann 1987): if it is small, the difference is within ± margin."),
]
