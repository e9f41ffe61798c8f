"""Inserted layers against matched layers, over runs: the run is the unit of analysis.

Columns of `contrasts`, one row for each run, measure and reference:
    run, seed   name of the run, or its path if several have the same name
    measure     see `pli_analysis.metrics.explain.measures`
    reference   layers that the inserted layers are matched with: see `pli_analysis.metrics.explain.contrasts`
    inserted, matched   means over the inserted layers, and over the layers that they are matched with
    difference  inserted − matched

Columns of `summary`, one row for each measure and reference:
    measure, reference
    runs        number of runs n
    inserted, matched, difference       means over runs
    difference_low, difference_high     95 % interval of the difference: Student's t over runs; empty for one run
    p, min_p    two-sided p of the exact sign-flip test over runs, and the smallest p possible with n runs
    p_adjusted  p adjusted for all tests of the table but the primary one, by the largest |t| over joint signs of the
                runs (Westfall and Young 1993); for the primary one, p
    cliffs_delta, cliffs_delta_low, cliffs_delta_high   share of runs in which the inserted layers have the larger value
                − share in which they have the smaller one (Cliff 1993), with its exact 95 % interval (Clopper and
                Pearson 1934)
    margin      differences below it are too small to matter
    p_equivalence       p of two one-sided t-tests: if it is small, the difference is within ± margin (Schuirmann 1987)

The primary test is named in advance: gradients (`log_grad_rms`) against initial layers of the same age.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.comparison.group_difference import COVERED, Estimate, exact_test, max_t, mean
from pli_analysis.metrics.explain import contrasts as of_run
from pli_analysis.metrics.explain.measures import GRADIENT, MEASURES
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.inference import eval_tokens
    from pli_analysis.runs.run import Run

CONTRASTS = [col.RUN, col.SEED, col.MEASURE, col.REFERENCE, col.INSERTED, col.MATCHED, col.DIFFERENCE]
SUMMARY = [col.MEASURE, col.REFERENCE, col.RUNS, col.INSERTED, col.MATCHED]
SUMMARY += [col.DIFFERENCE, col.DIFFERENCE_LOW, col.DIFFERENCE_HIGH, col.P, col.MIN_P, col.P_ADJUSTED]
SUMMARY += [col.CLIFFS_DELTA, col.CLIFFS_DELTA_LOW, col.CLIFFS_DELTA_HIGH, col.MARGIN, col.P_EQUIVALENCE]
PRIMARY = GRADIENT.name, of_run.AGE
"""Measure and reference of the primary test."""


def contrasts(
    runs: Sequence[Run],
    scratch: Sequence[Run] = (),
    text: Path | eval_tokens.Text | None = None,
    blocks: int = 64,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> pd.DataFrame:
    """Measure the inserted layers of each run, and the layers that they are matched with.

    Args:
        runs: runs that grew.
        scratch: runs that did not grow, with the final depth and the seeds of the others.
        text: as for `pli_analysis.inference.eval_tokens.sample_of`.
        blocks: maximum number of blocks of text.
        on_progress: called with (checkpoints measured, in total).

    Raises:
        BadInput: if two runs of a group have the same seed, no run of `scratch` has the seed of a run, a run has no
            inserted layer, or a checkpoint cannot be measured.
    """
    import pandas as pd

    partners = _partners(runs, scratch)
    planned = [1 + len(set(of_run.checkpoints_when_young(run).values())) for run in runs]
    done, total, rows = 0, sum(planned) + len(scratch and runs), []

    def measured() -> None:
        nonlocal done
        done += 1
        on_progress(done, total)

    on_progress(0, total)
    names = [run.name for run in runs]
    for run in runs:
        name = run.name if names.count(run.name) == 1 else str(run.path)
        for each in of_run.of_run(run, partners.get(_seed(run)), text, blocks, measured):
            rows.append((name, _seed(run), *each, each.inserted - each.matched))
    return pd.DataFrame(rows, columns=CONTRASTS)


def _seed(run: Run) -> int | None:
    """Return the seed of a run; None if it does not record one."""
    seed = run.record.get("seed")
    return seed if isinstance(seed, int) else None


def _partners(runs: Sequence[Run], scratch: Sequence[Run]) -> dict[int | None, Run]:
    """Return seed → the run that did not grow. Raises BadInput if runs cannot be paired by their seeds."""
    for group in (runs, scratch):
        seeds = [_seed(run) for run in group]
        for number, (run, seed) in enumerate(zip(group, seeds, strict=True)):
            if seed is not None and seed in seeds[:number]:
                other = group[seeds.index(seed)].path
                raise BadInput(f"{run.path}: has the same seed as {other}; explain compares one run for each seed")
            if seed is None and scratch:
                raise BadInput(f"{run.path}: records no seed, by which runs are paired with those of --scratch")
    partners = {_seed(run): run for run in scratch}
    if scratch and (alone := [run for run in runs if _seed(run) not in partners]):
        seed = _seed(alone[0])
        raise BadInput(f"{alone[0].path}: no run of --scratch has its seed ({seed}), by which runs are paired")
    return partners


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Test each difference over runs.

    Args:
        table: result of `contrasts`.
    """
    import pandas as pd

    groups = dict(list(table.groupby([col.MEASURE, col.REFERENCE])))
    rows = []
    for measure, reference in itertools.product(MEASURES, of_run.REFERENCES):
        if (mine := groups.get((measure.name, reference))) is not None:
            inserted, matched = (mine[name].to_numpy(dtype=float) for name in (col.INSERTED, col.MATCHED))
            p_equivalence = _equivalent(inserted - matched, measure.margin)
            rows.append((measure.name, reference, *_tested(inserted, matched), measure.margin, p_equivalence))
    found = pd.DataFrame(rows, columns=[name for name in SUMMARY if name != col.P_ADJUSTED])
    secondary = ~((found[col.MEASURE] == PRIMARY[0]) & (found[col.REFERENCE] == PRIMARY[1]))
    found[col.P_ADJUSTED] = found[col.P]
    if secondary.any():
        wide = table.pivot(index=col.RUN, columns=[col.MEASURE, col.REFERENCE], values=col.DIFFERENCE)
        tested = pd.MultiIndex.from_frame(found.loc[secondary, [col.MEASURE, col.REFERENCE]])
        found.loc[secondary, col.P_ADJUSTED] = max_t(wide[tested].to_numpy(dtype=float))
    return found[SUMMARY]


