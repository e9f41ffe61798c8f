"""Data classes of a report (figure, excerpt, section), and functions that write numbers in sentences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pli_analysis import columns as col

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


ROUNDING = 1e-6
"""Relative difference up to which two numbers are reported as equal.

Weights and losses are float32, with a relative rounding error of 6e-8, which adds up over the layers of a model.
"""


@dataclass(frozen=True)
class Figure:
    """A figure: id, title, caption with its finding, drawing, and the table with its data.

    `captions` maps view → caption, for drawings whose views have different findings; `caption` is that of the first.
    """

    id: str
    title: str
    caption: str
    drawing: go.Figure
    table: pd.DataFrame
    captions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HeadView:
    """A view of single heads that the script `head_view.js` draws from its data, which are JSON."""

    title: str
    caption: str
    data: dict[str, Any]


@dataclass(frozen=True)
class KeyFigure:
    """A number at the top of the page.

    Attributes:
        label: what it is.
        values: value, and what it is based on; one for each group of runs.
    """

    label: str
    values: list[tuple[str, str]]


class Excerpt(NamedTuple):
    """A token in its text.

    Attributes:
        label: what is measured at the token.
        before, token, after: the text.
    """

    label: str
    before: str
    token: str
    after: str


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        id, title: id in the page, and heading.
        words: paragraphs.
        points: name and description, for a list of several things, such as growth events.
        facts: label and value.
        figures, tables: in order; a table has a title.
        view: a view of single heads, above the figures.
        excerpts: titles, each with excerpts of the text in which one token is marked.
        headline: the finding in a sentence or two, for the summary; empty if there is none.
        method: how it was measured: a term, and its formula, paper or caveat.
        findings: in a summary, id, title and headline of the other sections.
        key_figures: its numbers for the top of the page.
    """

    id: str
    title: str
    words: list[str] = field(default_factory=list)
    points: list[tuple[str, str]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    view: HeadView | None = None
    figures: list[Figure] = field(default_factory=list)
    tables: list[tuple[str, pd.DataFrame]] = field(default_factory=list)
    excerpts: list[tuple[str, list[Excerpt]]] = field(default_factory=list)
    headline: str = ""
    method: list[tuple[str, str]] = field(default_factory=list)
    findings: list[tuple[str, str, str]] = field(default_factory=list)
    key_figures: list[KeyFigure] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """A report about one run or several.

    Attributes:
        title, lead: what it is about, as a name and in a sentence.
        sections: in order.
        verdict: the result in a sentence of plain words; empty if there is none.
        key_figures: the numbers of the result, in order.
        hero: the figure above all sections, if any.
    """

    title: str
    lead: str
    sections: list[Section]
    verdict: str = ""
    key_figures: list[KeyFigure] = field(default_factory=list)
    hero: Figure | None = None

    @property
    def figures(self) -> list[Figure]:
        """All figures, in order."""
        return [*([self.hero] if self.hero else []), *(each for section in self.sections for each in section.figures)]


def of_checkpoint(table: pd.DataFrame, lead: str, section: Section) -> Report:
    """Return the report of a table of one checkpoint.

    Args:
        table: one checkpoint, with the columns `run` and `step`.
        lead: the finding, in a sentence or two.
        section: made of the table.
    """
    return Report(f"{table[col.RUN].iloc[0]}, step {table[col.STEP].iloc[0]:,}", lead, [section])


def found_by(sections: Iterable[Section]) -> list[tuple[str, str, str]]:
    """Return id, title and headline of the sections with a headline, for the summary."""
    return [(section.id, section.title, section.headline) for section in sections if section.headline]


def sample(*counts: str, runs: int = 1) -> str:
    """Return the last sentence of a caption: the counts that the figure is based on.

    >>> from pli_train.core.errors import counted
    >>> sample(counted(3, "layer"), counted(35, "checkpoint"))
    'One run, 3 layers, 35 checkpoints.'
    """
    return f"{', '.join(['One run' if runs == 1 else f'{runs} runs', *counts])}."


def equal(first: float, second: float) -> bool:
    """Return whether two numbers differ by no more than rounding; NaN counts as equal to any number.

    >>> equal(1.0, 1.0 + 1e-12), equal(1.0, 2.0), equal(float("nan"), float("nan"))
    (True, False, True)
    """
    return not abs(first - second) > ROUNDING * max(abs(first), abs(second))


def distinct_digits(first: float, second: float, digits: int = 2) -> tuple[str, str]:
    """Format two numbers with `digits` decimals, or with as many as show which one is larger.

    >>> distinct_digits(0.25, 0.5), distinct_digits(0.99981, 0.99979), distinct_digits(1.0, 1.0)
    (('0.25', '0.50'), ('0.99981', '0.99979'), ('1.00', '1.00'))
    """
    while not equal(first, second) and f"{first:.{digits}f}" == f"{second:.{digits}f}":
        digits += 1
    return f"{first:.{digits}f}", f"{second:.{digits}f}"


def span(low: float, high: float, digits: int = 2) -> str:
    """Format a range, or one number if both ends are equal.

    >>> span(0.1, 0.3), span(0.1, 0.1)
    ('0.10 to 0.30', '0.10')
    """
    return f"{low:.{digits}f}" if equal(low, high) else " to ".join(distinct_digits(low, high, digits))


def signed(value: float, digits: int = 3) -> str:
    """Format a difference with its sign and `digits` decimals, or with one significant digit if it would round to 0.

    >>> signed(0.0461), signed(-0.00004), signed(-0.00004, 5), signed(0.0)
    ('+0.046', '-4e-05', '-0.00004', '+0.000')
    """
    return f"{value:+.{digits}f}" if abs(value) >= 0.5 * 10**-digits or value == 0 else f"{value:+.1g}"


def sentences(notes: Iterable[str]) -> list[str]:
    """Turn one-line notes into sentences: capital letter first, full stop last."""
    return [f"{note[0].upper()}{note[1:]}." for note in notes]
