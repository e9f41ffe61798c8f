"""What a comparison of runs says: who is lower where, and who is sooner by how much."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pli_analysis.figures import compare as figures
from pli_analysis.figures.loss import AXES
from pli_analysis.metrics import compare
from pli_analysis.report.parts import Figure, Report, Section, sentences

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.metrics.compare import Curve

FINE = 40
"""Levels of the speed-up's curve."""


def verdict(curves: Sequence[Curve], at: int) -> str:
    """Which run has the lowest loss at a step, and by how much, in one sentence."""
    losses = {curve.name: compare.loss_at(curve, at) for curve in curves}
    there = sorted((loss, name) for name, loss in losses.items() if np.isfinite(loss))
    if not there:
        return f"no run has a loss at step {at:,}"
    lowest, name = there[0]
    next_best = f"; next is {there[1][1]} with {there[1][0]:.4g}" if len(there) > 1 else ""
    return f"lowest loss at step {at:,}: {name} with {lowest:.4g}{next_best}"


def tell(curves: Sequence[Curve], summary: pd.DataFrame, at: int, by: str, reference: str) -> Report:
    """The page of a comparison: losses, speed-ups, and how they were measured.

    Args:
        curves: of `compare.read`.
        summary: of `compare.summary`.
        at: the step at which losses are compared.
        by: the axis.
        reference: the group that the others are compared with.
    """
    table = drawn_points(curves, [by])
    told, width = verdict(curves, at), curves[0].width
    (caption,) = sentences([told])
    shown = [Figure("losses", "Losses", caption, figures.losses(table, [by]), table)]
    shown += sooner(curves, [by], reference)
    method = method_of(width, AXES[by], reference)
    section = Section("comparison", "Comparison", figures=shown, tables=[("Runs", summary)], method=method)
    return Report(f"Comparison of {len(curves)} runs", told, [section])


def method_of(width: int, needed: str, reference: str) -> list[tuple[str, str]]:
    """How it was measured.

    Args:
        width: points that losses are smoothed over.
        needed: what a run needs to come to a loss: `steps`.
        reference: the group that the others are compared with.
    """
    smooth = f"The mean of {width} points." if width > 1 else "Each point as it was logged."
    return [
        ("loss", smooth),
        (
            "reached",
            "Where a curve first comes down to a loss, in a straight line between points. A loss that it never "
            "reaches, or had passed at its first point, is left out.",
        ),
        ("speed-up", f"The {needed} that {reference} needed ÷ those that the run needed."),
        ("seconds", "Of training for runs of ours; event files of others count from their first point."),
        (
            "seeds",
            "The unit is the run: over seeds a speed-up is a ratio of geometric means, and the band is a percentile "
            f"bootstrap of {compare.DRAWS} draws over runs (Efron 1979).",
        ),
    ]


def sooner(curves: Sequence[Curve], axes: Sequence[str], reference: str) -> list[Figure]:
    """The figure of speed-ups, a view for each axis; none where there is nobody to compare with."""
    import pandas as pd

    levels = compare.common_levels(curves, FINE)
    if not levels or len({curve.group for curve in curves}) < 2:
        return []
    each = {axis: compare.speed_ups(curves, levels, axis, reference) for axis in axes}
    ups = pd.concat([table.assign(by=axis) for axis, table in each.items()], ignore_index=True)
    captions = {axis: speed_up_words(table, reference, axis) for axis, table in each.items()}
    drawing, caption = figures.speed_up(ups, reference), captions[axes[0]]
    return [Figure("speed-up", f"Speed-up over {reference}", caption, drawing, ups, captions)]


def drawn_points(curves: Sequence[Curve], axes: Sequence[str]) -> pd.DataFrame:
    """All curves in one tidy table, with a row more for each growth event, at the loss of its step."""
    import pandas as pd

    parts = []
    for curve in curves:
        steps = curve.table["step"]
        at = {name: np.interp(curve.events, steps, curve.table[name]) for name in {*axes, "loss"}}
        grown = pd.DataFrame({**at, "event": [True] * len(curve.events)})
        plain = curve.table[[*axes, "loss"]].assign(event=False)
        part = pd.concat([plain, grown], ignore_index=True) if len(grown) else plain
        parts.append(part.assign(run=curve.name, group=curve.group))
    return pd.concat(parts, ignore_index=True)[["run", "group", "event", *axes, "loss"]]


def speed_up_words(ups: pd.DataFrame, reference: str, by: str) -> str:
    """The figure's finding: the speed-up of each group at the lowest level that it and the reference reach."""
    told = []
    for group, mine in ups[ups["speed_up"].notna() & (ups["group"] != reference)].groupby("group", sort=False):
        last = mine.loc[mine["level"].idxmin()]
        band = f" ({last['low']:.2f}–{last['high']:.2f})" if np.isfinite(last["low"]) else ""
        told.append(
            f"{group} comes to {last['level']:.4g} with a speed-up of {last['speed_up']:.2f}{band} in {AXES[by]}"
        )
    return "; ".join(told) + "." if told else f"No run reaches a loss that {reference} reaches as well."
