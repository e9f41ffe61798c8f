"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pli_analysis.tables import Format
from pli_train.core import output
from pli_train.core.cli.shell import Command
from pli_train.core.errors import BadInput

if TYPE_CHECKING:
    from pli_analysis.inference import eval_tokens


def a_file(word: str) -> Path:
    """A file that is to be written; `-` is stdout. Raises BadInput for a word that can only mean a folder."""
    if word.endswith("/"):
        raise BadInput(f"{word}: cannot be written (it is a folder: name a file)")
    return output.STDOUT if word == "-" else Path(word)


RunFolder = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", help="A run's folder; or HF Trainer's, or a model's, or several in order."),
]
LineageFile = Annotated[
    Path | None, typer.Option("--lineage", metavar="FILE", help="A lineage.json for checkpoints that have none.")
]
Stack = Annotated[
    str | None, typer.Option("--stack", metavar="PATH", help="Others' models of several stacks: where the layers are.")
]
FormatOption = Annotated[
    Format | None,
    typer.Option("--format", "-f", metavar="FORMAT", help="Write table, json, csv, md or parquet."),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", metavar="FILE", help="Write to a file; its ending chooses the format.", parser=a_file),
]
Verify = Annotated[bool, typer.Option("--verify", help="Use a checkpoint only when every file has its hash.")]
Text = Annotated[
    Path | None, typer.Option("--text", metavar="FILE", help="A text or a folder of them, not the held-out blocks.")
]
TextColumn = Annotated[
    str | None, typer.Option("--text-column", metavar="NAME", help="With --text: the column that holds the text.")
]
Tokenizer = Annotated[
    Path | None,
    typer.Option("--tokenizer", metavar="PATH", help="With --text: a tokenizer's folder or tokenizer.json."),
]
Blocks = Annotated[int, typer.Option(min=1, metavar="N", help="Blocks that models read, at most.")]
Html = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Write a page with the figures.", parser=a_file)
]


def text_of(text: Path | None, column: str | None, tokenizer: Path | None) -> eval_tokens.Text | None:
    """What --text and the options beside it ask for. Raises BadInput for one of those without --text."""
    from pli_analysis.inference.eval_tokens import Text

    if text is None:
        for option, value in (("--text-column", column), ("--tokenizer", tokenizer)):
            if value is not None:
                raise BadInput(f"{option}: says how a text is read: use it with --text FILE")
        return None
    return Text(text, column or "text", tokenizer)


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
