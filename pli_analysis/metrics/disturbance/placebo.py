"""Placebo steps: p-values and scores relative to steps without an event.

A placebo is a step of the same run, or of its twin, that is treated as if it had a growth event. There is no event
within the steps that are compared, and it lies in the same phase of the learning rate and within a factor of two of the
step it is compared with: the statistics vary with the learning rate and with the curvature of the loss over training,
so that more distant steps do not show what is usual at this one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

import numpy as np

MOST = 24
"""Maximum number of placebo steps: enough for p-values below 0.05; each costs the reading of two models."""
ENOUGH = 20
"""Number of placebo steps with which a p-value below 0.05 is possible."""
FACTOR = 2
"""Placebos of step s lie between s ÷ 2 and 2 s."""
SCALE = 1.4826
"""The median absolute deviation of a normal distribution, times this, is its standard deviation."""


def robust_z(value: float, placebos: np.ndarray) -> float:
    """Return (value − median) ÷ (1.4826 · MAD) of the placebos; NaN with fewer than three, or where they do not vary.

    >>> round(robust_z(5.0, np.array([1.0, 2.0, 3.0])), 4)
    2.0235
    """
    known = placebos[np.isfinite(placebos)]
    if len(known) < 3 or not np.isfinite(value):
        return float("nan")
    middle = np.median(known)
    spread = SCALE * np.median(np.abs(known - middle))
    return float((value - middle) / spread) if spread > 0 else float("nan")


def p_value(value: float, placebos: np.ndarray) -> float:
    """Return the one-sided p-value (1 + k) ÷ (1 + n), where k of n placebos are at least as large as the value.

    It is exact if the value and the placebos are exchangeable (Phipson and Smyth 2010); the smallest possible one is
    1 ÷ (1 + n). NaN without placebos, or if the value is not finite.
    """
    known = placebos[np.isfinite(placebos)]
    if not len(known) or not np.isfinite(value):
        return float("nan")
    return float((1 + (known >= value).sum()) / (1 + len(known)))


def without_events(steps: Sequence[int], events: Sequence[int], reach: int, end: int) -> list[int]:
    """Return the steps with no event strictly within `reach` steps on either side, and no end of the run.

    Args:
        steps: candidates.
        events: steps of growth events.
        reach: number of steps on each side.
        end: last step of the run; the first is 0.

    >>> without_events([10, 20, 30, 40, 50], [20], reach=10, end=50)
    [10, 30, 40]
    """
    candidates, at = np.asarray(steps, dtype=int), np.append(np.unique(np.asarray(events, dtype=int)), np.inf)
    following = at[np.searchsorted(at, candidates - reach, side="right")]
    inside = (candidates >= reach) & (candidates + reach <= end)
    return candidates[inside & (following >= candidates + reach)].tolist()


def around(step: int, reach: int, candidates: Sequence[int], most: int) -> list[int]:
    """Return the placebo steps of a step, nearest first: at most `most` of the candidates.

    Each lies within a factor of `FACTOR` of the step, so that the loss curve is similar; at least `reach` steps from
    it, so that the two windows share no step; and at least half of `reach` from other placebos, as closer ones hardly
    differ.

    >>> around(40, 8, range(100), 40)
    [48, 32, 52, 56, 28, 60, 64, 24, 68, 72, 76, 20, 80]
    """
    steps, gap, chosen = sorted(candidates), -(-reach // 2), list[int]()
    for sign in (-1, 1):
        ordered = [sign * at for at in steps][::sign]
        at, end = sign * step + reach, sign * step * FACTOR**sign
        taken = 0
        while taken < most and (position := bisect_left(ordered, at)) < len(ordered) and ordered[position] <= end:
            chosen.append(sign * ordered[position])
            at, taken = ordered[position] + gap, taken + 1
    return sorted(chosen, key=lambda at: abs(math.log(at / step)))[:most]


def longest(reaches: Iterable[int], placebos: Callable[[int], list[int]], enough: int) -> tuple[int, list[int]]:
    """Return the longest reach with enough placebo steps, or else the one with most, and its placebo steps.

    Args:
        reaches: numbers of steps on each side, longest first; at least one.
        placebos: function that returns the placebo steps for a reach.
        enough: number of placebo steps that is enough.
    """
    best: tuple[int, list[int]] | None = None
    for reach in reaches:
        steps = placebos(reach)
        if best is None or len(steps) > len(best[1]):
            best = reach, steps
        if len(steps) >= enough:
            break
    assert best is not None
    return best


def min_p(placebos: int) -> float:
    """Return the smallest p-value that is possible with a number of placebo steps; NaN for none."""
    return 1 / (1 + placebos) if placebos else float("nan")


def scores(values: np.ndarray, placebos: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Score several components of a step relative to placebo steps.

    Args:
        values: (components,), of the step.
        placebos: (steps, components); components that are not finite in `values` are ignored.

    Returns:
        The robust z of each component; the score, which is the largest of them; and the score of each placebo step
        relative to all other placebo steps. NaN where a score cannot be computed.
    """
    there = np.isfinite(values)
    zs = np.array([robust_z(value, column) for value, column in zip(values, placebos.T, strict=True)])
    others = [np.delete(placebos, number, axis=0) for number in range(len(placebos))]
    null = [
        _largest(np.array([robust_z(v, c) for v, c in zip(row[there], rest.T[there], strict=True)]))
        for row, rest in zip(placebos, others, strict=True)
    ]
    return zs, _largest(zs), np.array(null, dtype=float)


def _largest(zs: np.ndarray) -> float:
    return float(np.nanmax(zs)) if np.isfinite(zs).any() else float("nan")
