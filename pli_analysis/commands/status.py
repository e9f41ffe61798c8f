"""Status lines that several commands print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core.cli.console import Bar, say, timed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pli_analysis.report.parts import Report
    from pli_analysis.runs.run import Run

FOLLOWED = "checkpoints that layers are followed through"


def open_run(
    paths: list[Path],
    verify: bool = False,
    lineage: Path | None = None,
    stack: str | None = None,
    name: str | None = None,
) -> Run:
    """Open a run or whatever holds checkpoints; say what is not used of it, and what is only inferred.

    Args:
        paths, verify, lineage, stack: as for `pli_analysis.open_run`.
        name: of the run, to begin each line with, where there are several.
    """
    from pli_analysis.runs import opening

    found = opening.open_run(paths, verify, lineage, Bar(FOLLOWED), stack)
    complain(links_at(paths))
    notes = found.notes  # of others' checkpoints none is usable, or some are: the error tells of each, or the lines do
    prefix = f"{name}: " if name else ""
    complain([prefix + line for line in found.damaged])
    say(*(prefix + line for line in notes))
    return found


def links_at(paths: list[Path]) -> list[str]:
    """A line for each link that is passed over in a folder of runs."""
    from pli_analysis.runs.paths import links

    return links(paths[0]) if len(paths) == 1 else []


def complain(lines: list[str]) -> None:
    """Say what is passed over."""
    say(*(f"passed over: {line}" for line in lines))


def write_page(path: Path | None, report: Callable[[], Report]) -> None:
    """Write a page, if one was asked for, and say where."""
    if path is None:
        return
    from pli_analysis.report import page

    with timed(f"page {path}"):
        page.write(report(), path)
    say(str(path))
