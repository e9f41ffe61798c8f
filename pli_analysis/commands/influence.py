"""`pli-analyze influence`: which training blocks helped or harmed the held-out loss, by layer."""

from __future__ import annotations

from typing import Annotated

import typer

from pli_analysis.commands.options import (
    Blocks,
    Device,
    FormatOption,
    Html,
    OutOption,
    RunFolder,
    Stack,
    Text,
    TextColumn,
    Tokenizer,
    text_of,
)
from pli_analysis.commands.status import open_run, write_page
from pli_analysis.inference.devices import use_device
from pli_train.core.cli.console import Bar, say


def influence(
    runs: RunFolder,
    checkpoints: Annotated[
        int, typer.Option("--checkpoints", min=1, metavar="N", help="Maximum number of checkpoints to sum over.")
    ] = 8,
    top: Annotated[
        int, typer.Option("--top", min=0, metavar="K", help="Print the K highest and lowest of each part; 0 for all.")
    ] = 3,
    text: Text = None,
    text_column: TextColumn = None,
    tokenizer: Tokenizer = None,
    blocks: Blocks = 64,
    device: Device = "auto",
    html: Html = None,
    stack: Stack = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Training blocks that helped or harmed the held-out loss.

    By layer, with TracIn: gradients of blocks from `pli-train sample`, times that of the loss, summed over checkpoints.

    Example: pli-analyze influence runs/tiny --html influence.html
    """
    from pli_analysis.metrics.influence import extremes
    from pli_analysis.metrics.influence import influence as measure
    from pli_analysis.report.influence import section, verdict
    from pli_analysis.report.parts import of_checkpoint
    from pli_analysis.tables import emit

    use_device(device)
    run = open_run(runs, stack=stack)
    table = measure(run, text_of(text, text_column, tokenizer), blocks, checkpoints, Bar("checkpoints"))
    finding = verdict(table)
    say(finding)
    write_page(html, lambda: of_checkpoint(table, finding, section(table)))
    emit(extremes(table, top) if top else table, format, out)
