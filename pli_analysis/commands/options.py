"""Options that several commands have, under one name and with one meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pli_analysis.tables import Format

RunFolder = Annotated[
    list[Path],
    typer.Argument(metavar="RUN", help="A run's folder; or HF Trainer's, or a model's, or several in order."),
]
Told = Annotated[
    Path | None, typer.Option("--lineage", metavar="FILE", help="A lineage.json for checkpoints that have none.")
]
FormatOption = Annotated[Format | None, typer.Option("--format", "-f", help="How to write the table.")]
OutOption = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write to a file.")]
Verify = Annotated[bool, typer.Option("--verify", help="Use a checkpoint only when every file has its hash.")]
Text = Annotated[Path | None, typer.Option("--text", metavar="FILE", help="Read this, not the held-out blocks.")]
Blocks = Annotated[int, typer.Option(min=1, help="Blocks that models read, at most.")]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the figures.")]
