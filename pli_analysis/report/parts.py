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
    """A figure: an id, a title, a caption that states its finding, the drawing, and the table behind it."""

    id: str
    title: str
    caption: str
    drawing: go.Figure
    table: pd.DataFrame


@dataclass(frozen=True)
class Section:
    """A part of the report.

    Attributes:
        id, title: its own.
        words: paragraphs.
        facts: label and value.
        figures, tables: in order; a table has a title.
        headline: its finding in a sentence or two, for the summary; empty where there is none.
        method: how it was measured: a term, and its formula, paper or caveat in words.
        findings: of a summary: id, title and headline of the sections that have one.
    """

    id: str
    title: str
    words: list[str] = field(default_factory=list)
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
    return f"{number} {noun}" + ("" if number == 1 else "s")


def sentences(notes: Iterable[str]) -> list[str]:
    """Notes of a line each, as a page tells them: a capital first, a full stop last."""
    return [f"{note[0].upper()}{note[1:]}." for note in notes]
