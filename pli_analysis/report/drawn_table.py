"""A table with the figure that the report draws of it: `table.plot()`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

import pandas as pd

from pli_analysis import columns as col
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from pli_analysis.metrics.comparison.compare import Comparison
    from pli_analysis.metrics.disturbance.disturbance import Disturbance
    from pli_analysis.metrics.maps.embedding import Map
    from pli_analysis.report.parts import Section

Draw = Callable[["Table"], "go.Figure"]


class Table(pd.DataFrame):
    """A pandas data frame whose `plot()` draws the figure of its metric.

    What pandas makes of it (`query`, `sort_values`, …) is such a table too: a part of the rows is drawn alone. For
    pandas' own plots, use `pd.DataFrame(table).plot`.
    """

    _metadata = ["_draw"]  # noqa: RUF012 — the name and the type are pandas'
    _draw: Draw | None = None

    @property
    def _constructor(self) -> type[Table]:
        return Table

    def plot(self) -> go.Figure:  # pandas' plots are drawn by matplotlib
        """Return the figure as plotly's `Figure`, which notebooks show.

        Raises:
            BadInput: if the table has no figure, or nothing to draw.
        """
        if self._draw is None:
            raise BadInput("this table has no figure of its own: use pandas or plotly to draw it")
        if not len(self):
            raise BadInput("the table is empty: there is nothing to draw")
        return self._draw(self)


def drawn(table: pd.DataFrame, draw: Draw | None = None) -> Table:
    """Return a table with its figure."""
    result = Table(table)
    result._draw = draw
    return result


def by_section(module: str) -> Draw:
    """Draw the first figure of a report section.

    Args:
        module: name of a module of `pli_analysis.report` whose function `section` makes a section of a table.
    """
    return partial(_of_section, module)


def _of_section(module: str, table: Table) -> go.Figure:
    return first_figure(import_module(f"pli_analysis.report.{module}").section, table)


def first_figure(section: Callable[[pd.DataFrame], Section], table: Table) -> go.Figure:
    """Draw the first figure of the section that a function makes of a table."""
    return _first(section(pd.DataFrame(table)))


def _first(section: Section) -> go.Figure:
    if not section.figures:
        raise BadInput(f"there is nothing to draw: {' '.join(section.words) or section.title}")
    return section.figures[0].drawing


def drift(table: Table) -> go.Figure:
    """Draw the drift of each layer over steps, or a heat map for parts of another type."""
    from pli_analysis.figures import drift as figures

    return figures.curves(table) if (table[col.PART_TYPE] == "layer").all() else figures.heat_map(table)


def grad_norms(events: dict[int, str], table: Table) -> go.Figure:
    """Draw the norm of each head and FFN over time, with the events: step → label."""
    from pli_analysis.figures import grad_norms as figures

    shown = table[table[col.PART_TYPE].isin(figures.LEVELS)]
    if not len(shown):
        raise BadInput(f"there is nothing to draw: the figure shows {' and '.join(figures.LEVELS)}")
    return figures.heat_map(shown, events)


def similarity(over_time: bool, table: Table) -> go.Figure:
    """Draw the debiased CKA of pairs of layers, or of each layer with its birth over time."""
    from pli_analysis.figures import similarity as figures

    return (figures.curves if over_time else figures.heat_map)(table)


def stack(locations: pd.DataFrame, table: Table) -> go.Figure:
    """Draw the stack over time, given the locations of `pli_analysis.metrics.lineage`."""
    from pli_analysis.figures import lineage as figures

    return figures.figure(table, locations[locations[col.LAYER].isin(table[col.LAYER])])


def embed(found: Map, of: str, space: str, table: Table) -> go.Figure:
    """Draw a map."""
    from pli_analysis.report import embed as report

    return _first(report.of_map("", replace(found, table=pd.DataFrame(table)), of, space).sections[0])


def disturbance(found: Disturbance, table: Table) -> go.Figure:
    """Draw the scores of layers, or the excess loss after each event."""
    from pli_analysis.report import disturbance as report

    if col.LAYER in table:
        from pli_analysis.figures import disturbance as figures

        if table[col.SCORE].isna().all():
            raise BadInput("there is nothing to draw: no layer has a score")
        return figures.heat_map(table)
    curves = {step: curve for step, curve in found.curves.items() if step in set(table[col.STEP])}
    return _first(report.section(replace(found, events=pd.DataFrame(table), layers=found.layers[:0], curves=curves)))


def comparison(found: Comparison, table: Table) -> go.Figure:
    """Draw the losses of all runs of a comparison."""
    from pli_analysis.report import compare as report

    return report.losses({found.unit: found}).drawing
