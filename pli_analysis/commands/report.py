"""`pli-analyze report`: the full report of a run, or of several."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pli_analysis import columns as col
from pli_analysis.commands.options import Device, Explain, LineageFile, Stack, Verify, a_file, alone
from pli_analysis.commands.outputs import inputs_of, require_files
from pli_analysis.commands.status import complain, open_run
from pli_analysis.inference.devices import use_device
from pli_train.core.cli.console import Bar, say, timed
from pli_train.core.errors import BadInput, did_you_mean
from pli_train.core.output import STDOUT

if TYPE_CHECKING:
    from pli_analysis.report.parts import Report

BESIDE_THE_RUN = "report.html in the run's folder"
ReportCommand = alone("--html", BESIDE_THE_RUN, lambda word: word is not None and (word == "-" or word[:1] != "-"))
"""Without a value, `--html` writes the page into the run's folder."""


def report(
    run: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN...]", help="As for drift, or several runs (default: the newest under runs/)."),
    ] = None,
    html: Annotated[
        str | None,
        typer.Option("--html", metavar="[FILE]", help=f"Write an HTML page (default file: {BESIDE_THE_RUN})."),
    ] = None,
    maps: Annotated[
        str | None, typer.Option(metavar="METHODS", help="Projection methods for the map besides PCA: tsne,umap.")
    ] = None,
    explain: Explain = False,
    device: Device = "auto",
    lineage_file: LineageFile = None,
    stack: Stack = None,
    verify: Verify = False,
) -> None:
    """Full report, in the terminal or as one offline HTML page.

    Reports on one run, or compares several. Write GROUP=RUN to make a run one seed of a group.

    Example: pli-analyze report runs/tiny --html
    """
    from pli_analysis.runs.opening import newest_run

    use_device(device)
    if not run and html is not None and Path(html).is_dir():
        run, html = [html], BESIDE_THE_RUN  # `report --html RUN` can only mean the run
    path = None if html in (None, BESIDE_THE_RUN) else a_file(str(html))
    methods = _methods(maps, html)
    names = run or [str(newest_run().path)]
    if path is not None:
        require_files({"--html": path}, inputs_of({"run": names, "lineage_file": lineage_file}))
    if several := runs_of(names):
        of_one = {"--maps": maps, "--explain": explain, "--lineage": lineage_file, "--stack": stack}
        refuse_for_several(of_one, len(several))
        folder, written = of_several(several, verify)
    else:
        folder, written = _alone([Path(name) for name in names], verify, lineage_file, stack, methods, explain)
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
    paths: list[Path],
    verify: bool,
    lineage_file: Path | None,
    stack: str | None,
    maps: list[str] | None,
    explain: bool,
) -> tuple[Path, Report]:
    """Build the report of one run or checkpoint folder; return the folder to save it in, and the report."""
    from pli_analysis.report import content, embed

    opened = open_run(paths, verify, lineage_file, stack)
    complain(opened.scalars.damaged)
    return opened.path, content.build(opened, partial(embed.paths, maps=maps, say=say), explain, Bar("sections"))


def refuse_for_several(of_one: Mapping[str, object], runs: int) -> None:
    """Raise BadInput for the first option, of those that apply to one run only, that has a value."""
    if option := next((option for option, value in of_one.items() if value), None):
        raise BadInput(f"{option}: applies to one run only, and {runs} were given")


def runs_of(names: list[str]) -> list[tuple[str, Path]]:
    """Return (group, run) for several runs; empty if the paths are one run, or checkpoints of one."""
    from pli_analysis.metrics.comparison.curves import grouped
    from pli_analysis.runs import paths
    from pli_analysis.runs.paths import CHECKPOINTED, Kind

    given = [grouped(name) for name in names]
    if not all(path.exists() for _, path in given):
        return []
    runs, models = [], 0
    for group, path in given:
        found = paths.find(path)
        mine = [source for source in found if source.kind in CHECKPOINTED or (group and source.kind == Kind.MODEL)]
        models += not mine and any(source.kind == Kind.MODEL for source in found)
        if found and not mine and not any(source.has_checkpoints for source in found):
            raise BadInput(f"{path}: has no checkpoints; use compare or scalars to read its logs")
        runs += [(group, source.path) for source in mine]
    if len(runs) < 2 or models:
        return []
    complain([line for _, path in given for line in paths.links(path)])
    return runs


def of_several(runs: list[tuple[str, Path]], verify: bool) -> tuple[Path, Report]:
    """Build the report of several runs; return the folder to save it in, and the report."""
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
    """Parse --maps; None means the default methods. Raises BadInput for unknown methods, or without --html."""
    from pli_analysis.metrics.maps.projections import METHODS

    if html is None and maps is not None:
        raise BadInput("--maps: sets how a page draws the map: use it with --html")
    if html is None:
        return []  # the terminal shows no map, so PCA is enough
    if maps is None:
        return None
    methods = [word.strip() for word in maps.split(",")]
    for method in methods:
        if method not in METHODS:
            raise BadInput(f"--maps {maps}: {method} is none of {', '.join(METHODS)}{did_you_mean(method, METHODS)}")
    return methods
