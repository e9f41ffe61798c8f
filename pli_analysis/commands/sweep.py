"""`pli-analyze sweep`: the results of a search over growth strategies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import FormatOption, OutOption, a_file, alone
from pli_analysis.commands.outputs import require_files
from pli_analysis.commands.status import write_page
from pli_analysis.tables import format_of
from pli_train.core.cli.console import say
from pli_train.core.errors import BadInput

IN_THE_STUDY = "report.html in the study's folder"
SweepCommand = alone("--html", IN_THE_STUDY, lambda word: word is not None and (word == "-" or word[:1] != "-"))
"""Without a value, `--html` writes the page into the study's folder."""


def sweep(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Folder of a study of `pli-train sweep`.")],
    importance: Annotated[
        bool, typer.Option("--importance", help="One row per parameter: its importance by fANOVA.")
    ] = False,
    arms: Annotated[bool, typer.Option("--arms", help="One row per arm: trials by state, best value, cost.")] = False,
    html: Annotated[
        str | None,
        typer.Option("--html", metavar="[FILE]", help=f"Write an HTML page (default file: {IN_THE_STUDY})."),
    ] = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Results of a study: trials, best strategies, importance.

    Compares the best growth strategy with the tuned baseline, from confirmation trials alone if there are any. Prints
    one row per trial.

    Example: pli-analyze sweep studies/all --html
    """
    from pli_analysis.metrics.sweep.results import results
    from pli_analysis.report import sweep as report
    from pli_analysis.tables import emit

    page = study / "report.html" if html == IN_THE_STUDY else None if html is None else a_file(html)
    files = {option: path for option, path in (("--html", page), ("-o", out)) if path is not None}
    if importance and arms:
        raise BadInput("--importance and --arms: cannot be combined, as each prints its own table: use one of them")
    format_of(format, out)
    require_files(files, [study])
    found = results(study)
    say(*report.words(found))
    write_page(page, lambda: report.build(found))
    emit(found.importance.table if importance else found.arms if arms else found.table, format, out)
