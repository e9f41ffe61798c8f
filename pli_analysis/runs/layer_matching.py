"""Match layers of two checkpoints by distance, with a confidence.

Growth keeps the order of what was there, so the match is the cheapest monotone alignment. The cost of a pair is

    ln(distance) − ONWARD · onward · (1 − distance)

so what counts is by how many times one candidate is nearer than another, and a layer that keeps moving the way it was
moving costs less; of unrelated layers, whose distance is around 1, movement says nothing. The confidence of a pair is
the share that it has of all alignments, each with the weight exp(−cost ÷ SCALE): two candidates with the same cost get
half each. Layers may also have changed places: the cheapest assignment in any order competes with the cheapest
alignment, at the price ORDER, and its chance is mixed into the confidence. All confidences are lowered where distances
do not bear out the match at all. No weights and no lineage here: numbers in, numbers out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SCALE = 0.2
"""Cost that makes a candidate e times less likely.

SCALE, ONWARD and ORDER were chosen together by grid search: on 600 random grown runs with checkpoints 1 to 10 steps
apart (the share of right matches, none wrong of confidence 0.9) and on 80 with 6 and 20 times as many steps between.
They are not critical: with 0.15 to 0.3, 4 to 8 and 2 to 3 the share of right matches in the 600 stays within 0.1 %. A
larger ONWARD errs more where checkpoints are sparse, a larger ORDER is too sure that nothing was swapped. What they
give on other runs is in tests/pli_analysis/runs/test_inferred_lineage.py.
"""
ONWARD = 5.0
"""Cost that moving straight on saves, against turning off at a right angle."""
ORDER = 2.0
"""Cost, in units of SCALE, of any change of places."""
COPY = 0.7
"""Distance below which a layer may be a copy of another."""
RELATED = 0.1
"""Cost below that of unrelated layers at which distances begin to bear a match out."""
SMALLEST = 1e-12
"""Distance that counts as none: what rounding leaves of equal weights."""


def relative_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """‖x − y‖² ÷ (‖x‖² + ‖y‖²) of every row of x and every row of y; 1 where it cannot be told."""
    with np.errstate(all="ignore"):
        scale = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1)[None, :]
        found = (scale - 2 * x @ y.T) / scale
    return np.clip(np.where(np.isfinite(found), found, 1.0), 0.0, 2.0)


@dataclass(frozen=True)
class Match:
    """How the layers of a later stack are those of an earlier one.

    Attributes:
        locations: for each later layer the earlier one that it is; None for a newborn.
        confidence: for each later layer, in [0, 1]: of the match, or of having none.
    """

    locations: tuple[int | None, ...]
    confidence: np.ndarray


def match(distance: np.ndarray, onward: np.ndarray | None = None) -> Match:
    """Find the layers of one checkpoint in another.

    Args:
        distance: (earlier, later), 0 for equal layers, around 1 for unrelated ones.
        onward: (earlier, later), how straight on each would have moved to be the other, see `inferred.onward`; 0
            where nothing is known.

    >>> found = match(np.array([[0.01, 1.0, 1.0], [1.0, 1.0, 0.02]]))
    >>> found.locations, found.confidence.round(2).tolist()
    ((0, None, 1), [1.0, 1.0, 1.0])
    >>> match(np.array([[0.01, 0.01]])).confidence.round(1).tolist()  # which of two equal ones was there before?
    [0.5, 0.5]
    """
    if onward is None:
        onward = np.zeros_like(distance)
    if distance.shape[0] > distance.shape[1]:
        chosen, sure, _ = _choose(distance.T, onward.T)
        return Match(tuple(chosen), sure)
    chosen, sure, free = _choose(distance, onward)
    back = {j: i for i, j in enumerate(chosen)}
    locations = tuple(back.get(j) for j in range(distance.shape[1]))
    return Match(locations, np.array([free[j] if at is None else sure[at] for j, at in enumerate(locations)]))


def costs(distance: np.ndarray) -> np.ndarray:
    """Distances as costs."""
    return np.log(np.maximum(distance, SMALLEST))


def chances(cost: np.ndarray) -> np.ndarray:
    """How likely each of some candidates is the one; in all 1."""
    likely = np.exp((cost.min() - cost) / SCALE)
    return likely / likely.sum()


def _choose(distance: np.ndarray, onward: np.ndarray) -> tuple[list[int], np.ndarray, np.ndarray]:
    """A column for each row, there being as many or more; how sure each is, and how sure each column is to be free."""
    from scipy.special import expit

    few, plain = range(len(distance)), costs(distance)
    cost = plain - ONWARD * onward * np.clip(1.0 - distance, 0.0, 1.0)
    chosen, shares = aligned(cost)
    other, saved = _in_any_order(np.where(distance < COPY, cost, 0.0), chosen)
    crossed = expit(saved / SCALE - ORDER)
    if crossed > 0.5:
        chosen = other
    shares = (1.0 - crossed) * shares + crossed * np.array([chances(row) for row in cost])
    taken = shares.sum(axis=0)
    sure = shares[few, chosen] / np.maximum(taken[chosen], 1.0)
    sure = sure * (1.0 - np.exp(np.minimum(plain[few, chosen], 0.0) / RELATED))
    return chosen, np.clip(sure, 0.0, 1.0), np.clip(1.0 - taken, 0.0, 1.0)


def aligned(cost: np.ndarray) -> tuple[list[int], np.ndarray]:
    """The cheapest way to give each row a column, columns rising, and each pair's share of all the ways.

    Of equally cheap ways the one with the lowest columns: copies mostly go above their donors.
    """
    few, many = cost.shape
    ahead, behind = np.full((few + 1, many + 1), -np.inf), np.full((few + 1, many + 1), -np.inf)
    ahead[0], behind[few] = 0.0, 0.0
    best = np.full((few + 1, many + 1), np.inf)
    best[0] = 0.0
    weight = -cost / SCALE
    for i in range(few):
        for j in range(i, many):
            ahead[i + 1, j + 1] = np.logaddexp(ahead[i + 1, j], ahead[i, j] + weight[i, j])
            best[i + 1, j + 1] = min(best[i + 1, j], best[i, j] + cost[i, j])
    for i in reversed(range(few)):
        for j in reversed(range(i, many)):
            behind[i, j] = np.logaddexp(behind[i, j + 1], behind[i + 1, j + 1] + weight[i, j])
    shares = np.exp(ahead[:few, :many] + weight + behind[1:, 1:] - ahead[few, many])
    columns, j = [], many
    for i in reversed(range(few)):
        while best[i + 1, j - 1] <= best[i + 1, j] + 1e-9:
            j -= 1
        j -= 1
        columns.append(j)
    return columns[::-1], shares


def _in_any_order(cost: np.ndarray, chosen: list[int]) -> tuple[list[int], float]:
    """The cheapest way to give each row a column of its own, and by how much it is cheaper than the chosen one."""
    from scipy.optimize import linear_sum_assignment

    few, columns = linear_sum_assignment(cost)
    return columns.tolist(), float(cost[few, chosen].sum() - cost[few, columns].sum())
