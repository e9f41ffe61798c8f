"""`pli-analyze pruning`: loss over the number of masked heads, and the model without them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    import pandas as pd

    from pli_analysis.runs.run import Run


def pruning(
    runs: RunFolder,
    at: At = None,
    checkpoints: Annotated[
        int, typer.Option(min=1, metavar="N", help="Number of checkpoints, evenly spaced up to the last.")
    ] = 1,
    text: Text = None,
    text_column: TextColumn = None,
    tokenizer: Tokenizer = None,
    blocks: Blocks = 64,
    device: Device = "auto",
    export: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the model without its least important heads.")
    ] = None,
    share: Annotated[
        float | None, typer.Option(min=0, max=1, metavar="SHARE", help="With --export: share of heads to remove.")
    ] = None,
    within: Annotated[
        float | None,
        typer.Option(min=0, metavar="RISE", help="With --export: largest relative rise of the loss (default: 0.01)."),
    ] = None,
    html: Html = None,
    stack: Stack = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Loss over the number of masked heads.

    Which share of heads can be pruned? Heads are masked by importance, by the loss change of each head, and at random.

    Example: pli-analyze pruning runs/tiny --export runs/pruned
    """
    _check(export, share, within)
    from pli_analysis.metrics.ablation.pruning import pruning
    from pli_analysis.report.parts import of_checkpoint
    from pli_analysis.report.pruning import section, verdict
    from pli_analysis.tables import emit

    use_device(device)
    run = open_run(runs, stack=stack)
    table = pruning(run, text_of(text, text_column, tokenizer), blocks, at, Bar("masks"), checkpoints)
    finding = verdict(table)
    say(finding)
    if export is not None:
        say(*_exported(run, at, table, export, share, within))
    write_page(html, lambda: of_checkpoint(table.tail(1), finding, section(table)))
    emit(table, format, out)


def _check(export: Path | None, share: float | None, within: float | None) -> None:
    """Raise BadInput for options of an export that do not fit, before anything is measured."""
    if export is None:
        for option, value in (("--share", share), ("--within", within)):
            if value is not None:
                raise BadInput(f"{option}: applies only to --export DIR: give both")
    elif share is not None and within is not None:
        raise BadInput("--share and --within exclude each other: use one of them")
    elif export.exists() or export.is_symlink():
        raise BadInput(f"--export {export}: already exists; name another folder, or remove it first")


def _exported(
    run: Run, at: int | None, table: pd.DataFrame, folder: Path, share: float | None, within: float | None
) -> tuple[str, str]:
    """Write the model without its least important heads; return what was removed, and the folder."""
    from pli_analysis.inference import pruned_model
    from pli_analysis.metrics.ablation.pruning import TOLERANCE, heads_to_prune

    heads = heads_to_prune(table, share, TOLERANCE if within is None else within)
    pruned = pruned_model.export(run.at(at), heads, run.tokenizer, folder)
    return pruned.summary, str(folder)
