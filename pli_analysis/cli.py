"""The command `pli-analyze`: tables and reports to stdout or a file, progress and complaints to stderr."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from pli_analysis.tables import Format
from pli_train.errors import BadInput
from pli_train.shell import app_of, run_app

if TYPE_CHECKING:
    from pli_analysis.run import Run

app = app_of("Read training runs, and say what growth did to them.")

BESIDE_THE_RUN = "report.html in the run's folder"
MOST_DRAWN = 20_000
"""Rows of scalars drawn for a terminal without being asked for; more would take minutes and nobody reads them."""

RunFolder = Annotated[
    list[Path],
    typer.Argument(metavar="RUN", help="A run's folder; or HF Trainer's, or a model's, or several in order."),
]
Told = Annotated[
    Path | None, typer.Option("--lineage", metavar="FILE", help="A lineage.json for checkpoints that have none.")
]
FormatOption = Annotated[Format | None, typer.Option("--format", "-f", help="How to write the table.")]
Verify = Annotated[bool, typer.Option("--verify", help="Use a checkpoint only when every file has its hash.")]
Text = Annotated[Path | None, typer.Option("--text", metavar="FILE", help="Read this, not the held-out blocks.")]
Blocks = Annotated[int, typer.Option(min=1, help="Blocks that models read, at most.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write to a file.")]


@app.command()
def lineage(
    run: RunFolder,
    format: FormatOption = None,
    out: OutOption = None,
    events: Annotated[bool, typer.Option("--events", help="One row a growth event, not a layer.")] = False,
    tree: Annotated[bool, typer.Option("--tree", help="Copies below their donors, as lines of text.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the stack over time.")
    ] = (None),
    confidence: Annotated[
        bool, typer.Option("--confidence", help="One row a match, where the lineage is inferred from weights.")
    ] = False,
    save: Annotated[Path | None, typer.Option(metavar="FILE", help="Write it as a lineage.json, to be edited.")] = None,
    told: Told = None,
    verify: Verify = False,
) -> None:
    """Who was born when, from whom, and where each layer sits now; of others' checkpoints, how sure that is.

    Example: pli-analyze lineage runs/tiny --format md
    """
    from pli_analysis.metrics import lineage as metric
    from pli_analysis.run import Run
    from pli_analysis.tables import emit, put

    opened = Run.open(run, verify, told)
    if verify or opened.notes:
        _complain(opened.damaged)
    _say(*opened.notes)
    found, sure = opened.lineage, opened.confidence
    if save is not None:
        metric.write(found, save)
        _say(str(save))
    if html is not None:
        from pli_analysis.report import overview, page

        page.write(overview.of_lineage(opened), html)
        _say(str(html))
    if tree:
        put("\n".join(metric.tree(found)) + "\n", out)
        return
    if confidence and sure is None:
        raise BadInput(f"{opened.path}: --confidence: its lineage is written down, and not inferred")
    if confidence and sure is not None:
        emit(sure, format, out)
        return
    emit(metric.events(found) if events else metric.layers(found, sure), format, out)


@app.command()
def drift(
    run: RunFolder,
    format: FormatOption = None,
    out: OutOption = None,
    of: Annotated[str, typer.Option(help="layer, head, ffn, norms, attention, matrix or all.")] = "layer",
    gauge: Annotated[bool, typer.Option("--gauge", help="Heads: distance of QK and OV in any basis.")] = False,
    spectral: Annotated[bool, typer.Option("--spectral", help="Matrices: spectral norm and ranks of the change.")] = (
        False
    ),
    threads: Annotated[int | None, typer.Option(min=1, help="As many as cores if left out.")] = None,
    told: Told = None,
    verify: Verify = False,
) -> None:
    """How far each part has moved from its birth weights, how fast, and how far from its donor.

    Example: pli-analyze drift runs/tiny --of head --format csv -o drift.csv
    """
    from pli_analysis.metrics.drift import drift as measure
    from pli_analysis.tables import emit

    opened = _open(run, verify, told)
    _complain(opened.scalars.damaged)
    if gauge and of not in ("head", "all"):
        raise BadInput(f"--gauge: is told of heads, and not of '{of}': use --of head or --of all")
    if spectral and of not in ("matrix", "all"):
        raise BadInput(f"--spectral: is told of matrices, and not of '{of}': use --of matrix or --of all")
    emit(
        measure(opened, of, _tasks, gauge=gauge, spectral=spectral, threads=threads or os.cpu_count() or 1), format, out
    )


@app.command()
def scalars(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, an event folder or file, or a download.")],
    tags: Annotated[
        list[str] | None, typer.Option("--tags", metavar="PATTERN", help="A tag, or grad_norm/*; may be repeated.")
    ] = None,
    download: Annotated[
        Path | None, typer.Option("--download", metavar="DIR", help="Write TensorBoard's downloads: --format json|csv.")
    ] = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """What was logged: one row a tag and step, or a file a tag as TensorBoard downloads them.

    Example: pli-analyze scalars runs/tiny --tags 'loss/*' -o loss.parquet
    """
    from pli_analysis import scalars as readers
    from pli_analysis.tables import emit

    if download is not None and (out is not None or format not in (None, Format.JSON, Format.CSV)):
        raise BadInput("--download: writes files of --format json (if left out) or csv, and no -o beside them")
    found = readers.read(run)
    _complain(found.damaged)
    if not found.columns:
        raise BadInput(f"{run}: holds no scalars")
    chosen = found.only(tags) if tags else found
    if download is None:
        table = chosen.tidy(readers.name_of(run))
        if format is None and out is None and len(table) > MOST_DRAWN:
            raise BadInput(f"{len(table):,} rows: choose some with --tags, or write all with -o FILE or --format csv")
        emit(table, format, out, whole=True)
        return
    from pli_analysis import downloads

    downloads.write(download, dict(sorted(chosen.columns.items())), f".{format or Format.JSON}")
    typer.echo(download)


@app.command()
def gradnorms(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or Trainer's output folder.")],
    of: Annotated[str, typer.Option(help="layer, head, ffn, norms, attention, embeddings, other, total, or all.")] = (
        "all"
    ),
    events: Annotated[bool, typer.Option("--events", help="Norms before and after each growth event.")] = False,
    window: Annotated[int, typer.Option(min=1, help="Measurements on each side of an event, at most.")] = 3,
    recompute: Annotated[bool, typer.Option("--recompute", help="At each checkpoint, on the same tokens.")] = False,
    text: Text = None,
    blocks: Blocks = 16,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the heat map.")] = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Gradient norms of heads, FFNs, layers over training, as logged before clipping or computed anew.

    Example: pli-analyze gradnorms runs/tiny --of head --html gradnorms.html
    """
    from pli_analysis.metrics import gradnorms as metric
    from pli_analysis.tables import emit

    if text is not None and not recompute:
        raise BadInput("--text FILE is what gradients are computed on: use it with --recompute")
    if recompute and (events or html is not None):
        raise BadInput("--events and --html tell what training logged: leave --recompute away")
    if recompute:
        from pli_analysis.metrics.gradients import recomputed

        opened = _open([run])
        emit(metric.of_level(recomputed(opened, text, blocks, _count), of), format, out)
        return
    scalars, lineage = metric.read(run)
    _complain(scalars.damaged)
    table = metric.require(metric.logged(scalars, lineage), run)
    if html is not None:
        from pli_analysis.report import gradnorms as told
        from pli_analysis.report import page

        page.write(told.of_gradnorms(run.resolve().name, table, lineage), html)
        typer.echo(html, err=True)
    if events:
        if lineage is None:
            raise BadInput(f"{run}: has no lineage.json, which tells when it grew")
        table = metric.around(table, lineage, window)
    emit(metric.of_level(table, of), format, out)


