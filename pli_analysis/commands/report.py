"""`pli-analyze report`: all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from pli_analysis.commands.options import Told, Verify
from pli_analysis.commands.telling import complain, open_run

BESIDE_THE_RUN = "report.html in the run's folder"


class ReportCommand(TyperCommand):
    """Lets `--html` stand alone, which Typer's options cannot: then the page goes beside the run."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare `--html` its value."""
        pairs = zip(args, [*args, "-"][1:], strict=True)
        filled = [f"--html={BESIDE_THE_RUN}" if a == "--html" and n.startswith("-") else a for a, n in pairs]
        return super().parse_args(ctx, filled)


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
    opened = open_run(run or [Run.newest().path], verify, told)
    complain(opened.scalars.damaged)
    written = content.tell(opened)
    if html is None:
        from pli_analysis.report import terminal

        terminal.show(written)
        return
    from pli_analysis.report import page

    path = opened.path / "report.html" if html == BESIDE_THE_RUN else Path(html)
    page.write(written, path)
    print(path)
