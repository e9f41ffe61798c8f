"""`pli-analyze embed`: a map of parts over training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from pli_analysis.commands.options import (
    Blocks,
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
from pli_analysis.commands.status import open_run, write_page
from pli_analysis.inference.devices import use_device
from pli_train.core.cli.console import Bar, say

Method = Literal["pca", "tsne", "umap"]
PARTS: dict[str, str] = {"layer": "layers", "head": "heads", "ffn": "ffn"}
"""Part names of the command line → part names of the metric."""
Part = Literal["layer", "head", "ffn"]
Space = Literal["weights", "updates", "function"]


def embed(
    run: RunFolder,
    method: Annotated[
        Method, typer.Option("--method", metavar="METHOD", help="Projection method: pca, tsne or umap.")
    ] = "pca",
    of: Annotated[Part, typer.Option("--of", metavar="PART", help="Parts to map: layer, head or ffn.")] = "layer",
    space: Annotated[
        Space,
        typer.Option("--space", metavar="SPACE", help="Map weights, updates or function (outputs on tokens)."),
    ] = "weights",
    text: Text = None,
    text_column: TextColumn = None,
    tokenizer: Tokenizer = None,
    blocks: Blocks = 16,
    device: Device = "auto",
    since_birth: Annotated[bool, typer.Option("--since-birth", help="Put every birth at the origin.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Compute exact distances, however long it takes.")] = False,
    html: Html = None,
    projector: Annotated[
        Path | None,
        typer.Option("--projector", metavar="DIR", help="Write a folder for TensorBoard's embedding projector."),
    ] = None,
    lineage_file: LineageFile = None,
    stack: Stack = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """Map every part at every checkpoint into one plane.

    The map shows births, donors and paths, beside those of a random walk.

    Example: pli-analyze embed runs/tiny --method umap --html map.html
    """
    from pli_analysis.metrics.maps.embedding import embed as measure
    from pli_analysis.metrics.maps.gram import EXACT
    from pli_analysis.report import embed as report
    from pli_analysis.tables import emit

    parts = PARTS[of]
    use_device(device)
    chosen_text = text_of(text, text_column, tokenizer)
    opened = open_run(run, lineage=lineage_file, stack=stack)
    most = float("inf") if exact else EXACT
    found = measure(
        opened, method, parts, space, chosen_text, blocks, since_birth, most, say, Bar("columns of weights or outputs")
    )

    drawn = report.of_map(opened.name, found, parts, space)
    say(*found.notes, drawn.sections[0].figures[0].caption)
    write_page(html, lambda: drawn)
    if projector is not None:
        from pli_analysis.report import projector as folder

        folder.write(projector, found)
        say(f"{projector}: tensorboard --logdir {projector}")
    emit(found.table, format, out)
