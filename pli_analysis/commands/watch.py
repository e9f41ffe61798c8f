"""`pli-analyze watch`: a run while it trains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from pli_train.errors import BadInput


class WatchCommand(TyperCommand):
    """Lets `--serve` stand alone, which Typer's options cannot: then any free port will do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a bare `--serve` its value."""
        pairs = zip(args, [*args, ""][1:], strict=True)
        filled = ["--serve=0" if a == "--serve" and not re.fullmatch(r"-?\d+", n) else a for a, n in pairs]
        return super().parse_args(ctx, filled)


def watch(
    run: Annotated[Path | None, typer.Argument(metavar="[RUN]", help="A run; the newest if left out.")] = None,
    every: Annotated[float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="Between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once; so it is too where stdout is no terminal.")] = False,
    serve: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="[PORT]", help="Serve the report on this machine until Ctrl-C."),
    ] = None,
) -> None:
    """Look at a run while it trains: how far it is, losses, growth, and each layer's gradient norm and drift.

    Ends with the run, or with Ctrl-C. It reads only: neither locks nor files of the run are touched.

    Example: pli-analyze watch runs/tiny --serve
    """
    from pli_analysis.run import Run
    from pli_analysis.watch.looking import look_on

    if once and serve is not None:
        raise BadInput("--once: prints one frame, and --serve goes on until Ctrl-C: use one of them")
    look_on(run or Run.newest().path, every, once, serve)
