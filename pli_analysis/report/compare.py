"""Report section: comparison of groups of runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures import compare as figures
from pli_analysis.figures.compare import AXES
from pli_analysis.metrics.comparison import compare, envelope, tables
from pli_analysis.report.parts import Figure, KeyFigure, Report, Section, distinct_digits, equal, sentences, signed
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.comparison.compare import Comparison
    from pli_analysis.metrics.comparison.curves import Curve

FINE = 40
"""Number of loss levels on the speed-up curve."""
NAMED = 3
"""Maximum number of groups, besides the reference, that a sentence names."""
_DIFFERENCE = (col.DIFFERENCE_LOW, col.DIFFERENCE_HIGH)
_SPEED_UP = (col.SPEED_UP_LOW, col.SPEED_UP_HIGH)


def verdict(found: Comparison) -> str:
    """Describe each group's loss at the point of comparison, and its difference from the reference.

    A second sentence names the runs that diverged, a third counts the points that are not finite, if there are any.
    """
    rows = {row.group: row for row in found.groups.itertuples()}
    base = rows.pop(found.reference)
    point, axis = tables.amount(found.at, found.unit), AXES[found.unit]
    where = f"At equal {axis} ({point})" if rows else f"At {point} {axis}"
    others = sorted(rows.values(), key=lambda row: (np.isnan(row.loss), row.loss))
    where = f"In {found.tag} {where[0].lower()}{where[1:]}" if found.tag else where
    digits = _digits(found.groups[col.LOSS], base.loss)
    clauses = [f"{base.group} has {_loss_words(base, digits)} ({_runs_words(base.runs)})"]
    clauses += [_difference_words(row, base.runs, digits) for row in others]
    diverged = f" Diverged and left out: {tables.divergences(found.diverged)}." if found.diverged else ""
    return f"{where}, {_listed(clauses, NAMED + 1)}.{envelope_words(found)}{diverged}{_omitted_words(found)}"


def envelope_words(found: Comparison) -> str:
    """Describe which group has the lowest loss where, as a sentence after another one; empty without an envelope."""
    if found.envelope is None:
        return ""
    (first, _), *others = found.envelope.spans
    clauses = [first, *(f"{group} from {tables.amount(start, found.unit)}" for group, start in others)]
    return f" Lowest of the groups in the envelope: {', '.join(clauses)}{f' {AXES[found.unit]}' if others else ''}."


def speed_up_words(found: Comparison) -> str:
    """Describe the speed-up of each group at the lowest loss that it and the reference reach; empty for one group.

    The groups in an envelope are left out, as it is the reference that they make.
    """
    lowest, missing = _lowest_levels(found)
    final = f"the final loss of {found.reference}"
    if not lowest:
        level = final if found.final else f"a loss level that {found.reference} also reaches"
        return f"No group reaches {level}." if missing else ""
    runs = found.groups.set_index(col.GROUP)[col.RUNS]
    clauses = [
        f"to reach {final if found.final else f'a loss of {tables.level_words(row[col.LOSS_LEVEL])}'}, "
        f"{row[col.GROUP]} ({_runs_words(row[col.RUNS])}) has a speed-up of {row[col.SPEED_UP]:.3g} in "
        f"{AXES[found.unit]} over {found.reference} ({_runs_words(runs[found.reference])}), "
        f"{_evidence(row, _SPEED_UP, runs[found.reference], '{:.3g}'.format)}"
        for row in lowest
    ]
    without = f"; not reached by {', '.join(missing)}" if missing else ""
    return sentences([_listed(clauses, NAMED) + without])[0]


def plain_verdict(found: Comparison) -> str:
    """State in plain words which groups end with a lower loss than the reference, with n and 95 % interval.

    A difference whose interval contains 0 is called unclear. Empty for one group.
    """
    rows = {row.group: row for row in found.groups.itertuples()}
    base = rows.pop(found.reference)
    known = sorted((row for row in rows.values() if not np.isnan(row.difference)), key=lambda row: row.loss)
    digits = _digits(found.groups[col.LOSS], base.loss)
    clauses = [_plain_clause(row, base, digits) for row in known]
    return f"At equal {AXES[found.unit]}, {_listed(clauses, NAMED)}." if clauses else ""


def key_figures(found: Comparison) -> list[KeyFigure]:
    """Give the loss of each group at the point of comparison, and its speed-up as in `speed_up_words`."""
    digits = _digits(found.groups[col.LOSS], found.groups.set_index(col.GROUP)[col.LOSS][found.reference])
    known = found.groups[found.groups[col.LOSS].notna()]
    losses = [(f"{row.loss:.{digits}f}", f"{row.group}, {_runs_words(row.runs)}") for row in known.itertuples()]
    base_runs = found.groups.set_index(col.GROUP)[col.RUNS][found.reference]
    ups = [
        (
            f"{row[col.SPEED_UP]:.3g}",
            f"{row[col.GROUP]} ({_runs_words(row[col.RUNS])}) over {found.reference} ({_runs_words(base_runs)}), to "
            f"reach a loss of {tables.level_words(row[col.LOSS_LEVEL])}: "
            f"{_evidence(row, _SPEED_UP, base_runs, '{:.3g}'.format)}",
        )
        for row in _lowest_levels(found)[0]
    ]
    shown = {f"Loss at equal {AXES[found.unit]}": losses, f"Speed-up in {AXES[found.unit]}": ups}
    return [KeyFigure(label, values[:NAMED]) for label, values in shown.items() if values]


def build(found: Sequence[Comparison]) -> Report:
    """Build the report of a comparison, with a section per scalar: losses, speed-ups and methods."""
    sections = [_section(found[0])]
    if len(found) > 1:
        sections = [_section(each, f"-{number}", f" of {each.tag}") for number, each in enumerate(found)]
    many = counted(len(found[0].runs) + len(found[0].diverged), "run")
    return Report(f"Comparison of {many}", " ".join(map(verdict, found)), sections)


def _section(found: Comparison, ending: str = "", of: str = "") -> Section:
    """Build the section of one scalar; `ending` is appended to ids, `of` to the title."""
    by_axis, method = {found.unit: found}, method_of(found, AXES[found.unit])
    shown = [replace(figure, id=f"{figure.id}{ending}") for figure in (losses(by_axis), *sooner(by_axis))]
    rows = [*tables_of(by_axis), ("Runs", tables.per_run(found))]
    return Section(f"comparison{ending}", f"Comparison{of}", figures=shown, tables=rows, method=method)


def method_of(found: Comparison, needed: str) -> list[tuple[str, str]]:
    """Describe how losses and speed-ups were measured.

    Args:
        found: the comparison.
        needed: the unit of what a run needs to reach a loss, such as `steps`.
    """
    width, reference = found.curves[0].width, found.reference
    scalar = f"The scalar {found.tag}. " if found.tag else ""
    smooth = f"Mean of {width} points." if width > 1 else "As logged, without smoothing."
    return [
        (
            "loss",
            f"{scalar}{smooth} Linearly interpolated between points; missing next to a point that is not finite. The "
            "loss of a group is the mean over its runs.",
        ),
        (
            "point of comparison",
            "The last point on the axis that all runs reached, or the one given by --at.",
        ),
        (
            "reached",
            "The first point at which a curve falls to a loss level, linearly interpolated between points. Missing if "
            "the curve never falls to it, or starts below it.",
        ),
        (
            "speed-up",
            f"{needed[0].upper()}{needed[1:]} that {reference} needs to reach a loss ÷ those that the group needs: a "
            "ratio of geometric means over runs.",
        ),
        (
            "levels",
            "By default the final loss of the run with the highest final loss, and its losses at half and at a "
            f"quarter of its {found.curves[0].counts}s; --levels sets others. With --levels final, each run is to "
            f"reach the final loss of the run of {reference} with the same seed.",
        ),
        *_envelope_method(found),
        (
            "95 % interval",
            "The unit is the run. Groups with the same seeds, data and evaluation are compared in pairs of runs, by "
            "Student's t interval of the differences; other groups by Welch's t interval of two means (1947), with one "
            "degree of freedom if one group has two runs and the other more (Hsu 1938), as Welch's is then too narrow. "
            "Speed-ups are compared as logarithms. With fewer than two runs in a group there is no interval.",
        ),
        (
            "p, min_p",
            "p of an exact permutation test over runs (of paired runs, over the signs of their differences), and the "
            "smallest p possible with this number of runs (Phipson and Smyth 2010). Not corrected for the number of "
            "groups.",
        ),
        ("seconds", "Training time in runs of pli-train; time since the first point in other logs."),
    ]


def _envelope_method(found: Comparison) -> list[tuple[str, str]]:
    if found.envelope is None:
        return []
    names = ", ".join(found.envelope.members)
    return [
        (
            "envelope",
            f"The lowest mean loss that any of the groups {names} has at a point of the axis or before it. Its curve "
            "for a seed is that of this seed in the group with the lowest mean.",
        )
    ]


def losses(found: Mapping[str, Comparison]) -> Figure:
    """Draw the losses, with a view and a caption for each axis.

    Args:
        found: axis → comparison on it.
    """
    axes, first = list(found), next(iter(found.values()))
    table = drawn_points(first.curves, {axis: of.by for axis, of in found.items()})
    captions = {axis: verdict(each) for axis, each in found.items()}
    drawing = figures.losses(table, axes, first.tag or "loss", envelope.NAME if first.envelope else "")
    return Figure("losses", "Losses", captions[axes[0]], drawing, table, captions)


def sooner(found: Mapping[str, Comparison]) -> list[Figure]:
    """Draw the speed-ups, with a view for each axis; return no figure for a single group.

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
    """Return the tables of groups and speed-ups on all axes, with the axis in the column `axis`.

    Args:
        found: axis → comparison on it.
    """
    import pandas as pd

    groups = [of.groups.assign(**{col.AXIS: axis, col.AT: of.at}) for axis, of in found.items()]
    ups = [of.speed_ups.assign(**{col.AXIS: axis}) for axis, of in found.items()]
    whole = {"Groups": (groups, [col.AXIS, col.AT]), "Speed-ups": (ups, [col.AXIS])}
    joined = {title: (pd.concat(parts, ignore_index=True), first) for title, (parts, first) in whole.items()}
    return [(title, table[[*first, *table.columns.drop(first)]]) for title, (table, first) in joined.items()]


