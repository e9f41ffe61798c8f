"""`pli-analyze ls`: the runs in a folder, and the state of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import FormatOption, OutOption


def ls(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Folder of runs.")] = Path("runs"),
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Runs in a folder: state, step, eval loss and stack of each.

    Example: pli-analyze ls studies
    """
    from pli_analysis.commands.status import complain, links_at
    from pli_analysis.tables import emit
    from pli_analysis.watch.listing import runs

    complain(links_at([folder]))
    emit(runs(folder), format, out)
