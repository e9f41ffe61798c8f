"""Draw blocks in strata, and estimate a mean with its standard error.

The blocks are sorted by a number known in advance (their difficulty) and divided into strata of equal size. Two blocks
are drawn from each stratum. The mean over them varies only as much as blocks within a stratum differ. Its standard
error follows from the sampling design and does not assume independent blocks. Formulas: Cochran, Sampling Techniques
(1977), chapters 5 (strata) and 6 (ratios).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CONFIDENCE = 0.95
PER_STRATUM = 2
"""Blocks drawn from a stratum: the minimum for estimating its variance."""


@dataclass(frozen=True)
class Estimate:
    """An estimated mean.

    Attributes:
        value: the mean; NaN if there is nothing to average.
        error: its standard error; 0 if all blocks were read, NaN if one block represents a larger stratum.
        freedom: degrees of freedom of the standard error, for Student's t.
    """

    value: float
    error: float
    freedom: float

    def interval(self) -> tuple[float, float]:
        """Return the bounds of the 95 % confidence interval (Student's t); both are the mean if the error is 0."""
        from scipy.stats import t

        reach = float(t.ppf((1 + CONFIDENCE) / 2, self.freedom) * self.error) if self.error else 0.0
        return self.value - reach, self.value + reach


@dataclass(frozen=True)
class Design:
    """A sampling design: how blocks were drawn.

    Attributes:
        stratum: (blocks,) int: the stratum of each drawn block.
        sizes: (strata,) int: number of blocks in each stratum.
    """

    stratum: np.ndarray
    sizes: np.ndarray

    @classmethod
    def simple(cls, drawn: int, of: int) -> Design:
        """Return the design of a simple random sample."""
        return cls(np.zeros(drawn, np.int64), np.array([of]))

    def first(self, count: int) -> Design:
        """Return the design of the first blocks, which are in random order: a simple random sample."""
        return self if count >= len(self.stratum) else Design.simple(count, int(self.sizes.sum()))

    @property
    def weights(self) -> np.ndarray:
        """The number of blocks that each drawn block represents, (blocks,) float64."""
        return (self.sizes / np.bincount(self.stratum, minlength=len(self.sizes)))[self.stratum]

    def mean(self, sums: np.ndarray, counts: np.ndarray) -> Estimate:
        """Estimate the mean over all blocks with the combined ratio estimator (Cochran 1977, section 6.11).

        The degrees of freedom are Satterthwaite's (Cochran 1977, equation 5.16).

        Args:
            sums: (blocks,) float64: the sum of the values in each block.
            counts: (blocks,): the number of values in each block.
        """
        drawn = np.bincount(self.stratum, minlength=len(self.sizes))
        whole = self.weights @ counts
        value = _ratio(self.weights @ sums, whole)
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
    """Draw blocks, stratified by difficulty.

    Args:
        difficulty: (population,) float: the number to sort blocks by; ties are in random order.
        count: maximum number of blocks to draw.
        seed: seed of the draw.

    Returns:
        The indices of the drawn blocks in the population, (count,) int64, in random order; and the sampling design.
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
    """Return the mean over all blocks, with a standard error for clusters (documents) as the sampling units.

    Args:
        sums, counts: (blocks,), as in `Design.mean`.
        clusters: (blocks,) int: the document of each block.
    """
    number = len(np.unique(clusters))
    value = _ratio(sums.sum(), counts.sum())
    residuals = np.bincount(clusters, sums - value * counts)
    variance = number / (number - 1) * float(residuals @ residuals) if number > 1 else np.nan
    return Estimate(value, _ratio(np.sqrt(variance), counts.sum()), number - 1)


def _ratio(part: float, whole: float) -> float:
    """Return the ratio, or NaN if there is nothing to average: blocks without predicted tokens."""
    return float(part / whole) if whole else np.nan
