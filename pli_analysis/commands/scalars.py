"""`pli-analyze scalars`: what was logged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import FormatOption, OutOption
from pli_analysis.commands.telling import complain
from pli_analysis.tables import Format
from pli_train.errors import BadInput

MOST_DRAWN = 20_000
"""Rows drawn for a terminal without being asked for; more would take minutes and nobody reads them."""


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
    """What was logged: a row for each tag and step.

    With --download it is a file for each tag, as TensorBoard downloads them.

    Example: pli-analyze scalars runs/tiny --tags 'eval/*' -o eval.csv
    """
    from pli_analysis.others import trainer_log
    from pli_analysis.tables import emit

    if download is not None and (out is not None or format not in (None, Format.JSON, Format.CSV)):
        raise BadInput("--download: writes files of --format json (if left out) or csv, and no -o beside them")
    found = trainer_log.any_of(run)
    complain(found.damaged)
    if not found.columns:
        raise BadInput(f"{run}: holds no scalars")
    chosen = found.only(tags) if tags else found
    if download is None:
        table = chosen.tidy(trainer_log.name_of(run))
        if format is None and out is None and len(table) > MOST_DRAWN:
            raise BadInput(f"{len(table):,} rows: choose some with --tags, or write all with -o FILE or --format csv")
        emit(table, format, out, whole=True)
        return
    from pli_analysis import downloads

    downloads.write(download, dict(sorted(chosen.columns.items())), f".{format or Format.JSON}")
    typer.echo(download)
