"""`pli-analyze report`: all of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import Told, Verify, alone
from pli_analysis.commands.telling import complain, open_run, say
from pli_train.errors import BadInput, did_you_mean

BESIDE_THE_RUN = "report.html in the run's folder"
ReportCommand = alone("--html", BESIDE_THE_RUN, lambda word: word is not None and not word.startswith("-"))
"""Alone, `--html` puts the page beside the run."""


def report(
    run: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]", help="As for drift; the newest run if left out.")
    ] = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="[PATH]", help=f"Write a page; alone: {BESIDE_THE_RUN}.")
    ] = None,
    maps: Annotated[
        str | None, typer.Option(metavar="METHODS", help="Ways to draw the map, beside PCA: tsne,umap.")
    ] = None,
    told: Told = None,
    verify: Verify = False,
) -> None:
    """Tell what a run did: in the terminal, or as one HTML page that opens offline.

    Example: pli-analyze report runs/tiny --html
    """
    from pli_analysis.report import content
    from pli_analysis.report.embed import paths
    from pli_analysis.run import Run

    if not run and html is not None and Path(html).is_dir():
        run, html = [Path(html)], BESIDE_THE_RUN  # `report --html RUN` can only mean the run
    methods = _methods(maps, html)
    opened = open_run(run or [Run.newest().path], verify, told)
    complain(opened.scalars.damaged)
    if html is None:
        from pli_analysis.report import terminal

        terminal.show(content.tell(opened, partial(paths, maps=())))  # no drawings: one method is enough
        return
    from pli_analysis.report import page

    path = opened.path / "report.html" if html == BESIDE_THE_RUN else Path(html)
    page.write(content.tell(opened, partial(paths, maps=methods, say=say)), path)
    print(path)


def _methods(maps: str | None, html: str | None) -> list[str] | None:
    """What `--maps` asks for. Raises BadInput for words that are no methods, or where no map is drawn."""
    from pli_analysis.metrics.projections import METHODS

    if maps is None:
        return None
    if html is None:
        raise BadInput("--maps is how a page draws the map: use it with --html")
    asked = [word.strip() for word in maps.split(",")]
    for word in asked:
        if word not in METHODS:
            raise BadInput(f"--maps {maps}: {word} is none of {', '.join(METHODS)}{did_you_mean(word, METHODS)}")
    return asked
