"""The command `pli-analyze`: tables and reports to stdout or a file, progress and complaints to stderr."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from pli_analysis.tables import Format
from pli_train.shell import app_of, run_app

app = app_of("Read training runs, and say what growth did to them.")

BESIDE_THE_RUN = "report.html in the run's folder"

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
FormatOption = Annotated[Format | None, typer.Option("--format", "-f", help="How to write the table.")]
Verify = Annotated[bool, typer.Option("--verify", help="Use a checkpoint only when every file has its hash.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write to a file.")]


@app.command()
def lineage(
    run: RunFolder,
    format: FormatOption = None,
    out: OutOption = None,
    events: Annotated[bool, typer.Option("--events", help="One row a growth event, not a layer.")] = False,
    verify: Verify = False,
) -> None:
    """Who was born when, from whom, and where each layer sits now.

    Example: pli-analyze lineage runs/tiny --format md
    """
    from pli_analysis.metrics import lineage as metric
    from pli_analysis.run import Run
    from pli_analysis.tables import emit

    opened = Run.open(run, verify)
    if verify:
        _complain(opened.damaged)
    found = opened.lineage
    emit(metric.events(found) if events else metric.layers(found), format, out)


@app.command()
def drift(
    run: RunFolder,
    format: FormatOption = None,
    out: OutOption = None,
    of: Annotated[str, typer.Option(help="layer, head, ffn, norms or attention.")] = "layer",
    verify: Verify = False,
) -> None:
    """How far each part has moved from its birth weights, over steps and age.

    Example: pli-analyze drift runs/tiny --of head --format csv -o drift.csv
    """
    from pli_analysis.metrics.drift import drift as measure
    from pli_analysis.run import Run
    from pli_analysis.tables import emit

    opened = Run.open(run, verify)
    _complain(opened.damaged)
    emit(measure(opened, of), format, out)


class ReportCommand(TyperCommand):
    """Lets `--html` stand alone, which Typer's options cannot: then the page goes beside the run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare `--html` its value."""
        pairs = zip(args, [*args, "-"][1:], strict=True)
        filled = [f"--html={BESIDE_THE_RUN}" if a == "--html" and n.startswith("-") else a for a, n in pairs]
        return super().parse_args(ctx, filled)


@app.command(cls=ReportCommand)
def report(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run's folder; the newest if left out.")] = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="[PATH]", help=f"Write a page; alone: {BESIDE_THE_RUN}.")
    ] = None,
    verify: Verify = False,
) -> None:
    """Tell what a run did: in the terminal, or as one HTML page that opens offline.

    Example: pli-analyze report runs/tiny --html
    """
    from pli_analysis.report import content
    from pli_analysis.run import Run
    from pli_train import run_folder

    if run is None and html is not None and (Path(html) / run_folder.RUN).is_file():
        run, html = Path(html), BESIDE_THE_RUN  # `report --html RUN` can only mean the run
    opened = Run.open(run if run is not None else Run.newest().path, verify)
    _complain(opened.damaged)
    told = content.tell(opened)
    if html is None:
        from pli_analysis.report import terminal

        terminal.show(told)
        return
    from pli_analysis.report import page

    path = opened.path / "report.html" if html == BESIDE_THE_RUN else Path(html)
    page.write(told, path)
    print(path)


def _complain(lines: list[str]) -> None:
    for line in lines:
        typer.echo(f"passed over: {line}", err=True)


def main() -> None:
    """The entry point."""
    run_app(app)


if __name__ == "__main__":
    main()
