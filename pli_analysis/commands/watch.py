"""`pli-analyze watch`: follow a run while it trains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import alone
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder

WatchCommand = alone("--serve", "0", lambda word: word is not None and re.fullmatch(r"-?\d+", word) is not None)
"""Alone, `--serve` takes any free port."""


def watch(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A run's folder; the newest under runs/ if left out.")
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="Seconds between two refreshes.")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Show the state once; the default where stdout is no terminal.")
    ] = False,
    serve: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="[PORT]", help="Serve the report on this machine until Ctrl-C."),
    ] = None,
) -> None:
    """A run while it trains: how far it is, losses, growth, layers.

    Of each layer it shows gradient norm and drift. It ends with the run, or with Ctrl-C. It reads only: neither locks
    nor files of the run are touched.

    Example: pli-analyze watch runs/tiny --serve
    """
    from pli_analysis.runs.opening import newest_run
    from pli_analysis.watch.loop import watch_run

    if once and serve is not None:
        raise BadInput("--once: prints one frame, and --serve goes on until Ctrl-C: use one of them")
    watch_run(_run_at(run) if run else newest_run().path, every, once, serve)


def _run_at(path: Path) -> Path:
    """The run of ours at a path. Raises BadInput when there is another's, or more than one."""
    from pli_analysis.runs import paths

    if not path.is_dir() or any((folder / run_folder.RUN).is_file() for folder in (path, path.parent)):
        return path
    found = paths.find(path)
    if found and not any(source.kind == paths.Kind.RUN for source in found):
        raise BadInput(f"{path}: {found[0].kind}, and watch shows runs of pli-train: try scalars or compare")
    return paths.alone(path, [paths.Kind.RUN]) or path