def drawn_points(curves: Sequence[Curve], axes: Mapping[str, str]) -> pd.DataFrame:
    """Return all curves as one tidy table, with one more row per growth event, at the loss of its step.

    Args:
        curves: of one scalar.
        axes: name of an axis in the result → its column in the tables of curves.
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


def _lowest_levels(found: Comparison) -> tuple[list[pd.Series], list[str]]:
    """Return the speed-up of each group at the lowest loss that it and the reference reach, and groups without one."""
    trivial = {found.reference, *(found.envelope.members if found.envelope else ())}
    ups = found.speed_ups[~found.speed_ups[col.GROUP].isin(trivial)]
    known = ups[ups[col.SPEED_UP].notna()]
    lowest = [mine.loc[mine[col.LOSS_LEVEL].idxmin()] for _, mine in known.groupby(col.GROUP, sort=False)]
    return lowest, [str(group) for group in dict.fromkeys(ups[col.GROUP]) if group not in set(known[col.GROUP])]


def _plain_clause(row: Any, base: Any, digits: int) -> str:
    """Describe the difference of a group from the reference: `grown ends with a loss 0.021 lower than that of full`."""
    evidence = _evidence(row._asdict(), _DIFFERENCE, base.runs, lambda value: signed(value, digits))
    runs = f"{_runs_words(row.runs)} against {_runs_words(base.runs)}"
    if row.difference_low <= 0 <= row.difference_high:
        words = f"{row.group} does not differ clearly from {base.group}: {signed(row.difference, digits)} in loss"
    elif equal(row.loss, base.loss):
        words = f"{row.group} ends with the same loss as {base.group}"
    else:
        amount, side = signed(abs(row.difference), digits)[1:], "lower" if row.difference < 0 else "higher"
        words = f"{row.group} ends with a loss {amount} {side} than that of {base.group}"
    return f"{words} ({runs}; {evidence})"


def _digits(losses: Iterable[float], base: float) -> int:
    """Return how many decimals distinguish each loss from the reference's and from 0, three at least."""
    pairs = [(loss, other) for loss in losses for other in (base, 0.0)]
    return max(len(distinct_digits(*pair, 3)[0].partition(".")[2]) for pair in pairs)


