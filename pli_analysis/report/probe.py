"""Report section: linear probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import probe as figures
from pli_analysis.report.parts import Figure, Section, sample
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd


def verdict(table: pd.DataFrame) -> str:
    """Describe in a few sentences which label probes read best, and which layers add most to what they read.

    Args:
        table: result of `pli_analysis.metrics.probing.probe.probe`.
    """
    layers = table[table[col.INDEX].notna()]
    labels = table[col.LABEL].nunique()
    most = layers.loc[layers[col.GAIN].idxmax()]
    words = (
        f"Of {counted(labels, 'label')}, layer {most[col.LAYER]} adds most to '{most[col.LABEL]}': "
        f"{_points(most[col.GAIN])}, to an accuracy of {most[col.ACCURACY]:.1%} (always the most frequent class: "
        f"{most[col.MAJORITY]:.1%})."
    )
    if most[col.GAIN] <= 0:
        words = f"Of {counted(labels, 'label')}, no layer adds to any."
    if layers[col.IS_INSERTED].nunique() < 2:
        return words
    inserted, initial = (layers[layers[col.IS_INSERTED] == kind][col.GAIN].mean() for kind in (True, False))
    return (
        f"{words} On average, inserted layers change the accuracy by {_points(inserted)}, initial layers by "
        f"{_points(initial)}."
    )


def _points(change: float) -> str:
    """Write a change of an accuracy.

    >>> _points(-0.0137)
    '-1.4 percentage points'
    """
    return f"{100 * change:+.1f} percentage points"


def section(table: pd.DataFrame) -> Section:
    """Build the section: accuracy of probes, what each layer adds, and the methods.

    Args:
        table: result of `pli_analysis.metrics.probing.probe.probe`.
    """
    finding = verdict(table)
    tokens, units = (int(table[name].max()) for name in (col.MEASURED_TOKENS, col.UNITS))
    counts = sample(f"up to {counted(tokens, 'token')} and {units} documents or blocks for each label")
    shaded = "Inserted layers are shaded. " if table[col.IS_INSERTED].fillna(False).any() else ""
    best = table.loc[table[col.SELECTIVITY].idxmax()]
    selective = (
        f"Selectivity is highest for '{best[col.LABEL]}' at {_where(best)} ({_points(best[col.SELECTIVITY])} "
        "over random labels)."
    )
    caption = f"{selective} Bars are 95 % intervals. {shaded}{counts}"
    shown = [
        Figure("accuracies", "Accuracy of linear probes", caption, figures.accuracies(table), table),
        Figure(
            "gains",
            "What each layer adds",
            f"{finding} Bars are 95 % intervals. {shaded}{counts}",
            figures.gains(table),
            table,
        ),
    ]
    return Section("probe", "Linear probes", figures=shown, headline=finding, method=METHOD)


def _where(row: pd.Series) -> str:
    """Return the layer of a row in words."""
    return "the input of the first layer" if row.isna()[col.INDEX] else f"layer {row[col.LAYER]}"


METHOD = [
    (
        "probe",
        "Logistic regression from the output of a layer to a label, fitted on half of the documents (or blocks, if "
        "there are fewer than four documents) and measured on the other half.",
    ),
    (
        "labels",
        "Of every text: casing, previous token, position in the block. Of Python source: kind of token, open brackets, "
        "indentation, last keyword. See the documentation.",
    ),
    (
        "selectivity",
        "Accuracy minus that of a probe on random labels, one for each token of the vocabulary (Hewitt and Liang 2019, "
        "arXiv:1909.03368).",
    ),
    ("gain", "Accuracy at the output of a layer minus that at its input."),
    (
        "code length",
        "Bits per token to send the labels to someone who knows the states (online code of Voita and Titov 2020, "
        "arXiv:2003.12298).",
    ),
]
"""Terms, and how they are measured."""
