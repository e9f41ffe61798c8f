"""Which layer of one checkpoint is which of another, by how far apart they are, and how sure that is.

Growth keeps the order of what was there. So the match is the cheapest monotone alignment. A cost is the logarithm of a
distance, so that what counts is by how many times one candidate is nearer than another; going straight on saves some of
it. The confidence of a pair is the share that it has of all alignments when one has the weight exp(−cost ÷ SCALE): two
candidates as near as each other get half each. Where another order is clearly nearer, layers have changed places. All
are lowered where distances do not bear out the match at all. No weights and no lineage here: numbers in, numbers out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SCALE = 0.15
"""Cost that makes a candidate e times less likely; it and the next three were chosen on random grown runs, and then
tried on others: tests/pli_analysis/test_inferred.py."""
ONWARD = 5.0
"""Cost that going straight on saves, against going off at a right angle."""
DISTANCE_ALONE = 2.0
"""How many times less a cost tells a layer from its copy when the way that the layer was going is not known."""
COPY = 0.7
"""Distance below which a layer may be a copy of another."""
ORDER = 5.0
"""Cost, in units of SCALE, of layers that change places."""
CLEARLY = 1.0
"""Cost that another order must save to be believed."""
RELATED = 0.1
"""Cost below that of unrelated layers at which distances begin to bear a match out."""
SMALLEST = 1e-12
"""Distance that counts as none: what rounding leaves of equal weights."""


def apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """‖x − y‖² ÷ (‖x‖² + ‖y‖²) of every row of x and every row of y; 1 where it cannot be told."""
    with np.errstate(all="ignore"):
        scale = (x * x).sum(axis=1)[:, None] + (y * y).sum(axis=1)[None, :]
        found = (scale - 2 * x @ y.T) / scale
    return np.clip(np.where(np.isfinite(found), found, 1.0), 0.0, 2.0)


@dataclass(frozen=True)
class Match:
    """How the layers of a later stack are those of an earlier one.

    Attributes:
        places: for each later layer the earlier one that it is; None for a newborn.
        confidence: for each later layer, in [0, 1]: of the match, or of having none.
    """

    places: tuple[int | None, ...]
    confidence: np.ndarray


def match(distance: np.ndarray, onward: np.ndarray | None = None) -> Match:
    """Find the layers of one checkpoint in another.

    Args:
        distance: (earlier, later), 0 for equal layers, around 1 for unrelated ones.
        onward: (earlier, later), how straight on each would have gone to be the other, in [-1, 1].

    >>> found = match(np.array([[0.01, 1.0, 1.0], [1.0, 1.0, 0.02]]))
    >>> found.places, found.confidence.round(2).tolist()
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
    places = tuple(back.get(j) for j in range(distance.shape[1]))
    return Match(places, np.array([free[j] if at is None else sure[at] for j, at in enumerate(places)]))


def costs(distance: np.ndarray) -> np.ndarray:
    """Distances as costs."""
    return np.log(np.maximum(distance, SMALLEST))


def chances(cost: np.ndarray, scale: float = SCALE) -> np.ndarray:
    """How likely each of some candidates is the one; in all 1."""
    likely = np.exp((cost.min() - cost) / scale)
    return likely / likely.sum()


def _choose(distance: np.ndarray, onward: np.ndarray) -> tuple[list[int], np.ndarray, np.ndarray]:
    """A column for each row, there being as many or more; how sure each is, and how sure each column is to be free."""
    few, plain = range(len(distance)), costs(distance)
    cost = plain - ONWARD * onward * np.clip(1.0 - distance, 0.0, 1.0)
    chosen, shares = _aligned(cost)
    nearest = _nearest_first(cost)
    if cost[few, chosen].sum() - cost[few, nearest].sum() > CLEARLY:
        chosen = nearest
        shares = np.array([chances(row) for row in cost])
        sure = np.array([min(shares[i, j], chances(cost[:, j])[i]) for i, j in enumerate(chosen)])
    else:
        sure = shares[few, chosen] * [_in_order(cost, i, j) for i, j in enumerate(chosen)]
    sure = sure * (1.0 - np.exp(np.minimum(plain[few, chosen], 0.0) / RELATED))
    free = 1.0 - shares.sum(axis=0)
    for i in np.flatnonzero(~onward.any(axis=1)).tolist():
        rivals = [j for j in range(distance.shape[1]) if j not in chosen and distance[i, j] < COPY]
        own, *theirs = chances(cost[i, [chosen[i], *rivals]], DISTANCE_ALONE * SCALE)
        sure[i] = min(sure[i], own)
        free[rivals] = np.minimum(free[rivals], 1.0 - np.array(theirs))
    return chosen, np.clip(sure, 0.0, 1.0), np.clip(free, 0.0, 1.0)


def _aligned(cost: np.ndarray) -> tuple[list[int], np.ndarray]:
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


def _nearest_first(cost: np.ndarray) -> list[int]:
    """A column for each row, the cheapest pair first, whatever the order."""
    chosen: dict[int, int] = {}
    for flat in np.argsort(cost, axis=None, kind="stable").tolist():
        i, j = divmod(flat, cost.shape[1])
        if i not in chosen and j not in chosen.values():
            chosen[i] = j
    return [chosen[i] for i in range(len(cost))]


def _in_order(cost: np.ndarray, i: int, j: int) -> float:
    """How sure it is that a pair of an alignment is no trace of a change of places."""
    others = np.concatenate([np.delete(cost[i], j), np.delete(cost[:, j], i)])
    return float(1.0 / (1.0 + np.exp(np.minimum((cost[i, j] - others) / SCALE - ORDER, 500.0)).sum()))
