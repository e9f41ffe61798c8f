"""Compare groups of runs: loss at equal steps, tokens, FLOPs or seconds, and speed-up to reach a loss.

Speed-up is what the reference needs ÷ what the group needs for the same loss; over seeds it is a ratio of geometric
means. Intervals are of `group_difference`: over pairs of runs of one seed where two groups have them, else Welch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.metrics.comparison import group_difference
from pli_analysis.metrics.comparison.curves import Curve, converged, is_gap, loss_at, reached, require
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd

SHARES = (1.0, 1 / 2, 1 / 4)
"""Default levels: the loss of the run that ends highest, at these shares of its steps."""


def parse_levels(text: str) -> list[float]:
    """Losses from `5.5,4`, in that order. Raises BadInput for what is no number."""
    try:
        levels = [float(part) for part in text.split(",")]
    except ValueError:
        levels = [float("nan")]
    if not np.isfinite(levels).all():
        raise BadInput(f"--levels {text}: give losses with commas between them, as 5.5,4")
    return list(dict.fromkeys(levels))


def last_common(curves: Sequence[Curve], axis: str) -> float:
    """The last point of an axis that all runs came to."""
    return float(min(curve.table[axis].max() for curve in curves))


def default_levels(curves: Sequence[Curve]) -> list[float]:
    """The final loss of the run that ends highest, then what it had at half and at a quarter of its steps.

    All runs reach these levels: they are rounded up to four digits, and those that some run starts below are left out.
    """
    worst = max(curves, key=lambda curve: curve.losses[-1])
    first, last = worst.table[col.STEP].iloc[[0, -1]]
    passed = [loss_at(worst, first + share * (last - first)) for share in SHARES]
    passed = [_rounded_up(loss) for loss in passed if np.isfinite(loss)]
    start = min(curve.losses[0] for curve in curves)
    return sorted({level for level in passed if passed[0] <= level < start})


def levels_down(curves: Sequence[Curve], count: int) -> list[float]:
    """Evenly spaced levels from the lowest start of a run down to the first of `default_levels`; empty for none."""
    last = default_levels(curves)[:1]
    start = min(curve.losses[0] for curve in curves)
    return [*np.linspace(start, last[0], count + 1)[1:-1].tolist(), last[0]] if last else []


def _rounded_up(level: float) -> float:
    """To four digits, and not below.

    >>> _rounded_up(3.93512), _rounded_up(3.5), _rounded_up(0.0)
    (3.936, 3.5, 0.0)
    """
    near = float(f"{level:.4g}")
    return near if near >= level else float(f"{near + 10.0 ** (math.floor(math.log10(abs(level))) - 3):.4g}")


@dataclass(frozen=True)
class Comparison:
    """Groups of runs compared by one scalar on one axis: what the command, the page and a report of several runs state.

    Attributes:
        curves: one a run that did not diverge.
        by: the axis.
        at: the point on it at which losses are compared.
        reference: the group that the others are compared with.
        groups: of `groups`.
        speed_ups: of `speed_ups`.
        diverged: those of runs that did, which are left out of all this.
    """

    curves: Sequence[Curve]
    by: str
    at: float
    reference: str
    groups: pd.DataFrame
    speed_ups: pd.DataFrame
    diverged: Sequence[Curve] = ()

    @property
    def tag(self) -> str:
        """The scalars that are compared; empty where their names are not known."""
        return ", ".join(dict.fromkeys(curve.tag for curve in (*self.curves, *self.diverged) if curve.tag))

    @property
    def unit(self) -> str:
        """What the axis counts: `by`, or `epoch` where the logs count epochs in place of steps."""
        return self.curves[0].counts if self.by == col.STEP else self.by


def by_scalar(curves: Sequence[Curve]) -> list[list[Curve]]:
    """The curves of each scalar, scalars in the order of their first. A scalar is compared with itself alone."""
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        found.setdefault(curve.tag, []).append(curve)
    return list(found.values())


def compared(
    curves: Sequence[Curve],
    by: str = col.STEP,
    at: float | None = None,
    levels: Sequence[float] | None = None,
    reference: str | None = None,
) -> Comparison:
    """Compare groups of runs by one scalar.

    Args:
        curves: of `read`, all of one scalar (`by_scalar`).
        by: `step`, `tokens`, `flops` or `seconds`.
        at: where losses are compared, in units of that axis; by default the last point that all runs came to.
        levels: losses to reach; by default those of `default_levels`.
        reference: the group that the others are compared with; by default the first that did not diverge.

    Raises:
        BadInput: when all runs diverged, one did not log the axis, no run has a loss at that point, or no group is
            called `reference`.
    """
    require(curves, by)
    diverged = [curve for curve in curves if curve.diverged is not None]
    curves = converged(curves)
    if reference and reference in {curve.group for curve in diverged} - {curve.group for curve in curves}:
        raise BadInput(f"--reference {reference}: diverged; name one of {', '.join(by_group(curves))}")
    if at is None:
        at = last_common(curves, by)
    elif np.isnan([loss_at(curve, at, by) for curve in curves]).all():
        which = "a finite loss" if any(is_gap(curve, at, by) for curve in curves) else "a loss"
        last = f"the last {curves[0].counts if by == col.STEP else by} of all is {last_common(curves, by):g}"
        raise BadInput(f"--at {at:g}: no run has {which} there; {last}")
    reference = reference or curves[0].group
    ups = speed_ups(curves, default_levels(curves) if levels is None else levels, by, reference)
    return Comparison(curves, by, at, reference, groups(curves, at, by, reference), ups, diverged)


def by_group(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Group → its curves, groups in the order of their first."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.group, []).append(curve)
    return groups


def pairs_of(base: Sequence[Curve], mine: Sequence[Curve]) -> list[tuple[int, int]]:
    """Runs of two groups that share a seed, and so batches and evaluation, as places in `base` and `mine`.

    Empty unless there are two pairs or more, each run of the smaller group has a partner, no seed is there twice in a
    group, and what a seed decides is decided alike (`Curve.shared`).
    """
    of_base, of_mine = ([curve.seed for curve in group] for group in (base, mine))
    once = all(None not in of and len(set(of)) == len(of) for of in (of_base, of_mine))
    if not once or any(curve.shared != base[0].shared for curve in (*base, *mine)):
        return []
    pairs = [(of_base.index(seed), position) for position, seed in enumerate(of_mine) if seed in of_base]
    return pairs if len(pairs) == min(len(base), len(mine)) >= 2 else []


def groups(curves: Sequence[Curve], at: float, by: str, reference: str) -> pd.DataFrame:
    """The loss of each group at a point of an axis, and how it differs from the reference's.

    Returns:
        One row a group:
            group, runs                  its name, and how many runs it has
            loss, loss_low, loss_high    mean over its runs, with 95 % interval; missing unless all came to that point
            difference, difference_low, difference_high  from the reference, with 95 % interval (`seeds.difference`)
            pairing, pairs               `seed` where the difference is over pairs of runs of one seed, and how many
                                         pairs; else `none` and 0; empty for the reference
            p, min_p                     of `seeds.exact_test`, not corrected for the number of groups

    Raises:
        BadInput: when no group is called `reference`.
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
    curves: Sequence[Curve], levels: Sequence[float], by: str = col.STEP, reference: str | None = None
) -> pd.DataFrame:
    """Speed-up of each group over the reference in reaching each level.

    Returns:
        One row a level and group:
            loss_level, group, runs
            reached              how many of the runs reach the level
            at                   where on the axis, a geometric mean; missing unless all runs of the group reach it
            speed_up, speed_up_low, speed_up_high  with 95 % interval (`seeds.difference` of logarithms); missing unless
                                 all runs of the group and of the reference reach the level; 1 without interval for the
                                 reference
            pairing, pairs       as for `groups`

    Raises:
        BadInput: when no group is called `reference`.
    """
    import pandas as pd

    reference = reference or curves[0].group
    of, base = _with_reference(curves, reference)
    pairs = {name: pairs_of(base, group) for name, group in of.items()}
    rows = []
    for level in levels:
        logs = {name: np.log([reached(curve, level, by) for curve in group]) for name, group in of.items()}
        for name, mine in logs.items():
            row = (level, name, len(mine), int(np.isfinite(mine).sum()), math.exp(mine.mean()))
            if name == reference:
                rows.append((*row, 1.0 if np.isfinite(mine).all() else math.nan, math.nan, math.nan, "", 0))
                continue
            more = group_difference.difference(logs[reference], mine, pairs[name])
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


