"""`pli-analyze similarity`: similarity of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pli_analysis.commands.options import (
    At,
    Blocks,
    Device,
    FormatOption,
    Html,
    OutOption,
    Stack,
    Text,
    TextColumn,
    Tokenizer,
    run_argument,
    text_of,
)
from pli_analysis.commands.status import open_run, write_page
from pli_analysis.inference.devices import use_device
from pli_train.core.cli.console import Bar, say
from pli_train.core.errors import BadInput

Space = Literal["function", "weights"]


def similarity(
    runs: Annotated[
        list[Path],
        run_argument("[RUN] [RUN2]", "A run, two runs to compare, or checkpoints in order", several=True),
    ],
    over_time: Annotated[
        bool, typer.Option("--over-time", help="Compare each layer with itself at birth, at every checkpoint.")
    ] = False,
    at: At = None,
    space: Annotated[
        Space,
        typer.Option("--space", metavar="SPACE", help="Compare function (outputs on tokens) or weights."),
    ] = "function",
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
    """Similarity of layers by their outputs or weights.

    Outputs: debiased CKA, Procrustes and shared nearest neighbors. Weights: cosine and relative distance.

    Example: pli-analyze similarity runs/tiny --html similarity.html
    """
    from pli_analysis.metrics.similarity.similarity import by_weights, unknown
    from pli_analysis.metrics.similarity.similarity import similarity as measure
    from pli_analysis.report import similarity as report
    from pli_analysis.tables import emit
    from pli_train.core.run_format import run_folder

    two = len(runs) == 2 and (not over_time or any((run / run_folder.RUN).is_file() for run in runs))
    if over_time and (two or at is not None):
        raise BadInput(
            "--over-time: compares a run's layers with themselves at all checkpoints: give no RUN2 and no --at"
        )
    if space == "weights" and (text is not None or html is not None):
        raise BadInput(f"{'--text' if html is None else '--html'}: applies to outputs, not to --space weights")
    use_device(device)
    chosen_text = text_of(text, text_column, tokenizer)
    first, second = (open_run([run], stack=stack) for run in runs) if two else (open_run(runs, stack=stack), None)
    if space == "weights":
        emit(by_weights(first, second, at, over_time, Bar("checkpoints")), format, out)
        return
    table = measure(first, second, chosen_text, blocks, at, over_time, Bar("checkpoints" if over_time else "pairs"))
    say(*unknown(table), report.verdict(table, over_time))
    write_page(html, lambda: report.build(table, over_time))
    emit(table, format, out)
