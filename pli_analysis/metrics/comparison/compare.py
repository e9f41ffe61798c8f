"""Compare groups of runs: loss at equal steps, tokens, FLOPs or seconds, and speed-up to reach a loss.

Speed-up is the cost of the reference ÷ the cost of the group to reach the same loss; over seeds, costs are geometric
means. Intervals are those of `group_difference`: for paired runs where two groups share seeds, else Welch's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.comparison import group_difference
from pli_analysis.metrics.comparison.curves import Curve, by_group, converged, is_gap, loss_at, reached, require
from pli_analysis.metrics.comparison.envelope import NAME, Envelope, envelope
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

SHARES = (1.0, 1 / 2, 1 / 4)
"""Default loss levels: the loss at these fractions of training of the run with the highest final loss."""


FINAL: Literal["final"] = "final"
"""In place of loss levels: each run's level is the final loss of the reference's run with the same seed."""
Levels = Sequence[float] | Literal["final"]


def parse_levels(text: str) -> Levels:
    """Parse losses separated by commas, such as `5.5,4`, or `final`. Raises BadInput for anything else."""
    if text == FINAL:
        return FINAL
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        levels = [float("nan")]
    if not np.isfinite(levels).all():
        raise BadInput(
            f"--levels {text}: is not a list of losses; write numbers separated by commas, such as 5.5,4, or final"
        )
    return list(dict.fromkeys(levels))


def last_common(curves: Sequence[Curve], axis: str) -> float:
    """Return the last point of an axis that all runs reached."""
    return float(min(curve.table[axis].max() for curve in curves))


def default_levels(curves: Sequence[Curve]) -> list[float]:
    """Return the losses at the end, half and a quarter of the run with the highest final loss.

    All runs reach these levels: they are rounded up to four digits, and levels above the first loss of a run are left
    out.
    """
    worst = max(curves, key=lambda curve: curve.losses[-1])
    first, last = worst.table[col.STEP].iloc[[0, -1]]
    passed = [loss_at(worst, first + share * (last - first)) for share in SHARES]
    passed = [_rounded_up(loss) for loss in passed if np.isfinite(loss)]
    start = min(curve.losses[0] for curve in curves)
    return sorted({level for level in passed if passed[0] <= level < start})


def levels_down(curves: Sequence[Curve], count: int) -> list[float]:
    """Return evenly spaced levels from the lowest first loss of a run to the lowest of `default_levels`, if any."""
    last = default_levels(curves)[:1]
    start = min(curve.losses[0] for curve in curves)
    return [*np.linspace(start, last[0], count + 1)[1:-1].tolist(), last[0]] if last else []


def _rounded_up(level: float) -> float:
    """Round up to four significant digits.

    >>> _rounded_up(3.93512), _rounded_up(3.5), _rounded_up(0.0)
    (3.936, 3.5, 0.0)
    """
    near = float(f"{level:.4g}")
    return near if near >= level else float(f"{near + 10.0 ** (math.floor(math.log10(abs(level))) - 3):.4g}")


@dataclass(frozen=True)
class Comparison:
    """Groups of runs compared by one scalar on one axis.

    Attributes:
        curves: one for each run that did not diverge.
        by: the axis.
        at: the point of the axis at which losses are compared.
        reference: the group that the others are compared with.
        groups: the table of `groups`.
        speed_ups: the table of `speed_ups`.
        diverged: the curves of runs that diverged, which are in none of the above.
        envelope: the envelope of some of the groups, if asked for; its curves are among `curves` too.
        final: whether the level of each run is the final loss of its partner in the reference (`FINAL`).
    """

    curves: Sequence[Curve]
    by: str
    at: float
    reference: str
    groups: pd.DataFrame
    speed_ups: pd.DataFrame
    diverged: Sequence[Curve] = ()
    envelope: Envelope | None = None
    final: bool = False

    @property
    def runs(self) -> list[Curve]:
        """The curves without those of the envelope, which are not runs."""
        return [curve for curve in self.curves if self.envelope is None or curve.group != NAME]

    @property
    def tag(self) -> str:
        """The names of the compared scalars; empty if they are not known."""
        return ", ".join(dict.fromkeys(curve.tag for curve in (*self.curves, *self.diverged) if curve.tag))

    @property
    def unit(self) -> str:
        """The unit of the axis: `by`, or `epoch` where the logs count epochs instead of steps."""
        return self.curves[0].counts if self.by == col.STEP else self.by


def by_scalar(curves: Sequence[Curve]) -> list[list[Curve]]:
    """Group curves by scalar, in order of first appearance: different scalars are not compared with each other."""
    curves_of: dict[str, list[Curve]] = {}
    for curve in curves:
        curves_of.setdefault(curve.tag, []).append(curve)
    return list(curves_of.values())


def compared(
    curves: Sequence[Curve],
    by: str = col.STEP,
    at: float | None = None,
    levels: Levels | None = None,
    reference: str | None = None,
    enveloped: Sequence[str] = (),
) -> Comparison:
    """Compare groups of runs by one scalar.

    Args:
        curves: of `read`, all of one scalar (`by_scalar`).
        by: the axis: `step`, `tokens`, `flops` or `seconds`.
        at: the point at which losses are compared, in units of the axis; by default the last one that all runs reached.
        levels: losses to reach, or `FINAL`; by default those of `default_levels`.
        reference: the group that the others are compared with; by default the envelope, or without one the first group
            that did not diverge.
        enveloped: names or patterns of groups whose envelope is added as a group named `envelope`.

    Raises:
        BadInput: if all runs diverged, a run did not log the axis, no run has a loss at that point, there is no group
            named `reference`, or there is no envelope (see `envelope.envelope`).
    """
    require(curves, by)
    diverged = [curve for curve in curves if curve.diverged is not None]
    curves = converged(curves)
    if reference and reference in {curve.group for curve in diverged} - {curve.group for curve in curves}:
        raise BadInput(f"--reference {reference}: all its runs diverged; use one of {', '.join(by_group(curves))}")
    if at is None:
        at = last_common(curves, by)
    elif np.isnan([loss_at(curve, at, by) for curve in curves]).all():
        which = "a finite loss" if any(is_gap(curve, at, by) for curve in curves) else "a loss"
        unit = curves[0].counts if by == col.STEP else by
        last = f"the last {unit} that all runs reached is {last_common(curves, by):g}"
        raise BadInput(f"--at {at:g}: no run has {which} there; {last}")
    bound = envelope(curves, enveloped, by) if enveloped else None
    levels, final = default_levels(curves) if levels is None else levels, levels == FINAL
    curves = [*bound.curves, *curves] if bound else curves
    reference = reference or curves[0].group
    ups = speed_ups(curves, levels, by, reference)
    return Comparison(curves, by, at, reference, groups(curves, at, by, reference), ups, diverged, bound, final)


def pairs_of(base: Sequence[Curve], mine: Sequence[Curve]) -> list[tuple[int, int]]:
    """Return pairs of runs of two groups with the same seed, and so the same batches and evaluation blocks.

    Pairs are (index in `base`, index in `mine`). There are none unless there are at least two, each run of the smaller
    group is in one, no seed occurs twice in a group, and the settings that determine batches and evaluation are equal
    (`Curve.shared`).
    """
    of_base, of_mine = ([curve.seed for curve in group] for group in (base, mine))
    once = all(None not in of and len(set(of)) == len(of) for of in (of_base, of_mine))
    if not once or any(curve.shared != base[0].shared for curve in (*base, *mine)):
        return []
    pairs = [(of_base.index(seed), position) for position, seed in enumerate(of_mine) if seed in of_base]
    return pairs if len(pairs) == min(len(base), len(mine)) >= 2 else []


def groups(curves: Sequence[Curve], at: float, by: str, reference: str) -> pd.DataFrame:
    """Return the loss of each group at a point of an axis, and its difference from the reference.

    Returns:
        One row for each group:
            group, runs                  its name and number of runs
            loss, loss_low, loss_high    mean over its runs, with 95 % interval; missing unless all reached that point
            difference, difference_low, difference_high  loss − loss of the reference, with 95 % interval
                                         (`group_difference.difference`)
            pairing, pairs               `seed` and the number of pairs where runs are paired by seed; else `none` and
                                         0; empty for the reference
            p, min_p                     of `group_difference.exact_test`, not corrected for the number of groups

    Raises:
        BadInput: if there is no group named `reference`.
    """
    import pandas as pd

    of, base = _with_reference(curves, reference)
    losses = {name: np.array([loss_at(curve, at, by) for curve in group]) for name, group in of.items()}
    rows = []
    for name, mine in losses.items():
        row = (name, len(mine), *group_difference.mean(mine))
        if name == reference:
            rows.append((*row, *[math.nan] * 3, "", 0, math.nan, math.nan))
            continue
        pairs = pairs_of(base, of[name])
        change, test = (
            group_difference.difference(losses[reference], mine, pairs),
            group_difference.exact_test(losses[reference], mine, pairs),
        )
        rows.append((*row, *change, _pairing(pairs), len(pairs), *test))
    columns = [col.GROUP, col.RUNS, col.LOSS, col.LOSS_LOW, col.LOSS_HIGH, col.DIFFERENCE, col.DIFFERENCE_LOW]
    columns += [col.DIFFERENCE_HIGH, col.PAIRING, col.PAIRS, col.P, col.MIN_P]
    return pd.DataFrame(rows, columns=columns)


def speed_ups(
    curves: Sequence[Curve], levels: Levels, by: str = col.STEP, reference: str | None = None
) -> pd.DataFrame:
    """Return the speed-up of each group over the reference to reach each loss level.

    With `FINAL`, the level of a run is the final loss of the reference's run with the same seed, or of its only run. A
    run without a partner has no level.

    Returns:
        One row for each level and group:
            loss_level           with `FINAL`, the mean final loss of the reference
            group, runs
            reached              number of runs that reach the level
            at                   point of the axis where they reach it, a geometric mean; missing unless all runs of the
                                 group reach it
            speed_up, speed_up_low, speed_up_high  with 95 % interval (`group_difference.difference` of logarithms);
                                 missing unless all runs of the group and of the reference reach the level; 1 without
                                 interval for the reference
            pairing, pairs       as for `groups`

    Raises:
        BadInput: if there is no group named `reference`, or with `FINAL`, if a group is not paired with several runs.
    """
    import pandas as pd

    reference = reference or curves[0].group
    of, base = _with_reference(curves, reference)
    pairs = {name: pairs_of(base, group) for name, group in of.items()}
    finals = np.array([curve.losses[-1] for curve in base])
    if alone := [name for name in of if levels == FINAL and len(base) > 1 and name != reference and not pairs[name]]:
        raise BadInput(
            f"--levels final: {alone[0]} and {reference} are not paired by seed; give both the same seeds, data and "
            "evaluation, or use a level such as --levels 3.5"
        )
    rows = []
    for of_base in [finals] if levels == FINAL else [np.full(len(base), level) for level in levels]:
        start = _log_costs(base, of_base, by)
        for name, group in of.items():
            mine = start if name == reference else _log_costs(group, _paired(of_base, pairs[name], len(group)), by)
            row = (of_base.mean(), name, len(mine), int(np.isfinite(mine).sum()), math.exp(mine.mean()))
            if name == reference:
                rows.append((*row, 1.0 if np.isfinite(mine).all() else math.nan, math.nan, math.nan, "", 0))
                continue
            more = group_difference.difference(start, mine, pairs[name])
            ups = np.exp([-more.value, -more.high, -more.low])
            rows.append((*row, *ups, _pairing(pairs[name]), len(pairs[name])))
    columns = [
        col.LOSS_LEVEL,
        col.GROUP,
        col.RUNS,
        col.REACHED,
        col.AT,
        col.SPEED_UP,
        col.SPEED_UP_LOW,
        col.SPEED_UP_HIGH,
    ]
    columns += [col.PAIRING, col.PAIRS]
    return pd.DataFrame(rows, columns=columns)


def _log_costs(curves: Sequence[Curve], levels: np.ndarray, by: str) -> np.ndarray:
    """Return the logarithm of the cost at which each run reaches its level; NaN if it does not."""
    return np.log([reached(curve, level, by) for curve, level in zip(curves, levels, strict=True)])


def _paired(levels: np.ndarray, pairs: group_difference.Pairs, count: int) -> np.ndarray:
    """Return the level of each of `count` runs: that of its partner, or the only level of the reference; else NaN."""
    if len(set(levels)) == 1:
        return np.full(count, levels[0])
    of_runs = np.full(count, math.nan)
    for of_base, of_mine in pairs:
        of_runs[of_mine] = levels[of_base]
    return of_runs


def _with_reference(curves: Sequence[Curve], reference: str) -> tuple[dict[str, list[Curve]], list[Curve]]:
    """Return the curves of each group, and those of the reference. Raises BadInput if there is no such group."""
    of = by_group(curves)
    if reference not in of:
        raise BadInput(f"--reference {reference}: no run or group has this name; use one of {', '.join(of)}")
    return of, of[reference]


def _pairing(pairs: group_difference.Pairs) -> str:
    return "seed" if pairs else "none"
