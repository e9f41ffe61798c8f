"""`pli-analyze disturbance`: effects of growth events."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import (
    FormatOption,
    Html,
    LineageFile,
    OutOption,
    RunFolder,
    Stack,
    Text,
    TextColumn,
    Tokenizer,
    text_of,
)
from pli_analysis.commands.status import complain, open_run, write_page
from pli_train.core.cli.console import Bar, say


def disturbance(
    run: RunFolder,
    layers: Annotated[bool, typer.Option("--layers", help="One row an event and layer, not an event.")] = False,
    twin: Annotated[
        list[Path] | None, typer.Option("--twin", metavar="RUN2", help="A fork that stopped growing; may be repeated.")
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, metavar="STEPS", help="How many steps to compare on each side.")
    ] = None,
    at: Annotated[
        list[int] | None, typer.Option("--at", metavar="STEP", help="Treat this step as an event; may be repeated.")
    ] = None,
    placebos: Annotated[
        int, typer.Option(min=0, metavar="N", help="Placebo steps at most to hold an event against.")
    ] = 24,
    lineage_file: LineageFile = None,
    stack: Stack = None,
    text: Text = None,
    text_column: TextColumn = None,
    tokenizer: Tokenizer = None,
    blocks: Annotated[
        int, typer.Option(min=1, metavar="N", help="Held-out blocks to compare layers on; the loss is of all.")
    ] = 8,
    html: Html = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """What each growth event did to the loss and to the layers.

    On the spot, and until it was over. Twins that lie beside the run (see `pli-train fork`) need not be named.

    Example: pli-analyze disturbance runs/tiny --layers --html disturbance.html
    """
    from pli_analysis.metrics.disturbance.disturbance import disturbance as measure
    from pli_analysis.metrics.disturbance.event_context import twins_beside
    from pli_analysis.report import disturbance as report
    from pli_analysis.runs import opening
    from pli_analysis.tables import emit

    asked = text_of(text, text_column, tokenizer)
    opened = open_run(run, lineage=lineage_file, stack=stack)
    complain(opened.scalars.damaged)
    twins = [opening.open_run(path) for path in twin] if twin else twins_beside(opened)
    found = measure(opened, twins, window, at or (), asked, blocks, placebos, Bar("steps with and without events"))
    say(*found.notes, *report.readings(found))
    write_page(html, lambda: report.build(opened, found))
    emit(found.layers if layers else found.events, format, out)
