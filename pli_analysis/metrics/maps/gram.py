"""Distances between long vectors, exact or sketched, with bounded memory.

Vectors are read in blocks of columns. Each vector is represented by its *step*: its difference from the vector that it
came from (its source), or from the mean of all vectors without a source. Inner products of steps are summed in float64,
block by block, and distances are computed from them along the sources. So small distances between nearly equal vectors
are precise, where a Gram matrix of the vectors themselves would lose them in rounding errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pli_analysis.metrics.maps.vectors import Vectors

EXACT = 2e12
"""Maximum multiply-adds of an exact Gram matrix: 500 layers of BERT-base. Beyond, vectors are sketched."""
SKETCH = 4096
"""Length of sketched vectors. Squared distances have a relative standard error of √(2 ÷ 4096) = 2.2 %."""
CHECKED = 24
"""Number of vectors whose sketched distances are compared with exact ones."""
RISK = 0.01
"""Probability that the bound of the sketching error does not hold."""


@dataclass(frozen=True)
class SketchError:
    """Relative error of sketched distances.

    Attributes:
        largest, median: error measured over `pairs` pairs of vectors.
        pairs: number of pairs.
        bound: with a probability of 1 − RISK, no error of a distance between any two vectors is larger. None if
            measured vectors differ in so few numbers that the bound is not known to hold.
    """

    largest: float
    median: float
    pairs: int
    bound: float | None


@dataclass(frozen=True)
class Gram:
    """Inner products of the steps of vectors.

    Attributes:
        steps: (count, count) float64.
        finite: (count,) bool: whether all numbers of each vector are finite. Other vectors are set equal to their
            source, so that the steps of vectors that came from them are known; the caller must leave them out.
        error: error of distances if vectors were sketched; None if exact.
    """

    steps: np.ndarray
    finite: np.ndarray
    error: SketchError | None = None


def gram(
    vectors: Vectors,
    sources: Sequence[int | None],
    exact: float = EXACT,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Gram:
    """Compute the inner products of all steps in one pass over the columns.

    Args:
        vectors: vectors to read.
        sources: for each vector the number of its source, which is smaller than its own, or None.
        exact: maximum multiply-adds of an exact computation; beyond, vectors are sketched (Charikar, Chen and
            Farach-Colton 2002: each column is added, with a random sign, to one of `SKETCH` sums).
        on_progress: called with (columns done, columns in total).
    """
    count, width = vectors.count, vectors.width
    sketched = count**2 * width > exact and width > SKETCH
    steps = np.zeros((count, SKETCH if sketched else count))
    some = np.unique(np.linspace(0, count - 1, CHECKED).astype(int))
    check, spread = np.zeros((len(some), len(some))), _Spread()
    generator = np.random.default_rng(0)
    finite, done = np.ones(count, dtype=bool), 0
    for block in vectors.blocks():
        on_progress(done, width)
        done += block.shape[1]
        finite &= _mended(block, sources)
        if sketched:
            near = block[some] - block[some].mean(axis=0)
            check += near @ near.T
            block = _differences(block, sources)
            spread.add(np.concatenate([np.diff(near, axis=0), block[some]]))
            _fold(block, steps, generator)
        else:
            block = _differences(block, sources)
            steps += block @ block.T
    on_progress(width, width)
    if not sketched:
        return _without_overflow(Gram(steps, finite))
    found = steps @ steps.T
    largest, median, pairs = _measured(squared_distances(found, sources)[np.ix_(some, some)], _plain(check))
    bound = error_bound(count, SKETCH) if spread.least > SKETCH else None
    return _without_overflow(Gram(found, finite, SketchError(largest, median, pairs, bound)))


def error_bound(count: int, size: int) -> float:
    """Return a bound of the relative error of all distances between `count` sketched vectors, at probability 1 − RISK.

    A squared distance between vectors sketched to `size` numbers is distributed as the exact one times χ²(size) ÷ size:
    exactly for Gaussian sketches (Johnson and Lindenstrauss 1984; Dasgupta and Gupta 2003), and for sums with random
    signs in the limit of differences that are spread over many more than `size` numbers. The probability that any pair
    exceeds the bound is at most the sum over pairs (union bound).

    >>> round(error_bound(count=500, size=4096), 3)
    0.059
    """
    from scipy.optimize import brentq
    from scipy.stats import chi2

    of_pair = RISK / (count * (count - 1) / 2)

    def excess(error: float) -> float:
        return chi2.sf(size * (1 + error) ** 2, size) + chi2.cdf(size * max(1 - error, 0) ** 2, size) - of_pair

    return float(brentq(excess, 0, 10))


def squared_distances(steps: np.ndarray, sources: Sequence[int | None]) -> np.ndarray:
    """Return squared distances between vectors x from the inner products of their steps u, where x = x of source + u.

    ‖x_i − x_j‖² = ‖x_s − x_j‖² + 2⟨u_i, x_s − x_j⟩ + ‖u_i‖² for the source s of i; x_s is 0 without a source.

    Returns:
        (count, count) float64, symmetric, with zero diagonal, not negative.
    """
    count = len(steps)
    across = np.empty((count, count))  # ⟨u_i, x_j⟩
    square = np.empty(count)  # ‖x_j‖²
    squared = np.zeros((count, count))
    for i, source in enumerate(sources):
        own = steps[i, i]
        if source is None:
            across[:, i] = steps[:, i]
            square[i] = own
            row = square[:i] - 2 * across[i, :i] + own
        else:
            across[:, i] = across[:, source] + steps[:, i]
            square[i] = square[source] + 2 * across[i, source] + own
            row = squared[source, :i] + 2 * (across[i, source] - across[i, :i]) + own
        squared[i, :i] = squared[:i, i] = np.maximum(row, 0.0)
    return squared


def random_walk(steps: np.ndarray) -> np.ndarray:
    """Return the inner products of the steps of a random walk with the same step lengths and sources.

    In many dimensions random directions are orthogonal (Antognini and Sohl-Dickstein 2018, arXiv:1806.08805), so that
    this is the limit of random walks, and needs no random numbers.
    """
    return np.diag(np.diag(steps))


def _differences(block: np.ndarray, sources: Sequence[int | None]) -> np.ndarray:
    """Subtract from each row its source's row, or the mean of rows without a source; in place, to save memory."""
    founders = [i for i, source in enumerate(sources) if source is None]
    mean = block[founders].mean(axis=0)
    for i in reversed(
        range(len(sources))
    ):  # a source precedes its row, and must not be changed before it is subtracted
        source = sources[i]
        block[i] -= mean if source is None else block[source]
    return block


