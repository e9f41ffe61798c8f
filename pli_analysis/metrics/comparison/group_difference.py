"""Difference of two groups of seeds: 95 % interval and exact permutation test.

The unit is the run: values are one number a run, and a group of one run has no interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

COVERED = 0.95
"""Coverage of intervals."""
ROUNDING = 1e-12
"""Share of the largest of some numbers that they differ by at most where float64 has rounded equal ones."""
DRAWS = 10_000
"""Permutations of an exact test; where there are more, this many random ones."""

Pairs = Sequence[tuple[int, int]]
"""Runs that are compared one by one: places in the first and the second group. Empty: groups are independent."""


class Estimate(NamedTuple):
    """A number with its 95 % interval; the bounds are NaN where there are too few runs for one."""

    value: float
    low: float = math.nan
    high: float = math.nan


def mean(values: np.ndarray) -> Estimate:
    """[runs] → mean, with Student's t interval for two runs or more.

    >>> [round(x, 2) for x in mean(np.array([1.0, 2.0, 3.0]))]
    [2.0, -0.48, 4.48]
    """
    if len(values) < 2:
        return Estimate(float(values.mean()))
    return _interval(values.mean(), _of_mean(values), len(values) - 1)


def difference(base: np.ndarray, mine: np.ndarray, pairs: Pairs = ()) -> Estimate:
    """Mean of `mine` minus mean of `base`, over pairs where there are some; NaN where a value is missing.

    Pairs have Student's t interval of their differences. Independent groups have Welch's (1947), which needs no equal
    variances. Where one side has two runs and the other more, Welch's degrees of freedom cover as little as 88 %; there
    it has the conservative ones, of the smaller side alone (Hsu 1938; Mickey and Brown 1966).

    Args:
        base, mine: [runs], one value a run.
        pairs: of places in `base` and `mine`.
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
    # Welch–Satterthwaite's degrees of freedom, turned over so that no variance at all is no division by zero.
    share = part_base / (part_base + part_mine) if part_base else 0.0
    freedom = 1 / (share**2 / (len(base) - 1) + (1 - share) ** 2 / (len(mine) - 1))
    return _interval(value, part_base + part_mine, freedom)


def exact_test(base: np.ndarray, mine: np.ndarray, pairs: Pairs = ()) -> tuple[float, float]:
    """Two-sided p of an exact test on the difference of means, and the smallest p that so many runs can give.

    Of independent groups: all ways to share out the runs between them; of pairs: all signs of their differences.
    `DRAWS` random ones where there are more (Phipson and Smyth 2010). NaN for less than two runs a side.

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


def _of_mean(values: np.ndarray) -> float:
    """The variance of the mean of some runs; 0 where they do not vary, as copies of one do not."""
    return float(values.var(ddof=1)) / len(values) if _vary(values, np.abs(values).max()) else 0.0


def _vary(values: np.ndarray, size: float) -> bool:
    """Whether values differ by more than the rounding of numbers of that size; values that are NaN do."""
    return not np.ptp(values) <= ROUNDING * size


def _interval(value: float, variance: float, freedom: float) -> Estimate:
    """The t interval of an estimate of that variance; none where runs do not vary at all."""
    from scipy.special import stdtrit

    if not variance:
        return Estimate(float(value))
    half = float(stdtrit(freedom, (1 + COVERED) / 2) * math.sqrt(variance))
    return Estimate(float(value), float(value) - half, float(value) + half)
