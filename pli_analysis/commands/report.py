"""`pli-analyze report`: all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import Told, Verify, alone
from pli_analysis.commands.telling import complain, open_run
from pli_train.telling import Bar, timed

BESIDE_THE_RUN = "report.html in the run's folder"
ReportCommand = alone("--html", BESIDE_THE_RUN, lambda word: word is not None and not word.startswith("-"))
"""Alone, `--html` puts the page beside the run."""


def report(
    run: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN...]", help="As for drift; the newest run under runs/ if left out."),
    ] = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="[FILE]", help=f"Write a page; alone: {BESIDE_THE_RUN}.")
    ] = None,
    told: Told = None,
    verify: Verify = False,
) -> None:
    """All of it: in the terminal, or as one page that opens offline.

    Example: pli-analyze report runs/tiny --html
    """
    from pli_analysis.report import content
    from pli_analysis.run import Run

    if not run and html is not None and Path(html).is_dir():
        run, html = [Path(html)], BESIDE_THE_RUN  # `report --html RUN` can only mean the run
    opened = open_run(run or [Run.newest().path], verify, told)
    complain(opened.scalars.damaged)
    written = content.tell(opened, Bar("sections"))
    if html is None:
        from pli_analysis.report import terminal

        terminal.show(written)
        return
    from pli_analysis.report import page

    path = opened.path / "report.html" if html == BESIDE_THE_RUN else Path(html)
    with timed(f"page {path}"):
        page.write(written, path)
    print(path)