def _tested(inserted: np.ndarray, matched: np.ndarray) -> tuple[float, ...]:
    """Return the columns from `runs` to `cliffs_delta_high`, without `p_adjusted`."""
    pairs = [(number, number) for number in range(len(inserted))]
    difference = mean(inserted - matched)
    return (
        len(inserted),
        float(inserted.mean()),
        float(matched.mean()),
        *difference,
        *exact_test(matched, inserted, pairs),
        *cliffs_delta(inserted, matched),
    )


def cliffs_delta(first: np.ndarray, second: np.ndarray) -> Estimate:
    """Return the share of pairs with first > second − the share with first < second, with its exact 95 % interval.

    It is Cliff's delta within pairs (Cliff 1993). Pairs without a difference count in the delta, but not in the
    interval of Clopper and Pearson (1934), which covers in at least 95 % of cases.

    Args:
        first, second: (pairs,).

    >>> [round(x, 2) for x in cliffs_delta(np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0, 4.0]))]
    [0.33, -0.81, 0.98]
    """
    from scipy.stats import binomtest

    signs = np.sign(first - second)
    larger, different = int((signs > 0).sum()), int((signs != 0).sum())
    if len(signs) < 2 or not different:
        return Estimate(math.nan if len(signs) < 2 else 0.0)
    share = binomtest(larger, different).proportion_ci(COVERED)
    return Estimate(float(signs.mean()), 2 * float(share.low) - 1, 2 * float(share.high) - 1)


def _equivalent(differences: np.ndarray, margin: float) -> float:
    """Return the larger p of the one-sided t-tests against −margin and +margin; NaN for one run."""
    from scipy.stats import ttest_1samp

    if len(differences) < 2 or not np.ptp(differences):
        return math.nan
    below = ttest_1samp(differences, margin, alternative="less").pvalue
    above = ttest_1samp(differences, -margin, alternative="greater").pvalue
    return float(max(below, above))