def speed_ups_of(found: Comparison) -> pd.DataFrame:
    """The speed-ups of a comparison, of `speed_ups`."""
    return found.speed_ups


def summary(found: Comparison) -> pd.DataFrame:
    """One row a group, the lowest loss first: of `groups`, and the speed-up to each level, of `speed_ups`.

    Where runs diverged, a column says which, and a group of which all did is a row without a loss. Where points were
    left out because they are not finite, a column says how many of each group.
    """
    import pandas as pd

    table = found.groups.drop(columns=[col.LOSS_LOW, col.LOSS_HIGH])
    for level, ups in found.speed_ups.groupby(col.LOSS_LEVEL, sort=False):
        of_level = ups.set_index(col.GROUP)[col.SPEED_UP].reindex(table[col.GROUP])
        table[f"speed-up to {level_words(level)}"] = of_level.to_numpy()
    if found.diverged:
        of = by_group(found.diverged)
        gone = pd.DataFrame({col.GROUP: [name for name in of if name not in set(table[col.GROUP])], col.RUNS: 0})
        table = pd.concat([table, gone.astype({col.RUNS: "int64"})], ignore_index=True)
        table.insert(2, "diverged", [divergences(of.get(name, [])) for name in table[col.GROUP]])
    of = by_group([*found.curves, *found.diverged])
    omitted = [sum(curve.omitted for curve in of[name]) for name in table[col.GROUP]]
    if any(omitted):
        table.insert(2, "non-finite points", omitted)
    table = table.sort_values(col.LOSS, kind="stable", ignore_index=True)
    return table.rename(columns={col.LOSS: _loss_column(found)})


