"""Response of the loss after a step: spike, recovery, area.

The loss is held against what was to be expected: the twin's loss on the same batches, or the trend of the steps
before. Spike and recovery are read off the excess smoothed by a running median, as one bad batch is no spike; area and
late are a sum and a mean of the excess itself, which average noise out by themselves and which a median would bias.
The noise that both are held against is that of what is compared: of the loss around its trend, or of the difference
between the two runs, after they parted.

The trend is Theil and Sen's line (Sen 1968), the median of all slopes, which single bad batches do not bend, over the
logarithm of the step: losses fall about as straight there as they get.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pli_analysis.metrics.disturbance.placebo import SCALE

SMOOTH = 5
"""Steps over which a running median is taken: one bad batch is no spike."""
FEWEST = 8
"""Losses before a step that a trend needs."""
TOLERANCE = 2.0
"""Deviations of the smoothed loss from its trend within which a spike counts as gone."""
ROUNDING = 1e-5
"""Nats below which two losses differ by no more than float32 sums do."""
MEDIAN_OF_FIVE = 0.5356
"""Standard deviation of the median of five normal numbers ÷ that of one."""


@dataclass(frozen=True)
class LossResponse:
    """The loss after a step.

    Attributes:
        steps: (n,) those after it, within the window.
        excess: (n,) loss − expected loss, in nats.
        noise: standard deviation of the smoothed excess where it has no effect in it, by its MAD; nats. Of a trend, it
            is that before the step. Of a twin, it is estimated from the changes of the excess from step to step
            (Rice 1984), as the two are identical before: noise of batches, not what two trainings drift apart by.
        spike: the highest smoothed excess, nats.
        recovery: steps until the smoothed excess was within 2 `noise` again, 0 when it never left; None when it was
            not by the end of the window (right-censored). What float32 rounds off counts as within.
        excess_area: Σ excess, not smoothed, up to the recovery, or over the window: nats · steps.
        late_excess: mean excess, not smoothed, over the last quarter of the window, nats.
    """

    steps: np.ndarray
    excess: np.ndarray
    noise: float
    spike: float
    recovery: int | None
    excess_area: float
    late_excess: float


def response_at(
    steps: np.ndarray,
    losses: np.ndarray,
    at: int,
    window: int,
    twin: tuple[np.ndarray, np.ndarray] | None = None,
) -> LossResponse | None:
    """The loss in a window after step `at`; None when too few losses were logged on either side.

    Args:
        steps, losses: (n,) of the run. The loss of step k is of the weights before update k, so that the first one
            after an event at s is that of step s + 1.
        at: the step.
        window: steps on each side.
        twin: steps and losses of the run's twin, to be expected instead of the trend.
    """
    before = (steps > at - window) & (steps <= at)
    after = (steps > at) & (steps <= at + window)
    if before.sum() < FEWEST or after.sum() < SMOOTH:
        return None
    if twin is None:
        slope, level = trend(steps[before], losses[before])
        noise = _noise(losses[before] - _line(steps[before], slope, level))
        where, excess = steps[after], losses[after] - _line(steps[after], slope, level)
    else:
        where, mine, theirs = np.intersect1d(steps[after], twin[0], return_indices=True)
        excess = losses[after][mine] - twin[1][theirs]
        if len(where) < SMOOTH:
            return None
        noise = _noise_of_pair(excess)
    smooth = running_median(excess)
    peak = int(np.argmax(smooth))
    recovery = _recovery(where - at, smooth, peak, max(TOLERANCE * noise, ROUNDING))
    cost = excess[where - at <= (window if recovery is None else recovery)].sum()
    late = excess[where > at + 0.75 * window]
    return LossResponse(
        where, excess, noise, float(smooth[peak]), recovery, float(cost), float(late.mean()) if len(late) else np.nan
    )


def trend(steps: np.ndarray, losses: np.ndarray) -> tuple[float, float]:
    """Slope per e-fold of the step, and level, of Theil and Sen's line; it passes through the medians."""
    from scipy.stats import theilslopes

    found = theilslopes(losses, np.log(steps))
    return float(found.slope), float(found.intercept)


def running_median(values: np.ndarray) -> np.ndarray:
    """The median of each value and its two neighbors on either side, as far as there are any."""
    import pandas as pd

    return pd.Series(values).rolling(SMOOTH, center=True, min_periods=1).median().to_numpy()


def _line(steps: np.ndarray, slope: float, level: float) -> np.ndarray:
    return slope * np.log(steps) + level


def _noise(residual: np.ndarray) -> float:
    smooth = running_median(residual)
    return float(SCALE * np.median(np.abs(smooth - np.median(smooth))))


def _noise_of_pair(excess: np.ndarray) -> float:
    changes = np.diff(excess) / 2**0.5
    return float(MEDIAN_OF_FIVE * SCALE * np.median(np.abs(changes - np.median(changes))))


def _recovery(offsets: np.ndarray, smooth: np.ndarray, peak: int, bound: float) -> int | None:
    if smooth[peak] <= bound:
        return 0
    back = np.flatnonzero(smooth[peak:] <= bound)
    return int(offsets[peak + back[0]]) if len(back) else None
