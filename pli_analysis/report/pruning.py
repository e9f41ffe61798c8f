"""Report section: pruning of heads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import pruning as figures
from pli_analysis.metrics.ablation.pruning import (
    ALL,
    CHANGE,
    DRAWS,
    IMPORTANCE,
    INITIAL,
    INSERTED,
    RANDOM,
    TOLERANCE,
    prunable,
)
from pli_analysis.report.parts import Figure, Section, sample
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd


def verdict(table: pd.DataFrame) -> str:
    """Return the share of heads that can be masked by each order, by origin and over checkpoints, in a few sentences.

    Args:
        table: result of `pli_analysis.metrics.ablation.pruning.pruning`.
    """
    shares = prunable(table)
    last = shares[shares[col.CHECKPOINT] == shares[col.CHECKPOINT].iloc[-1]].set_index([col.ORIGIN, col.ORDER])
    share = last[col.PRUNABLE_SHARE]
    by_importance, by_change, at_random = (f"{share[ALL, order]:.0%}" for order in (IMPORTANCE, CHANGE, RANDOM))
    words = (
        f"The loss rises by at most {TOLERANCE:.0%} with {by_importance} of {last[col.HEADS].max()} heads masked by "
        f"importance, {by_change} by loss change, and {at_random} at random."
    )
    if (INSERTED, IMPORTANCE) in share:
        each = (
            f"{share[origin, IMPORTANCE]:.0%} of {counted(last[col.HEADS][origin, IMPORTANCE], f'{origin} head')} "
            f"({share[origin, RANDOM]:.0%} at random)"
            for origin in (INITIAL, INSERTED)
        )
        words += f" Masked alone, by importance: {' and '.join(each)}."
    return words + _over_time(shares)


def _over_time(shares: pd.DataFrame) -> str:
    """Return the first and the last prunable share of several checkpoints, in a sentence; empty for one checkpoint."""
    rows = shares[(shares[col.ORIGIN] == ALL) & (shares[col.ORDER] == IMPORTANCE)]
    if len(rows) < 2:
        return ""
    first, last = (
        f"{row[col.PRUNABLE_SHARE]:.0%} at step {row[col.STEP]:,}" for _, row in rows.iloc[[0, -1]].iterrows()
    )
    return f" By importance, {first} and {last} were prunable."


def section(table: pd.DataFrame) -> Section:
    """Build the section: the curves, the shares by origin and checkpoint, and the methods.

    Args:
        table: result of `pli_analysis.metrics.ablation.pruning.pruning`.
    """
    finding = verdict(table)
    blocks, documents = (int(table[name].iloc[0]) for name in (col.BLOCKS, col.DOCUMENTS))
    counts = sample(counted(blocks, "block"), counted(documents, "document"))
    last = table[table[col.CHECKPOINT] == table[col.CHECKPOINT].iloc[-1]]
    curves = figures.curves(last[last[col.ORIGIN] == ALL], TOLERANCE * float(last[col.LOSS].iloc[0]))
    caption = f"{finding} The dotted line is a rise by {TOLERANCE:.0%}. {counts}"
    shares = prunable(table)
    of_shares = (
        f"The largest share of heads that can be masked while the loss rises by at most {TOLERANCE:.0%}. {counts}"
    )
    drawn = [
        Figure("pruning", "Loss over masked heads", caption, curves, table),
        Figure("prunable", "Prunable share of heads", of_shares, figures.shares(shares), shares),
    ]
    return Section("pruning", "Pruning of heads", figures=drawn, headline=finding, method=METHOD)


METHOD = [
    (
        "orders",
        "Importance: E |Σ a · ∂L/∂a| of each head, lowest first (Michel et al. 2019, arXiv:1905.10650). Loss change: "
        f"of masking each head alone, smallest first. Random, as a control: {DRAWS} random orders.",
    ),
    (
        "blocks",
        "The order is chosen on half of the blocks, and the loss is measured on the other half. Nothing is trained.",
    ),
    ("share", "The largest share of heads at which the loss, with these or fewer heads masked, rises by at most 1 %."),
    (
        "origin",
        "Inserted heads are those that a growth event created, in new layers or in others; all others are initial. To "
        "measure one origin, only its heads are masked.",
    ),
]
