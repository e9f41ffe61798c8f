"""`pli-analyze report`: all of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pli_analysis.commands.options import Told, Verify, alone
from pli_analysis.commands.telling import complain, open_run, say
from pli_train.errors import BadInput, did_you_mean
from pli_train.telling import Bar, timed

if TYPE_CHECKING:
    from pli_analysis.report.parts import Report

BESIDE_THE_RUN = "report.html in the run's folder"
ReportCommand = alone("--html", BESIDE_THE_RUN, lambda word: word is not None and not word.startswith("-"))
"""Alone, `--html` puts the page beside the run."""


def report(
    run: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN...]", help="As for drift, or several runs; the newest under runs/ if left out."),
    ] = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="[FILE]", help=f"Write a page; alone: {BESIDE_THE_RUN}.")
    ] = None,
    maps: Annotated[
        str | None, typer.Option(metavar="METHODS", help="Ways to draw the map, beside PCA: tsne,umap.")
    ] = None,
    told: Told = None,
    verify: Verify = False,
) -> None:
    """All of it: in the terminal, or as one page that opens offline.

    Of a run, or of several side by side. GROUP=RUN in place of a run makes it a seed of that group.

    Example: pli-analyze report runs/tiny --html
    """
    from pli_analysis.run import Run

    if not run and html is not None and Path(html).is_dir():
        run, html = [html], BESIDE_THE_RUN  # `report --html RUN` can only mean the run
    methods = _methods(maps, html) if html is not None or maps is not None else []  # without drawings one is enough
    asked = run or [str(Run.newest().path)]
    folder, written = _beside(asked, verify) or _alone([Path(one) for one in asked], verify, told, methods)
    if html is None:
        from pli_analysis.report import terminal

        terminal.show(written)
        return
    from pli_analysis.report import page

    path = folder / "report.html" if html == BESIDE_THE_RUN else Path(html)
    with timed(f"page {path}"):
        page.write(written, path)
    print(path)


def _alone(paths: list[Path], verify: bool, told: Path | None, maps: list[str] | None) -> tuple[Path, Report]:
    """The report of a run, or of what else holds checkpoints, and the folder to keep it in."""
    from pli_analysis.report import content, embed

    opened = open_run(paths, verify, told)
    complain(opened.scalars.damaged)
    return opened.path, content.tell(opened, partial(embed.paths, maps=maps, say=say), Bar("sections"))


def _beside(asked: list[str], verify: bool) -> tuple[Path, Report] | None:
    """The report of several runs, and the folder to keep it in; None where what was asked for is not several runs."""
    from pli_analysis.metrics import compare
    from pli_analysis.report import several
    from pli_train import run_folder

    paths = {one: compare.grouped(one)[1] for one in asked}
    if len(asked) < 2 or not all((path / run_folder.RUN).is_file() for path in paths.values()):
        return None
    curves = compare.read(asked)
    compare.require(curves, "step")
    opened = {curve.name: open_run([path], verify) for curve, path in zip(curves, paths.values(), strict=True)}
    for curve in curves:
        complain(curve.damaged)
    return next(iter(opened.values())).path.resolve().parent, several.tell(opened, curves, Bar("runs"))


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
