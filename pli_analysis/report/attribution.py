"""Report section: direct logit attribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import attribution as figures
from pli_analysis.metrics.attribution.attribution import HEAD, LAYER, TOTAL
from pli_analysis.report.parts import Figure, Section, sample
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd


SMALL = 0.005
"""Logits below this are written as 0.00."""


def verdict(table: pd.DataFrame) -> str:
    """Describe in a few sentences which layers add most and least to the logits of the right tokens.

    Args:
        table: result of `pli_analysis.metrics.attribution.attribution`.
    """
    layers = table[table[col.PART_TYPE] == LAYER].sort_values(col.CONTRIBUTION)
    total = table.loc[table[col.PART_TYPE] == TOTAL, col.CONTRIBUTION].item()
    if abs(total) < SMALL:
        return "The logit of the right token is, on average, not above the mean logit."
    words = f"The logit of the right token is {total:.2f} above the mean logit. Of that, "
    if len(layers) == 1:
        return f"{words}the layer adds {layers[col.CONTRIBUTION].item():+.2f}."
    most, least = layers.iloc[-1], layers.iloc[0]
    words += (
        f"layer {most[col.LAYER]} adds most ({most[col.CONTRIBUTION]:+.2f}) and layer {least[col.LAYER]} least "
        f"({least[col.CONTRIBUTION]:+.2f})."
    )
    if layers[col.IS_INSERTED].nunique() < 2:
        return words
    inserted, initial = (layers[layers[col.IS_INSERTED] == kind][col.CONTRIBUTION].mean() for kind in (True, False))
    return f"{words} On average, an inserted layer adds {inserted:+.2f}, an initial layer {initial:+.2f}."


def section(table: pd.DataFrame) -> Section:
    """Build the section: what layers and heads add, and the methods.

    Args:
        table: result of `pli_analysis.metrics.attribution.attribution`.
    """
    finding = verdict(table)
    tokens, blocks, documents = (int(table[name].iloc[0]) for name in (col.PREDICTED_TOKENS, col.BLOCKS, col.DOCUMENTS))
    counts = sample(counted(tokens, "token"), counted(blocks, "block"), counted(documents, "document"))
    shaded = "Inserted layers are shaded. " if table[col.IS_INSERTED].any() else ""
    caption = f"{finding} Bars are 95 % intervals. {shaded}{counts}"
    shown = [
        Figure("layer-logits", "What each layer adds", caption, figures.layers(table), table),
        Figure("head-logits", "What each head adds", f"{_of_heads(table)} {counts}", figures.heads(table), table),
    ]
    return Section("attribution", "Direct logit attribution", figures=shown, headline=finding, method=METHOD)


def _of_heads(table: pd.DataFrame) -> str:
    """Describe which heads add most and least."""
    heads = table[table[col.PART_TYPE] == HEAD].sort_values(col.CONTRIBUTION)
    most, least = heads.iloc[-1], heads.iloc[0]
    return (
        f"Head {most[col.PART]} adds most ({most[col.CONTRIBUTION]:+.3f}), head {least[col.PART]} least "
        f"({least[col.CONTRIBUTION]:+.3f})."
    )


METHOD = [
    (
        "contribution",
        "What a part adds to the logit of the right token minus the mean logit of the vocabulary, along the residual "
        "stream, as a mean over predicted tokens. Layers, embedding and the biases after the layers add up to the "
        "total; heads, FFN and biases of a layer add up to the layer.",
    ),
    (
        "norms",
        "A norm on the way is a linear map with the scale that it has at the token (Elhage et al. 2021, A Mathematical "
        "Framework for Transformer Circuits). A nonlinear function after the layers is frozen at the factor that it "
        "has at the token.",
    ),
    (
        "direct",
        "What a part adds through later layers counts for these layers. Ablation measures all effects of a part.",
    ),
]
"""Terms, and how they are measured."""
