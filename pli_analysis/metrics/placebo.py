"""How unusual a number is beside the same number at steps where nothing happened.

A placebo is a step of the same run, or of its twin, with no growth event near it, treated as if there had been one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MOST = 40
"""Placebo steps at most. With fewer than 20 no p-value can fall below 0.05."""
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


def quiet(steps: Sequence[int], events: Sequence[int], before: int, after: int, end: int) -> list[int]:
    """Those steps that are no event and have none strictly inside `before` steps ahead and `after` steps behind.

    Args:
        steps: candidates.
        events: steps of growth events.
        before, after: how far both sides reach.
        end: the last step there is; the first is 0.

    >>> quiet([10, 20, 30, 40, 50], [20], before=10, after=10, end=50)
    [10, 30, 40]
    """
    at = np.asarray(sorted(set(events)), dtype=int)
    return [
        step
        for step in steps
        if step - before >= 0 and step + after <= end and not ((at > step - before) & (at < step + after)).any()
    ]


def some(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of the steps, evenly spread."""
    if len(steps) <= most:
        return list(steps)
    return [steps[place] for place in np.linspace(0, len(steps) - 1, most).round().astype(int)]


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
