"""`pli-analyze pruning`: loss over the number of masked heads."""

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


def pruning(
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
    """Loss over the number of masked heads: which share of heads can be pruned?

    Heads are masked by importance, by the loss change of each head, and at random.

    Example: pli-analyze pruning runs/tiny --html pruning.html
    """
    from pli_analysis.metrics.ablation.pruning import pruning as measure
    from pli_analysis.report import pruning as report
    from pli_analysis.tables import emit

    run = open_run(runs, stack=stack)
    table = measure(run, text_of(text, text_column, tokenizer), blocks, at, Bar("masks"))
    say(report.verdict(table))
    write_page(html, lambda: report.build(table))
    emit(table, format, out)
