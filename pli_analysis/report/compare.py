"""Report section: comparison of groups of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures import compare as figures
from pli_analysis.figures.compare import AXES
from pli_analysis.metrics.comparison import compare
from pli_analysis.report.parts import Figure, Report, Section, count, distinct_digits, sentences, signed

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.comparison.compare import Comparison
    from pli_analysis.metrics.comparison.curves import Curve

FINE = 40
"""Levels of the speed-up's curve."""
NAMED = 3
"""Groups that a sentence names beside the reference, at most."""
_DIFFERENCE = (col.DIFFERENCE_LOW, col.DIFFERENCE_HIGH)
_SPEED_UP = (col.SPEED_UP_LOW, col.SPEED_UP_HIGH)


def verdict(found: Comparison) -> str:
    """The groups' losses at the point of comparison, and their differences from the reference, in one sentence.

    A second one says which runs diverged, if any did, and a third how many points were left out as not finite.
    """
    rows = {row.group: row for row in found.groups.itertuples()}
    base = rows.pop(found.reference)
    point, axis = compare.amount(found.at, found.unit), AXES[found.unit]
    where = f"At equal {axis} ({point})" if rows else f"At {point} {axis}"
    others = sorted(rows.values(), key=lambda row: (np.isnan(row.loss), row.loss))
    where = f"In {found.tag} {where[0].lower()}{where[1:]}" if found.tag else where
    digits = _digits(found.groups[col.LOSS], base.loss)
    message = [f"{base.group} has {_loss_words(base, digits)} ({_runs_words(base.runs)})"]
    message += [_difference_words(row, base.runs, digits) for row in others]
    gone = f" Diverged and left out: {compare.divergences(found.diverged)}." if found.diverged else ""
    return f"{where}, {_listed(message, NAMED + 1)}.{gone}{_omitted_words(found)}"


def speed_up_words(found: Comparison) -> str:
    """The speed-up of each group at the lowest level that it and the reference reach; empty for one group."""
    ups = found.speed_ups[found.speed_ups[col.GROUP] != found.reference]
    known = ups[ups[col.SPEED_UP].notna()]
    lowest = [mine.loc[mine[col.LOSS_LEVEL].idxmin()] for _, mine in known.groupby(col.GROUP, sort=False)]
    if not lowest:
        many = found.groups[col.GROUP].nunique() > 1
        return f"No group reaches a level that {found.reference} reaches as well." if many else ""
    runs = found.groups.set_index(col.GROUP)[col.RUNS]
    message = [
        f"to reach a loss of {compare.level_words(row[col.LOSS_LEVEL])}, {row[col.GROUP]} "
        f"({_runs_words(row[col.RUNS])}) has a speed-up of {row[col.SPEED_UP]:.3g} in {AXES[found.unit]} "
        f"over {found.reference} ({_runs_words(runs[found.reference])}), "
        f"{_evidence(row, _SPEED_UP, runs[found.reference], '{:.3g}'.format)}"
        for row in lowest
    ]
    return sentences([_listed(message, NAMED)])[0]


def build(found: Sequence[Comparison]) -> Report:
    """The page of a comparison, a section for each scalar: losses, speed-ups, and how they were measured."""
    sections = [_section(found[0])]
    if len(found) > 1:
        sections = [_section(each, f"-{number}", f" of {each.tag}") for number, each in enumerate(found)]
    many = count(len(found[0].curves) + len(found[0].diverged), "run")
    return Report(f"Comparison of {many}", " ".join(map(verdict, found)), sections)


def _section(found: Comparison, ending: str = "", of: str = "") -> Section:
    """The section of one scalar; `ending` tells its ids from those of others, `of` its title."""
    by_axis, method = {found.unit: found}, method_of(found, AXES[found.unit])
    shown = [replace(figure, id=f"{figure.id}{ending}") for figure in (losses(by_axis), *sooner(by_axis))]
    tables = [*tables_of(by_axis), ("Runs", compare.per_run(found))]
    return Section(f"comparison{ending}", f"Comparison{of}", figures=shown, tables=tables, method=method)