def _omitted_words(found: Comparison) -> str:
    """Count the points of each run that were left out because they are not finite; empty for none."""
    runs = [(curve.name, curve.omitted) for curve in (*found.curves, *found.diverged) if curve.omitted]
    each = [f"{counted(omitted, 'point')} of {name}" for name, omitted in runs]
    return f" Not finite and left out: {_listed(each, NAMED, 'more run')}." if each else ""


def _loss_words(row: Any, digits: int) -> str:
    """Describe the loss in a row of `compare.groups`: `a mean loss of 4.012`."""
    if np.isnan(row.loss):
        return "no loss there"
    return f"a {'mean ' if row.runs > 1 else ''}loss of {row.loss:.{digits}f}"


def _difference_words(row: Any, base_runs: int, digits: int) -> str:
    """Describe the loss of a group and its difference from the reference."""
    words = f"{row.group} has {_loss_words(row, digits)} ({_runs_words(row.runs)})"
    if np.isnan(row.difference):
        return words
    evidence = _evidence(row._asdict(), _DIFFERENCE, base_runs, lambda value: signed(value, digits))
    return f"{words}, a difference of {signed(row.difference, digits)} ({evidence})"


def _evidence(row: Any, bounds: tuple[str, str], base_runs: int, written: Callable[[float], str]) -> str:
    """Describe the interval of a difference or a speed-up, or why there is none."""
    low, high = (row[bound] for bound in bounds)
    if np.isnan(low):
        fewest, most = sorted((row[col.RUNS], base_runs))
        why = "one run each" if most == 1 else "too few runs" if fewest == 1 else "runs do not differ"
        return f"no interval: {why}"
    pairs = f"paired by seed, {row[col.PAIRS]} pairs" if row[col.PAIRS] else "not paired"
    return f"95 % interval {written(low)} to {written(high)}, {pairs}"


def _listed(clauses: Sequence[str], most: int, noun: str = "more group") -> str:
    """Join at most `most` clauses about groups or runs, and count the rest."""
    more = len(clauses) - most
    return "; ".join([*clauses[:most], *([f"{counted(more, noun)} in the table"] if more > 0 else [])])


def _runs_words(runs: int) -> str:
    return "one run" if runs == 1 else f"{runs} runs"
