"""Statistics of activations that are added up some tokens at a time: largest values, moments and correlations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def largest(values: Tensor, count: int) -> Tensor:
    """Return the rows of the `count` largest values of each column, largest first; of equal values the earlier row.

    >>> import torch
    >>> largest(torch.tensor([[1.0, 2.0], [3.0, 2.0], [1.0, 2.0]]), 2).tolist()
    [[1, 0], [0, 1]]

    Args:
        values: (rows, columns).
        count: at most the number of rows.

    Returns:
        (count, columns) int64.
    """
    least = values.topk(count, dim=0).values[-1]
    above, equal = values > least, values == least
    chosen = above | (equal & (equal.cumsum(0) <= count - above.sum(0)))
    rows = chosen.T.nonzero()[:, 1].reshape(-1, count).T
    order = values.gather(0, rows).argsort(dim=0, descending=True, stable=True)
    return rows.gather(0, order)


class LayerStatistics:
    """Largest activations and moments of the units of one layer.

    Attributes:
        activations: (kept, units): the largest activations so far, largest first.
        tokens: (kept, units) int64: the numbers of their tokens in the text.
        count: number of tokens so far.
    """

    activations: Tensor
    tokens: Tensor

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.count = 0

    def add(self, values: Tensor) -> Tensor:
        """Add the activations of the next tokens, (tokens, units); return them, centered, as float64."""
        import torch

        numbers = torch.arange(self.count, self.count + len(values))[:, None].expand(values.shape)
        centered = values.double()
        if self.count == 0:
            # Powers of activations are summed about a mean, so that few digits are lost.
            self._center = centered.mean(0)
            self._sums = torch.zeros(4, values.shape[1], dtype=torch.float64)
            self._active = torch.zeros(values.shape[1], dtype=torch.int64)
            candidates = values
        else:
            candidates, numbers = torch.cat([self.activations, values]), torch.cat([self.tokens, numbers])
        rows = largest(candidates, min(self.kept, len(candidates)))
        self.activations, self.tokens = candidates.gather(0, rows), numbers.gather(0, rows)
        centered -= self._center
        self._sums += torch.stack([centered.pow(power).sum(0) for power in (1, 2, 3, 4)])
        self._active += (values > 0).sum(0)
        self.count += len(values)
        return centered

    @property
    def offsets(self) -> Tensor:
        """(units,): mean of the centered activations, which is near 0."""
        return self._sums[0] / self.count

    @property
    def means(self) -> Tensor:
        """(units,): mean activations."""
        return self._center + self.offsets

    @property
    def variances(self) -> Tensor:
        """(units,): variances of the activations over tokens; exactly 0 for constant units."""
        return (self._sums[1] / self.count - self.offsets**2).clamp(min=0)

    @property
    def active_shares(self) -> Tensor:
        """(units,): share of tokens with an activation above 0."""
        return self._active.double() / self.count

    @property
    def kurtoses(self) -> Tensor:
        """(units,): fourth central moment ÷ squared variance; 3 for a normal distribution, NaN for constant units."""
        first, second, third, fourth = self._sums / self.count
        central = fourth - 4 * first * third + 6 * first**2 * second - 3 * first**4
        return central / self.variances**2

    def tops(self, most: int) -> list[set[int]]:
        """Return the tokens of the `most` largest activations above 0 of each unit."""
        columns = zip(self.tokens[:most].T.tolist(), (self.activations[:most].T > 0).tolist(), strict=True)
        return [{token for token, active in zip(*column, strict=True) if active} for column in columns]


class PairStatistics:
    """Correlations of pairs of units over tokens.

    Args:
        layer, source: statistics of the layers of the first and of the second units.
        units, sources: numbers of the units within these layers, one after the other.
    """

    def __init__(
        self, layer: LayerStatistics, source: LayerStatistics, units: Sequence[int], sources: Sequence[int]
    ) -> None:
        self.layer, self.source = layer, source
        self.units, self.sources = list(units), list(sources)
        self._products: Tensor | float = 0.0

    def add(self, values: Tensor, of_source: Tensor) -> None:
        """Add the centered activations of the two layers at the next tokens, (tokens, units)."""
        self._products = self._products + (values[:, self.units] * of_source[:, self.sources]).sum(0)

    def correlations(self) -> list[float]:
        """Return the Pearson correlation of each pair; NaN if one of the units is constant."""
        offsets = self.layer.offsets[self.units] * self.source.offsets[self.sources]
        covariances = self._products / self.layer.count - offsets
        scales = (self.layer.variances[self.units] * self.source.variances[self.sources]).sqrt()
        return list((covariances / scales).clamp(-1, 1).tolist())

    def overlaps(self, most: int) -> list[float]:
        """Return the Jaccard index of the tokens of the `most` largest activations above 0, for each pair.

        It is NaN if one of the units is never active.
        """
        mine, theirs = self.layer.tops(most), self.source.tops(most)
        pairs = [(mine[unit], theirs[other]) for unit, other in zip(self.units, self.sources, strict=True)]
        return [len(one & other) / len(one | other) if one and other else float("nan") for one, other in pairs]