@app.command()
def embed(
    run: RunFolder,
    method: Annotated[str, typer.Option(help="pca, tsne or umap.")] = "pca",
    of: Annotated[str, typer.Option(help="layers, heads or ffn.")] = "layers",
    space: Annotated[str, typer.Option(help="weights, updates, or function: outputs on tokens.")] = "weights",
    text: Text = None,
    blocks: Blocks = 16,
    since_birth: Annotated[bool, typer.Option("--since-birth", help="Every birth at the origin.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Never sketch distances, however long it takes.")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the map.")] = None,
    projector: Annotated[
        Path | None, typer.Option("--projector", metavar="DIR", help="Write a folder for TensorBoard's projector.")
    ] = None,
    told: Told = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """One map of every part at every checkpoint: births, donors, paths, and a random walk beside them.

    Example: pli-analyze embed runs/tiny --method umap --html map.html
    """
    from pli_analysis.metrics.embed import embed as measure
    from pli_analysis.metrics.gram import EXACT
    from pli_analysis.report import embed as report
    from pli_analysis.tables import emit

    opened = _open(run, lineage=told)
    most = float("inf") if exact else EXACT
    found = measure(opened, method, of, space, text, blocks, since_birth, most, _say, _columns)

    drawn = report.of_map(opened.name, found, of, space)
    _say(*found.notes, drawn.sections[0].figures[0].caption)
    if html is not None:
        from pli_analysis.report import page

        page.write(drawn, html)
        _say(str(html))
    if projector is not None:
        from pli_analysis import projector as folder

        folder.write(projector, found)
        _say(f"{projector}: tensorboard --logdir {projector}")
    emit(found.table, format, out)


@app.command()
def similarity(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN [RUN2]", help="A run, or two to compare; or checkpoints in order.")
    ],
    over_time: Annotated[bool, typer.Option("--over-time", help="Each layer with itself at birth.")] = False,
    at: Annotated[int | None, typer.Option(min=0, metavar="STEP", help="The checkpoint; else the last.")] = None,
    text: Text = None,
    blocks: Blocks = 64,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the figures.")] = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """How alike layers are in what they put out: debiased CKA, Procrustes, shared nearest neighbours.

    Example: pli-analyze similarity runs/tiny --html similarity.html
    """
    from pli_analysis.metrics.similarity import similarity as measure
    from pli_analysis.report import similarity as report
    from pli_analysis.tables import emit
    from pli_train import run_folder

    two = len(runs) == 2 and (not over_time or any((run / run_folder.RUN).is_file() for run in runs))
    if over_time and (two or at is not None):
        raise BadInput("--over-time: compares a run's layers with themselves at all checkpoints: no RUN2 and no --at")
    first, second = (_open([run]) for run in runs) if two else (_open(runs), None)
    table = measure(first, second, text, blocks, at, over_time, _count if over_time else _pairs)
    _say(report.verdict(table, over_time))
    if html is not None:
        from pli_analysis.report import page

        page.write(report.tell(table, over_time), html)
        _say(str(html))
    emit(table, format, out)


@app.command()
def disturbance(
    run: RunFolder,
    layers: Annotated[bool, typer.Option("--layers", help="One row an event and layer, not an event.")] = False,
    twin: Annotated[
        list[Path] | None, typer.Option("--twin", metavar="RUN2", help="A fork that stopped growing; may be repeated.")
    ] = None,
    window: Annotated[int | None, typer.Option(min=1, metavar="STEPS", help="How far to look on each side.")] = None,
    at: Annotated[
        list[int] | None, typer.Option("--at", metavar="STEP", help="Treat this step as an event: it should score low.")
    ] = None,
    placebos: Annotated[int, typer.Option(min=0, help="Steps without an event to hold layers against.")] = 40,
    told: Told = None,
    text: Text = None,
    blocks: Blocks = 16,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the figures.")] = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """What each growth event did to the loss and to the layers there: on the spot, and until it was over.

    Twins in the same folder as the run (`pli-train fork RUN --at STEP --no-growth`) are found without being named.

    Example: pli-analyze disturbance runs/tiny --layers --html disturbance.html
    """
    from pli_analysis.metrics.disturbance import disturbance as measure
    from pli_analysis.metrics.scene import twins_beside
    from pli_analysis.report import disturbance as report
    from pli_analysis.run import Run
    from pli_analysis.tables import emit

    opened = _open(run, lineage=told)
    _complain(opened.scalars.damaged)
    twins = [Run.open(path) for path in twin] if twin else twins_beside(opened)
    found = measure(opened, twins, window, at or (), text, blocks, placebos, _steps)
    _say(*found.notes, *report.readings(found))
    if html is not None:
        from pli_analysis.report import page

        page.write(report.tell(opened, found), html)
        _say(str(html))
    emit(found.layers if layers else found.events, format, out)


@app.command()
def compare(
    runs: Annotated[list[str], typer.Argument(metavar="RUN…", help="Runs, event folders or files, downloads.")],
    tag: Annotated[str | None, typer.Option(metavar="PATTERN", help="Which scalar: a name, or eval*.")] = None,
    by: Annotated[str, typer.Option(help="step, tokens, flops or seconds.")] = "step",
    at: Annotated[int | None, typer.Option(metavar="STEP", help="Where losses are compared; else the end.")] = None,
    levels: Annotated[str | None, typer.Option(metavar="L,L…", help="Losses at which speed-ups are told.")] = None,
    reference: Annotated[str | None, typer.Option(metavar="NAME", help="What speed-ups refer to.")] = None,
    smooth: Annotated[int, typer.Option(min=1, metavar="POINTS", help="Mean over so many points, an odd number.")] = 1,
    speed_ups: Annotated[bool, typer.Option("--speed-ups", help="One row a level and group, with bands.")] = False,
    html: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the figures.")] = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Whose loss is lower, and who comes to a loss sooner. `GROUP=PATH` makes runs seeds of one group.

    Example: pli-analyze compare runs/tiny runs/baseline --by flops --html compare.html
    """
    from pli_analysis.metrics import compare as metric
    from pli_analysis.report import compare as told
    from pli_analysis.tables import emit

    curves = metric.read(runs, tag, smooth)
    _complain(list(dict.fromkeys(line for curve in curves for line in curve.damaged)))
    metric.require(curves, by)
    step = metric.last_common_step(curves) if at is None else at
    asked = metric.parse_levels(levels) if levels else metric.common_levels(curves, 3)
    base = reference or curves[0].group
    ups = metric.speed_ups(curves, asked, by, base)
    table = metric.summary(curves, step, ups)
    typer.echo(told.verdict(curves, step), err=True)
    if html is not None:
        from pli_analysis.report import page

        page.write(told.tell(curves, table, step, by, base), html)
        typer.echo(html, err=True)
    emit(ups if speed_ups else table, format, out)


class ReportCommand(TyperCommand):
    """Lets `--html` stand alone, which Typer's options cannot: then the page goes beside the run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare `--html` its value."""
        pairs = zip(args, [*args, "-"][1:], strict=True)
        filled = [f"--html={BESIDE_THE_RUN}" if a == "--html" and n.startswith("-") else a for a, n in pairs]
        return super().parse_args(ctx, filled)


@app.command(cls=ReportCommand)
def report(
    run: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]", help="As for drift; the newest run if left out.")
    ] = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="[PATH]", help=f"Write a page; alone: {BESIDE_THE_RUN}.")
    ] = None,
    told: Told = None,
    verify: Verify = False,
) -> None:
    """Tell what a run did: in the terminal, or as one HTML page that opens offline.

    Example: pli-analyze report runs/tiny --html
    """
    from pli_analysis.report import content
    from pli_analysis.run import Run

    if not run and html is not None and Path(html).is_dir():
        run, html = [Path(html)], BESIDE_THE_RUN  # `report --html RUN` can only mean the run
    opened = _open(run or [Run.newest().path], verify, told)
    _complain(opened.scalars.damaged)
    written = content.tell(opened)
    if html is None:
        from pli_analysis.report import terminal

        terminal.show(written)
        return
    from pli_analysis.report import page

    path = opened.path / "report.html" if html == BESIDE_THE_RUN else Path(html)
    page.write(written, path)
    print(path)


