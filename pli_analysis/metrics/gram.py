"""Distances between many long vectors in memory of the square of their number, whatever their length.

Vectors come in blocks of columns. Each is told as its *step*: what it differs by from the one it came from (its source;
the mean of the others, where there is none). Inner products of steps are added up in float64, block by block, and
distances follow from them along the sources. So the distance of two vectors that differ in their last digits is as
exact as those digits, where a Gram matrix of the vectors themselves would leave noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pli_analysis.metrics.vectors import Vectors

EXACT = 2e12
"""Multiply-adds that an exact Gram matrix may take: 500 layers of BERT-base. Beyond, vectors are sketched."""
SKETCH = 4096
"""Numbers that a sketched vector has. Squared distances have a standard error of √(2 ÷ 4096), 2.2 %."""
CHECKED = 24
"""Vectors among which a sketch is compared with exact distances."""


@dataclass(frozen=True)
class Gram:
    """Inner products of the steps of vectors.

    Attributes:
        steps: (count, count) float64.
        error: the largest relative error of a distance that is to be expected among all pairs, and the median one,
            where vectors were sketched: from those measured among some of them. None when exact.
    """

    steps: np.ndarray
    error: tuple[float, float] | None = None


def gram(
    vectors: Vectors,
    sources: Sequence[int | None],
    exact: float = EXACT,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> Gram:
    """The inner products of all steps, read once over the columns.

    Args:
        vectors: to be read.
        sources: for each vector the number of the one it came from, which is smaller than its own, or None.
        exact: multiply-adds up to which it is exact; beyond, vectors are sketched (Charikar, Chen and Farach-Colton
            2002: every column is added, with a random sign, to one of `SKETCH` sums).
        watch: told (columns done, columns in all).
    """
    count, width = vectors.count, vectors.width
    sketched = count**2 * width > exact and width > SKETCH
    steps = np.zeros((count, SKETCH if sketched else count))
    some = np.unique(np.linspace(0, count - 1, CHECKED).astype(int))
    check = np.zeros((len(some), len(some)))
    generator = np.random.default_rng(0)
    done = 0
    for block in vectors.blocks():
        watch(done, width)
        done += block.shape[1]
        if sketched:
            near = block[some] - block[some].mean(axis=0)
            check += near @ near.T
            _fold(_differences(block, sources), steps, generator)
        else:
            block = _differences(block, sources)
            steps += block @ block.T
    watch(width, width)
    if not sketched:
        return Gram(steps)
    found = steps @ steps.T
    return Gram(found, _error(squared_distances(found, sources)[np.ix_(some, some)], _plain(check), count))


def squared_distances(steps: np.ndarray, sources: Sequence[int | None]) -> np.ndarray:
    """The squared distances between vectors x, from the inner products of their steps u, x = x of the source + u.

    ‖x_i − x_j‖² = ‖x_s − x_j‖² + 2⟨u_i, x_s − x_j⟩ + ‖u_i‖², s being the source of i; x_s is 0 where there is none.

    Returns:
        (count, count) float64, symmetric, zero on the diagonal, nowhere negative.
    """
    count = len(steps)
    across = np.empty((count, count))  # ⟨u_i, x_j⟩
    square = np.empty(count)  # ‖x_j‖²
    found = np.zeros((count, count))
    for i, source in enumerate(sources):
        own = steps[i, i]
        if source is None:
            across[:, i] = steps[:, i]
            square[i] = own
            row = square[:i] - 2 * across[i, :i] + own
        else:
            across[:, i] = across[:, source] + steps[:, i]
            square[i] = square[source] + 2 * across[i, source] + own
            row = found[source, :i] + 2 * (across[i, source] - across[i, :i]) + own
        found[i, :i] = found[:i, i] = np.maximum(row, 0.0)
    return found


def random_walk(steps: np.ndarray) -> np.ndarray:
    """The inner products of the steps of a random walk that is as long at each step, with the same sources.

    In many dimensions random directions are at right angles (Antognini and Sohl-Dickstein 2018, arXiv:1806.08805), so
    this is what a walk tends to and takes no random numbers.
    """
    return np.diag(np.diag(steps))


def _differences(block: np.ndarray, sources: Sequence[int | None]) -> np.ndarray:
    """Each row minus its source's; of those without one, minus their mean. In place: the block is big."""
    founders = [i for i, source in enumerate(sources) if source is None]
    mean = block[founders].mean(axis=0)
    for i in reversed(range(len(sources))):  # sources come before: theirs is still to be subtracted from
        source = sources[i]
        block[i] -= mean if source is None else block[source]
    return block


def _fold(block: np.ndarray, sums: np.ndarray, generator: np.random.Generator) -> None:
    """Add each column, with a random sign, to one of the sums; columns of one stretch never to the same."""
    size = sums.shape[1]
    for start in range(0, block.shape[1], size):
        piece = block[:, start : start + size]
        piece = piece * generator.choice((-1.0, 1.0), piece.shape[1])
        shift = int(generator.integers(size))
        fits = min(size - shift, piece.shape[1])
        sums[:, shift : shift + fits] += piece[:, :fits]
        sums[:, : piece.shape[1] - fits] += piece[:, fits:]


def _plain(inner: np.ndarray) -> np.ndarray:
    square = np.diag(inner)
    return np.maximum(square[:, None] + square[None] - 2 * inner, 0.0)


def _error(found: np.ndarray, true: np.ndarray, count: int) -> tuple[float, float]:
    """Largest and median relative error of the distances between `count` vectors, from the squared ones among some.

    A sketched distance is a sum of many, so its error is nearly normal: of n pairs the largest is where one in n is
    beyond. Pairs that differ by no more than rounding do not count.
    """
    from scipy.stats import norm

    pairs = np.triu_indices(len(true), 1)
    found, true = found[pairs], true[pairs]
    apart = true > 1e-9 * true.max(initial=0.0)
    if not apart.any():
        return 0.0, 0.0
    error = np.abs(np.sqrt(found[apart] / true[apart]) - 1)
    among_all = np.sqrt((error**2).mean()) * norm.isf(1 / (count * (count - 1)))
    return float(max(error.max(), among_all)), float(np.median(error))
