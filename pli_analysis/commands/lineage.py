"""`pli-analyze lineage`: births, donors and positions of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import FormatOption, Html, LineageFile, OutOption, RunFolder, Stack, Verify, a_file
from pli_analysis.commands.status import FOLLOWED, complain, links_at, write_page
from pli_train.core.cli.console import Bar, say
from pli_train.core.errors import BadInput
from pli_train.core.run_format import run_folder


def lineage(
    run: RunFolder,
    events: Annotated[bool, typer.Option("--events", help="One row a growth event, not a layer.")] = False,
    tree: Annotated[bool, typer.Option("--tree", help="Copies below their donors, as lines of text.")] = False,
    html: Html = None,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="One row a match, where the lineage is inferred from weights.")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE", help="Write it as a lineage.json, to be edited.", parser=a_file),
    ] = None,
    lineage_file: LineageFile = None,
    stack: Stack = None,
    verify: Verify = False,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Who was born when, from whom, and where each layer sits now.

    Of checkpoints that others wrote it also says how sure that is.

    Example: pli-analyze lineage runs/tiny --format md
    """
    from pli_analysis.metrics import lineage as metric
    from pli_analysis.report import overview
    from pli_analysis.runs.opening import open_run
    from pli_analysis.tables import emit, put

    opened = open_run(run, verify, lineage_file, Bar(FOLLOWED), stack)
    complain(links_at(run))
    notes = opened.notes
    if (
        verify or not (opened.path / run_folder.RUN).is_file()
    ):  # a run of ours is told by one file: no checkpoint is read
        complain(opened.damaged)
    say(*notes)
    found, sure = opened.lineage, opened.confidence
    if save is not None:
        metric.write(found, save)
        say(str(save))
    write_page(html, lambda: overview.of_lineage(opened))
    if tree:
        put("\n".join(metric.tree(found)) + "\n", out)
        return
    if confidence and sure is None:
        raise BadInput(f"{opened.path}: --confidence: its lineage is written down, and not inferred")
    if confidence and sure is not None:
        emit(sure, format, out)
        return
    emit(metric.events(found) if events else metric.layers(found, sure), format, out)