def method_of(found: Comparison, needed: str) -> list[tuple[str, str]]:
    """How it was measured.

    Args:
        found: the comparison.
        needed: what a run needs to reach a loss: `steps`.
    """
    width, reference = found.curves[0].width, found.reference
    scalar = f"The scalar {found.tag}. " if found.tag else ""
    smooth = f"Mean of {width} points." if width > 1 else "As logged, without smoothing."
    return [
        (
            "loss",
            f"{scalar}{smooth} Linearly interpolated between points; missing where one that is not finite lies "
            "between them. Of a group: the mean over its runs.",
        ),
        (
            "point of comparison",
            "The last one on the axis that all runs came to, unless --at says another.",
        ),
        (
            "reached",
            "Where a curve first comes down to a loss, linearly interpolated between points. A loss that it never "
            "reaches, or is below at its first point, is missing.",
        ),
        (
            "speed-up",
            f"The {needed} that {reference} needs ÷ those that the group needs to reach the same loss; a ratio of "
            "geometric means over runs.",
        ),
        (
            "levels",
            "Unless --levels says others: the final loss of the run that ends highest, then its loss at half and at a "
            f"quarter of its {found.curves[0].counts}s.",
        ),
        (
            "95 % interval",
            "The unit is the run. Runs of two groups that share seeds, data and evaluation are compared in pairs, with "
            "Student's t interval of the differences; else with Welch's (1947) of two means. Where one side has two "
            "runs and the other more, it has one degree of freedom (Hsu 1938), as Welch's covers too little there. "
            "Speed-ups are compared as logarithms. There is no interval with fewer than two runs a side.",
        ),
        (
            "p, min_p",
            "Exact permutation test over runs, of pairs by their signs, and the smallest p that so many runs can give "
            "(Phipson and Smyth 2010). Not corrected for the number of groups.",
        ),
        ("seconds", "Of training for our runs; of other event files, since their first point."),
    ]


def losses(found: Mapping[str, Comparison]) -> Figure:
    """The figure of losses, a view for each axis, with the verdict on each.

    Args:
        found: axis → comparison on it.
    """
    axes, first = list(found), next(iter(found.values()))
    table = drawn_points(first.curves, {axis: of.by for axis, of in found.items()})
    captions = {axis: verdict(each) for axis, each in found.items()}
    return Figure(
        "losses", "Losses", captions[axes[0]], figures.losses(table, axes, first.tag or "loss"), table, captions
    )


def sooner(found: Mapping[str, Comparison]) -> list[Figure]:
    """The figure of speed-ups, a view for each axis; none where there is nothing to compare with.

    Args:
        found: axis → comparison on it.
    """
    import pandas as pd

    axes, first = list(found), next(iter(found.values()))
    levels, reference = compare.levels_down(first.curves, FINE), first.reference
    if not levels or first.groups[col.GROUP].nunique() < 2:
        return []
    each = [
        compare.speed_ups(of.curves, levels, of.by, reference).assign(**{col.AXIS: axis}) for axis, of in found.items()
    ]
    ups = pd.concat(each, ignore_index=True)
    captions = {axis: speed_up_words(of) for axis, of in found.items()}
    drawing = figures.speed_up(ups, reference)
    return [Figure("speed-up", f"Speed-up over {reference}", captions[axes[0]], drawing, ups, captions)]


def tables_of(found: Mapping[str, Comparison]) -> list[tuple[str, pd.DataFrame]]:
    """The tables that the words are taken from, of all axes, with the axis in the column `axis`.

    Args:
        found: axis → comparison on it.
    """
    import pandas as pd

    groups = [of.groups.assign(**{col.AXIS: axis, col.AT: of.at}) for axis, of in found.items()]
    ups = [of.speed_ups.assign(**{col.AXIS: axis}) for axis, of in found.items()]
    whole = {"Groups": (groups, [col.AXIS, col.AT]), "Speed-ups": (ups, [col.AXIS])}
    tables = {title: (pd.concat(parts, ignore_index=True), first) for title, (parts, first) in whole.items()}
    return [(title, table[[*first, *table.columns.drop(first)]]) for title, (table, first) in tables.items()]


