"""Report section: lenses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import lens as figures
from pli_analysis.metrics.lens import TUNED
from pli_analysis.report.parts import Figure, Section, sample, signed
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd


def verdict(table: pd.DataFrame) -> str:
    """Describe in a sentence or two at which layers the loss of the tuned lens changes most and least.

    Args:
        table: result of `pli_analysis.metrics.lens.lens`.
    """
    tuned = table[table[col.LENS] == TUNED]
    if len(tuned) == 1:
        return f"There is one layer, whose output predicts with a loss of {tuned[col.LOSS].iloc[0]:.3f}."
    changes = tuned[col.LOSS].diff().iloc[1:]
    words = f"By the tuned lens, the loss is {tuned[col.LOSS].iloc[0]:.3f} after the first layer"
    if len(changes) == 1:
        return f"{words} and {tuned[col.LOSS].iloc[-1]:.3f} after the second."
    most, least = changes.abs().idxmax(), changes.abs().idxmin()
    return (
        f"{words} and {tuned[col.LOSS].iloc[-1]:.3f} after the last. Layer {tuned.loc[most, col.LAYER]} changes it "
        f"most ({signed(changes[most])}), layer {tuned.loc[least, col.LAYER]} least ({signed(changes[least])})."
    )


def section(table: pd.DataFrame) -> Section:
    """Build the section: losses and prediction depths, and the methods.

    Args:
        table: result of `pli_analysis.metrics.lens.lens`.
    """
    finding = verdict(table)
    tokens, blocks, documents = (int(table[name].iloc[0]) for name in (col.PREDICTED_TOKENS, col.BLOCKS, col.DOCUMENTS))
    counts = sample(counted(tokens, "token"), counted(blocks, "block"), counted(documents, "document"))
    last = table[table[col.LENS] == TUNED].iloc[-1]
    decided = f"By the tuned lens, {last[col.DECIDED]:.0%} of predictions are decided only at the last layer."
    caption = f"{finding} Bars are 95 % intervals. {counts}"
    shown = [
        Figure("losses", "Loss of predictions from each layer", caption, figures.losses(table), table),
        Figure("depths", "Where predictions are decided", f"{decided} {counts}", figures.depths(table), table),
    ]
    return Section("lens", "Lenses", figures=shown, headline=finding, method=METHOD)


METHOD = [
    (
        "logit lens",
        "The output of a layer takes the place of that of the last layer, and the model's own head predicts from it "
        "(nostalgebraist 2020).",
    ),
    (
        "tuned lens",
        "The same with an affine map of the output, fitted by ridge regression to the output of the last layer on the "
        "other half of the blocks (after Belrose et al. 2023, arXiv:2303.08112).",
    ),
    (
        "prediction depth",
        "The lowest layer such that, there and at all layers above, the most likely prediction is that of the model.",
    ),
]
