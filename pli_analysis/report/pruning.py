"""Report section: pruning of heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import pruning as figures
from pli_analysis.metrics.ablation.pruning import CHANGE, DRAWS, IMPORTANCE, RANDOM, TOLERANCE, prunable
from pli_analysis.report.parts import Figure, Section, sample
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd


def verdict(table: pd.DataFrame) -> str:
    """Return the share of heads that can be masked by each order, in a sentence.

    Args:
        table: result of `pli_analysis.metrics.ablation.pruning.pruning`.
    """
    shares = prunable(table)
    by_importance, by_change, at_random = (f"{shares[order]:.0%}" for order in (IMPORTANCE, CHANGE, RANDOM))
    return (
        f"The loss rises by at most {TOLERANCE:.0%} with {by_importance} of {table[col.HEADS_MASKED].max()} heads "
        f"masked by importance, {by_change} by loss change, and {at_random} at random."
    )


def section(table: pd.DataFrame) -> Section:
    """Build the section: the curves, and the methods.

    Args:
        table: result of `pli_analysis.metrics.ablation.pruning.pruning`.
    """
    finding = verdict(table)
    blocks, documents = (int(table[name].iloc[0]) for name in (col.BLOCKS, col.DOCUMENTS))
    counts = sample(counted(blocks, "block"), counted(documents, "document"))
    limit = TOLERANCE * float(table[col.LOSS].iloc[0])
    caption = f"{finding} The dotted line is a rise by {TOLERANCE:.0%}. {counts}"
    figure = Figure("pruning", "Loss over masked heads", caption, figures.curves(table, limit), table)
    return Section("pruning", "Pruning of heads", figures=[figure], headline=finding, method=METHOD)


METHOD = [
    (
        "orders",
        "Importance: E |Σ a · ∂L/∂a| of each head, lowest first (Michel et al. 2019, arXiv:1905.10650). Loss change: "
        f"of masking each head alone, smallest first. Random: {DRAWS} random orders.",
    ),
    (
        "blocks",
        "The order is chosen on half of the blocks, and the loss is measured on the other half. Nothing is trained.",
    ),
    ("share", "The largest share of heads at which the loss, with these or fewer heads masked, rises by at most 1 %."),
]
