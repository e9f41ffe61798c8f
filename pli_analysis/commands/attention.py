"""`pli-analyze attention`: where heads attend."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import (
    At,
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
from pli_train.core.errors import BadInput


def attention(
    runs: RunFolder,
    at: At = None,
    text: Text = None,
    text_column: TextColumn = None,
    tokenizer: Tokenizer = None,
    blocks: Blocks = 64,
    device: Device = "auto",
    html: Html = None,
    beside: Annotated[
        int | None,
        typer.Option("--beside", min=0, metavar="STEP", help="With --html: also show the heads at this step."),
    ] = None,
    block: Annotated[
        int | None,
        typer.Option("--block", min=1, metavar="N", help="With --html: number of the block to show (default: 1)."),
    ] = None,
    heads: Annotated[
        str | None,
        typer.Option("--heads", metavar="NAMES", help="With --html: layers and heads to show, such as c,a.h1."),
    ] = None,
    stack: Stack = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Where heads attend: entropy, distance and pattern.

    One row per head, and per layer for attention rollout. Copied heads are compared with those of their donor. The page
    shows the attention of single heads to a block of text.

    Example: pli-analyze attention runs/tiny --html attention.html
    """
    names = _check(html, beside, block, heads)
    use_device(device)
    from pli_analysis.metrics.attention import attention
    from pli_analysis.metrics.head_weights import head_weights
    from pli_analysis.report.attention import section, verdict
    from pli_analysis.report.parts import of_checkpoint
    from pli_analysis.tables import emit

    run, chosen_text = open_run(runs, stack=stack), text_of(text, text_column, tokenizer)
    steps = [at] if beside is None else [at, beside]
    # First, as it raises BadInput for options that do not fit the run.
    weights = None if html is None else head_weights(run, chosen_text, blocks, block or 1, steps, names)
    table = attention(run, chosen_text, blocks, at, Bar("blocks"))
    finding = verdict(table)
    say(finding)
    write_page(html, lambda: of_checkpoint(table, finding, section(table, weights)))
    emit(table, format, out)


def _check(html: Path | None, beside: int | None, block: int | None, heads: str | None) -> list[str] | None:
    """Return the names of --heads. Raises BadInput for options of the page without it."""
    for option, value in (("--beside", beside), ("--block", block), ("--heads", heads)):
        if value is not None and html is None:
            raise BadInput(f"{option}: applies only to --html FILE: give both")
    if heads is None:
        return None
    names = [name for word in heads.split(",") if (name := word.strip())]
    if not names:
        raise BadInput("--heads: names no head; give names such as c,a.h1")
    return names
