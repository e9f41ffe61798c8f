"""`pli-analyze ablation`: loss without single heads, FFNs and layers."""

from __future__ import annotations

from typing import Annotated

import typer

from pli_analysis.commands.options import (
    Blocks,
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
from pli_train.core.cli.console import Bar, say


def ablation(
    runs: RunFolder,
    at: Annotated[
        int | None, typer.Option(min=0, metavar="STEP", help="Step of the checkpoint (default: the last).")
    ] = None,
    text: Text = None,
    text_column: TextColumn = None,
    tokenizer: Tokenizer = None,
    blocks: Blocks = 64,
    html: Html = None,
    stack: Stack = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Effect of masking each head and FFN, and of skipping each layer.

    The change of the loss, with a 95 % interval, head importance and block influence.

    Example: pli-analyze ablation runs/tiny --html ablation.html
    """
    from pli_analysis.metrics.ablation.ablation import ablation as measure
    from pli_analysis.report import ablation as report
    from pli_analysis.tables import emit

    run = open_run(runs, stack=stack)
    table = measure(run, text_of(text, text_column, tokenizer), blocks, at, Bar("ablations"))
    say(*report.verdict(table))
    write_page(html, lambda: report.build(table))
    emit(table, format, out)
