"""Report section: neurons."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis import columns as col
from pli_analysis.figures import neurons as figures
from pli_analysis.metrics.neurons.neurons import OVERLAP, by_layer, of_units, strongest
from pli_analysis.report.parts import Excerpt, Figure, Section, sample
from pli_train.core.errors import counted

if TYPE_CHECKING:
    import pandas as pd

LISTED = 3
"""Number of units of each layer whose contexts are shown, if none are given."""


def verdict(table: pd.DataFrame) -> str:
    """Describe in a few sentences how much copied units differ from their donors, and which unit is most active where.

    Args:
        table: result of `pli_analysis.metrics.neurons.neurons.neurons`.
    """
    units = of_units(table[table[col.LAYER].isin(_described(table))])
    most = units.loc[units[col.ACTIVATION].idxmax()]
    words = f"Unit {most[col.UNIT]} has the largest activation: {most[col.ACTIVATION]:.3g}, at {most[col.TOKEN]!r}."
    copies = units[units[col.DONOR_CORRELATION].notna()]
    return f"{_of_copies(copies)} {words}" if len(copies) else f"{_of_activity(of_units(table))} {words}"


def _described(table: pd.DataFrame) -> list[str]:
    """Return the inserted layers of the table; all of its layers if none was inserted."""
    inserted = table[table[col.IS_INSERTED]]
    return [str(layer) for layer in (inserted if len(inserted) else table)[col.LAYER].unique()]


def _of_copies(copies: pd.DataFrame) -> str:
    """Describe how much copied units agree with the units that they were copied from."""
    words = (
        f"{counted(len(copies), 'copied unit')}: the median correlation with the unit that each was copied from is "
        f"{copies[col.DONOR_CORRELATION].median():.2f} (with another unit of that layer: "
        f"{copies[col.CONTROL_CORRELATION].median():.2f}), and the mean overlap of top contexts is "
        f"{copies[col.DONOR_OVERLAP].mean():.0%}."
    )
    medians = copies.groupby(col.LAYER, sort=False)[col.DONOR_CORRELATION].median().sort_values()
    if len(medians) < 2:
        return words
    return (
        f"{words} Layer {medians.index[-1]} is closest to its donor ({medians.iloc[-1]:.2f}), layer "
        f"{medians.index[0]} least ({medians.iloc[0]:.2f})."
    )


def _of_activity(units: pd.DataFrame) -> str:
    """Describe the share of tokens at which the median unit is active, by whether its layer was inserted."""
    medians = units.groupby(col.IS_INSERTED)[col.ACTIVE_SHARE].median()
    if len(medians) < 2:
        return f"The median unit is active at {medians.iloc[0]:.0%} of the tokens."
    return (
        f"The median unit of inserted layers is active at {medians[True]:.0%} of the tokens, that of initial layers at "
        f"{medians[False]:.0%}."
    )


def section(table: pd.DataFrame, contexts: pd.DataFrame | None = None) -> Section:
    """Build the section: agreement of copied units with their donors, activity, contexts, and the methods.

    Args:
        table: result of `pli_analysis.metrics.neurons.neurons.neurons`.
        contexts: its rows that are shown as contexts; None for the most active units of inserted layers.
    """
    finding, layers = verdict(table), by_layer(table)
    tokens, blocks = (int(table[name].iloc[0]) for name in (col.MEASURED_TOKENS, col.BLOCKS))
    units = counted(len(of_units(table)), "unit")
    counts = sample(units, counted(tokens, "token"), counted(blocks, "block"))
    bars = "Points are medians over units; bars span the middle half of them."
    shaded = "Inserted layers are shaded. " if table[col.IS_INSERTED].any() else ""
    shown, words = [], finding
    if layers[col.MEASURE].isin(figures.AGREEMENT).any():
        title, drawing = "Copied units and their donors", figures.agreement(layers)
        shown.append(Figure("unit-donors", title, f"{finding} {bars} {counts}", drawing, layers))
        words = _of_activity(of_units(table))
    title, drawing = "Share of tokens at which units are active", figures.activity(layers)
    shown.append(Figure("unit-activity", title, f"{words} {bars} {shaded}{counts}", drawing, layers))
    listed = strongest(table, _described(table), LISTED) if contexts is None else contexts
    return Section(
        "neurons",
        "Neurons",
        figures=shown,
        excerpts=excerpts_of(listed),
        headline=finding,
        method=METHOD,
    )


def excerpts_of(contexts: pd.DataFrame) -> list[tuple[str, list[Excerpt]]]:
    """Return the contexts of each unit, with its statistics as title.

    Args:
        contexts: rows of the result of `pli_analysis.metrics.neurons.neurons.neurons`.
    """
    return [
        (
            _title(rows.iloc[0]),
            [
                Excerpt(f"{row[col.ACTIVATION]:.3g}", row[col.TEXT_BEFORE], row[col.TOKEN], row[col.TEXT_AFTER])
                for _, row in rows.iterrows()
            ],
        )
        for _, rows in contexts.groupby(col.UNIT, sort=False)
    ]


def _title(unit: pd.Series) -> str:
    """Return the id and the statistics of a unit in words."""
    words = f"{unit[col.UNIT]}: active at {unit[col.ACTIVE_SHARE]:.1%} of the tokens"
    if not unit[col.DONOR]:
        return words
    return f"{words}, correlation {unit[col.DONOR_CORRELATION]:.2f} with {unit[col.DONOR]}"


METHOD = [
    (
        "activation",
        "What the output projection of the FFN reads from the unit: after the nonlinearity and, in a gated FFN, after "
        "the product with the gate. All numbers are over all tokens of the sampled blocks.",
    ),
    ("active", "A unit is active at a token if its activation is above 0."),
    (
        "contexts",
        "The tokens at which a unit is most active, in their text. The token is marked; ↵ is a line break, ⇥ a tab.",
    ),
    (
        "agreement",
        "Pearson correlation over tokens, and the Jaccard index of the tokens at which the two units are most active "
        f"({OVERLAP} each). A copied layer reads other inputs than its donor, so even exact copies differ, unless the "
        "layers between them write nothing.",
    ),
    (
        "another unit",
        "The unit of the donor layer that the next unit was copied from: what units of the two layers have in common "
        "without being copies of each other.",
    ),
]
"""Terms, and how they are measured."""
