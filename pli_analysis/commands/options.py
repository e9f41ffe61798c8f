"""Options that several commands have, under one name and with one meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pli_analysis.tables import Format
from pli_train.shell import Command, one_of

RunFolder = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="A run's folder; or HF Trainer's, or a model's, or several in order."),
]
Told = Annotated[
    Path | None, typer.Option("--lineage", metavar="FILE", help="A lineage.json for checkpoints that have none.")
]
Stack = Annotated[
    str | None, typer.Option("--stack", metavar="PATH", help="Others' models of several stacks: where the layers are.")
]
FormatOption = Annotated[
    Format | None,
    one_of(Format, "--format", "-f", metavar="FORMAT", help="Write {words}.", kind=Format),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write to a file; its ending tells the format.")
]
Verify = Annotated[bool, typer.Option("--verify", help="Use a checkpoint only when every file has its hash.")]
Text = Annotated[Path | None, typer.Option("--text", metavar="FILE", help="A text to read, not the held-out blocks.")]
Blocks = Annotated[int, typer.Option(min=1, metavar="N", help="Blocks that models read, at most.")]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the figures.")]


def alone(option: str, value: str, is_value: Callable[[str | None], bool]) -> type[Command]:
    """A kind of command in which an option may stand alone, which Typer's cannot.

    Args:
        option: as it is written, `--html`.
        value: what it means alone.
        is_value: whether the word after it is its value; None at the end of the line.
    """

    class Filling(Command):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            pairs = zip(args, [*args[1:], None], strict=False)  # no words, no pairs
            filled = [f"{option}={value}" if arg == option and not is_value(word) else arg for arg, word in pairs]
            return super().parse_args(ctx, filled)

    return Filling