def _mended(block: np.ndarray, sources: Sequence[int | None]) -> np.ndarray:
    """Return which rows are finite, (count,) bool; set others to their source, or the mean of rows without a source."""
    with np.errstate(all="ignore"):
        finite = np.isfinite(block.sum(axis=1))
    if finite.all():
        return finite
    founders = [i for i, source in enumerate(sources) if source is None and finite[i]]
    mean = block[founders].mean(axis=0) if founders else 0.0
    for i in np.flatnonzero(~finite).tolist():  # in order: a source precedes its row
        source = sources[i]
        block[i] = mean if source is None else block[source]
    return finite


def _without_overflow(found: Gram) -> Gram:
    """Set the step to zero for vectors whose squared distance from their source overflows, and mark them not finite."""
    beyond = ~np.isfinite(np.diag(found.steps))
    if not beyond.any():
        return found
    found.steps[beyond], found.steps[:, beyond] = 0.0, 0.0
    return Gram(found.steps, found.finite & ~beyond, found.error)


def _fold(block: np.ndarray, sums: np.ndarray, generator: np.random.Generator) -> None:
    """Add each column, with a random sign, to one of the sums; within a segment, to different ones."""
    size = sums.shape[1]
    for start in range(0, block.shape[1], size):
        segment = block[:, start : start + size]
        segment = segment * generator.choice((-1.0, 1.0), segment.shape[1])
        shift = int(generator.integers(size))
        fits = min(size - shift, segment.shape[1])
        sums[:, shift : shift + fits] += segment[:, :fits]
        sums[:, : segment.shape[1] - fits] += segment[:, fits:]


def _plain(inner: np.ndarray) -> np.ndarray:
    square = np.diag(inner)
    return np.maximum(square[:, None] + square[None] - 2 * inner, 0.0)


class _Spread:
    """Effective number of entries of vectors: (Σ d²)² ÷ Σ d⁴, which is n for n entries of equal size."""

    def __init__(self) -> None:
        self._squares: np.ndarray | float = 0.0
        self._fourths: np.ndarray | float = 0.0

    def add(self, block: np.ndarray) -> None:
        """Add some columns: (vectors, columns)."""
        squares = np.square(block)
        self._squares += squares.sum(axis=1)
        self._fourths += np.vecdot(squares, squares)

    @property
    def least(self) -> float:
        """The smallest number over all vectors that are not zero; 0 without any."""
        squares, fourths = np.atleast_1d(self._squares), np.atleast_1d(self._fourths)
        there = fourths > 0
        return float((squares[there] ** 2 / fourths[there]).min(initial=np.inf)) if there.any() else 0.0


def _measured(found: np.ndarray, true: np.ndarray) -> tuple[float, float, int]:
    """Return the largest and median relative error of distances, from squared ones, and the number of pairs.

    Pairs whose distance is within rounding errors are ignored.
    """
    pairs = np.triu_indices(len(true), 1)
    found, true = found[pairs], true[pairs]
    differ = true > 1e-9 * true.max(initial=0.0)
    if not differ.any():
        return 0.0, 0.0, 0
    error = np.abs(np.sqrt(found[differ] / true[differ]) - 1)
    return float(error.max()), float(np.median(error)), int(differ.sum())
