"""`pli-analyze watch`: follow a run while it trains, or a study while it runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import alone
from pli_train.core.errors import BadInput, some
from pli_train.core.run_format import run_folder, study_folder

WatchCommand = alone("--serve", "0", lambda word: word is not None and re.fullmatch(r"-?\d+", word) is not None)
"""Without a value, `--serve` takes any free port."""


def watch(
    run: Annotated[
        Path | None,
        typer.Argument(metavar="[RUN]", help="Folder of a run (default: the newest under runs/) or of a study."),
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.1, max=3600, metavar="SECONDS", help="Seconds between refreshes.")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print the state once (default if stdout is no terminal).")
    ] = False,
    serve: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="[PORT]", help="Serve the report on this machine until Ctrl-C."),
    ] = None,
) -> None:
    """Follow a run while it trains: progress, losses and growth.

    Also shows the gradient norm and drift of each layer. Of a study of `pli-train sweep`, shows the states of the
    trials, the best value of each arm, and the trials that run. Ends with the run or study or on Ctrl-C. It only
    reads, and takes no locks.

    Example: pli-analyze watch runs/tiny --serve
    """
    from pli_analysis.runs.opening import newest_run
    from pli_analysis.watch.loop import watch_run, watch_study

    if once and serve is not None:
        raise BadInput("--once: prints one frame, but --serve runs until Ctrl-C: use one of them")
    if run and study_folder.is_study(run):
        if serve is not None:
            raise BadInput(f"--serve: serves the report of a run, and {run} is a study: use `pli-analyze sweep --html`")
        watch_study(run, every, once)
        return
    watch_run(_run_at(run) if run else newest_run().path, every, once, serve)


def _require_no_studies(folder: Path) -> None:
    """Raise BadInput for a comparison of `pli-train lag`, and for a folder that holds studies or comparisons."""
    if study_folder.is_comparison(folder):
        raise BadInput(study_folder.instead(folder))
    children = sorted(folder.iterdir())
    studies = [child for child in children if study_folder.is_study(child)]
    comparisons = [child for child in children if study_folder.is_comparison(child)]
    if offered := [*studies, *(child / study_folder.RUNS / study_folder.MAIN for child in comparisons)]:
        held = "studies" if studies else "comparisons of `pli-train lag`"
        one_of = "one of " if len(offered) > 1 else ""
        raise BadInput(f"{folder}: holds {held}; give {one_of}{some([str(each) for each in offered], most=4)}")


def _run_at(path: Path) -> Path:
    """Return the pli-train run at a path. Raises BadInput for other runs, or more than one."""
    from pli_analysis.runs import paths

    if not path.is_dir() or any((folder / run_folder.RUN).is_file() for folder in (path, path.parent)):
        return path
    _require_no_studies(path)
    found = paths.find(path)
    if found and not any(source.kind == paths.Kind.RUN for source in found):
        raise BadInput(f"{path}: {found[0].kind}, but watch reads only runs of pli-train: use scalars or compare")
    return paths.alone(path, [paths.Kind.RUN]) or path
