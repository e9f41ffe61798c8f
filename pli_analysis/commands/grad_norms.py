"""`pli-analyze grad-norms`: gradient norms by part."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pli_analysis.commands.options import (
    Blocks,
    Device,
    FormatOption,
    Html,
    OutOption,
    Text,
    TextColumn,
    Tokenizer,
    run_argument,
    text_of,
)
from pli_analysis.commands.status import complain, open_run, write_page
from pli_analysis.inference.devices import use_device
from pli_train.core.cli.console import Bar, say
from pli_train.core.errors import BadInput

Part = Literal["layer", "head", "ffn", "norms", "attention", "embeddings", "other", "total", "all"]


def grad_norms(
    run: Annotated[Path, run_argument("[RUN]", "Folder of a run, or output folder of HF Trainer")],
    of: Annotated[
        Part,
        typer.Option(
            "--of",
            metavar="PART",
            help="Parts to show: layer, head, ffn, norms, attention, embeddings, other, total or all.",
        ),
    ] = "all",
    events: Annotated[bool, typer.Option("--events", help="Norms before and after each growth event.")] = False,
    window: Annotated[
        int, typer.Option(min=1, metavar="N", help="Maximum number of measurements on each side of an event.")
    ] = 3,
    recompute: Annotated[
        bool, typer.Option("--recompute", help="Compute norms at each checkpoint, on the same tokens.")
    ] = False,
    text: Text = None,
    text_column: TextColumn = None,
    tokenizer: Tokenizer = None,
    blocks: Blocks = 16,
    device: Device = "auto",
    html: Html = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Gradient norms of heads, FFNs and layers over training.

    Reads the norms that training logged, before clipping, or computes them at each checkpoint.

    Example: pli-analyze grad-norms runs/tiny --of head --html grad-norms.html
    """
    from pli_analysis.metrics.grad_norms import logged as metric
    from pli_analysis.report import grad_norms as report
    from pli_analysis.tables import emit

    use_device(device)
    chosen_text = text_of(text, text_column, tokenizer)
    if chosen_text is not None and not recompute:
        raise BadInput("--text FILE: sets the text that gradients are computed on: use it with --recompute")
    if recompute and (events or html is not None):
        raise BadInput("--events and --html: show what training logged: omit --recompute")
    if recompute:
        from pli_analysis.metrics.grad_norms.recomputed import recomputed, unknown

        opened = open_run([run])
        table = recomputed(opened, chosen_text, blocks, Bar("checkpoints"))
        say(*unknown(table))
        emit(metric.of_level(table, of), format, out)
        return
    scalars, lineage = metric.read(run)
    complain(scalars.damaged)
    table = metric.require(metric.logged(scalars, lineage), run)
    write_page(html, lambda: report.of_grad_norms(run.resolve().name, table, lineage))
    if events:
        if lineage is None:
            raise BadInput(f"{run}: has no lineage.json, which records when it grew")
        table = metric.around(table, lineage, window)
    emit(metric.of_level(table, of), format, out)
