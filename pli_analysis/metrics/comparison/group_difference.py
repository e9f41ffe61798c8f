"""Difference of two groups of seeds: 95 % interval and exact permutation test.

The unit of analysis is the run: there is one value for each run, and a group of one run has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

COVERED = 0.95
"""Coverage probability of intervals."""
ROUNDING = 1e-12
"""Values that differ by at most this fraction of the largest one are equal except for float64 rounding."""
DRAWS = 10_000
"""Maximum number of permutations of an exact test; if there are more, this many random ones are used."""

Pairs = Sequence[tuple[int, int]]
"""Paired runs, as (index in the first group, index in the second). Empty: the groups are independent."""


class Estimate(NamedTuple):
    """A number with its 95 % interval; the bounds are NaN with too few runs."""

    value: float
    low: float = math.nan
    high: float = math.nan


def mean(values: np.ndarray) -> Estimate:
    """Return the mean over (runs,), with Student's t interval for two runs or more.

    >>> [round(x, 2) for x in mean(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.48, 4.48]
    """
    if len(values) < 2:
        return Estimate(float(values.mean()))
    return _interval(values.mean(), _of_mean(values), len(values) - 1)


def difference(base: np.ndarray, mine: np.ndarray, pairs: Pairs = ()) -> Estimate:
    """Return mean of `mine` − mean of `base`, with its 95 % interval; NaN if a value is missing.

    With pairs, it is the mean of their differences, with Student's t interval. Independent groups have Welch's interval
    (1947), which does not assume equal variances. If one group has two runs and the other more, Welch's degrees of
    freedom give a coverage as low as 88 %, so that those of the smaller group are used, which is conservative (Hsu
    1938; Mickey and Brown 1966).

    Args:
        base, mine: (runs,), one value for each run.
        pairs: (index in `base`, index in `mine`) of paired runs.
    """
    if not np.isfinite([*base, *mine]).all():
        return Estimate(math.nan)
    if len(pairs):
        of_base, of_mine = np.transpose(pairs)
        changes = mine[of_mine] - base[of_base]
        return mean(changes) if _vary(changes, np.abs([*base, *mine]).max()) else Estimate(float(changes.mean()))
    value, few = float(mine.mean() - base.mean()), min(len(base), len(mine))
    if few < 2:
        return Estimate(value)
    part_base, part_mine = _of_mean(base), _of_mean(mine)
    if few == 2 and len(base) != len(mine):
        return _interval(value, part_base + part_mine, few - 1)
    # Welch–Satterthwaite degrees of freedom, in a form that does not divide by zero if one variance is zero.
    share = part_base / (part_base + part_mine) if part_base else 0.0
    freedom = 1 / (share**2 / (len(base) - 1) + (1 - share) ** 2 / (len(mine) - 1))
    return _interval(value, part_base + part_mine, freedom)


def exact_test(base: np.ndarray, mine: np.ndarray, pairs: Pairs = ()) -> tuple[float, float]:
    """Return the two-sided p of a permutation test on the difference of means, and the smallest possible p.

    Independent groups are permuted in all assignments of runs to groups, pairs in all signs of their differences;
    `DRAWS` random ones if there are more (Phipson and Smyth 2010). NaN for fewer than two runs in a group.

    >>> exact_test(np.array([1.0, 1.1, 1.2]), np.array([2.0, 2.1, 2.2]))
    (0.1, 0.1)
    >>> exact_test(np.array([1.0, 1.1, 1.2]), np.array([2.0, 2.2, 2.1]), pairs=[(0, 0), (1, 1), (2, 2)])
    (0.25, 0.25)
    """
    from scipy import stats

    if len(pairs):
        of_base, of_mine = np.transpose(pairs)
        base, mine = base[of_base], mine[of_mine]
    if min(len(base), len(mine)) < 2 or not (np.isfinite(base).all() and np.isfinite(mine).all()):
        return math.nan, math.nan
    ways = 2 ** len(pairs) if len(pairs) else math.comb(len(base) + len(mine), len(mine))
    found = stats.permutation_test(
        (mine, base),
        lambda one, other, axis: one.mean(axis=axis) - other.mean(axis=axis),
        permutation_type="samples" if len(pairs) else "independent",
        vectorized=True,
        n_resamples=DRAWS,
        random_state=np.random.default_rng(0),
    )
    return float(found.pvalue), 2 / ways if ways <= DRAWS else 2 / (DRAWS + 1)


def holm(p: np.ndarray) -> np.ndarray:
    """Adjust p-values for their number (Holm 1979), so that p < α in none of them by chance with probability 1 − α.

    NaN stays NaN and does not count.

    >>> holm(np.array([0.01, 0.04, np.nan, 0.02])).tolist()
    [0.03, 0.04, nan, 0.04]
    """
    known = np.isfinite(p)
    ranked, adjusted = np.argsort(p[known]), np.full(len(p), np.nan)
    raised = np.maximum.accumulate(p[known][ranked] * np.arange(known.sum(), 0, -1)).clip(max=1)
    adjusted[np.flatnonzero(known)[ranked]] = raised
    return adjusted


def max_t(differences: np.ndarray) -> np.ndarray:
    """Return the p of each of several tests of differences between pairs, adjusted for their number and dependence.

    The p of a test is the share of all signs of the runs for which the largest |t| of any test is at least its own
    (Westfall and Young 1993). The probability that any of them is below α by chance is at most α. If there are more
    signs than `DRAWS`, that many random ones are used, with those of the data.

    Args:
        differences: (runs, tests); NaN where a run has no value for a test.

    Returns:
        (tests,); NaN for a test with fewer than two runs.

    >>> max_t(np.array([[1.0, 0.1], [1.1, -0.1], [1.2, 0.2]])).tolist()
    [0.25, 0.75]
    """
    runs = len(differences)
    if runs < 2:
        return np.full(differences.shape[1], math.nan)
    if 2**runs <= DRAWS:
        signs = 1 - 2 * (np.arange(2**runs)[:, None] >> np.arange(runs) & 1)
    else:
        signs = np.random.default_rng(0).choice((-1, 1), size=(DRAWS, runs))
        signs[0] = 1
    known = np.isfinite(differences)
    counts, values = known.sum(axis=0).clip(1), np.where(known, differences, 0.0)
    means = signs @ values / counts
    variances = np.maximum((values**2).sum(axis=0) / counts - means**2, ROUNDING * (values**2).sum(axis=0) / counts)
    with np.errstate(invalid="ignore"):  # differences that are all 0
        sizes = np.nan_to_num(np.abs(means) / np.sqrt(variances) * np.sqrt(np.maximum(counts - 1, 0)))
    largest = sizes.max(axis=1)
    shares = (largest[:, None] >= sizes[0] * (1 - ROUNDING)).mean(axis=0)
    return np.where(counts < 2, math.nan, shares)


def _of_mean(values: np.ndarray) -> float:
    """Return the variance of the mean of some runs; 0 if they are equal except for rounding."""
    return float(values.var(ddof=1)) / len(values) if _vary(values, np.abs(values).max()) else 0.0


def _vary(values: np.ndarray, size: float) -> bool:
    """Return whether values differ by more than rounding of numbers of a size; NaN counts as different."""
    return not np.ptp(values) <= ROUNDING * size


def _interval(value: float, variance: float, freedom: float) -> Estimate:
    """Return a t interval from the variance of an estimate; no interval if the variance is zero."""
    from scipy.special import stdtrit

    if not variance:
        return Estimate(float(value))
    half = float(stdtrit(freedom, (1 + COVERED) / 2) * math.sqrt(variance))
    return Estimate(float(value), float(value) - half, float(value) + half)
