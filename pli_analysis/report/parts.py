"""What reports are made of, whoever tells them: a report of sections, a section of words, facts, figures and tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


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
    """A part of the report. `facts` are label and value; `words` are paragraphs."""

    id: str
    title: str
    words: list[str] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[tuple[str, pd.DataFrame]] = field(default_factory=list)


@dataclass(frozen=True)
class Report:
    """Everything there is to tell about one run."""

    title: str
    lead: str
    sections: list[Section]


def count(number: int, noun: str) -> str:
    """A number of things in words: 1 layer, 2 layers."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def sentences(notes: Iterable[str]) -> list[str]:
    """Notes of a line each, as a page tells them: a capital first, a full stop last."""
    return [f"{note[0].upper()}{note[1:]}." for note in notes]
