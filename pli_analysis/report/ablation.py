"""Report section: ablation of heads, FFNs and layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import ablation as figures
from pli_analysis.report.parts import Figure, Section, equal, sample, signed
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd


SMALL = 0.01
"""Absolute loss change, in nats, below which a head counts as having little effect."""
ABSOLUTE = f"The scale shows absolute changes; those below {figures.FLOOR} are drawn at {figures.FLOOR}."


def verdict(table: pd.DataFrame) -> str:
    """Describe in one or two sentences which layers the loss depends on.

    Args:
        table: result of `pli_analysis.metrics.ablation.ablation`.
    """
    skipped = table[table[col.ABLATION] == "skip"].sort_values(col.LOSS_CHANGE, key=abs)
    least, most = skipped.iloc[0], skipped.iloc[-1]
    if equal(most[col.LOSS_CHANGE], least[col.LOSS_CHANGE]):
        which = f"layer {most[col.LAYER]}" if len(skipped) == 1 else "any layer"
        return f"Skipping {which} changes the loss by {signed(most[col.LOSS_CHANGE])}."
    words = (
        f"Skipping layer {most[col.LAYER]} changes the loss most ({signed(most[col.LOSS_CHANGE])}), "
        f"layer {least[col.LAYER]} least ({signed(least[col.LOSS_CHANGE])})."
    )
    inserted = skipped[skipped[col.IS_INSERTED]]
    initial = skipped.drop(inserted.index)
    if not len(inserted) or not len(initial):
        return words
    of_inserted, of_initial = (signed(rows[col.LOSS_CHANGE].median()) for rows in (inserted, initial))
    new, old = counted(len(inserted), "inserted layer"), counted(len(initial), "initial layer")
    return f"{words} The median is {of_inserted} for {new} and {of_initial} for {old}."


def section(table: pd.DataFrame) -> Section:
    """Build the section: loss changes of layers and of heads, and the methods.

    Args:
        table: result of `pli_analysis.metrics.ablation.ablation`.
    """
    finding = verdict(table)
    counts = sample(
        counted(int(table[col.BLOCKS].iloc[0]), "block"), counted(int(table[col.DOCUMENTS].iloc[0]), "document")
    )
    shown = [
        Figure(
            "layers",
            "Loss change without each layer",
            f"{finding} {_legend(table)} {counts}",
            figures.layers(table),
            table,
        ),
        Figure(
            "heads",
            "Loss change without each head",
            f"{_of_heads(table)} {ABSOLUTE} {counts}",
            figures.heads(table),
            table,
        ),
    ]
    return Section("ablation", "Ablation", figures=shown, headline=finding, method=METHOD)


def _legend(table: pd.DataFrame) -> str:
    """Explain what the figure of layers draws."""
    shaded = "Inserted layers are shaded. " if table[col.IS_INSERTED].any() else ""
    return f"{shaded}Bars are 95 % intervals. Where the loss falls, the marker is open. {ABSOLUTE}"


def _of_heads(table: pd.DataFrame) -> str:
    """Describe the head with the largest loss change, and how many heads have little effect."""
    heads = table[table[col.PART_TYPE] == "head"].sort_values(col.LOSS_CHANGE, key=abs)
    most, least = heads.iloc[-1], heads.iloc[0]
    if equal(most[col.LOSS_CHANGE], least[col.LOSS_CHANGE]):
        return f"Masking any head changes the loss by {signed(most[col.LOSS_CHANGE])}."
    small = int((heads[col.LOSS_CHANGE].abs() < SMALL).sum())
    return (
        f"Masking head {most[col.PART]} changes the loss most ({signed(most[col.LOSS_CHANGE])}); "
        f"{small} of {len(heads)} heads change it by less than {SMALL}."
    )


METHOD = [
    (
        "ablations",
        "One at a time, without training: the output of a head or FFN is set to 0, a layer returns its input, two "
        "layers change places, or a layer is replaced by its donor.",
    ),
    (
        "loss change",
        "Loss with the ablation − loss without it, on the same tokens, in nats. The 95 % interval is for all of the "
        "text from which the blocks were drawn (Student's t; of width zero if all of it was read), not for other runs.",
    ),
    (
        "head importance",
        "E |Σ a · ∂L/∂a| for the outputs a of a head, with the absolute value taken for each block (Michel et al. "
        "2019, arXiv:1905.10650).",
    ),
    (
        "block influence",
        "1 − E cos(h_in, h_out) of the hidden states before and after a layer (Men et al. 2024, arXiv:2403.03853).",
    ),
    ("sums", "Parts can replace each other, so the effects of several parts do not add up."),
]
