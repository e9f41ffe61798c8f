"""Status lines that several commands print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pli_train.core.cli.console import Bar, say, timed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pli_analysis.report.parts import Report
    from pli_analysis.runs.run import Run

FOLLOWED = "checkpoints matched layer by layer"


def open_run(
    paths: list[Path],
    verify: bool = False,
    lineage: Path | None = None,
    stack: str | None = None,
    name: str | None = None,
) -> Run:
    """Open a run or a folder of checkpoints; print what is skipped, and what is only inferred.

    Args:
        paths, verify, lineage, stack: as for `pli_analysis.open_run`.
        name: name of the run at the start of each line, if there are several.
    """
    from pli_analysis.runs import opening

    found = opening.open_run(paths, verify, lineage, Bar(FOLLOWED), stack)
    complain(links_at(paths))
    notes = found.notes  # read first: if no checkpoint can be used, this raises an error that names them all
    prefix = f"{name}: " if name else ""
    complain([prefix + line for line in found.damaged])
    say(*(prefix + line for line in notes))
    return found


def links_at(paths: list[Path]) -> list[str]:
    """Return a line for each link that is skipped in a folder of runs."""
    from pli_analysis.runs.paths import links

    return links(paths[0]) if len(paths) == 1 else []


def complain(lines: list[str]) -> None:
    """Print what is skipped."""
    say(*(f"passed over: {line}" for line in lines))


def write_page(path: Path | None, report: Callable[[], Report]) -> None:
    """Write an HTML page and print its path, if a path is given."""
    if path is None:
        return
    from pli_analysis.report import page

    with timed(f"page {path}"):
        page.write(report(), path)
    say(str(path))
