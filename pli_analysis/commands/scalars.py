"""`pli-analyze scalars`: logged scalars."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import FormatOption, OutOption
from pli_analysis.commands.status import complain
from pli_analysis.tables import Format
from pli_train.core.errors import BadInput

MOST_DRAWN = 20_000
"""Rows drawn for a terminal without being asked for; more would take minutes and nobody reads them."""


def scalars(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run or a folder of runs, ours or not; a file of logs.")],
    tags: Annotated[
        list[str] | None, typer.Option("--tags", metavar="PATTERN", help="A tag, or grad_norm/*; may be repeated.")
    ] = None,
    download: Annotated[
        Path | None, typer.Option("--download", metavar="DIR", help="Write TensorBoard's downloads: --format json|csv.")
    ] = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """What was logged: a row for each tag and step.

    With --download it is a file for each tag, as TensorBoard downloads them; of several runs, a folder for each run.

    Example: pli-analyze scalars runs/tiny --tags 'eval/*' -o eval.csv
    """
    from pli_analysis.runs import paths
    from pli_analysis.scalars import downloads
    from pli_analysis.scalars.reading import only, tidy
    from pli_analysis.tables import emit

    if download is not None and (out is not None or format not in (None, Format.JSON, Format.CSV)):
        raise BadInput("--download: writes files of --format json (if left out) or csv, and no -o beside them")
    found = paths.logged(run)
    complain(list(dict.fromkeys(line for _, logged in found for line in logged.damaged)))
    runs = dict(zip(paths.names([source for source, _ in found]), (logged for _, logged in found), strict=True))
    chosen = only(runs, tags) if tags else runs
    if download is None:
        table = tidy(chosen)
        if format is None and out is None and len(table) > MOST_DRAWN:
            raise BadInput(f"{len(table):,} rows: choose some with --tags, or write all with -o FILE or --format csv")
        emit(table, format, out, whole=True)
        return
    folders = downloads.names(chosen)
    for name, logged in chosen.items():
        folder = download / folders[name] if len(chosen) > 1 else download
        downloads.write(folder, dict(sorted(logged.columns.items())), f".{format or Format.JSON}")
    print(download)
