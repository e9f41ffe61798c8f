"""Report section: gradient norms."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pli_analysis import columns as col
from pli_analysis.figures import grad_norms as grad_norms_figure
from pli_analysis.metrics import lineage as lineage_metric
from pli_analysis.metrics.grad_norms import logged as grad_norms_metric
from pli_analysis.report.overview import together
from pli_analysis.report.parts import Figure, Report, Section, distinct_digits, equal, sample, span
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.runs.run import Run
    from pli_train.core.lineage import Lineage

MOST_STEPS = 120
"""Maximum number of steps that the heat map draws, to keep the page of a long run small."""

METHOD = [
    (
        "norm",
        "L2 norm of the gradient of a part's weights, after accumulation and before clipping. Every weight belongs to "
        "exactly one part, so the squared norms sum to the squared total norm. A head has its rows of Q, K and V, its "
        "columns of O, and their biases; keys and values shared by several heads belong to their group.",
    ),
    (
        "around an event",
        "Medians of the last measurements up to the event and of the first ones after it, three at most on each side, "
        "for parts that exist on both sides.",
    ),
    (
        "one run",
        "Heads and layers of one run are not independent, and norms of single batches are noisy.",
    ),
]


def grad_norms(run: Run) -> Section:
    """Build the section on gradient norms of heads and FFNs over training."""
    return _grad_norms(grad_norms_metric.logged(run.scalars, run.lineage), run.lineage)


def of_grad_norms(name: str, table: pd.DataFrame, lineage: Lineage | None) -> Report:
    """Build a report with the gradient norms only, whichever program logged them.

    Args:
        name: name of the run.
        table: result of `pli_analysis.metrics.grad_norms.logged.logged`, not empty.
    """
    measured = table[col.STEP].nunique()
    return Report(name, f"Gradient norms by part, measured at {measured:,} steps.", [_grad_norms(table, lineage)])


def _grad_norms(table: pd.DataFrame, lineage: Lineage | None) -> Section:
    title = "Gradient norms"
    if not len(table):
        nothing = "This run has no logged gradient norms (train.grad_norms_every = 0, or tracking.tensorboard = false)."
        return Section("grad-norms", title, [nothing])
    words, headline = ["Each part is followed by its id, from its first gradient on."], ""
    figures, tables = [], []
    drawn = table[table[col.PART_TYPE].isin(grad_norms_figure.LEVELS)]
    if len(drawn):
        shown = grad_norms_metric.thinned(drawn, MOST_STEPS)
        events = {step: together(labels) for step, labels in lineage_metric.by_step(lineage).items()} if lineage else {}
        headline = _norms_words(table)
        caption = f"{headline} {_drawn_words(drawn, shown)}".strip()
        drawing = grad_norms_figure.heat_map(shown, events)
        figures = [Figure("grad-norms", "Gradient norm of each head and FFN", caption, drawing, shown)]
    if lineage is not None and lineage.events:
        around = grad_norms_metric.around(table, lineage)
        words += _around_words(table, around)
        layers = around[around[col.PART_TYPE].isin(("total", "layer"))].reset_index(drop=True)
        tables = [("Gradient norms around each growth event", layers)] if len(layers) else []
    return Section("grad-norms", title, words, figures=figures, tables=tables, headline=headline, method=METHOD)


def _norms_words(table: pd.DataFrame) -> str:
    """Describe the shares of the gradient at the last step, and the range over heads and FFNs."""
    last = table[table[col.STEP] == table[col.STEP].max()]
    step = f"At step {last[col.STEP].iloc[0]:,}"
    words, total, layers = "", last[last[col.PART_TYPE] == "total"], last[last[col.PART_TYPE] == "layer"]
    if len(total) and len(layers):
        whole, most = total[col.GRAD_NORM].iloc[0], layers.sort_values(col.GRAD_NORM).iloc[-1]
        share = (most[col.GRAD_NORM] / whole) ** 2 if whole else 0.0
        words = f"{step} the gradient norm is {whole:.3g}; layer {most[col.PART]} has {share:.0%} of its square. "
    for level, many in (("head", "heads"), ("ffn", "FFNs")):
        found = last[last[col.PART_TYPE] == level].sort_values(col.GRAD_NORM)
        if len(found) > 1 and found[col.GRAD_NORM].iloc[0] > 0:
            low, high = found.iloc[0], found.iloc[-1]
            if equal(high[col.GRAD_NORM], low[col.GRAD_NORM]):
                words += f"All {many} have the same norm. "
                continue
            times, _ = distinct_digits(high[col.GRAD_NORM] / low[col.GRAD_NORM], 1, digits=1)
            words += f"Of the {many}, {high[col.PART]} has the largest norm, {times} times that of {low[col.PART]}. "
    return words.strip()


def _drawn_words(table: pd.DataFrame, shown: pd.DataFrame) -> str:
    drawn, measured = shown[col.STEP].nunique(), table[col.STEP].nunique()
    parts = sample(counted(table[col.PART].nunique(), "part"), counted(measured, "measurement"))
    return parts if drawn == measured else f"{parts} The figure shows {drawn} of them."


def _around_words(table: pd.DataFrame, around: pd.DataFrame) -> list[str]:
    """Describe how growth changed the norms of existing parts, and the first norms of inserted layers."""
    words = []
    totals = around[(around[col.PART_TYPE] == "total") & (around[col.GRAD_NORM_RATIO] > 0)]
    if len(totals):
        low, high = totals[col.GRAD_NORM_RATIO].min(), totals[col.GRAD_NORM_RATIO].max()
        most = totals.loc[np.log(totals[col.GRAD_NORM_RATIO]).abs().idxmax()]
        words.append(
            f"At {counted(len(totals), 'step')} with growth, the total norm afterwards was {span(low, high)} "
            f"times the norm before; {most[col.EVENT]} at step {most[col.STEP]:,} changed it most, from "
            f"{most[col.GRAD_NORM_BEFORE]:.3g} to {most[col.GRAD_NORM_AFTER]:.3g}. These are medians of "
            "up to three measurements on each side, of one run: a description, not a test."
        )
    layers = table[table[col.PART_TYPE] == "layer"]
    first = layers.drop_duplicates(col.PART, keep="first")
    ratios = {}
    for born in first[first[col.AGE] == 1].itertuples():
        older = layers[(layers[col.STEP] == born.step) & (layers[col.AGE] > 1)][col.GRAD_NORM]
        if len(older) and older.median() > 0:
            ratios[born.part] = born.grad_norm / older.median()
    if ratios:
        each = ", ".join(f"{part} {ratio:.2f}" for part, ratio in ratios.items())
        words.append(f"First gradient norm of each inserted layer ÷ median of the layers that existed before: {each}.")
    return words
