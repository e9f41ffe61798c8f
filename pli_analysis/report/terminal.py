"""Print a report in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pli_analysis.tables import Format, render

if TYPE_CHECKING:
    from pli_analysis.report.parts import Report, Section

ROWS = 24
"""Maximum number of rows of a table; commands such as `pli-analyze drift` print all rows."""


def show(report: Report) -> None:
    """Print a report to stdout."""
    print(f"{report.title}: {report.lead}")
    if report.verdict:
        print(f"\n{report.verdict}\n")
    for figure in report.key_figures:
        for value, note in figure.values:
            print(f"  {figure.label}: {value} ({note})")
    for section in report.sections:
        print(f"\n{section.title.upper()}\n")
        _section(section)


def _section(section: Section) -> None:
    width = max((len(label) for label, _ in section.facts), default=0)
    for label, value in section.facts:
        print(f"  {label:<{width}}  {value}")
    if section.findings:
        print()
    for _, title, headline in section.findings:
        print(f"  {title}: {headline}")
    for label, finding in section.points:
        print(f"  {label} {finding}")
    for line in section.words:
        print(f"  {line}")
    for figure in section.figures:
        print(f"  {figure.title}. {figure.caption}")
    for title, excerpts in section.excerpts:
        print(f"\n  {title}")
        for excerpt in excerpts:
            print(f"    {excerpt.label:<8} {excerpt.before}[{excerpt.token}]{excerpt.after}")
    for title, table in section.tables:
        print(f"\n  {title}\n")
        print(render(table.head(ROWS), Format.TABLE), end="")
        if len(table) > ROWS:
            print(f"  … {len(table) - ROWS} more rows")