def _open(paths: list[Path], verify: bool = False, lineage: Path | None = None) -> Run:
    """Open a run or whatever holds checkpoints; say what is not used of it, and what is only inferred."""
    from pli_analysis.run import Run

    opened = Run.open(paths, verify, lineage)
    _complain(opened.damaged)
    _say(*opened.notes)
    return opened


def _complain(lines: list[str]) -> None:
    for line in lines:
        typer.echo(f"passed over: {line}", err=True)


def _say(*lines: str) -> None:
    for line in lines:
        typer.echo(line, err=True)


def _count(done: int, total: int, what: str = "checkpoints") -> None:
    """Say on a terminal how far a long reading is."""
    if sys.stderr.isatty():
        typer.echo(f"\r{done} of {total} {what}" + "\n" * (done == total), err=True, nl=False)


def _tasks(done: int, total: int) -> None:
    _count(done, total, "tensors of all checkpoints")


def _columns(done: int, total: int) -> None:
    _count(done, total, "columns of weights or outputs")


def _steps(done: int, total: int) -> None:
    _count(done, total, "steps with and without events")


def _pairs(done: int, total: int) -> None:
    _count(done, total, "pairs")


def main() -> None:
    """The entry point."""
    run_app(app)


if __name__ == "__main__":
    main()
