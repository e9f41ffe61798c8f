"""Summarize a comparison: choices, rank correlations with the final loss, and cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import fmean
from typing import TYPE_CHECKING

from pli_train.core.errors import counted

if TYPE_CHECKING:
    from pli_train.sweep.lag.comparison import Comparison
    from pli_train.sweep.lag.folder import Row


FEWEST = 4
"""Fewest candidates from which rank correlations are computed. With two, they are always 1 or -1."""


@dataclass(frozen=True)
class Outcome:
    """The losses of a candidate at an event, each the mean over data orders.

    Attributes:
        values: values of the candidate, as text.
        at_birth: loss right after growth.
        lagged: loss some steps later.
        final: loss at the end of training; NaN if it was not trained to the end.
        chosen: whether the run continued with it.
    """

    values: str
    at_birth: float
    lagged: float
    final: float
    chosen: bool


@dataclass(frozen=True)
class Correlation:
    """Rank correlation of an earlier loss with the final loss, over candidates; NaN if one of them is constant."""

    spearman: float
    kendall: float

    def __str__(self) -> str:
        return f"Spearman {_number(self.spearman)}, Kendall {_number(self.kendall)}"


def outcomes(rows: Sequence[Row]) -> list[Outcome]:
    """Return the outcome of each candidate at one event. Candidates that failed are left out."""
    found = []
    for _, group in groupby(rows, lambda row: row.candidate):
        same = list(group)
        if same[0].rank is not None:
            at_birth, lagged = _mean(same, lambda row: row.loss_at_birth), _mean(same, lambda row: row.loss)
            final = _mean(same, lambda row: row.final_loss)
            found.append(Outcome(same[0].values, at_birth, lagged, final, same[0].chosen))
    return found


def correlation(earlier: Sequence[float], final: Sequence[float]) -> Correlation:
    """Return the rank correlations of two losses of the same candidates.

    >>> print(correlation([1.0, 2.0, 3.0], [4.0, 6.0, 5.0]))
    Spearman 0.50, Kendall 0.33
    """
    if len(set(earlier)) < 2 or len(set(final)) < 2:
        return Correlation(math.nan, math.nan)
    from scipy import stats

    return Correlation(*(float(measure(earlier, final).statistic) for measure in (stats.spearmanr, stats.kendalltau)))


def summary(comparison: Comparison) -> Iterator[str]:
    """Yield the lines of the summary."""
    for event, group in groupby(comparison.rows, lambda row: row.event):
        rows = list(group)
        found = outcomes(rows)
        best = next(each for each in found if each.chosen)
        worst = max(each.lagged for each in found)
        yield (
            f"event {event} (step {rows[0].step}): {best.values}: loss {best.lagged:.4f} after {rows[0].steps} steps, "
            f"best of {len(found)} candidates (worst {worst:.4f})"
        )
        yield from _of_final(rows[0].steps, [each for each in found if math.isfinite(each.final)])
    yield from _cost(comparison)


def _of_final(steps: int, found: Sequence[Outcome]) -> Iterator[str]:
    """Compare with the final losses of candidates that were trained to the end."""
    if not found:
        return
    final = [each.final for each in found]
    chosen = [each.final for each in found if each.chosen]
    if chosen:
        yield f"  final loss: chosen {chosen[0]:.4f}, mean of all {fmean(final):.4f}, lowest {min(final):.4f}"
    if len(found) < FEWEST:
        many = counted(len(found), "candidate")
        yield f"  no rank correlation with the final loss: {many}, and at least {FEWEST} are needed"
        return
    yield f"  rank correlation of the loss after {steps} steps with the final loss: " + str(
        correlation([each.lagged for each in found], final)
    )
    yield "  rank correlation of the loss at birth with the final loss: " + str(
        correlation([each.at_birth for each in found], final)
    )


def _cost(comparison: Comparison) -> Iterator[str]:
    run, spent = comparison.main_flops(), sum(row.flops for row in comparison.rows)
    completion = comparison.completion_flops()
    further = f", their completion {completion:.3g} ({completion / run:.2f} ×)" if completion else ""
    yield f"FLOPs: run {run:.3g}, candidates {spent:.3g} ({spent / run:.2f} × the run){further}"


def _mean(rows: Sequence[Row], loss: Callable[[Row], float | None]) -> float:
    found = [math.nan if (value := loss(row)) is None else value for row in rows]
    return fmean(found)


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "undefined"