def drawn_points(curves: Sequence[Curve], axes: Mapping[str, str]) -> pd.DataFrame:
    """All curves in one tidy table, with a row more for each growth event, at the loss of its step.

    Args:
        curves: of one scalar.
        axes: name of an axis here → its column in the tables of curves.
    """
    import pandas as pd

    parts = []
    for curve in curves:
        steps = curve.table[col.STEP]
        drawn = pd.DataFrame({name: curve.table[column] for name, column in {**axes, col.LOSS: col.LOSS}.items()})
        at = {name: np.interp(curve.events, steps, drawn[name]) for name in drawn}
        grown = pd.DataFrame({**at, col.IS_EVENT: [True] * len(curve.events)})
        plain = drawn.assign(**{col.IS_EVENT: False})
        part = pd.concat([plain, grown], ignore_index=True) if len(grown) else plain
        parts.append(part.assign(**{col.RUN: curve.name, col.GROUP: curve.group}))
    return pd.concat(parts, ignore_index=True)[[col.RUN, col.GROUP, col.IS_EVENT, *axes, col.LOSS]]


def _digits(losses: Iterable[float], base: float) -> int:
    """Digits after the point that tell each loss from the reference's and from 0: three, or as many as it takes."""
    pairs = [(loss, other) for loss in losses for other in (base, 0.0)]
    return max(len(distinct_digits(*pair, 3)[0].partition(".")[2]) for pair in pairs)


def _omitted_words(found: Comparison) -> str:
    """How many points of which runs were left out because they are not finite; empty for none."""
    runs = [(curve.name, curve.omitted) for curve in (*found.curves, *found.diverged) if curve.omitted]
    each = [f"{count(omitted, 'point')} of {name}" for name, omitted in runs]
    return f" Not finite and left out: {_listed(each, NAMED, 'more run')}." if each else ""


def _loss_words(row: Any, digits: int) -> str:
    """`a mean loss of 4.012`, of a row of `compare.groups`."""
    if np.isnan(row.loss):
        return "no loss there"
    return f"a {'mean ' if row.runs > 1 else ''}loss of {row.loss:.{digits}f}"


def _difference_words(row: Any, base_runs: int, digits: int) -> str:
    words = f"{row.group} has {_loss_words(row, digits)} ({_runs_words(row.runs)})"
    if np.isnan(row.difference):
        return words
    evidence = _evidence(row._asdict(), _DIFFERENCE, base_runs, lambda value: signed(value, digits))
    return f"{words}, a difference of {signed(row.difference, digits)} ({evidence})"


def _evidence(row: Any, bounds: tuple[str, str], base_runs: int, message: Callable[[float], str]) -> str:
    """The interval of a difference or a speed-up and what it is over, of a row of the tables of a comparison."""
    low, high = (row[bound] for bound in bounds)
    if np.isnan(low):
        fewest, most = sorted((row[col.RUNS], base_runs))
        why = "one run each" if most == 1 else "too few runs" if fewest == 1 else "runs do not vary"
        return f"no interval: {why}"
    pairs = f"paired by seed, {row[col.PAIRS]} pairs" if row[col.PAIRS] else "not paired"
    return f"95 % interval {message(low)} to {message(high)}, {pairs}"


def _listed(clauses: Sequence[str], most: int, noun: str = "more group") -> str:
    """So many clauses about groups or runs, and how many more there are."""
    more = len(clauses) - most
    return "; ".join([*clauses[:most], *([f"{count(more, noun)} in the table"] if more > 0 else [])])


def _runs_words(runs: int) -> str:
    return "one run" if runs == 1 else f"{runs} runs"
