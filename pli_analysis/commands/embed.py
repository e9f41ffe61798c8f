"""`pli-analyze embed`: a map of parts over training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.commands.options import (
    Blocks,
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
from pli_train.core.cli.console import Bar, say
from pli_train.core.cli.shell import one_of

METHODS = ("pca", "tsne", "umap")
PARTS = {"layer": "layers", "head": "heads", "ffn": "ffn"}
"""Words for parts, as other commands have them, and what the metric calls those."""
SPACES = ("weights", "updates", "function")


def embed(
    run: RunFolder,
    method: Annotated[str, one_of(METHODS, "--method", metavar="METHOD", help="Laid out by {words}.")] = "pca",
    of: Annotated[
        str, one_of(PARTS, "--of", metavar="PART", help="Which parts: {words}.", kind=PARTS.__getitem__)
    ] = "layer",
    space: Annotated[
        str, one_of(SPACES, "--space", metavar="SPACE", help="Map their {words}; function means outputs on tokens.")
    ] = "weights",
    text: Text = None,
    text_column: TextColumn = None,
    tokenizer: Tokenizer = None,
    blocks: Blocks = 16,
    since_birth: Annotated[bool, typer.Option("--since-birth", help="Every birth at the origin.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Never sketch distances, however long it takes.")] = False,
    html: Html = None,
    projector: Annotated[
        Path | None, typer.Option("--projector", metavar="DIR", help="Write a folder for TensorBoard's projector.")
    ] = None,
    lineage_file: LineageFile = None,
    stack: Stack = None,
    format: FormatOption = None,
    out: OutOption = None,
) -> None:
    """A map of every part at every checkpoint, in one plane.

    It shows births, donors and paths, and a random walk beside them.

    Example: pli-analyze embed runs/tiny --method umap --html map.html
    """
    from pli_analysis.metrics.maps.embedding import embed as measure
    from pli_analysis.metrics.maps.gram import EXACT
    from pli_analysis.report import embed as report
    from pli_analysis.tables import emit

    asked = text_of(text, text_column, tokenizer)
    opened = open_run(run, lineage=lineage_file, stack=stack)
    most = float("inf") if exact else EXACT
    found = measure(
        opened, method, of, space, asked, blocks, since_birth, most, say, Bar("columns of weights or outputs")
    )

    drawn = report.of_map(opened.name, found, of, space)
    say(*found.notes, drawn.sections[0].figures[0].caption)
    write_page(html, lambda: drawn)
    if projector is not None:
        from pli_analysis.report import projector as folder

        folder.write(projector, found)
        say(f"{projector}: tensorboard --logdir {projector}")
    emit(found.table, format, out)
