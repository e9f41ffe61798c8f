"""`pli-analyze disturbance`: effects of growth events."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import (
    Device,
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
from pli_analysis.inference.devices import use_device
from pli_train.core.cli.console import Bar, say


def disturbance(
    run: RunFolder,
    layers: Annotated[
        bool, typer.Option("--layers", help="One row per event and layer instead of one per event.")
    ] = False,
    twin: Annotated[
        list[Path] | None,
        typer.Option("--twin", metavar="RUN2", help="A fork that stopped growing, to compare with; may be repeated."),
    ] = None,
    window: Annotated[
        int | None, typer.Option(min=1, metavar="STEPS", help="Number of steps to compare on each side of an event.")
    ] = None,
    at: Annotated[
        list[int] | None,
        typer.Option("--at", metavar="STEP", help="Measure at this step as if it were an event; may be repeated."),
    ] = None,
    placebos: Annotated[
        int, typer.Option(min=0, metavar="N", help="Maximum number of placebo steps to compare an event with.")
    ] = 24,
    lineage_file: LineageFile = None,
    stack: Stack = None,
    text: Text = None,
    text_column: TextColumn = None,
    tokenizer: Tokenizer = None,
    blocks: Annotated[
        int, typer.Option(min=1, metavar="N", help="Held-out blocks for comparing layers; the loss uses all blocks.")
    ] = 8,
    device: Device = "auto",
    html: Html = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Effect of each growth event on the loss and on the layers.

    Measures the immediate effect and the recovery. Twins in the same folder as the run (see `pli-train fork`) are found
    automatically.

    Example: pli-analyze disturbance runs/tiny --layers --html disturbance.html
    """
    from pli_analysis.metrics.disturbance.disturbance import disturbance as measure
    from pli_analysis.metrics.disturbance.event_context import twins_beside
    from pli_analysis.report import disturbance as report
    from pli_analysis.runs import opening
    from pli_analysis.tables import emit

    use_device(device)
    chosen_text = text_of(text, text_column, tokenizer)
    opened = open_run(run, lineage=lineage_file, stack=stack)
    complain(opened.scalars.damaged)
    twins = [opening.open_run(path) for path in twin] if twin else twins_beside(opened)
    found = measure(
        opened, twins, window, at or (), chosen_text, blocks, placebos, Bar("steps with and without events")
    )
    say(*found.notes, *report.readings(found))
    write_page(html, lambda: report.build(opened, found))
    emit(found.layers if layers else found.events, format, out)