def divergences(curves: Sequence[Curve]) -> str:
    """Which runs diverged and when, in a few words; empty for none."""
    return ", ".join(f"{curve.name} from {curve.counts} {curve.diverged} on" for curve in curves)


def per_run(found: Comparison) -> pd.DataFrame:
    """One row a run, the lowest loss at the point of comparison first."""
    import pandas as pd

    last, counted = _loss_column(found), " or ".join(dict.fromkeys(curve.counts for curve in found.curves))
    rows = [
        {
            col.RUN: curve.name,
            col.GROUP: curve.group,
            col.SEED: curve.seed,
            "events": len(curve.events),
            f"last {counted}": curve.table[col.STEP].max(),
            "lowest loss": curve.table[col.LOSS].min(),
            last: loss_at(curve, found.at, found.by),
        }
        for curve in found.curves
    ]
    for curve in found.diverged:
        rows.append({col.RUN: curve.name, col.GROUP: curve.group, col.SEED: curve.seed, "events": len(curve.events)})
        rows[-1] |= {"diverged": f"from {curve.counts} {curve.diverged} on", "lowest loss": curve.table[col.LOSS].min()}
    table = pd.DataFrame(rows)
    omitted = [curve.omitted for curve in (*found.curves, *found.diverged)]
    if any(omitted):
        table.insert(4, "non-finite points", omitted)
    return table.sort_values(last, kind="stable", ignore_index=True)


def of_scalars(found: Sequence[Comparison], table_of: Callable[[Comparison], pd.DataFrame]) -> pd.DataFrame:
    """The tables of several scalars as one, the scalar in the first column; of one scalar its table as it is.

    Args:
        found: a comparison for each scalar.
        table_of: `summary`, `per_run`, or what else makes a table of a comparison.
    """
    import pandas as pd

    if len(found) == 1:
        return table_of(found[0])
    tables = []
    for each in found:
        table = table_of(each).rename(columns={_loss_column(each): f"loss at {_column(each)}"})
        table.insert(0, "scalar", each.tag)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def level_words(level: float) -> str:
    """A level as headers and sentences write it, with every digit that it was given with.

    >>> level_words(4.0), level_words(2.7182818), level_words(0.00004)
    ('4', '2.7182818', '4e-05')
    """
    return f"{level:.15g}"


def amount(value: float, axis: str) -> str:
    """A point of an axis in words.

    >>> amount(1234, "step"), amount(1.7958e9, "flops"), amount(12.34, "seconds")
    ('1,234', '1.80e9', '12.3')
    """
    if axis == col.FLOPS:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits}e{int(power)}"
    return f"{value:,.1f}" if axis == col.SECONDS or value % 1 else f"{value:,.0f}"


def _column(found: Comparison) -> str:
    """The point of comparison as a column's name has it: `160`, `1.80e9 flops`, `3 epochs`."""
    units = {col.STEP: "", "epoch": " epochs"}
    return amount(found.at, found.by).replace(",", "") + units.get(found.unit, f" {found.unit}")


def _loss_column(found: Comparison) -> str:
    """The name of the column with the losses at the point of comparison."""
    return f"{found.tag or 'loss'} at {_column(found)}"


def _with_reference(curves: Sequence[Curve], reference: str) -> tuple[dict[str, list[Curve]], list[Curve]]:
    """Group → its curves, and those of the reference. Raises BadInput when no group is called that."""
    of = by_group(curves)
    if reference not in of:
        raise BadInput(f"no run or group is called {reference!r}; there are: {', '.join(of)}")
    return of, of[reference]


def _pairing(pairs: group_difference.Pairs) -> str:
    return "seed" if pairs else "none"
