"""`pli-analyze report`: all of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pli_analysis.commands.options import Stack, Told, Verify, alone
from pli_analysis.commands.telling import complain, open_run
from pli_train.errors import BadInput, did_you_mean
from pli_train.telling import Bar, say, timed

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
    stack: Stack = None,
    verify: Verify = False,
) -> None:
    """All of it: in the terminal, or as one page that opens offline.

    Of a run, or of several side by side. GROUP=RUN in place of a run makes it a seed of that group.

    Example: pli-analyze report runs/tiny --html
    """
    from pli_analysis.run import Run

    if not run and html is not None and Path(html).is_dir():
        run, html = [html], BESIDE_THE_RUN  # `report --html RUN` can only mean the run
    methods = _methods(maps, html)
    asked = run or [str(Run.newest().path)]
    if _are_several(asked):
        if option := next((o for o, v in (("--maps", maps), ("--lineage", told), ("--stack", stack)) if v), None):
            raise BadInput(f"{option}: is for a report of one run, and here are {len(asked)}")
        folder, written = _beside(asked, verify)
    else:
        folder, written = _alone([Path(one) for one in asked], verify, told, stack, methods)
    if html is None:
        from pli_analysis.report import terminal

        terminal.show(written)
        return
    from pli_analysis.report import page

    path = folder / "report.html" if html == BESIDE_THE_RUN else Path(html)
    with timed(f"page {path}"):
        page.write(written, path)
    print(path)


def _alone(
    paths: list[Path], verify: bool, told: Path | None, stack: str | None, maps: list[str] | None
) -> tuple[Path, Report]:
    """The report of a run, or of what else holds checkpoints, and the folder to keep it in."""
    from pli_analysis.report import content, embed

    opened = open_run(paths, verify, told, stack)
    complain(opened.scalars.damaged)
    return opened.path, content.tell(opened, partial(embed.paths, maps=maps, say=say), Bar("sections"))


def _are_several(asked: list[str]) -> bool:
    """Whether these are several runs, and not one or the checkpoints of one."""
    from pli_analysis.metrics import curves as curve_metric
    from pli_train import run_folder

    return len(asked) > 1 and all((curve_metric.grouped(one)[1] / run_folder.RUN).is_file() for one in asked)


def _beside(asked: list[str], verify: bool) -> tuple[Path, Report]:
    """The report of several runs, and the folder to keep it in."""
    from pli_analysis.metrics import curves as curve_metric
    from pli_analysis.report import several

    curves = curve_metric.read(asked)
    curve_metric.require(curves, "step")
    paths = [curve_metric.grouped(one)[1] for one in asked]
    opened = {curve.name: open_run([path], verify) for curve, path in zip(curves, paths, strict=True)}
    for curve in curves:
        complain(curve.damaged)
    return paths[0].resolve().parent, several.tell(opened, curves, Bar("runs"))


def _methods(maps: str | None, html: str | None) -> list[str] | None:
    """The methods beside PCA, None for the usual ones. Raises BadInput for other words, or where no map is drawn."""
    from pli_analysis.metrics.projections import METHODS

    if html is None and maps is not None:
        raise BadInput("--maps is how a page draws the map: use it with --html")
    if html is None:
        return []  # without drawings one is enough
    if maps is None:
        return None
    asked = [word.strip() for word in maps.split(",")]
    for word in asked:
        if word not in METHODS:
            raise BadInput(f"--maps {maps}: {word} is none of {', '.join(METHODS)}{did_you_mean(word, METHODS)}")
    return asked
