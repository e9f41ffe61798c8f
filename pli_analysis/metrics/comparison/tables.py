"""Tables of a comparison: one row per group, loss level, run or point, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.metrics.comparison.curves import Curve, by_group, loss_at
from pli_analysis.metrics.loss import AXES

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.comparison.compare import Comparison


MOST_DIGITS = 6
"""Maximum number of decimals of numbers as text."""


def speed_ups_of(found: Comparison) -> pd.DataFrame:
    """Return the table of speed-ups of a comparison: see `speed_ups`."""
    return found.speed_ups


def summary(found: Comparison) -> pd.DataFrame:
    """Return one row for each group, lowest loss first: its row of `groups`, and its speed-up to each level.

    If runs diverged, a column lists them, and a group whose runs all diverged has a row without a loss. If points were
    left out because they are not finite, a column counts them.
    """
    import pandas as pd

    table = found.groups.drop(columns=[col.LOSS_LOW, col.LOSS_HIGH])
    for level, ups in found.speed_ups.groupby(col.LOSS_LEVEL, sort=False):
        of_level = ups.set_index(col.GROUP)[col.SPEED_UP].reindex(table[col.GROUP])
        title = "the final loss" if found.final else level_words(level)
        table[f"speed-up to {title}"] = of_level.to_numpy()
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


def with_intervals(found: Comparison) -> pd.DataFrame:
    """Return one row for each group, lowest loss first, with numbers and their 95 % intervals as text, for a paper.

    Columns: `group`, `runs`, the loss, its difference from the reference, `p` of the exact test (not corrected for the
    number of groups), and the speed-up to each level. Missing numbers, and those of the reference, are empty.
    """
    groups = found.groups.sort_values(col.LOSS, kind="stable", ignore_index=True)
    table = groups[[col.GROUP, col.RUNS]].copy()
    texts = {
        _loss_column(found): _intervals(groups, col.LOSS, 3),
        f"difference from {found.reference}": _intervals(groups, col.DIFFERENCE, 3),
        col.P: ["" if p != p else f"{p:.3f}" if p >= 0.001 else "<0.001" for p in groups[col.P]],
    }
    for level, ups in found.speed_ups.groupby(col.LOSS_LEVEL, sort=False):
        mine = ups.set_index(col.GROUP).reindex(groups[col.GROUP])
        mine.loc[found.reference, col.SPEED_UP] = math.nan  # 1 by definition
        texts[f"speed-up to {'the final loss' if found.final else level_words(level)}"] = _intervals(
            mine, col.SPEED_UP, 2
        )
    for title, cells in texts.items():
        table[f"{title} (95 % interval)" if any("(" in cell for cell in cells) else title] = cells
    return table


def _intervals(table: pd.DataFrame, column: str, digits: int) -> list[str]:
    """Return a column of numbers with their intervals as text: `4.21 (4.05, 4.37)`.

    All have the same decimals: at least `digits`, and as many as give the narrowest interval two significant digits.
    """
    ends = {col.LOSS: (col.LOSS_LOW, col.LOSS_HIGH), col.DIFFERENCE: (col.DIFFERENCE_LOW, col.DIFFERENCE_HIGH)}
    low, high = ends.get(column, (col.SPEED_UP_LOW, col.SPEED_UP_HIGH))
    widths = [width for width in table[high] - table[low] if 0 < width < math.inf]
    digits = min(max([digits, *(1 - math.floor(math.log10(width / 2)) for width in widths)]), MOST_DIGITS)

    def text(number: float) -> str:
        return f"{number:.{digits}f}".replace("-", "−")

    return [
        "" if value != value else text(value) + (f" ({text(lower)}, {text(upper)})" if lower == lower else "")
        for value, lower, upper in zip(table[column], table[low], table[high], strict=True)
    ]


def divergences(curves: Sequence[Curve]) -> str:
    """List the runs that diverged, with the step from which on their loss is not finite; empty for none."""
    return ", ".join(f"{curve.name} from {curve.counts} {curve.diverged} on" for curve in curves)


def per_run(found: Comparison) -> pd.DataFrame:
    """Return one row for each run, lowest loss at the point of comparison first."""
    import pandas as pd

    last, counted = _loss_column(found), " or ".join(dict.fromkeys(curve.counts for curve in found.runs))
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
        for curve in found.runs
    ]
    for curve in found.diverged:
        rows.append({col.RUN: curve.name, col.GROUP: curve.group, col.SEED: curve.seed, "events": len(curve.events)})
        rows[-1] |= {"diverged": f"from {curve.counts} {curve.diverged} on", "lowest loss": curve.table[col.LOSS].min()}
    table = pd.DataFrame(rows)
    omitted = [curve.omitted for curve in (*found.runs, *found.diverged)]
    if any(omitted):
        table.insert(4, "non-finite points", omitted)
    return table.sort_values(last, kind="stable", ignore_index=True)


def points(found: Comparison) -> pd.DataFrame:
    """Return one row for each point of each run: `run`, `group`, `seed`, the axes and `loss`, as logged or smoothed."""
    import pandas as pd

    named = []
    for curve in found.runs:
        names = {col.RUN: curve.name, col.GROUP: curve.group, col.SEED: curve.seed}
        named.append(curve.table.assign(**names, **{col.LOSS: curve.losses}))
    return pd.concat(named, ignore_index=True)[[col.RUN, col.GROUP, col.SEED, col.STEP, *AXES, col.LOSS]]


def of_scalars(found: Sequence[Comparison], table_of: Callable[[Comparison], pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the tables of several scalars, with the scalar in the first column; one alone is left as it is.

    Args:
        found: one comparison for each scalar.
        table_of: function that makes a table of a comparison, such as `summary` or `per_run`.
    """
    import pandas as pd

    if len(found) == 1:
        return table_of(found[0])
    tables = []
    for each in found:
        table = table_of(each).rename(
            columns=lambda name, of=each: name.replace(_loss_column(of), f"loss at {_column(of)}")
        )
        table.insert(0, "scalar", each.tag)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def level_words(level: float) -> str:
    """Format a loss level with all its digits, as in headers and sentences.

    >>> level_words(4.0), level_words(2.7182818), level_words(0.00004)
    ('4', '2.7182818', '4e-05')
    """
    return f"{level:.15g}"


def amount(value: float, axis: str) -> str:
    """Format a point of an axis.

    >>> amount(1234, "step"), amount(1.7958e9, "flops"), amount(12.34, "seconds")
    ('1,234', '1.80e9', '12.3')
    """
    if axis == col.FLOPS:
        digits, _, power = f"{value:.2e}".partition("e")
        return f"{digits}e{int(power)}"
    return f"{value:,.1f}" if axis == col.SECONDS or value % 1 else f"{value:,.0f}"


def _column(found: Comparison) -> str:
    """Format the point of comparison for a column name: `160`, `1.80e9 flops`, `3 epochs`."""
    units = {col.STEP: "", "epoch": " epochs"}
    return amount(found.at, found.by).replace(",", "") + units.get(found.unit, f" {found.unit}")


def _loss_column(found: Comparison) -> str:
    """Return the name of the column with the losses at the point of comparison."""
    return f"{found.tag or 'loss'} at {_column(found)}"
