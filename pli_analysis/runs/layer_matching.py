"""Match layers of two checkpoints by distance, with a confidence.

Growth keeps the order of existing layers, so the match is the cheapest monotone alignment. The cost of a pair is

    ln(distance) − ONWARD · onward · (1 − distance)

so the ratio of two candidates' distances counts, and a layer that keeps its direction of movement costs less. The last
factor ignores the movement of unrelated layers, whose distance is around 1. The confidence of a pair is its share of
all alignments, each weighted by exp(−cost ÷ SCALE): two candidates with the same cost get half each. Layers may also
have been swapped: the cheapest assignment in any order competes with the cheapest alignment at the additional cost
ORDER, and its probability is mixed into the confidence. All confidences are lowered where distances are close to those
of unrelated layers. This module only handles arrays, no weights and no lineage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SCALE = 0.2
"""Cost difference that makes a candidate e times less likely.

SCALE, ONWARD and ORDER were chosen together by grid search: on 600 random grown runs with checkpoints 1 to 10 steps
apart (maximizing the share of correct matches, with no wrong match of confidence 0.9) and on 80 runs with 6 and 20
times as many steps between checkpoints. They are not critical: with 0.15 to 0.3, 4 to 8 and 2 to 3 the share of correct
matches in the 600 runs stays within 0.1 %. A larger ONWARD makes more errors where checkpoints are sparse; a larger
ORDER is overconfident that nothing was swapped. Results on other runs are in
tests/pli_analysis/runs/test_inferred_lineage.py.
"""
ONWARD = 5.0
"""Cost saved by a movement in the same direction, compared with one at a right angle."""
ORDER = 2.0
"""Cost of any swap of layers, in units of SCALE."""
COPY = 0.7
"""Maximum distance of a copy from its donor."""
RELATED = 0.1
"""Scale, in cost below that of unrelated layers, on which a match becomes credible."""
SMALLEST = 1e-12
"""Distance below which weights count as equal, up to rounding."""


def relative_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """‖x − y‖² ÷ (‖x‖² + ‖y‖²) of every row of x and every row of y; 1 where it is undefined."""
    with np.errstate(all="ignore"):
        scale = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1)[None, :]
        distance = (scale - 2 * x @ y.T) / scale
    return np.clip(np.where(np.isfinite(distance), distance, 1.0), 0.0, 2.0)


@dataclass(frozen=True)
class Match:
    """Matches from the layers of a later checkpoint to those of an earlier one.

    Attributes:
        locations: for each later layer, the index of the same layer in the earlier checkpoint; None for a new layer.
        confidence: for each later layer, in [0, 1]: of the match, or of being new.
    """

    locations: tuple[int | None, ...]
    confidence: np.ndarray


def match(distance: np.ndarray, onward: np.ndarray | None = None) -> Match:
    """Match the layers of two checkpoints.

    Args:
        distance: (earlier, later), 0 for equal layers, around 1 for unrelated ones.
        onward: (earlier, later), how well the movement from one to the other continues those before and after, see
            `weight_comparison.onward`; 0 if unknown.

    >>> found = match(np.array([[0.01, 1.0, 1.0], [1.0, 1.0, 0.02]]))
    >>> found.locations, found.confidence.round(2).tolist()
    ((0, None, 1), [1.0, 1.0, 1.0])
    >>> match(np.array([[0.01, 0.01]])).confidence.round(1).tolist()  # either of two equal layers may be the old one
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
    """Convert distances to costs."""
    return np.log(np.maximum(distance, SMALLEST))


def chances(cost: np.ndarray) -> np.ndarray:
    """Return the probability of each candidate; their sum is 1."""
    weight = np.exp((cost.min() - cost) / SCALE)
    return weight / weight.sum()


def _choose(distance: np.ndarray, onward: np.ndarray) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Return a column for each row, its confidence, and for each column the confidence that it has no row.

    There must be at least as many columns as rows.
    """
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
    """Return the cheapest monotone alignment, as a column for each row, and each pair's share of all alignments.

    Of equally cheap alignments the one with the lowest columns is chosen, as copies are usually inserted above donors.
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
    """Return the cheapest assignment in any order, as a column for each row, and what it saves against `chosen`."""
    from scipy.optimize import linear_sum_assignment

    few, columns = linear_sum_assignment(cost)
    return columns.tolist(), float(cost[few, chosen].sum() - cost[few, columns].sum())
