"""Report section: layer conductance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import conductance as figures
from pli_analysis.metrics.attribution.conductance import LAYER, TOLERANCE, TOTAL
from pli_analysis.report.parts import Figure, Section, sample, signed, span
from pli_train.core.errors import counted, some

if TYPE_CHECKING:
    import pandas as pd


def verdict(table: pd.DataFrame) -> str:
    """Describe in a few sentences through which layers the text affects the predictions most and least.

    Args:
        table: result of `pli_analysis.metrics.attribution.conductance.conductance`.
    """
    layers = table[table[col.PART_TYPE] == LAYER].sort_values(col.CONTRIBUTION)
    total = table.loc[table[col.PART_TYPE] == TOTAL, col.CONTRIBUTION].item()
    words = (
        f"The text changes the log-probability of the right token by {signed(total)} nats from the baseline of mean "
        "embeddings. "
    )
    most, least = layers.iloc[-1], layers.iloc[0]
    if len(layers) == 1:
        words += f"Layer {most[col.LAYER]} contributes {signed(most[col.CONTRIBUTION])}."
    else:
        words += (
            f"Layer {most[col.LAYER]} contributes most ({signed(most[col.CONTRIBUTION])}) and layer {least[col.LAYER]} "
            f"least ({signed(least[col.CONTRIBUTION])})."
        )
    if layers[col.IS_INSERTED].nunique() == 2:
        inserted, initial = (layers[layers[col.IS_INSERTED] == kind][col.CONTRIBUTION].mean() for kind in (True, False))
        words += f" On average, an inserted layer contributes {signed(inserted)}, an initial layer {signed(initial)}."
    error = table[col.COMPLETENESS_ERROR].max()
    if error > TOLERANCE:
        words += f" The integrals are not complete: their error is up to {error:.1%}, more than {TOLERANCE:.0%}."
    if poor := _unfaithful(layers):
        words += f" Contributions are not faithful for {some(poor)} (relative infidelity above 1)."
    return words


def _unfaithful(layers: pd.DataFrame) -> list[str]:
    """Return the layers whose attributions predict changes worse than no attribution."""
    return [f"layer {id}" for id in layers.loc[layers[col.RELATIVE_INFIDELITY] > 1, col.LAYER]]


def section(table: pd.DataFrame) -> Section:
    """Build the section: contributions of layers, infidelity and sensitivity, and the methods.

    Args:
        table: result of `pli_analysis.metrics.attribution.conductance.conductance`.
    """
    finding = verdict(table)
    tokens, blocks, documents = (int(table[name].iloc[0]) for name in (col.PREDICTED_TOKENS, col.BLOCKS, col.DOCUMENTS))
    counts = sample(counted(tokens, "token"), counted(blocks, "block"), counted(documents, "document"))
    shaded = "Inserted layers are shaded. " if table[col.IS_INSERTED].any() else ""
    caption = f"{finding} Bars are 95 % intervals. {shaded}{counts}"
    drawn, checked = figures.contributions(table), figures.checks(table)
    shown = [
        Figure("layer-conductance", "What each layer contributes", caption, drawn, table),
        Figure("faithfulness", "Infidelity and sensitivity", f"{_of_checks(table)} {shaded}{counts}", checked, table),
    ]
    return Section("conductance", "Layer conductance", figures=shown, headline=finding, method=METHOD)


def _of_checks(table: pd.DataFrame) -> str:
    """Describe how well the attributions of layers predict changes, and how stable they are."""
    layers = table[table[col.PART_TYPE] == LAYER]
    names = {col.RELATIVE_INFIDELITY: "The relative infidelity", col.SENSITIVITY: "The sensitivity"}
    values = {name: layers[column].dropna() for column, name in names.items()}
    ranges = [f"{name} is {span(known.min(), known.max(), 3)}." for name, known in values.items() if len(known)]
    return " ".join(
        [
            *ranges,
            "At a relative infidelity of 0, attributions predict changes exactly; above 1, worse than no attribution.",
        ]
    )


METHOD = [
    (
        "path",
        "From the baseline, at which each token has the mean embedding of the text, in a straight line to the "
        "embeddings of the text. Integrated gradients of the embeddings (Sundararajan et al. 2017, arXiv:1703.01365) "
        "add up to the total: the change of the log-probability of the right token along the path, as a mean over "
        "predicted tokens.",
    ),
    (
        "contribution",
        "Conductance (Dhamdhere et al. 2018, arXiv:1805.12233) of what a layer adds to its input: ∫ ∂F/∂h · d(h − g) "
        "along the path, for the output h and the input g of the layer. 0 for a layer that returns its input. The "
        "contributions of layers overlap and do not add up to the total, as paths lead through several layers.",
    ),
    (
        "completeness error",
        "Everything passes through the output of each layer, so the conductance of the output is the total. The "
        "difference, as a share of the total, is the error of the integral. The number of steps is doubled until it "
        f"is at most {TOLERANCE:.0%}.",
    ),
    (
        "infidelity",
        "What a layer adds is set back to what it adds at the baseline, at random tokens. Infidelity is the mean "
        "squared error of the change that the attributions predict; relative to the mean squared change, it is 0 if "
        "they are exact, and 1 for no attribution (Yeh et al. 2019, arXiv:1901.09392).",
    ),
    (
        "sensitivity",
        "Largest relative change of the attributions when the embeddings change a little (Yeh et al. 2019).",
    ),
]
"""Terms, and how they are measured."""
