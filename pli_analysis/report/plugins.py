"""Metrics of other packages: measure a run, and make the section of the report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pli_analysis.figures.markup import escaped
from pli_analysis.report.parts import Figure, Section
from pli_train.core import plugins
from pli_train.core.errors import BadInput, PliError, counted, did_you_mean
from pli_train.core.plugins import Plugin

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from pli_analysis.runs.run import Run

COMMANDS = """ls lineage drift scalars grad-norms gradnorms embed similarity ablation pruning lens probe attribution
conductance attention neurons influence explain disturbance compare sweep report figures watch doctor"""
SECTIONS = "summary loss map provenance"
TAKEN = frozenset(f"{COMMANDS} {SECTIONS}".split())
"""Names that a metric of another package cannot have: those of commands and of sections of the report."""


@dataclass(frozen=True)
class Metric:
    """A metric that a package adds to `pli-analyze`, in the group `pli_analysis.metrics` of its entry points.

    Attributes:
        measure: function of a run (`pli_analysis.runs.run.Run`) that returns a table, with one observation per row. If
            the run cannot be measured, it raises `BadInput` with one line.
        title: title of its section in the report.
        figure: function of the table that returns a plotly figure of traces with x and y axes. Text of the table has
            `<`, `>` and `&` escaped there, because plotly reads it as markup. None: the section shows the table.
        finding: function of the table that returns the result in a sentence or two; None for no such sentence.
        method: terms, and how they are measured.
    """

    measure: Callable[[Run], pd.DataFrame]
    title: str
    figure: Callable[[pd.DataFrame], go.Figure] | None = None
    finding: Callable[[pd.DataFrame], str] | None = None
    method: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Measured:
    """The result of a metric.

    Attributes:
        table: the table.
        finding: the result in a sentence or two; may be empty.
        section: makes the section of the report, of all rows or of some.
    """

    table: pd.DataFrame
    finding: str
    section: Callable[[pd.DataFrame], Section]


def installed() -> dict[str, Plugin]:
    """Return name → metric of another package, without importing the packages."""
    return plugins.found(plugins.METRICS, TAKEN)


def named(name: str) -> Plugin:
    """Return the metric of this name. Raises BadInput if no installed package has one."""
    there = installed()
    if name not in there:
        known = f"; installed: {', '.join(there)}" if there else ""
        raise BadInput(f"no installed package has a metric '{name}'{did_you_mean(name, there)}{known}")
    return there[name]


def measure(plugin: Plugin, run: Run) -> Measured:
    """Measure a run.

    Raises:
        BadInput: if the metric says that the run cannot be measured.
        PliError: in one line that names the package, if the metric cannot be imported, fails, or returns no table.
    """
    metric: Metric = plugin.load(Metric)
    with plugin.calling():
        table = metric.measure(run)
    _require_table(plugin, table)
    finding = ""
    if metric.finding is not None and len(table):
        with plugin.calling():
            finding = str(metric.finding(table))
    return Measured(table, finding, partial(_section, plugin, metric, finding))


def sections() -> dict[str, Callable[[Run], Section]]:
    """Return id → function that measures a run with a metric of another package and makes its section."""
    return {name: partial(_build, plugin) for name, plugin in installed().items()}


def _build(plugin: Plugin, run: Run) -> Section:
    """Return a section; if the run cannot be measured, or the metric is broken, the section says why."""
    title = plugin.name.replace("-", " ").capitalize()
    try:
        title = plugin.load(Metric).title
        measured = measure(plugin, run)
        return measured.section(measured.table)
    except PliError as error:
        if not isinstance(error, BadInput):
            plugins.warn(str(error))
        return Section(plugin.name, title, words=[f"Not measured: {error}"])


def _section(plugin: Plugin, metric: Metric, finding: str, table: pd.DataFrame) -> Section:
    source = ("source", f"the {plugin}")
    caption = finding or f"{counted(len(table), 'row')}, from the {plugin}."
    section = partial(Section, plugin.name, metric.title, headline=finding, method=[*metric.method, source])
    if not len(table):
        return section(words=["The table has no rows."])
    if metric.figure is None:
        return section(words=[finding] if finding else [], tables=[(metric.title, table)])
    with plugin.calling():
        drawing = metric.figure(_escaped(table))
    _require_figure(plugin, drawing)
    return section(figures=[Figure(plugin.name, metric.title, caption, drawing, table)])


def _escaped(table: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its texts escaped for plotly."""
    texts = [name for name in table.columns if table[name].dtype.kind not in "iufbcmM"]
    return table.assign(**{name: table[name].map(lambda x: escaped(x) if isinstance(x, str) else x) for name in texts})


def _require_table(plugin: Plugin, table: Any) -> None:
    """Raise PliError if this is not a table with distinct names of columns."""
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise PliError(f"{plugin}: returned a {type(table).__name__}, expected a pandas DataFrame")
    names = list(table.columns)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise PliError(f"{plugin}: the columns of its table are {names}, expected distinct texts")


def _require_figure(plugin: Plugin, drawing: Any) -> None:
    import plotly.graph_objects as go

    if not isinstance(drawing, go.Figure):
        raise PliError(f"{plugin}: its figure is a {type(drawing).__name__}, expected a plotly Figure")
