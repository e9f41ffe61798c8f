"""Positions, labels and ticks of a parameter's values: numbers, logarithms, or categories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

MOST_TICKS = 5
"""Maximum number of ticks of a numeric axis."""
FACTORS = ((1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 5), (1, 3), (1,))
"""Ticks of a logarithmic axis within a power of ten, from many to few."""


@dataclass(frozen=True)
class ParameterAxis:
    """The axis of a parameter.

    Attributes:
        values: (trials,) position of each value: the number, its log10, or the index of its category.
        labels: each value as text.
        ticks: positions of the ticks.
        texts: their labels.
        low, high: ends of the axis.
        categorical: whether the values are categories.
    """

    values: np.ndarray
    labels: Sequence[str]
    ticks: Sequence[float]
    texts: Sequence[str]
    low: float
    high: float
    categorical: bool

    @property
    def layout(self) -> dict[str, Any]:
        """Attributes of a plotly axis."""
        margin = 0.5 if self.categorical else 0.06 * (self.high - self.low) or 0.5
        ticks = {"tickmode": "array", "tickvals": list(self.ticks), "ticktext": list(self.texts)}
        return {**ticks, "range": [self.low - margin, self.high + margin], "zeroline": False}

    def spread(self, width: float) -> np.ndarray:
        """Return shifts that separate points in the same category: none, to the left, to the right, none, …."""
        if not self.categorical:
            return np.zeros(len(self.values))
        earlier = [int((self.values[:number] == value).sum()) for number, value in enumerate(self.values)]
        return width * np.array([(0, -1, 1)[count % 3] for count in earlier])

    @property
    def shares(self) -> np.ndarray:
        """Positions from 0 to 1; 0.5 if all are equal."""
        return self.share(self.values)

    def share(self, positions: Sequence[float] | np.ndarray) -> np.ndarray:
        """Return positions as fractions of the axis."""
        given, width = np.asarray(positions, dtype=float), self.high - self.low
        return (given - self.low) / width if width else np.full(len(given), 0.5)


def axis_of(values: pd.Series, log: bool) -> ParameterAxis:
    """Return the axis of a parameter.

    Args:
        values: numbers, or text; none missing.
        log: whether numbers are on a logarithmic scale.
    """
    if values.dtype.kind in "iuf" and (values.dtype.kind == "f" or values.nunique() > MOST_TICKS):
        return _numeric(values.to_numpy(dtype=float), log)
    numbers = values.dtype.kind in "iu"
    kinds = sorted(set(values)) if numbers else list(dict.fromkeys(sorted(values.astype(str), key=_order)))
    texts = [str(kind) for kind in kinds]
    labels = values.astype(str).tolist()
    positions = np.array([texts.index(text) for text in labels], dtype=float)
    return ParameterAxis(positions, labels, list(range(len(texts))), texts, 0.0, max(len(texts) - 1.0, 0.0), True)


def _numeric(values: np.ndarray, log: bool) -> ParameterAxis:
    log = log and bool((values > 0).all())
    at = np.log10(values) if log else values
    low, high = float(at.min(initial=np.inf)), float(at.max(initial=-np.inf))
    ticks = _log_ticks(low, high) if log else _ticks(low, high)
    texts = [f"{10**tick:.3g}" if log else f"{tick:.6g}" for tick in ticks]
    return ParameterAxis(at, [f"{value:.4g}" for value in values], ticks, texts, low, high, False)


def _ticks(low: float, high: float) -> list[float]:
    """Return round numbers within a range.

    >>> _ticks(0.03, 0.38)
    [0.1, 0.2, 0.3]
    """
    if high <= low:
        return [low]
    step = 10.0 ** np.floor(np.log10((high - low) / 2))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= MOST_TICKS)
    return [float(f"{tick:.10g}") for tick in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return log10 of round numbers within a range of log10; the ends of the range if there are fewer than two.

    >>> [round(10**tick, 6) for tick in _log_ticks(-2.9, -1.6)]
    [0.002, 0.005, 0.01, 0.02]
    >>> [round(10**tick, 6) for tick in _log_ticks(-2.95, -2.65)]
    [0.0015, 0.002]
    """
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    kept: list[float] = []
    for factors in FACTORS:
        found = [power + np.log10(factor) for power in powers for factor in factors]
        kept = [float(tick) for tick in found if low <= tick <= high]
        if len(kept) <= MOST_TICKS:
            break
    return kept[:: -(-len(kept) // MOST_TICKS)] if len(kept) > 1 else [low, high]


def _order(text: str) -> tuple[int, float, str]:
    """Sort text before numbers, and numbers by size."""
    try:
        return 1, float(text), text
    except ValueError:
        return 0, 0.0, text
