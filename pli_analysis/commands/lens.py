"""`pli-analyze lens`: what the model would predict from the output of each layer."""

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


def lens(
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
    """Predictions read from each layer: logit lens and tuned lens.

    The loss of these predictions, their distance to the model's, and where predictions are decided.

    Example: pli-analyze lens runs/tiny --html lens.html
    """
    from pli_analysis.metrics.lens import lens as measure
    from pli_analysis.report import lens as report
    from pli_analysis.tables import emit

    run = open_run(runs, stack=stack)
    table = measure(run, text_of(text, text_column, tokenizer), blocks, at, Bar("batches"))
    say(report.verdict(table))
    write_page(html, lambda: report.build(table))
    emit(table, format, out)
