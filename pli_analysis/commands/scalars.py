"""`pli-analyze scalars`: logged scalars."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import FormatOption, OutOption, run_argument
from pli_analysis.commands.status import complain
from pli_analysis.tables import Format
from pli_train.core.errors import BadInput

MOST_DRAWN = 20_000
"""Maximum number of rows printed as a table; more would take minutes."""


def scalars(
    run: Annotated[Path, run_argument("[RUN]", "A run, a folder of runs, or a log file, of any program")],
    tags: Annotated[
        list[str] | None,
        typer.Option("--tags", metavar="PATTERN", help="Tag, or pattern such as grad_norm/*; may be repeated."),
    ] = None,
    download: Annotated[
        Path | None,
        typer.Option("--download", metavar="DIR", help="Write TensorBoard download files: --format json|csv."),
    ] = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Logged scalars: one row per tag and step.

    With --download, writes one file per tag in TensorBoard's download format; for several runs, one folder per run.

    Example: pli-analyze scalars runs/tiny --tags 'eval/*' -o eval.csv
    """
    from pli_analysis.runs import paths
    from pli_analysis.scalars import downloads
    from pli_analysis.scalars.reading import only, tidy
    from pli_analysis.tables import emit

    if download is not None and (out is not None or format not in (None, Format.JSON, Format.CSV)):
        raise BadInput("--download: writes json (the default) or csv files: omit -o, and use --format json or csv")
    found = paths.logged(run)
    complain(list(dict.fromkeys(line for _, logged in found for line in logged.damaged)))
    runs = dict(zip(paths.names([source for source, _ in found]), (logged for _, logged in found), strict=True))
    chosen = only(runs, tags) if tags else runs
    if download is None:
        table = tidy(chosen)
        if format is None and out is None and len(table) > MOST_DRAWN:
            raise BadInput(
                f"{len(table):,} rows are too many for a table: select with --tags, or use -o FILE or --format csv"
            )
        emit(table, format, out, whole=True)
        return
    folders = downloads.names(chosen)
    for name, logged in chosen.items():
        folder = download / folders[name] if len(chosen) > 1 else download
        downloads.write(folder, dict(sorted(logged.columns.items())), f".{format or Format.JSON}")
    print(download)
