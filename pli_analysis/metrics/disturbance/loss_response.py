"""Response of the loss after a step: spike, recovery, area.

The excess is the loss minus the expected loss: the twin's loss on the same batches, or the trend of the steps before.
Spike and recovery are computed from the excess after a running median, so that a single bad batch does not count as a
spike. `excess_area` and `late_excess` are a sum and a mean of the unsmoothed excess: they average noise out, and a
median would bias them. Recovery is relative to the noise of the same quantity: of the loss around its trend, or of the
difference between the two runs after the fork.

The trend is a Theil–Sen line (Sen 1968), the median of all slopes, which is robust to single bad batches, fitted over
the logarithm of the step: there, losses are closest to a straight line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pli_analysis.metrics.disturbance.placebo import SCALE

SMOOTH = 5
"""Width of the running median, in steps, so that a single bad batch does not count as a spike."""
FEWEST = 8
"""Minimum number of losses before a step from which a trend is fitted."""
TOLERANCE = 2.0
"""The loss has recovered when its smoothed excess is at most this many standard deviations of the noise."""
ROUNDING = 1e-5
"""Differences of losses below this many nats are rounding errors of float32 sums."""
MEDIAN_OF_FIVE = 0.5356
"""Standard deviation of the median of five normal variables ÷ that of one."""


@dataclass(frozen=True)
class LossResponse:
    """The loss after a step.

    Attributes:
        steps: (n,) steps after it, within the window.
        excess: (n,) loss − expected loss, in nats.
        noise: standard deviation of the smoothed excess without an effect, estimated by the MAD, in nats. Relative to a
            trend, it is that of the steps before. Relative to a twin, the two runs are identical before the step, so
            that it is estimated from differences of successive excesses (Rice 1984): it contains the noise of batches,
            but not the slow divergence of two trainings.
        spike: maximum of the smoothed excess, in nats.
        recovery: steps until the smoothed excess is at most 2 `noise` (or rounding error) after its maximum; 0 if it
            never exceeds that; None if it still does at the end of the window (right-censored).
        excess_area: sum of the unsmoothed excess up to the recovery, or over the window, in nats · steps.
        late_excess: mean of the unsmoothed excess over the last quarter of the window, in nats.
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
    """Return the loss in a window after step `at`; None if too few losses were logged on either side.

    Args:
        steps, losses: (n,) logged by the run. The loss of step k is that of the weights before update k, so that the
            first one after an event at step s is that of step s + 1.
        at: the step.
        window: number of steps on each side.
        twin: steps and losses of the run's twin: the expected loss instead of the trend.
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
    """Return slope (per e-fold of the step) and intercept of the Theil–Sen line, which passes through the medians."""
    from scipy.stats import theilslopes

    line = theilslopes(losses, np.log(steps))
    return float(line.slope), float(line.intercept)


def running_median(values: np.ndarray) -> np.ndarray:
    """Return the median of each value and its two neighbors on both sides; fewer at the ends."""
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
