"""Distances between long vectors, exact or sketched, with bounded memory.

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
    from pli_analysis.metrics.maps.vectors import Vectors

EXACT = 2e12
"""Multiply-adds that an exact Gram matrix may take: 500 layers of BERT-base. Beyond, vectors are sketched."""
SKETCH = 4096
"""Numbers that a sketched vector has. Squared distances have a standard error of √(2 ÷ 4096), 2.2 %."""
CHECKED = 24
"""Vectors among which a sketch is compared with exact distances."""
RISK = 0.01
"""The probability that the bound of a sketch's error does not hold."""


@dataclass(frozen=True)
class SketchError:
    """How far sketched distances are off, relative to the exact ones.

    Attributes:
        largest, median: as measured, among `pairs` pairs of vectors.
        pairs: how many were measured.
        bound: with a probability of 1 − RISK none of the distances between all vectors is off by more. None where the
            measured vectors differ in so few numbers each that the bound is not known to hold.
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
        finite: (count,) bool: whose numbers are all finite. Any other vector is where its source is, as if it had not
            moved, so that those that came from it are told from there; it is to be left out itself.
        error: of distances, where vectors were sketched; None when exact.
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
    """The inner products of all steps, read once over the columns.

    Args:
        vectors: to be read.
        sources: for each vector the number of the one it came from, which is smaller than its own, or None.
        exact: multiply-adds up to which it is exact; beyond, vectors are sketched (Charikar, Chen and Farach-Colton
            2002: every column is added, with a random sign, to one of `SKETCH` sums).
        on_progress: told (columns done, columns in all).
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
    """The relative error that, with a probability of 1 − RISK, no distance between `count` sketched vectors exceeds.

    A squared distance between vectors that are sketched to `size` numbers is distributed as the exact one times
    χ²(size) ÷ size: exactly for Gaussian sketches (Johnson and Lindenstrauss 1984; Dasgupta and Gupta 2003), and for
    sums with random signs in the limit of differences that are spread over many more than `size` numbers. The
    probability of an error in any of the pairs is at most the sum over pairs.

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


def _mended(block: np.ndarray, sources: Sequence[int | None]) -> np.ndarray:
    """Which rows are finite, (count,) bool; any other is made what its source is, or the mean of those without one."""
    with np.errstate(all="ignore"):
        finite = np.isfinite(block.sum(axis=1))
    if finite.all():
        return finite
    founders = [i for i, source in enumerate(sources) if source is None and finite[i]]
    mean = block[founders].mean(axis=0) if founders else 0.0
    for i in np.flatnonzero(~finite).tolist():  # sources come before
        source = sources[i]
        block[i] = mean if source is None else block[source]
    return finite


def _without_overflow(found: Gram) -> Gram:
    """The same with no step for vectors that are so far from their sources that the square is not finite."""
    beyond = ~np.isfinite(np.diag(found.steps))
    if not beyond.any():
        return found
    found.steps[beyond], found.steps[:, beyond] = 0.0, 0.0
    return Gram(found.steps, found.finite & ~beyond, found.error)


def _fold(block: np.ndarray, sums: np.ndarray, generator: np.random.Generator) -> None:
    """Add each column, with a random sign, to one of the sums; columns of one stretch never to the same."""
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
    """Over how many numbers vectors are spread: (Σ d²)² ÷ Σ d⁴, which is n for n numbers of one size."""

    def __init__(self) -> None:
        self._squares: np.ndarray | float = 0.0
        self._fourths: np.ndarray | float = 0.0

    def add(self, block: np.ndarray) -> None:
        """Take in some columns: (vectors, columns)."""
        squares = np.square(block)
        self._squares += squares.sum(axis=1)
        self._fourths += np.vecdot(squares, squares)

    @property
    def least(self) -> float:
        """That of the least spread vector, zeros left out; 0 without any."""
        squares, fourths = np.atleast_1d(self._squares), np.atleast_1d(self._fourths)
        there = fourths > 0
        return float((squares[there] ** 2 / fourths[there]).min(initial=np.inf)) if there.any() else 0.0


def _measured(found: np.ndarray, true: np.ndarray) -> tuple[float, float, int]:
    """Largest and median relative error of distances, from squared ones, and of how many pairs.

    Pairs that differ by no more than rounding do not count.
    """
    pairs = np.triu_indices(len(true), 1)
    found, true = found[pairs], true[pairs]
    differ = true > 1e-9 * true.max(initial=0.0)
    if not differ.any():
        return 0.0, 0.0, 0
    error = np.abs(np.sqrt(found[differ] / true[differ]) - 1)
    return float(error.max()), float(np.median(error)), int(differ.sum())
