"""`pli-analyze report`: the full report of a run, or of several."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pli_analysis import columns as col
from pli_analysis.commands.options import LineageFile, Stack, Verify, a_file, alone
from pli_analysis.commands.outputs import inputs_of, require_files
from pli_analysis.commands.status import complain, open_run
from pli_train.core.cli.console import Bar, say, timed
from pli_train.core.errors import BadInput, did_you_mean
from pli_train.core.output import STDOUT

if TYPE_CHECKING:
    from pli_analysis.report.parts import Report

BESIDE_THE_RUN = "report.html in the run's folder"
ReportCommand = alone("--html", BESIDE_THE_RUN, lambda word: word is not None and (word == "-" or word[:1] != "-"))
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
    lineage_file: LineageFile = None,
    stack: Stack = None,
    verify: Verify = False,
) -> None:
    """All of it: in the terminal, or as one page that opens offline.

    Of a run, or of several side by side. GROUP=RUN in place of a run makes it a seed of that group.

    Example: pli-analyze report runs/tiny --html
    """
    from pli_analysis.runs.opening import newest_run

    if not run and html is not None and Path(html).is_dir():
        run, html = [html], BESIDE_THE_RUN  # `report --html RUN` can only mean the run
    path = None if html in (None, BESIDE_THE_RUN) else a_file(str(html))
    methods = _methods(maps, html)
    asked = run or [str(newest_run().path)]
    if path is not None:
        require_files({"--html": path}, inputs_of({"run": asked, "lineage_file": lineage_file}))
    if several := _several(asked):
        if option := next(
            (o for o, v in (("--maps", maps), ("--lineage", lineage_file), ("--stack", stack)) if v), None
        ):
            raise BadInput(f"{option}: is for a report of one run, and here are {len(several)}")
        folder, written = _beside(several, verify)
    else:
        folder, written = _alone([Path(one) for one in asked], verify, lineage_file, stack, methods)
    if html is None:
        from pli_analysis.report import terminal

        terminal.show(written)
        return
    from pli_analysis.report import page

    path = path or folder / "report.html"
    with timed(f"page {path}"):
        page.write(written, path)
    if path != STDOUT:
        print(path)


def _alone(
    paths: list[Path], verify: bool, lineage_file: Path | None, stack: str | None, maps: list[str] | None
) -> tuple[Path, Report]:
    """The report of a run, or of what else holds checkpoints, and the folder to keep it in."""
    from pli_analysis.report import content, embed

    opened = open_run(paths, verify, lineage_file, stack)
    complain(opened.scalars.damaged)
    return opened.path, content.build(opened, partial(embed.paths, maps=maps, say=say), Bar("sections"))


def _several(asked: list[str]) -> list[tuple[str, Path]]:
    """Several runs, each with its group; none where these are one run, or the checkpoints of one."""
    from pli_analysis.metrics.comparison.curves import grouped
    from pli_analysis.runs import paths
    from pli_analysis.runs.paths import CHECKPOINTED, Kind

    given = [grouped(one) for one in asked]
    if not all(path.exists() for _, path in given):
        return []
    runs, models = [], 0
    for group, path in given:
        found = paths.find(path)
        mine = [source for source in found if source.kind in CHECKPOINTED or (group and source.kind == Kind.MODEL)]
        models += not mine and any(source.kind == Kind.MODEL for source in found)
        if found and not mine and not any(source.has_checkpoints for source in found):
            raise BadInput(f"{path}: holds no checkpoints; compare and scalars read what is logged there")
        runs += [(group, source.path) for source in mine]
    if len(runs) < 2 or models:
        return []
    complain([line for _, path in given for line in paths.links(path)])
    return runs


def _beside(runs: list[tuple[str, Path]], verify: bool) -> tuple[Path, Report]:
    """The report of several runs, and the folder to keep it in."""
    from pli_analysis.metrics.comparison import curves as curve_metric
    from pli_analysis.report import several

    curves = curve_metric.read([f"{group}={path}" if group else str(path) for group, path in runs])
    curve_metric.require(curves, col.STEP)
    opened = {
        curve.name: open_run([path], verify, name=curve.name) for curve, (_, path) in zip(curves, runs, strict=True)
    }
    for curve in curves:
        shown = (*opened[curve.name].damaged, *opened[curve.name].notes)
        complain([line for line in curve.damaged if not line.endswith(shown)])
    return runs[0][1].resolve().parent, several.build(opened, curves, Bar("runs"))


def _methods(maps: str | None, html: str | None) -> list[str] | None:
    """The methods beside PCA, None for the usual ones. Raises BadInput for other words, or where no map is drawn."""
    from pli_analysis.metrics.maps.projections import METHODS

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
