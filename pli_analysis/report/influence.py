"""Report section: influence of training blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import influence as figures
from pli_analysis.metrics.influence import LAYER, MODEL, extremes
from pli_analysis.report.parts import Figure, Section, sample, signed
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd

LISTED = 3
"""Number of blocks at each end that the section lists for each part."""


def verdict(table: pd.DataFrame) -> str:
    """Describe in a few sentences how many blocks helped, which ones most and least, and through which layers.

    Args:
        table: result of `pli_analysis.metrics.influence.influence`.
    """
    model, layers = (table[table[col.PART_TYPE] == kind] for kind in (MODEL, LAYER))
    most, least = model.loc[model[col.RANK].idxmin()], model.loc[model[col.RANK].idxmax()]
    words = (
        f"By TracIn, {(model[col.INFLUENCE] > 0).mean():.0%} of {counted(len(model), 'training block')} helped the "
        f"held-out loss. Block {most[col.BLOCK]} has the highest influence "
        f"({signed(most[col.INFLUENCE], 4)} nats), block {least[col.BLOCK]} the lowest "
        f"({signed(least[col.INFLUENCE], 4)})."
    )
    if layers[col.IS_INSERTED].nunique() < 2:
        return words
    inserted, initial = (layers[layers[col.IS_INSERTED] == kind][col.INFLUENCE].mean() for kind in (True, False))
    return (
        f"{words} On average, a block has an influence of {signed(inserted, 5)} through an inserted layer, and of "
        f"{signed(initial, 5)} through an initial layer."
    )


def section(table: pd.DataFrame) -> Section:
    """Build the section: influence by layer, the blocks with the most and least, and the methods.

    Args:
        table: result of `pli_analysis.metrics.influence.influence`.
    """
    finding, layers = verdict(table), table[table[col.PART_TYPE] == LAYER]
    model = table[table[col.PART_TYPE] == MODEL]
    summed = len(model[col.CHECKPOINTS].iloc[0].split())
    counts = sample(counted(len(model), "training block"), counted(summed, "checkpoint"))
    shaded = "Inserted layers are shaded. " if layers[col.IS_INSERTED].any() else ""
    caption = f"{finding} A point is a block; a box spans the middle half of them. {shaded}{counts}"
    listed = extremes(table, LISTED)[[col.PART_TYPE, col.LAYER, col.RANK, col.INFLUENCE, col.BLOCK, col.EXCERPT]]
    return Section(
        "influence",
        "Influence of training blocks",
        figures=[Figure("block-influence", "Influence by layer", caption, figures.by_layer(layers), table)],
        tables=[("Blocks with the highest and lowest influence", listed)],
        headline=finding,
        method=METHOD,
    )


METHOD = [
    (
        "influence",
        "TracInCP (Pruthi et al. 2020, arXiv:2002.08484): the dot product of the gradients of a training block's loss "
        "and of the held-out loss, with respect to the parameters of a layer, times the learning rate, summed over "
        "checkpoints. Layers and the other parameters add up to the model.",
    ),
    (
        "unit",
        "The decrease of the held-out loss, in nats per prediction and to first order, if SGD did one step on this "
        "block alone at each checkpoint.",
    ),
    (
        "AdamW",
        "Training with AdamW does other steps: it averages gradients over steps and divides them by their size, so "
        "parameters with small gradients move more than influence assumes. Influences of different layers are then on "
        "different scales, and ranks within a layer are approximate.",
    ),
    (
        "inserted layers",
        "A layer is part of the sum from its birth on, so younger layers have sums over fewer checkpoints.",
    ),
]
"""Terms, and how they are measured."""
