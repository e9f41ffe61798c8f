"""Draw blocks in strata, and estimate a mean with its standard error.

The text's blocks are sorted by a number known beforehand (how hard a block is) and cut into strata of equal size; two
blocks are drawn from each. A mean over them varies only as far as blocks of one stratum differ, and its standard error
follows from the draw alone, whatever blocks and documents have in common. Formulas: Cochran, Sampling Techniques
(1977), chapters 5 (strata) and 6 (ratios).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PER_STRATUM = 2
"""Blocks drawn from a stratum: the fewest that show how much its blocks differ."""


@dataclass(frozen=True)
class Estimate:
    """A mean as it is estimated.

    Attributes:
        value: the mean; NaN where nothing was read to average.
        error: its standard error; 0 where everything was read, NaN where one block stands for more.
        freedom: degrees of freedom that the standard error has, for Student's t.
    """

    value: float
    error: float
    freedom: float


@dataclass(frozen=True)
class Design:
    """How blocks were drawn.

    Attributes:
        stratum: (blocks,) int: the stratum that each was drawn from.
        sizes: (strata,) int: how many blocks each stratum holds.
    """

    stratum: np.ndarray
    sizes: np.ndarray

    @classmethod
    def simple(cls, drawn: int, of: int) -> Design:
        """That of a simple random draw, from one stratum."""
        return cls(np.zeros(drawn, np.int64), np.array([of]))

    def first(self, count: int) -> Design:
        """That of the first blocks alone, which are in random order: taken as a simple random draw."""
        return self if count >= len(self.stratum) else Design.simple(count, int(self.sizes.sum()))

    def mean(self, sums: np.ndarray, counts: np.ndarray) -> Estimate:
        """The mean over everything that all blocks hold: the combined ratio estimator (Cochran 1977, section 6.11).

        Its degrees of freedom are Satterthwaite's (Cochran 1977, equation 5.16): few where few strata vary.

        Args:
            sums: (blocks,) float64: what is averaged, added up within each block.
            counts: (blocks,): how many were added up.
        """
        drawn = np.bincount(self.stratum, minlength=len(self.sizes))
        weights = (self.sizes / drawn)[self.stratum]
        whole = weights @ counts
        value = _ratio(weights @ sums, whole)
        residuals = sums - value * counts
        centered = residuals - (np.bincount(self.stratum, residuals) / drawn)[self.stratum]
        squares = np.bincount(self.stratum, centered**2)
        sizes, unread = self.sizes.astype(np.float64), self.sizes > drawn
        with np.errstate(invalid="ignore", divide="ignore"):
            variances = (sizes * (sizes - drawn) * squares / (drawn - 1) / drawn)[unread]
            variance = variances.sum()
            freedom = variance**2 / (variances**2 / (drawn[unread] - 1)).sum()
        return Estimate(value, _ratio(np.sqrt(variance), whole), float(freedom))


def draw(difficulty: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, Design]:
    """Draw blocks, as many of each difficulty as there are.

    Args:
        difficulty: (population,) float: what the population is sorted by; equal ones come in random order.
        count: how many to draw, at most.
        seed: of the draw.

    Returns:
        The places of the drawn blocks in the population, (count,) int64, in random order; and how they were drawn.
    """
    chance = np.random.default_rng(seed)
    count = min(count, len(difficulty))
    order = chance.permutation(len(difficulty))
    order = order[np.argsort(difficulty[order], kind="stable")]
    strata = np.array_split(order, max(1, count // PER_STRATUM))
    numbers = [len(part) for part in np.array_split(np.arange(count), len(strata))]
    locations = [chance.choice(stratum, number, replace=False) for stratum, number in zip(strata, numbers, strict=True)]
    mixed = chance.permutation(count)
    stratum = np.repeat(np.arange(len(strata)), numbers)[mixed]
    return np.concatenate(locations)[mixed], Design(stratum, np.array([len(stratum) for stratum in strata]))


def clustered(sums: np.ndarray, counts: np.ndarray, clusters: np.ndarray) -> Estimate:
    """The mean of everything, its standard error that of other clusters drawn instead: blocks of one go together.

    Args:
        sums, counts: (blocks,), as for `Design.mean`.
        clusters: (blocks,) int: the document that each block is of.
    """
    number = len(np.unique(clusters))
    value = _ratio(sums.sum(), counts.sum())
    residuals = np.bincount(clusters, sums - value * counts)
    variance = number / (number - 1) * float(residuals @ residuals) if number > 1 else np.nan
    return Estimate(value, _ratio(np.sqrt(variance), counts.sum()), number - 1)


def _ratio(part: float, whole: float) -> float:
    """NaN where there is nothing to average: blocks in which nothing is predicted."""
    return float(part / whole) if whole else np.nan
