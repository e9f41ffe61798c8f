"""Placebo steps: p-values and scores relative to steps without an event.

A placebo is a step of the same run, or of its twin, treated as if it had a growth event. It has none within the steps
that are compared, lies in the same phase of the learning rate as the step it is compared with, and within a factor of
two of it: the statistics drift with the learning rate and with the curvature of the loss over training, so that other
steps are no measure of what is usual at this one.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence

import numpy as np

MOST = 24
"""Placebo steps at most: enough for a p-value below 0.05, and little more, as each costs the reading of two models."""
ENOUGH = 20
"""Placebo steps that a p-value below 0.05 needs."""
FACTOR = 2
"""Placebos of step s lie between s ÷ 2 and 2 s."""
SCALE = 1.4826
"""The median absolute deviation of a normal distribution, times this, is its standard deviation."""


def robust_z(value: float, placebos: np.ndarray) -> float:
    """(value − median) ÷ (1.4826 · MAD) of the placebos; NaN without three of them or where they do not vary.

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
    """The share of placebos that are as large, the value itself counted among them; NaN where it cannot be told.

    Of n + 1 exchangeable numbers, each is at most this unusual with just this probability: (1 + k) ÷ (1 + n) (Phipson
    and Smyth 2010). The smallest that n placebos can give is 1 ÷ (1 + n).
    """
    known = placebos[np.isfinite(placebos)]
    if not len(known) or not np.isfinite(value):
        return float("nan")
    return float((1 + (known >= value).sum()) / (1 + len(known)))


def without_events(steps: Sequence[int], events: Sequence[int], reach: int, end: int) -> list[int]:
    """Those steps that have no event strictly within `reach` steps on either side, and no end of the run.

    Args:
        steps: candidates.
        events: steps of growth events.
        reach: how far both sides reach.
        end: the last step there is; the first is 0.

    >>> without_events([10, 20, 30, 40, 50], [20], reach=10, end=50)
    [10, 30, 40]
    """
    candidates, at = np.asarray(steps, dtype=int), np.append(np.unique(np.asarray(events, dtype=int)), np.inf)
    following = at[np.searchsorted(at, candidates - reach, side="right")]
    inside = (candidates >= reach) & (candidates + reach <= end)
    return candidates[inside & (following >= candidates + reach)].tolist()


def around(step: int, reach: int, candidates: Sequence[int], most: int) -> list[int]:
    """The placebo steps of a step, nearest first: at most `most` of the candidates.

    Each lies within a factor of `FACTOR` of the step, so that the loss curves alike; `reach` steps or more from it, so
    that the two share no step; and half of `reach` or more from the next one, as closer ones hardly differ.

    >>> around(40, 8, range(100), 40)
    [48, 32, 52, 56, 28, 60, 64, 24, 68, 72, 76, 20, 80]
    """
    steps, gap, found = sorted(candidates), -(-reach // 2), list[int]()
    for sign in (-1, 1):
        ordered = [sign * at for at in steps][::sign]
        at, end = sign * step + reach, sign * step * FACTOR**sign
        taken = 0
        while taken < most and (position := bisect_left(ordered, at)) < len(ordered) and ordered[position] <= end:
            found.append(sign * ordered[position])
            at, taken = ordered[position] + gap, taken + 1
    return sorted(found, key=lambda at: abs(math.log(at / step)))[:most]


def longest(reaches: Iterable[int], placebos: Callable[[int], list[int]], enough: int) -> tuple[int, list[int]]:
    """The longest reach that has enough placebo steps, else the one that has most; and these steps.

    Args:
        reaches: in steps, longest first; at least one.
        placebos: from a reach to its placebo steps.
        enough: how many are.
    """
    best: tuple[int, list[int]] | None = None
    for reach in reaches:
        found = placebos(reach)
        if best is None or len(found) > len(best[1]):
            best = reach, found
        if len(found) >= enough:
            break
    assert best is not None
    return best


def min_p(placebos: int) -> float:
    """The least p-value that so many placebo steps can give; NaN for none."""
    return 1 / (1 + placebos) if placebos else float("nan")


def scores(values: np.ndarray, placebos: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Several components of something at a step, beside those at placebo steps.

    Args:
        values: (components,).
        placebos: (steps, components); of a component that `values` lacks nothing counts.

    Returns:
        Each component's robust z, the score, which is the largest of them, and the score of each placebo step beside
        all others. NaN where nothing can be told.
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
