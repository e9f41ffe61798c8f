"""Report section: drift."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures import drift as drift_figures
from pli_analysis.metrics.drift import drift as drift_metric
from pli_analysis.report.parts import ROUNDING, Figure, Section, count, distinct_digits, equal, sample, sentences, span

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.runs.run import Run
    from pli_train.core.lineage import Lineage


METHOD = [
    (
        "relative L2",
        "‖θ(t) − θ(b)‖ ÷ ‖θ(b)‖, θ(t) being a layer's weights now and θ(b) its birth weights. Absolute where those are "
        "zero. Norms are of all its tensors together.",
    ),
    ("turning", "1 − cos(θ(t), θ(b)): what of the movement is a change of direction and not of length."),
    (
        "age",
        "Steps since birth. A young layer has moved less because it is young, and learning rates change over a run: "
        "equal ages are comparable, equal steps are not.",
    ),
    (
        "more",
        "The command drift has heads, FFNs and norms too, path and efficiency, speed per learning rate, distance to "
        "the donor, heads by QᵀK and OᵀV, and spectra of ΔW (effective rank: Roy and Vetterli 2007).",
    ),
]


def drift(run: Run) -> Section:
    """How far each layer moved from its birth weights."""
    table = drift_metric.drift(run)
    known = table.dropna(subset=col.RELATIVE_L2)
    found = _map_words(known)
    whence = sample(count(table[col.PART].nunique(), "layer"), count(table[col.CHECKPOINT].nunique(), "checkpoint"))
    words = [
        "Drift compares a layer with its own birth weights, found by its id: insertions that moved its index do not "
        "count as movement.",
        *(sentences(drift_metric.unknown(run)) if len(known) < len(table) else []),
    ]
    if late := _without_birth(table):
        words.append(f"No checkpoint has the birth weights of {', '.join(late)}: the first ones seen stand for them.")
    figures = [
        Figure(
            "drift-map", "Relative L2 drift of each layer", f"{found} {whence}", drift_figures.heat_map(table), table
        ),
        Figure(
            "drift-curves",
            "Drift over steps and age",
            f"{_age_words(known, run.lineage)} {whence}",
            drift_figures.curves(table),
            table,
        ),
        Figure(
            "drift-cosine",
            "Turning: 1 − cosine to the birth weights",
            f"{_cosine_words(known)} {whence}",
            drift_figures.curves(table, col.COSINE_DISTANCE),
            table,
        ),
    ]
    return Section("drift", "Drift", words, figures=figures, headline=found, method=METHOD)


def _map_words(table: pd.DataFrame) -> str:
    """Who lies farthest from its birth weights, of the layers that it is known of."""
    if not len(table):
        return "No layer has finite numbers only, so that no distance is known."
    last = table[table[col.CHECKPOINT] == table[col.CHECKPOINT].iloc[-1]].sort_values(col.RELATIVE_L2)
    most, least = last.iloc[-1], last.iloc[0]
    far, near = most[col.RELATIVE_L2], least[col.RELATIVE_L2]
    if far <= ROUNDING:
        return "At the end no layer has moved from its birth weights."
    if len(last) == 1:
        return f"At the end layer {most[col.PART]} lies {far:.2f} of its birth norm from where it began."
    if equal(far, near):
        return f"At the end all layers lie equally far from their birth weights, {far:.2f} of their norm."
    largest, smallest = distinct_digits(far, near)
    return (
        f"At the end layer {most[col.PART]} (age {most[col.AGE]:,}) lies farthest from its birth weights, "
        f"{largest} of their norm; layer {least[col.PART]} (age {least[col.AGE]:,}) nearest, {smallest}."
    )


def _age_words(table: pd.DataFrame, lineage: Lineage) -> str:
    """Founders against newborns at one age, the greatest that all of them have reached a checkpoint by."""
    parts = list(dict.fromkeys(table[col.PART]))
    if not parts:
        return "No layer has finite numbers only."
    founders = [part for part in parts if lineage.layers[part].birth.event is None]
    newborns = [part for part in parts if part not in founders]
    if not newborns:
        return "Every layer has been there from the start, so step and age are one."
    if not founders:
        return "No layer has been there from the start: all were inserted."
    if _without_birth(table):
        return "Equal ages cannot be compared without the birth weights of all layers."
    age = int(table.groupby(col.PART)[col.AGE].max().min())
    at = {part: _at_age(rows, age) for part, rows in table.groupby(col.PART)}
    old, new = ([at[part] for part in parts] for parts in (founders, newborns))
    return (
        f"At equal age, {age:,} steps after birth, founders had moved {sum(old) / len(old):.2f} of their norm and "
        f"inserted layers {span(min(new), max(new))}: a description, not a test."
    )


def _without_birth(table: pd.DataFrame) -> list[str]:
    """The parts whose birth weights no checkpoint has."""
    youngest = table.groupby(col.PART, sort=False)[col.AGE].min()
    return youngest.index[youngest > 0].tolist()


def _at_age(rows: pd.DataFrame, age: int) -> float:
    return float(np.interp(age, rows[col.AGE], rows[col.RELATIVE_L2]))


def _cosine_words(table: pd.DataFrame) -> str:
    if not len(table):
        return "No layer has finite numbers only."
    last = table[table[col.CHECKPOINT] == table[col.CHECKPOINT].iloc[-1]].sort_values(col.COSINE_DISTANCE)
    turned = last.dropna(subset=col.COSINE_DISTANCE)
    if not len(turned) or turned[col.COSINE_DISTANCE].iloc[-1] <= ROUNDING:
        return "No layer has turned from its birth weights."
    most = turned.iloc[-1]
    return (
        f"Layer {most[col.PART]} has turned most: 1 − cosine to its birth weights is {most[col.COSINE_DISTANCE]:.2g}."
    )
