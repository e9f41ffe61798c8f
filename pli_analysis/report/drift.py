"""Report section: drift."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures import drift as drift_figures
from pli_analysis.metrics.drift import drift as drift_metric
from pli_analysis.report.parts import ROUNDING, Figure, Section, distinct_digits, equal, sample, sentences, span
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.runs.run import Run
    from pli_train.core.lineage import Lineage


METHOD = [
    (
        "relative L2",
        "‖θ(t) − θ(b)‖ ÷ ‖θ(b)‖, where θ(t) are the weights of a layer at step t and θ(b) its birth weights. If the "
        "birth weights are zero, ‖θ(t) − θ(b)‖. Norms are over all tensors of the layer together.",
    ),
    ("change of direction", "1 − cos(θ(t), θ(b)), which does not depend on the norm of the weights."),
    (
        "age",
        "Steps since birth. At equal steps a younger layer has had less time to move, so layers are compared at equal "
        "age. The learning rate at equal age may still differ.",
    ),
    (
        "more",
        "The command pli-analyze drift also measures heads, FFNs and norms; path length and efficiency; the relative "
        "update rate; the distance to the donor; heads by QᵀK and OᵀV; and the spectrum of ΔW (effective rank: Roy and "
        "Vetterli 2007).",
    ),
]


def drift(run: Run) -> Section:
    """Build the section on the distance of each layer from its birth weights."""
    table = drift_metric.drift(run)
    known = table.dropna(subset=col.RELATIVE_L2)
    finding = _map_words(known)
    counts = sample(counted(table[col.PART].nunique(), "layer"), counted(table[col.CHECKPOINT].nunique(), "checkpoint"))
    words = [
        "Drift compares each layer with its own birth weights, matched by layer id: a change of its index by an "
        "insertion does not count as drift.",
        *(sentences(drift_metric.unknown(run)) if len(known) < len(table) else []),
    ]
    if late := _without_birth(table):
        words.append(
            f"No checkpoint has the birth weights of {', '.join(late)}: those of their first checkpoint are used."
        )
    figures = [
        Figure(
            "drift-map", "Relative L2 drift of each layer", f"{finding} {counts}", drift_figures.heat_map(table), table
        ),
        Figure(
            "drift-curves",
            "Relative L2 drift over steps and age",
            f"{_age_words(known, run.lineage)} {counts}",
            drift_figures.curves(table),
            table,
        ),
        Figure(
            "drift-cosine",
            "Change of direction: 1 − cosine to the birth weights",
            f"{_cosine_words(known)} {counts}",
            drift_figures.curves(table, col.COSINE_DISTANCE),
            table,
        ),
    ]
    return Section("drift", "Drift", words, figures=figures, headline=finding, method=METHOD)


def _map_words(table: pd.DataFrame) -> str:
    """Describe the layers farthest from and nearest to their birth weights."""
    if not len(table):
        return "All layers have weights that are not finite, so no distance is known."
    last = table[table[col.CHECKPOINT] == table[col.CHECKPOINT].iloc[-1]].sort_values(col.RELATIVE_L2)
    most, least = last.iloc[-1], last.iloc[0]
    far, near = most[col.RELATIVE_L2], least[col.RELATIVE_L2]
    if far <= ROUNDING:
        return "At the last checkpoint no layer differs from its birth weights."
    if len(last) == 1:
        return f"At the last checkpoint the relative L2 drift of layer {most[col.PART]} is {far:.2f}."
    if equal(far, near):
        return f"At the last checkpoint all layers have the same relative L2 drift, {far:.2f}."
    largest, smallest = distinct_digits(far, near)
    return (
        f"At the last checkpoint layer {most[col.PART]} (age {most[col.AGE]:,}) has the largest relative L2 drift, "
        f"{largest}, and layer {least[col.PART]} (age {least[col.AGE]:,}) the smallest, {smallest}."
    )


def _age_words(table: pd.DataFrame, lineage: Lineage) -> str:
    """Compare initial and inserted layers at the greatest age that all of them have reached."""
    parts = list(dict.fromkeys(table[col.PART]))
    if not parts:
        return "All layers have weights that are not finite."
    founders = [part for part in parts if lineage.layers[part].birth.event is None]
    newborns = [part for part in parts if part not in founders]
    if not newborns:
        return "All layers exist from the start, so their age is the step."
    if not founders:
        return "No layer exists from the start: all were inserted."
    if _without_birth(table):
        return "Equal ages cannot be compared without the birth weights of all layers."
    age = int(table.groupby(col.PART)[col.AGE].max().min())
    at = {part: _at_age(rows, age) for part, rows in table.groupby(col.PART)}
    old, new = ([at[part] for part in parts] for parts in (founders, newborns))
    return (
        f"At equal age, {age:,} steps after birth, the relative L2 drift is {sum(old) / len(old):.2f} in the mean of "
        f"the initial layers and {span(min(new), max(new))} in inserted layers: a description, not a test."
    )


def _without_birth(table: pd.DataFrame) -> list[str]:
    """Return the parts whose birth weights no checkpoint has."""
    youngest = table.groupby(col.PART, sort=False)[col.AGE].min()
    return youngest.index[youngest > 0].tolist()


def _at_age(rows: pd.DataFrame, age: int) -> float:
    return float(np.interp(age, rows[col.AGE], rows[col.RELATIVE_L2]))


def _cosine_words(table: pd.DataFrame) -> str:
    if not len(table):
        return "All layers have weights that are not finite."
    last = table[table[col.CHECKPOINT] == table[col.CHECKPOINT].iloc[-1]].sort_values(col.COSINE_DISTANCE)
    turned = last.dropna(subset=col.COSINE_DISTANCE)
    if not len(turned) or turned[col.COSINE_DISTANCE].iloc[-1] <= ROUNDING:
        return "The weights of no layer changed direction since birth."
    most = turned.iloc[-1]
    return (
        f"The weights of layer {most[col.PART]} changed direction most: 1 − cosine to its birth weights is "
        f"{most[col.COSINE_DISTANCE]:.2g}."
    )
