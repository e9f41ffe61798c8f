"""What reports are made of, whoever tells them: a report of sections, a section of words, facts, figures and tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


ROUNDING = 1e-6
"""Two numbers that differ by no more than this share of them are told as equal.

Weights and losses are float32, whose rounding is 6e-8 of a number; over the layers of a model it adds up to about this.
"""


@dataclass(frozen=True)
class Figure:
    """A figure: an id, a title, a caption that states its finding, the drawing, and the table behind it.

    `captions` are view → caption, for drawings of several views that differ in what they find; `caption` is the first.
    """

    id: str
    title: str
    caption: str
    drawing: go.Figure
    table: pd.DataFrame
    captions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        id, title: its own.
        words: paragraphs.
        points: what each of several things did: its name, and a sentence or two that go on from it.
        facts: label and value.
        figures, tables: in order; a table has a title.
        headline: its finding in a sentence or two, for the summary; empty where there is none.
        method: how it was measured: a term, and its formula, paper or caveat in words.
        findings: of a summary: id, title and headline of the sections that have one.
    """

    id: str
    title: str
    words: list[str] = field(default_factory=list)
    points: list[tuple[str, str]] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[tuple[str, pd.DataFrame]] = field(default_factory=list)
    headline: str = ""
    method: list[tuple[str, str]] = field(default_factory=list)
    findings: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """Everything there is to tell about a run, or about several."""

    title: str
    lead: str
    sections: list[Section]


def found_by(sections: Iterable[Section]) -> list[tuple[str, str, str]]:
    """What a summary lists: id, title and headline of the sections that have one."""
    return [(section.id, section.title, section.headline) for section in sections if section.headline]


def count(number: int, noun: str) -> str:
    """A number of things in words: 1 layer, 2 layers."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def sample(*counts: str, runs: int = 1) -> str:
    """What the numbers of a figure come from, as its caption ends.

    >>> sample(count(3, "layer"), count(35, "checkpoint"))
    'One run, 3 layers, 35 checkpoints.'
    """
    return f"{', '.join(['One run' if runs == 1 else f'{runs} runs', *counts])}."


def equal(first: float, second: float) -> bool:
    """Whether two numbers differ by no more than rounding, or neither is less than the other, as none is than NaN.

    >>> equal(1.0, 1.0 + 1e-12), equal(1.0, 2.0), equal(float("nan"), float("nan"))
    (True, False, True)
    """
    return not abs(first - second) > ROUNDING * max(abs(first), abs(second))


def apart(first: float, second: float, digits: int = 2) -> tuple[str, str]:
    """Two numbers with that many digits after the point, or as many as it takes to see which is larger.

    >>> apart(0.25, 0.5), apart(0.99981, 0.99979), apart(1.0, 1.0)
    (('0.25', '0.50'), ('0.99981', '0.99979'), ('1.00', '1.00'))
    """
    while not equal(first, second) and f"{first:.{digits}f}" == f"{second:.{digits}f}":
        digits += 1
    return f"{first:.{digits}f}", f"{second:.{digits}f}"


def span(low: float, high: float, digits: int = 2) -> str:
    """A range in words, one number where its ends are equal.

    >>> span(0.1, 0.3), span(0.1, 0.1)
    ('0.10 to 0.30', '0.10')
    """
    return f"{low:.{digits}f}" if equal(low, high) else " to ".join(apart(low, high, digits))


def signed(value: float, digits: int = 3) -> str:
    """A difference to that many digits after the point, or to its first digit where those would be none.

    >>> signed(0.0461), signed(-0.00004), signed(-0.00004, 5), signed(0.0)
    ('+0.046', '-4e-05', '-0.00004', '+0.000')
    """
    return f"{value:+.{digits}f}" if abs(value) >= 0.5 * 10**-digits or value == 0 else f"{value:+.1g}"


def sentences(notes: Iterable[str]) -> list[str]:
    """Notes of a line each, as a page tells them: a capital first, a full stop last."""
    return [f"{note[0].upper()}{note[1:]}." for note in notes]
